"""A download under way: what plugins see of it."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeVar, cast

from ._errors import PluginError, RangeRefused
from ._models import Credentials, Request
from ._settings import HeaderFields, Settings, User
from ._urls import origin, show, split_userinfo
from ._validations import SizeValidation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from ._context import Context
    from ._download import Download
    from ._models import Attempt, Payload, Verb
    from ._pipeline import Pipeline
    from ._registry import Hooks
    from ._validations import Check, Validation
    from ._writers import Writer

_T = TypeVar("_T")

in_driver: ContextVar[bool] = ContextVar("downhaul_in_driver", default=False)
"""True inside of what a driver opened: a slot is held there, and asking for another one could wait for ever."""


class Transfer:
    """A download under way, with all its attempts.

    `attempt` and `round` count from 1; `history` holds the failed attempts; `payload` is what was opened in this one,
    or None; `parent` is the transfer that this one is nested in, or None.
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
        self._hooks = hooks
        self._pipeline = pipeline
        self._state: dict[object, Any] = {}
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
        if not self._preparing:
            raise AttributeError("transfer.request can be set in prepare only")
        self._request = request

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
        if not self._preparing:
            raise AttributeError("transfer.require works in prepare only")
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

        The other plugins' plain `fetch` hooks and the drivers are asked, without wrappers, without retries and without
        *plugin*. Raises PluginError inside of what a driver opened: there a slot is held.
        """
        refuse_in_driver("transfer.open")
        view = Transfer.__new__(Transfer)
        view.__dict__.update(self.__dict__, _request=request, payload=None)
        return self._hooks.fetch_plain(view, plugin)

    def settings_for(self, request: Request) -> Settings:
        """Return what a driver may know when it opens *request*: nothing secret where the origin is not ours."""
        return self.settings.home if request.origin == self._base.origin else self.settings.elsewhere

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
