"""The hooks: the moments of a download at which a plugin may act, in the order of a run.

::

    prepare ─▶ fetch ─▶ (bytes) ─▶ validate ─▶ published ─▶ done
       └─────────┴──────────┴─────────┴─▶ error ─▶ Retry: the next attempt
                                             └───▶ no answer: done, and the error is raised

A plugin is an object whose methods carry ``@hookimpl``. Deriving it from `Plugin` lets an editor complete, and a type
checker verify, every signature; the same is checked when a `Context` or a `Download` is made with the plugin. A hook
takes the arguments that it needs, by name, and may leave out the others.

Order: ``@hookimpl(tryfirst=True)``, then plain, then ``trylast=True``; among these the plugins of the download, then
those of the context, then the built-in ones; among these in the order given. Of wrappers the first given is outermost,
nearest to where the bytes end.

Plugins are values: hashable, and equal where their configuration is equal, credentials included. A frozen dataclass
is right for most. What belongs to one transfer stands in ``transfer.state(self, factory)``, what is shared in
``transfer.context.once(self, key, factory)``.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

import pluggy

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from ._context import Context
    from ._errors import DownloadError
    from ._models import Payload, Result, Retry
    from ._transfer import Transfer

PROJECT: Final = "downhaul"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Plugin:
    """Base class of plugins, and the specification of the hooks."""

    def open(self, context: Context) -> AbstractAsyncContextManager[object]:  # noqa: ARG002
        """Return what is entered once per context and equal plugin, before its first hook, and left at the end.

        No hook: override it without a marker, where a plugin holds something for as long as a context lives::

            class Log(Plugin):
                @contextlib.asynccontextmanager
                async def open(self, context):
                    with open("downloads.log", "a") as self.file:
                        yield

                @hookimpl
                def done(self, transfer, outcome):
                    print(outcome, file=self.file)
        """
        return nullcontext()

    @hookspec
    async def prepare(self, transfer: Transfer) -> None:
        """Before *every* attempt: aim ``transfer.request`` at a mirror, give it a credential.

        The request is made anew from the download before each attempt, so nothing accumulates. A mirror plugin
        prepares in the plain tier (it aims), a token plugin with ``trylast=True`` (it authorises what was aimed at).
        A `DownloadError` raised here goes the way of errors::

            class Key(Plugin):
                @hookimpl(trylast=True)
                async def prepare(self, transfer):
                    if transfer.request.origin == "https://dl.example.org":
                        transfer.request = transfer.request.authorized([("X-Api-Key", "…")])
        """

    @hookspec(firstresult=True)
    def fetch(self, transfer: Transfer) -> AbstractAsyncContextManager[Payload] | None:
        """Answer for ``transfer.request``, or return None to pass.

        Entering the answer opens it, leaving it frees everything, however the attempt ends. Drivers answer last; a
        cache may answer first (``tryfirst=True``); a wrapper (``wrapper=True``) may change what another answered.
        The hook itself decides and returns, it is no ``@asynccontextmanager``::

            class Shelf(Plugin):
                books = {"https://host/a": b"alpha"}

                @hookimpl(tryfirst=True)
                def fetch(self, transfer):
                    book = self.books.get(transfer.request.url)
                    return None if book is None else self.answer(transfer.request, book)

                @contextlib.asynccontextmanager
                async def answer(self, request, book):
                    async def body():
                        yield book[request.offset:]
                    yield Payload(Info(request.url, size=len(book), start=request.offset, proof="length"), body())
        """

    @hookspec
    async def validate(self, transfer: Transfer) -> None:
        """All bytes have arrived, nobody may use them yet (of a stream: the held-back tail).

        ``transfer.size``, ``transfer.digests`` and ``transfer.body()`` tell what came. Raise `ValidationError` to
        refuse; it goes the way of errors, so another mirror may be asked. Of a part that is not judged with the whole,
        nobody is asked::

            class NoErrorPage(Plugin):
                @hookimpl
                async def validate(self, transfer):
                    if transfer.payload.info.headers.get("Content-Type") == "text/html":
                        raise ValidationError("a page came instead of the file")
        """

    @hookspec(firstresult=True)
    async def error(self, transfer: Transfer, error: DownloadError) -> Retry | None:
        """An attempt failed, in prepare, fetch or validate: return a `Retry`, or None to pass.

        The first answer counts, and the hooks behind it are not asked; with no answer the error is raised. (pluggy's
        ``firstresult`` is only a mark here: downhaul awaits the hooks itself, one after another.) A `Retry` keeps the
        aim: whoever aims at mirrors moves on only in its own `error`. Whether a Retry is followed is for the engine,
        which counts rounds and tries; one that leads to a source with no try left is passed over::

            class Patience(Plugin):
                @hookimpl
                async def error(self, transfer, error):
                    return Retry(after=60) if isinstance(error, TooManyRequests) else None
        """

    @hookspec
    def done(self, transfer: Transfer, outcome: Result | DownloadError | None) -> None:
        """Exactly once, after everything, also on cancellation (None: nothing was published).

        For statistics and caches; it cannot change the outcome. An exception is logged, the remaining hooks run::

            class Count(Plugin):
                def __init__(self):
                    self.bytes = 0

                @hookimpl
                def done(self, transfer, outcome):
                    if isinstance(outcome, Result):
                        self.bytes += outcome.size
        """
