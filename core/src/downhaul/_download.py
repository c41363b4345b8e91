"""One job: what to fetch, where to, and what it must be."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Self

from ._arguments import check_several, plugins_of, settings_of
from ._channel import HELD_BACK
from ._context import Context, default_context
from ._digests import digest_name
from ._engine import Engine
from ._errors import DownloadError, PluginError, PreparationError
from ._feed import Feed
from ._models import Version
from ._pipeline import Pipeline
from ._registry import is_hashable
from ._stream import Stream
from ._transfer import Transfer, refuse_in_driver
from ._urls import check_url, origin, show
from ._validations import DigestValidation, Validation
from ._writers import FileWriter, Writer

_ARGUMENTS: Final = (
    "url", "writer", "validations", "digests", "plugins", "attachment", "unless", "context", "settings",
)  # fmt: skip

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Coroutine
    from typing import Unpack

    from ._channel import Delivered
    from ._models import Result, Verb
    from ._pipeline import Outlet
    from ._settings import Settings, SettingsFields
    from ._stream import Source


class Download:
    """One job. Call it, await `run`, or enter `stream`; each makes a new transfer, the description stays as it is.

    *url* may hold userinfo. *writer* is where the bytes go, or None for a stream. *validations* judge them. *digests*
    are names of algorithms to calculate (any that `hashlib` knows), or maps such names to the hexadecimal digits that
    are expected. *plugins* are plugins of this download, or names of the entry-point group ``downhaul.plugins``.
    *attachment* is yours: it comes back in results and errors. *unless* asks for nothing if the file still has that
    `Version`, which is for the source that named it: any other one is asked for the file. Settings come as a `Settings`
    or as its fields; the context fills what is unset.

    Raises ValueError or TypeError for what cannot be meant, and PluginError for a plugin that breaks the contract,
    before any I/O.
    """

    def __init__(
        self,
        url: str,
        writer: Writer | None = None,
        *,
        validations: Iterable[Validation] = (),
        digests: Iterable[str] | Mapping[str, str] = (),
        plugins: Iterable[object] = (),
        attachment: Any = None,
        unless: Version | None = None,
        context: Context | None = None,
        settings: Settings | None = None,
        **fields: Unpack[SettingsFields],
    ) -> None:
        self.url = check_url(url)
        self.writer = _checked(writer, Writer, "writer", "a Writer, such as FileWriter(path)")
        self.digests, expected = _digests(digests)
        check_several("validations", validations)
        validations = tuple(validations)
        self.validations = (*validations, *expected) if validations != () else expected
        self._expected = expected
        for validation in validations:
            _checked(validation, Validation, "validations", "Validation objects")
        self.plugins = plugins_of(plugins)
        self.attachment = attachment
        self.unless = _checked(unless, Version, "unless", "a Version")
        self.context = _checked(context, Context, "context", "a Context")
        self.settings = settings_of(settings, fields)
        self._parent: Transfer | None = None
        self._without: object = None

    def __call__(self) -> Result:
        """Download, and wait for it in this thread; return the `Result`, or raise a `DownloadError`.

        Raises RuntimeError where an event loop runs in this thread: there, ``await download.run()``.
        """
        return self._wait("await download.run()")

    async def run(self) -> Result:
        """Download; return the `Result`, or raise a `DownloadError`. Works on any loop."""
        return await self._run_in(self.context or default_context())

    def stream(
        self, *, hold_back: int = HELD_BACK, part: range | None = None, judged: bool = False, join: int = 0
    ) -> Stream:
        """Return a `Stream` of the bytes, to be entered with ``async with`` or ``with``.

        With a writer, the bytes go there too, and are published if they are valid. *hold_back* is how many bytes wait
        for the verdict, at least.

        *part* is for some bytes of the file only, those from ``part.start`` to ``part.stop``. They are asked for as a
        range, and proven by length and version; no validation or `validate` hook sees them, and no writer. Or else
        *judged*: all of the file is fetched and judged, and written, the part alone released, its last bytes when all
        of it is valid.

        *join* lets streams share: who asks for an equal download in this context, while all that has arrived is still
        there, gets it from the one fetch that is under way. It is the number of bytes that are kept for that. Who falls
        behind by more goes on by a fetch of its own, which is compared with what came before, and keeps nobody waiting.
        The attachment does not count, so do not join where a plugin decides by it; a subclass of Download never shares.

        Raises ValueError for what cannot be meant.
        """
        if not isinstance(hold_back, int) or hold_back < 1:
            raise ValueError(f"hold_back=… is a number of bytes, from 1; not {hold_back!r}")
        if not isinstance(join, int) or join < 0 or (join and part is not None):
            raise ValueError("join=… is a number of bytes, from 0, and for streams of the whole file")
        _checked(part, range, "part", "a range, such as range(0, 500)")
        if part is not None and (part.start < 0 or part.step != 1 or not part):
            raise ValueError(f"part=… is a range of one byte or more, such as range(0, 500); not {part}")
        if part is not None and not judged and self.writer is not None:
            raise ValueError("a part of the file is not written: leave the writer out, or let it be judged=True")
        if judged and part is None:
            raise ValueError("judged=True is for a part; the whole file is judged anyway")
        context = self.context or default_context()
        asked = None if judged else part

        def alone(delivered: Delivered | None) -> Feed:
            return Feed(lambda outlet: self._begin(context, outlet, "get", asked), hold_back, part, delivered)

        def make() -> Source:
            key = (
                self.url, self.settings, self.plugins, self.validations, self.digests, self.writer, self.unless,
                hold_back, join,
            )  # fmt: skip
            is_plain = type(self) is Download and self._parent is None  # what others are equal by is not known here
            if not join or not is_plain or not is_hashable(key):
                return alone(None)
            return context._bound().flights.share(key, join, alone, self.attachment)

        return Stream(context, make, part)

    def stat(self) -> Stream:
        """Return a `Stream` of no bytes: entered, it tells headers, size and version, by a HEAD or its like.

        What validations can say of that is said, no more; no writer is opened.
        """
        context = self.context or default_context()
        return Stream(context, lambda: Feed(lambda outlet: self._begin(context, outlet, "stat"), 1))

    def clone(self, **changes: Any) -> Self:
        """Return another download like this one, with arguments changed: ``download.clone(url=…, writer=…)``."""
        arguments = {name: getattr(self, name) for name in _ARGUMENTS}
        if "digests" in changes:  # other digests are expected then, in place of these
            arguments["validations"] = tuple(each for each in self.validations if each not in self._expected)
        checked = Download(**{**arguments, **changes})
        other = copy.copy(self)
        vars(other).update({name: getattr(checked, name) for name in _ARGUMENTS})
        other._expected = checked._expected if "digests" in changes else self._expected
        return other

    def _wait(self, instead: str) -> Result:
        """Download, and wait for it in this thread; where a loop runs, say what to do *instead*."""
        self._need_writer()
        context = self.context or default_context()
        return context._block(lambda: self._work(context), instead)

    async def _run_in(self, context: Context, begun: Callable[[Transfer], None] | None = None) -> Result:
        self._need_writer()
        return await context._await(lambda: self._work(context, begun))

    async def _run_here(self, context: Context, begun: Callable[[Transfer], None]) -> Result:
        """Do the same on the loop of *context*."""
        self._need_writer()
        context._refuse_closed()
        return await self._work(context, begun)

    def _need_writer(self) -> None:
        if self.writer is None:
            raise ValueError("this download has no writer: give it one, or enter its stream()")

    def _begin(
        self, context: Context, outlet: Outlet | None, verb: Verb = "get", part: range | None = None
    ) -> tuple[Transfer, Coroutine[Any, Any, Result]]:
        """On the context's loop: make the transfer, and the coroutine that runs it."""
        shared, parent = context._bound(), self._parent
        if parent is None:
            settings = shared.settings(self.settings)
        else:
            refuse_in_driver("transfer.nested")
            settings = self.settings.filled(self._inherited(parent))
        if settings.options:
            shared.drivers.check_options(tuple(settings.options))
        hooks = shared.hooks(self.plugins, self._without)
        whole = verb == "get" and part is None
        judges = (self.validations, self.digests) if whole else ((), ())
        pipeline = Pipeline(outlet, *judges, shared.executor, shared.pages)
        transfer = Transfer(self, context, settings, hooks, pipeline, parent, verb, part)
        return transfer, self._told(shared.run(Engine(transfer, hooks, pipeline).run()))

    async def _work(self, context: Context, begun: Callable[[Transfer], None] | None = None) -> Result:
        transfer, work = self._begin(context, None)
        if begun is not None:
            begun(transfer)
        return await work

    async def _told(self, work: Coroutine[Any, Any, Result | DownloadError]) -> Result:
        """Await *work*, and raise its failure; that of a nested download is told as such."""
        outcome = await work
        if not isinstance(outcome, DownloadError):
            return outcome
        if self._parent is not None and not isinstance(outcome, PluginError):
            told = f"{show(self.url)} is needed first: {type(outcome).__name__}: {outcome}"
            outcome = PreparationError(told, outcome)
        try:
            raise outcome
        finally:
            del outcome  # its traceback holds this frame

    def _inherited(self, parent: Transfer) -> Settings:
        """Return what comes from *parent*: what is secret stays with its origin, the userinfo of its URL included."""
        if origin(self.url) != parent._base.origin:
            return parent.settings.elsewhere
        credentials = parent._base.credentials
        return parent.settings if credentials is None else replace(parent.settings, user=credentials.user)

    def _nested(self, parent: Transfer, plugin: object, url: str, writer: Writer | None) -> Download:
        """Return a download that *parent* needs first."""
        nested = Download(url, writer, plugins=self.plugins, context=parent.context)
        nested._parent, nested._without = parent, plugin
        return nested

    def __repr__(self) -> str:
        # What was refused half-way is shown, too, by whoever reports with locals.
        return f"Download({show(getattr(self, 'url', ''))!r}, {getattr(self, 'writer', None)!r})"


def download(
    url: str,
    path: str | os.PathLike[str],
    *,
    digests: Iterable[str] | Mapping[str, str] = (),
    **options: Any,
) -> Result:
    """Download *url* to the file *path*, and wait for it; return the `Result`, or raise a `DownloadError`.

    *digests* that map an algorithm to hexadecimal digits are validated, those only named are calculated. *options* are
    those of `Download`.

    Raises RuntimeError where an event loop runs in this thread: there, ``await Download(url, FileWriter(path)).run()``.
    """
    job = Download(url, FileWriter(path), digests=digests, **options)
    return job._wait("await Download(url, FileWriter(path)).run()")


def _digests(digests: Iterable[str] | Mapping[str, str]) -> tuple[tuple[str, ...], tuple[DigestValidation, ...]]:
    if digests == ():
        return (), ()
    check_several("digests", digests)
    names = tuple([digest_name(name) for name in digests])
    expected = digests.items() if isinstance(digests, dict | Mapping) else ()
    return names, tuple([DigestValidation(name, digits) for name, digits in expected])


def _checked(value: Any, kind: type, name: str, what: str) -> Any:
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{name}=… takes {what}; not {value!r}")
    return value
