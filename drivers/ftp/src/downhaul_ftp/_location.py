"""What an ``ftp:`` URL names: RFC 1738, section 3.2, with the characters of RFC 3986."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes, urlsplit

from downhaul import PolicyError

if TYPE_CHECKING:
    from downhaul import User

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?P<authority>[^/?#]*)(?:/(?P<path>[^#]*))?")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_ENDS_COMMAND: Final = frozenset(b"\r\n\0")
_DEFAULT_PORT: Final = 21


@dataclass(frozen=True, slots=True)
class Location:
    """A server, and the path of a file as the bytes that are sent to it."""

    host: str
    port: int
    path: bytes


def locate(url: str) -> Location:
    """Return where the file of *url* is.

    The path is decoded once and sent whole, as it stands after the slash that ends the authority: it is relative to
    the directory of the login; ``%2F`` at its start (or a second slash) makes it absolute. ``?`` belongs to the path,
    ``#`` begins a fragment. ``;type=i`` is what happens anyway.

    Raises `PolicyError`, before anybody is connected to, for CR, LF or NUL in the decoded path (they would end the
    command: RFC 959, section 5.3), for ``;type=a`` and ``;type=d``, and for a path that names no file.
    """
    if _CONTROL.search(url):
        raise PolicyError("refused: control characters in an ftp URL")
    match = _URL.match(url)
    try:
        parts = urlsplit(f"ftp://{match['authority']}") if match else None
        host, port = (parts.hostname, parts.port) if parts else (None, None)
        path = unquote_to_bytes(_without_type((match["path"] or "") if match else ""))
    except ValueError:  # UnicodeError is one
        host, port, path = None, None, b""
    if not host or port == 0:
        raise PolicyError(f"refused: host, port or path cannot be read in {url!r}")
    if not _ENDS_COMMAND.isdisjoint(path):
        raise PolicyError("refused: the path of an ftp URL decodes to a line break or NUL, which would end the command")
    if not path or path.endswith(b"/"):
        raise PolicyError(f"refused: {url!r} names a directory; give the URL of a file")
    return Location(host.replace("%25", "%"), port or _DEFAULT_PORT, path)


def _without_type(path: str) -> str:
    head, mark, code = path.rpartition(";")
    code = code.lower()
    if not mark or not code.startswith("type=") or "/" in code:
        return path
    if code == "type=i":
        return head
    if code == "type=a":
        raise PolicyError("refused: ;type=a lets the server change the bytes of a file; use ;type=i, or leave it out")
    if code == "type=d":
        raise PolicyError("refused: ;type=d asks for a listing, not for a file")
    raise PolicyError("refused: the end of an ftp URL is ;type=i, or nothing")


def check_user(user: User) -> User:
    """Return *user*, or raise `PolicyError` if its name or password cannot be sent as one line."""
    try:
        sent = wire(user.name) + wire(user.password)
    except UnicodeError:
        sent = "\0"
    if any(character in sent for character in "\r\n\0"):
        raise PolicyError(
            "refused: the credentials hold a line break, NUL, or what is no text; an FTP command cannot carry that"
        )
    return user


def wire(text: str) -> str:
    """Return *text* as it stands on the wire: one character per byte of its UTF-8 form."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1")
