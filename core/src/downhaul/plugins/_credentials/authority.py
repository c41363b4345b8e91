"""What plugins that send credentials have in common: how far these reach, who shares them, when they are renewed."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from downhaul import AccessDenied, Download, DownloadError, Plugin, PluginError, Retry, covers, hookimpl, origin, show

if TYPE_CHECKING:
    from collections.abc import Hashable

    from downhaul import Transfer, User

_SKEW: Final = 60.0  # seconds
_OCCASIONS: Final = 2  # as often as a source is asked once more in a round
_log: Final = logging.getLogger("downhaul.tokens")


@dataclass(frozen=True, eq=False)
class Grant:
    """Credentials that an `Authorizer` has got: header fields, query parameters, or a user.

    *expires* is for how many seconds from now they are good (None: until they are refused). What is not *renewable* is
    not asked for again when it is refused: there is nothing else to be had.

    No grant equals another, however alike they are: a refusal that comes late is about the one that was sent.
    """

    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    parameters: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    user: User | None = field(default=None, repr=False)
    expires: float | None = None
    renewable: bool = True


@dataclass(frozen=True)
class Scoped(Plugin):
    """Base class of plugins whose credentials are for one origin, or for what is below a path of it.

    *within* is the URL of either, such as ``https://host`` or ``https://host/api/``. By default the credentials are for
    the origin of the download (of the one that needs it, for a mirror list), so give it where the downloads of a
    context go to several. Raises ValueError for what no URL can be within.
    """

    within: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.within is not None:
            object.__setattr__(self, "within", checked_scope(f"{type(self).__name__}(within=…)", self.within))

    def reach(self, transfer: Transfer) -> str:
        """Return the URL that what the credentials of *transfer* are for is at, or below."""
        return self.within or home_of(transfer)


class Authorizer(Scoped, ABC):
    """Base class of plugins that send credentials: they say what to send, here it is seen to where and when.

    Derive a frozen dataclass, and let `obtain` return a `Grant`. It is shared by all downloads of the context; it is
    sent to what is within the reach, to nothing else, and to no redirect out of it; it is asked for again a little
    before it expires, and after a 401, once however many downloads meet that. Where it cannot be had again, everybody
    who was refused with the same one fails for that same reason::

        @dataclass(frozen=True)
        class ApiKey(Authorizer):
            path: str

            async def obtain(self, transfer, need):
                key = await asyncio.to_thread(Path(self.path).read_text)
                return Grant(headers=(("X-Api-Key", key.strip()),))

        Context(plugins=[ApiKey("/run/secrets/key", within="https://dl.example.org/private/")])
    """

    @abstractmethod
    async def obtain(self, transfer: Transfer, need: Hashable) -> Grant:
        """Return new credentials for *need*; the first of the downloads that wait for them is *transfer*."""

    async def need(self, transfer: Transfer, reach: str) -> Hashable | None:  # noqa: ARG002
        """Return what is needed for *reach*: who needs the same shares a grant. None: nothing, as far as is known."""
        return reach

    @hookimpl(trylast=True)
    async def prepare(self, transfer: Transfer) -> None:
        """Authorise what was aimed at, and what was offered besides, as far as it is within the reach."""
        sent = self._sent(transfer)
        sent.grant, sent.reach, reach = None, "", self.reach(transfer)
        if not transfer.goes_to(reach):
            return
        sent.reach, sent.need = reach, await self.need(transfer, reach)
        if sent.need is None:
            return
        try:
            grant = await self._shared(transfer, sent)
        except DownloadError as error:
            if isinstance(error, PluginError) or covers(sent.reach, transfer.request.url):
                raise
            _log.warning("%s: no credentials for %s, which is asked without: %s", transfer, show(sent.reach), error)
            return
        sent.grant = grant
        transfer.authorize(sent.reach, grant.headers, grant.parameters, grant.user)

    @hookimpl(tryfirst=True)
    async def error(self, transfer: Transfer, error: DownloadError) -> Retry | None:
        """Have what was sent renewed where it was refused with a 401, once for each source and round."""
        sent = self._sent(transfer)
        if sent.grant is None or not sent.grant.renewable or not is_refused(error, 401, sent.reach):
            return None
        if not sent.is_first(transfer, None):
            return None
        sent.refused = (transfer.round, sent.grant)
        transfer.context.forget(self, sent.need, stale=sent.grant)
        return Retry()

    def _sent(self, transfer: Transfer) -> Sent:
        return transfer.state((Authorizer, self), Sent)

    async def _shared(self, transfer: Transfer, sent: Sent) -> Grant:
        """Return the grant that all share.

        A failure is that of all who wait for it, and of those who come late with the grant that was to be renewed.
        """
        context, need = transfer.context, sent.need
        last = await context.once(self, (_Renewal, need), _Renewal.new)
        refused = sent.refused[1] if sent.refused is not None and sent.refused[0] == transfer.round else None
        if refused is not None and last.refused is refused:
            raise last.failure.copy()
        try:
            grant = await context.once(self, need, partial(self.obtain, transfer, need), ttl=_lifetime)
        except Exception as reason:
            if refused is not None:
                last.refused, last.failure = refused, _failure(self, reason)
            raise
        last.refused = None
        return grant


@dataclass
class Sent:
    """What a transfer has sent in this attempt, what for, and where it has been refused."""

    reach: str = ""
    need: Hashable | None = None
    grant: Grant | None = None
    refused: tuple[int, Grant] | None = None
    """The round in which a grant was refused, and the grant."""
    occasions: dict[tuple[str, int], set[Hashable]] = field(default_factory=dict)

    def is_first(self, transfer: Transfer, what: Hashable) -> bool:
        """Tell whether *what* happens for the first time with this source in this round, and at most one thing did."""
        known = self.occasions.setdefault((transfer.request.url, transfer.round), set())
        is_new = what not in known and len(known) < _OCCASIONS
        known.add(what)
        return is_new


@dataclass
class _Renewal:
    """The grant whose renewal has failed, and how; of no meaning without the grant."""

    refused: Grant | None = None
    failure: DownloadError = field(default_factory=DownloadError)

    @classmethod
    async def new(cls) -> _Renewal:
        return cls()


def home_of(transfer: Transfer) -> str:
    """Return the origin of the download, or of the one that *transfer* is needed for."""
    while transfer.parent is not None:
        transfer = transfer.parent
    return origin(transfer.url)


def is_refused(error: DownloadError, code: int, reach: str) -> bool:
    """Tell whether *error* is a refusal with the status *code*, of what is within *reach*."""
    return isinstance(error, AccessDenied) and error.code == code and covers(reach, error.source)


def checked_scope(what: str, url: str) -> str:
    """Return the URL of an origin or a directory, its origin normalised; *what* names it where it is refused."""
    url = Download(url).url  # which refuses what is no URL
    parts = urlsplit(url)
    if not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(f"{what} is the URL of a host, or of a path there, without user and query; not {show(url)!r}")
    if not covers(url, url):
        raise ValueError(f"{what}: where the dots in {show(url)!r} lead is for the server to say; leave them out")
    return origin(url) + parts.path


def _lifetime(grant: Grant) -> float | None:
    """Return for how many seconds *grant* is sent: clocks differ, and a request takes its time."""
    return None if grant.expires is None else grant.expires - min(_SKEW, grant.expires / 4)


def _failure(plugin: Authorizer, reason: Exception) -> DownloadError:
    if isinstance(reason, DownloadError):
        return reason.copy()
    return PluginError(f"{type(plugin).__name__}.obtain failed: {type(reason).__name__}: {reason}")
