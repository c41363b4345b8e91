"""Users from a netrc file."""

from __future__ import annotations

import asyncio
import netrc
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from downhaul import Plugin, PreparationError, User, hookimpl

from .authority import home_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from downhaul import Request, Transfer

    Entries = Mapping[str, User]

_TTL: Final = 60.0  # seconds
_SECURE: Final = frozenset({"https", "ftps"})


@dataclass(frozen=True)
class Netrc(Plugin):
    """Sends user and password from a netrc file: *path*, or else what ``$NETRC`` names, or else ``~/.netrc``.

    An entry is for the very host that it names, for no other host of its domain; of several, the last one counts. To
    other origins than the download's own it goes by https or ftps alone, at the default port, and ``default`` stands
    for the download's own only. Where the URL or the settings name a user, the entry is used if it is that user's;
    where there is a password, or an Authorization, it is not used. What a redirect leads to gets nothing.

    The file is read when it is first needed, and again after a minute. Without ``~/.netrc`` nobody is known; a file
    that is named and missing, one that cannot be understood, and a ``~/.netrc`` that others may read is an error
    (PreparationError), which repeats nothing of the content.
    """

    path: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if self.path is not None:
            path = os.fspath(self.path)
            if not isinstance(path, str) or not path or "\0" in path:
                raise ValueError("Netrc(path) is the path of a file, as a str or a Path")
            object.__setattr__(self, "path", path)

    @hookimpl(trylast=True)
    async def prepare(self, transfer: Transfer) -> None:
        """Give whoever is asked in this attempt the user that the file has for them."""
        home = home_of(transfer)
        entries = await transfer.context.once(self, "entries", self._load, ttl=_TTL)
        for request in (transfer.request, *transfer.alternatives):
            user = _user(entries, request, at_home=request.origin == home)
            if user is not None:
                transfer.authorize(request.origin, user=user)

    async def _load(self) -> Entries:
        return await asyncio.to_thread(_read, None if self.path is None else os.fspath(self.path))


def _user(entries: Entries, request: Request, *, at_home: bool) -> User | None:
    """Return who *request* is from, where the file knows that and nothing else does."""
    parts = urlsplit(request.origin)
    if not (at_home or (parts.scheme in _SECURE and parts.port is None)):
        return None
    if any(name.lower() == "authorization" for name, _ in request.fields()):
        return None
    host, known = parts.hostname or "", request.user
    entry = entries.get(host) if host != "default" else None
    if entry is None and at_home:
        entry = entries.get("default")
    if entry is None:
        return None
    if known is not None:
        return None if known.password or entry.name not in {"", known.name} else User(known.name, entry.password)
    return entry if entry.name else None


def _read(path: str | None) -> Entries:
    """Return users by host, in lower case; "default" is that of the file."""
    named = path or os.environ.get("NETRC") or None
    try:
        with Path(named or "~/.netrc").expanduser().open(encoding="utf-8") as file:
            if named is None and os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                failure = "it is not for its owner alone (chmod 600 ~/.netrc)"
            else:
                return _parsed(file.read())
    except (FileNotFoundError, RuntimeError):  # the latter is about a "~" that leads nowhere
        if named is None:
            return {}
        failure = "there is no such file"
    except netrc.NetrcParseError as reason:
        failure = f"it cannot be understood near line {reason.lineno}"  # its own words quote what stands there
    except OSError as reason:
        failure = reason.strerror or type(reason).__name__
    except ValueError:
        failure = "it is not text"
    raise PreparationError(f"the netrc file {named or '~/.netrc'} cannot be used: {failure}")


def _parsed(text: str) -> Entries:
    # The library reads files only, and stumbles over comments behind an empty line. A line of one blank means nothing
    # to it; an empty one would end a macro.
    text = re.sub(r"^[ \t]*#.*$", " ", text, flags=re.MULTILINE)
    with os.fdopen(os.memfd_create("netrc"), "w", encoding="utf-8") as copy:
        copy.write(text)
        copy.flush()
        hosts = netrc.netrc(f"/dev/fd/{copy.fileno()}").hosts
    return {host.lower(): User(login or "", password or "") for host, (login, _, password) in hosts.items()}
