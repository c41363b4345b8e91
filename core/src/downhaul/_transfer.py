"""A download under way: what plugins see of it."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeVar, cast

from ._errors import DownloadError, PluginError, PolicyError, RangeRefused
from ._models import Attempt, Credentials, Request, check_aim
from ._settings import HeaderFields, LowSpeed, Settings, User
from ._urls import check_url, covers, origin, scheme_of, show, split_userinfo
from ._validations import SizeValidation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractAsyncContextManager

    from ._context import Context
    from ._download import Download
    from ._models import Payload, Verb
    from ._pipeline import Pipeline
    from ._registry import Hooks
    from ._validations import Check, Validation
    from ._writers import Writer

_T = TypeVar("_T")
_log: Final = logging.getLogger("downhaul.engine")

in_driver: ContextVar[bool] = ContextVar("downhaul_in_driver", default=False)
"""True inside of what a driver opened: a slot is held there, and asking for another one could wait for ever."""


@dataclass(frozen=True, repr=False)
class _Grant:
    """Credentials for what is at the URL `scope` or below it."""

    scope: str
    headers: tuple[tuple[str, str], ...]
    parameters: tuple[tuple[str, str], ...]
    user: User | None
    form: tuple[tuple[str, str], ...]

    def to(self, request: Request) -> Request:
        """Return *request* with the credentials, if they are for it."""
        if not covers(self.scope, request.url):
            return request
        return request.authorized(self.headers, self.parameters, self.user, self.form, within=self.scope)


class Transfer:
    """A download under way, with all its attempts.

    `attempt` and `round` count from 1; `history` holds the failed attempts; `payload` is what was opened in this one,
    or None; `parent` is the transfer that this one is nested in, or None. `seconds` is how long this attempt has waited
    for its source, for the head of the answer and for each block, but not for a slot, a consumer or a disk.
    """

    def __init__(
        self,
        download: Download,
        context: Context,
        settings: Settings,
        hooks: Hooks,
        pipeline: Pipeline,
        parent: Transfer | None,
        verb: Verb = "get",
        part: range | None = None,
    ) -> None:
        self.download: Final = download
        self.context: Final = context
        self.settings: Final = settings
        self.parent: Final = parent
        self.attempt = 0
        self.round = 1
        self.history: tuple[Attempt, ...] = ()
        self.payload: Payload | None = None
        self.seconds = 0.0
        self._low_speed = settings.low_speed
        self._offers: tuple[str, ...] = ()
        self._grants: list[_Grant] = []
        self._hooks = hooks
        self._pipeline = pipeline
        self._state: dict[object, Any] = {}
        self._askers: tuple[object, ...] = ()  # of `open`, the last one last
        self._viewed: Transfer | None = None  # whose view this is, where `open` made it; none holds itself
        self._base = _base_request(download, settings, parent, verb, part)
        self._request = self._base
        self._preparing = False
        self._opened: Callable[[], object] | None = None  # to be told of each answer

    @property
    def url(self) -> str:
        """The URL of the download, without userinfo."""
        return self._base.url

    @property
    def urgent(self) -> bool:
        """Whether a consumer waits for it: a stream, or what a stream needs first. It goes before other work."""
        return self._pipeline.outlet is not None or (self.parent is not None and self.parent.urgent)

    @property
    def request(self) -> Request:
        """The request of this attempt; settable in `prepare`, and made anew from the download before each attempt."""
        return self._request

    @request.setter
    def request(self, request: Request) -> None:
        if not isinstance(request, Request):
            raise TypeError(f"transfer.request takes a Request, not {type(request).__name__}")
        self._need_prepare("transfer.request")
        self._request = request

    @property
    def low_speed(self) -> LowSpeed | None:
        """What is too slow for this attempt; settable in `prepare`, and that of the settings before each attempt."""
        return self._low_speed

    @low_speed.setter
    def low_speed(self, limit: LowSpeed | None) -> None:
        if limit is not None and not isinstance(limit, LowSpeed):
            raise TypeError(f"transfer.low_speed takes a LowSpeed, not {type(limit).__name__}")
        self._need_prepare("transfer.low_speed")
        self._low_speed = limit

    def offer(self, urls: Iterable[str]) -> None:
        """Say in `prepare` where else the bytes of the file can be had in this attempt, the best first."""
        self._need_prepare("what transfer.offer says")
        self._offers = tuple(urls)

    @property
    def alternatives(self) -> tuple[Request, ...]:
        """What was offered besides `request`, with the credentials that are for it; without what may not be asked."""
        if self._viewed is not None and self._request.url != self._viewed._request.url:
            return ()  # they are those of the file, not of what else a plugin opens
        return tuple(filter(None, map(self._alternative, self._offers)))

    def goes_to(self, scope: str) -> bool:
        """Tell whether the request of this attempt, or an alternative to it, goes to the URL *scope* or below it."""
        return any(covers(scope, url) for url in (self._request.url, *self._offers))

    def authorize(
        self,
        scope: str,
        headers: Iterable[tuple[str, str]] = (),
        parameters: Iterable[tuple[str, str]] = (),
        user: User | None = None,
        form: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Give credentials, in `prepare`, to what goes to the URL *scope* or below it, and to nothing else.

        That is the request as it is aimed, and each of the alternatives; a redirect out of *scope* leaves them behind.
        """
        self._need_prepare("what transfer.authorize gives")
        grant = _Grant(scope, tuple(headers), tuple(parameters), user, tuple(form))
        self._grants.append(grant)
        self._request = grant.to(self._request)

    def note(self, error: DownloadError, source: str) -> None:
        """Enter in `history` what failed at the URL *source*, and was made good within this attempt."""
        told = error.copy()
        told.source = told.source or split_userinfo(source)[0]
        (self._viewed or self)._enter(told, split_userinfo(source)[0])

    @property
    def received(self) -> int:
        """The number of bytes that are there now, at any time: progress."""
        return max(0, self._pipeline.position - self._base.offset)

    @property
    def size(self) -> int:
        """The number of bytes that arrived; in `validate`, all of them."""
        return self._pipeline.position

    @property
    def digests(self) -> Mapping[str, str]:
        """Hexadecimal digits by algorithm, of the bytes that arrived; of use in `validate`."""
        return self._pipeline.digests.hexdigests()

    @property
    def checks(self) -> tuple[tuple[Validation, Check], ...]:
        """Each validation with its check at work; whoever gives the verdict calls `judge`, in `validate`."""
        return self._pipeline.checks

    async def judge(self, check: Check) -> None:
        """Let *check*, one of `checks`, finish: raises ValidationError if the bytes are not the right ones.

        That of a validation of somebody else's is called in a thread: it may take its time.
        """
        await self._pipeline.judge(check)

    def body(self) -> BinaryIO | None:
        """Return the bytes that arrived as a binary file to be closed by the caller, or None where they streamed past.

        Raises WriteError if they cannot be read.
        """
        reader = getattr(self._pipeline.sink, "reader", None)
        return None if reader is None else cast("BinaryIO", reader())

    def state(self, plugin: object, factory: Callable[[], _T]) -> _T:
        """Return the state of *plugin* in this transfer, made by *factory* when first asked for."""
        if plugin not in self._state:
            self._state[plugin] = factory()
        return cast("_T", self._state[plugin])

    def require(self, validation: Validation) -> None:
        """Add *validation* to those of the download (a digest from a metalink, say); in `prepare` only.

        Raises RangeRefused where only a part of the file is asked for, and *validation* would have to see all of it.
        """
        self._need_prepare("what transfer.require adds")
        if self._base.length is not None and validation.enforced and not isinstance(validation, SizeValidation):
            raise RangeRefused("a plugin requires what no part alone can be judged by; judged=True fetches all of it")
        self._pipeline.require(validation)

    def nested(self, plugin: object, url: str, writer: Writer | None = None) -> Download:
        """Return another download (a mirror list, a token) with this one's settings and plugins.

        It has no validations and no attachment, and *plugin*, which asks for it, is left out. It fails with
        `PreparationError`. Raises PluginError inside of what a driver opened: there a slot is held.
        """
        refuse_in_driver("transfer.nested")
        self._refuse_circle(plugin, url)
        return self.download._nested(self, plugin, url, writer)

    def open(self, plugin: object, request: Request) -> AbstractAsyncContextManager[Payload]:
        """Return the answer to another request of this transfer: a range, a stat, a cache's miss.

        The other plugins' plain `fetch` hooks and the drivers are asked, without wrappers, without retries, without
        *plugin* and without those that opened what it answers for. Raises PluginError inside of what a driver opened:
        there a slot is held.
        """
        refuse_in_driver("transfer.open")
        view = Transfer.__new__(Transfer)
        view.__dict__.update(
            self.__dict__,
            _request=request,
            payload=None,
            _askers=(*self._askers, plugin),
            _viewed=self._viewed or self,
        )
        return self._hooks.fetch_plain(view, view._askers)

    def settings_for(self, request: Request) -> Settings:
        """Return what a driver may know when it opens *request*: nothing secret where the origin is not ours."""
        at_home = request.url is self._base.url or request.origin == self._base.origin
        return self.settings.home if at_home else self.settings.elsewhere

    def _begin_attempt(self) -> None:
        """Forget what was true of the attempt before."""
        self.payload, self.seconds = None, 0.0
        self._request, self._low_speed = self._base, self.settings.low_speed
        self._offers = ()
        self._grants.clear()

    def _need_prepare(self, what: str) -> None:
        if not self._preparing:
            raise AttributeError(f"{what} can be set in prepare only")

    def _aimed(self, request: Request) -> Request:
        """Return *request* as a plugin has aimed it, the userinfo of its URL among the credentials."""
        try:
            url, userinfo = split_userinfo(check_url(request.url))
        except ValueError as reason:
            raise PolicyError(f"a plugin aims at what is no URL: {reason}") from None
        return request if userinfo is None else replace(request, url=url).authorized(user=User(*userinfo))

    def _check_aim(self, url: str) -> None:
        """Hold what a plugin aims at against the rules: no downgrade, and only what is allowed and can be spoken."""
        check_aim(self._base.url, url, self._base.schemes)
        self.context._drivers.check(scheme_of(url), url)

    def _alternative(self, url: str) -> Request | None:
        try:
            request = self._aimed(replace(self._base, url=url))
            self._check_aim(request.url)
        except DownloadError as reason:
            _log.debug("%s: no alternative: %s", self, reason)
            return None
        for grant in self._grants:
            request = grant.to(request)
        return request

    def _enter(self, error: DownloadError, source: str) -> None:
        """Enter a failed attempt in the history, which has a copy: the error gets the history in the end."""
        attempt = Attempt(source, self.round, self._pipeline.position, error.copy())
        self.history = (*self.history, attempt)

    def _refuse_circle(self, plugin: object, url: str) -> None:
        """Raise PluginError if we are part of what *plugin* wants: only who asks is left out, so it would never end."""
        path, transfer = [(plugin, url)], self
        while transfer.parent is not None:
            path.append((transfer.download._without, transfer.download.url))
            if path[-1] == path[0]:
                names = " → ".join(f"{type(asking).__name__}[{wanted!r}]" for asking, wanted in reversed(path))
                raise PluginError(f"waiting in a circle: {names}")
            transfer = transfer.parent

    def __repr__(self) -> str:
        return f"Transfer({show(self.download.url)!r}, attempt={self.attempt}, round={self.round})"


def refuse_in_driver(what: str) -> None:
    """Raise PluginError inside of what a driver opened."""
    if in_driver.get():
        raise PluginError(
            f"{what} was called inside of what a driver opened; a slot is held there, and another one may"
            " never come free: call it before entering the answer"
        )


def _base_request(
    download: Download, settings: Settings, parent: Transfer | None, verb: Verb, part: range | None
) -> Request:
    """Return the request for the download's own URL, with all that its origin may see."""
    url, userinfo = split_userinfo(download.url)
    user = settings.user if userinfo is None else User(*userinfo)
    fields = cast("HeaderFields", settings.headers)
    private = fields.private()
    credentials = Credentials(origin(url), private, user=user) if private or user else None
    return Request(
        url,
        verb,
        offset=0 if part is None else part.start,
        length=None if part is None else len(part),
        headers=fields.public(),
        credentials=credentials,
        unless=download.unless,
        home=origin(url) if parent is None else parent._base.home,
        schemes=cast("frozenset[str]", settings.schemes),
    )
