"""Secrets: in no repr, no log record, no exception, no pickle, whether it goes well or ill."""

from __future__ import annotations

import asyncio
import logging
import pickle
import traceback
from collections.abc import Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.core.forms import FORMS, plans_of, read, run
from tests.mem import MemDriver, Reply

from downhaul import (
    TLS,
    BufferWriter,
    Context,
    DigestValidation,
    Download,
    DownloadError,
    FetchError,
    Headers,
    Plugin,
    ProxyError,
    Result,
    Settings,
    StatusError,
    User,
    ValidationError,
    hookimpl,
)
from downhaul.plugins import BearerToken, MirrorList

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from downhaul import Transfer

MARK = "c4nary"
USER, PASSWORD, TOKEN, HEADER, PROXY, QUERY, KEY = (
    f"{MARK}-{name}" for name in ("user", "password", "token", "header", "proxy", "query", "key")
)
URL = f"mem://{USER}:{PASSWORD}@home/file?key={QUERY}"
ASKED = f"mem://home/file?key={QUERY}"
OPEN = "mem://home/other?key=" + QUERY
PEM = f"-----BEGIN PRIVATE KEY-----\n{KEY}\n-----END PRIVATE KEY-----\n"
SETTINGS = Settings(
    user=User(USER, PASSWORD), proxy=f"http://{PROXY}:{PROXY}@gateway:3128",
    headers={"X-Api-Key": HEADER, "Cookie": HEADER},
    tls=TLS(client_certificate=PEM, client_key=PEM), retries=1,
)  # fmt: skip
OURS_TO_TELL = {"url", "source", "sources", "redirects"}
"""Attributes that are URLs for a program to use: without userinfo, but the query must stay."""


def fail(*_: object) -> Any:
    """Raise what names the URL, quoted in several ways."""
    raise RuntimeError(f"{URL} cannot be had, see {URL!r} or <{URL}>")


class Fails(Plugin):
    """Raises what names the URL of the download, as a careless plugin does."""

    def __init__(self, hook: str, error: Callable[[str], Exception] = RuntimeError) -> None:
        self.hook, self.error_of = hook, error

    def fail(self, hook: str, transfer: Transfer) -> None:
        if hook == self.hook:
            try:
                raise LookupError(f"inside: {transfer.download.url}")
            except LookupError as reason:
                raise self.error_of(f"{transfer.download.url} cannot be had; '{transfer.request.url}'") from reason

    @hookimpl
    async def prepare(self, transfer: Transfer) -> None:
        self.fail("prepare", transfer)

    @hookimpl(wrapper=True)
    def fetch(self, transfer: Transfer) -> Any:
        answer = yield
        return self.answer(transfer, answer)

    @asynccontextmanager
    async def answer(self, transfer: Transfer, answer: Any) -> Any:
        async with answer as payload:
            self.fail("fetch", transfer)
            yield payload

    @hookimpl
    async def validate(self, transfer: Transfer) -> None:
        self.fail("validate", transfer)

    @hookimpl
    async def error(self, transfer: Transfer, error: DownloadError) -> None:
        self.fail("error", transfer)

    @hookimpl
    def done(self, transfer: Transfer, outcome: object) -> None:
        self.fail("done", transfer)


class Token(Plugin):
    """Adds secrets of its own to each request, a header and a parameter."""

    @hookimpl(trylast=True)
    async def prepare(self, transfer: Transfer) -> None:
        transfer.request = transfer.request.authorized([("Authorization", f"Bearer {TOKEN}")], [("sig", TOKEN)])


def site(*replies: Reply, url: str = ASKED) -> Callable[[MemDriver], None]:
    """Return what lets a driver answer so."""
    return lambda driver: driver.site(url, *replies)


GOOD = Reply(b"good bytes", headers=(("Set-Cookie", TOKEN), ("Location", f"/?key={QUERY}")))
CASES: dict[str, tuple[Callable[[MemDriver], None], dict[str, Any]]] = {
    "success": (site(GOOD), {}),
    "success after a failure": (site(Reply(status=503), GOOD), {}),
    "success by a redirect": (
        lambda d: (d.site(ASKED, Reply(location=f"/moved?key={QUERY}")), d.site(f"mem://home/moved?key={QUERY}", GOOD)),
        {},
    ),
    "resumed": (site(Reply(b"x" * 90_000, cut=50_000), Reply(b"x" * 90_000)), {}),
    "not found": (site(Reply(status=404)), {}),
    "refused": (site(Reply(status=0)), {}),
    "denied": (site(Reply(token="another")), {}),
    "server error": (site(Reply(status=503, retry_after=1e6)), {}),
    "truncated": (site(Reply(b"x" * 90_000, cut=50_000)), {}),
    "wrong digest": (site(GOOD), {"digests": {"sha256": "0" * 64}}),
    "redirect to nowhere": (site(Reply(location=f"http://{USER}:{PASSWORD}@host:port/?key={QUERY}")), {}),
    "redirect to a forbidden scheme": (site(Reply(location=f"file://{USER}:{PASSWORD}@host/?key={QUERY}")), {}),
    "redirects for ever": (site(Reply(location=f"/file?key={QUERY}")), {}),
    "careless driver": (site(Reply(error=ConnectionError(f"cannot connect to {URL}"))), {}),
    "driver with a reason from the server": (
        site(Reply(error=StatusError(f"418 from {URL}", 418, f"go to {URL}"))), {},
    ),
    "proxy": (site(Reply(error=ProxyError(f"http://{PROXY}:{PROXY}@gateway:3128 says 407"))), {}),
    "driver with a cause": (site(Reply(error=FetchError(f"{URL} is broken"))), {}),
    "too large": (site(GOOD), {"max_size": 1}),
    "unproven": (site(Reply(b"x", size=False)), {"require_proof": True}),
    "mirrors": (
        lambda d: (
            d.site(f"mem://list/?key={QUERY}", Reply(f"mem://{USER}:{PASSWORD}@one/?key={QUERY}\nmem://two/?key={QUERY}".encode())),
            d.site(f"mem://two/?key={QUERY}", Reply(status=503)),
        ),
        {"plugins": [MirrorList(f"mem://list/?key={QUERY}"), Token()]},
    ),
    "a list that cannot be had": (
        site(GOOD), {"plugins": [MirrorList(f"mem://{USER}:{PASSWORD}@list/gone?key={QUERY}"), Token()]}
    ),
    "a token that cannot be had": (site(GOOD), {"plugins": [BearerToken(fail)]}),
    **{
        f"plugin fails in {hook}": (site(GOOD), {"plugins": [Fails(hook), Token()]})
        for hook in ("prepare", "fetch", "validate", "done")
    },
    "plugin fails in error": (site(Reply(status=503)), {"plugins": [Fails("error"), Token()]}),
    "plugin refuses": (site(GOOD), {"plugins": [Fails("validate", ValidationError), Token()]}),
    "plugin refuses early": (site(GOOD), {"plugins": [Fails("prepare", FetchError), Token()]}),
    "no driver": (site(GOOD), {"url": URL.replace("mem:", "gopher:")}),
}  # fmt: skip


@pytest.fixture
def driver() -> MemDriver:
    """A scripted driver."""
    return MemDriver()


def outcome_of(form: str, how: str, case: str, driver: MemDriver) -> tuple[Result | DownloadError, Context, Download]:
    """Run a case in one of the forms; return what came of it."""
    prepare, options = CASES[case]
    prepare(driver)
    options = {"url": URL, "plugins": [Token()], **options}
    download = Download(options.pop("url"), BufferWriter(), settings=SETTINGS, attachment=MARK, **options)
    with Context(drivers={"mem": driver}) as context:
        download.context = context
        try:
            if how == "batch":
                [plan] = plans_of(form, [download], context=context)
                return plan.result(), context, download
            if how == "stream":
                read(form, download)
                return run(form, download), context, download
            return run(form, download), context, download
        except DownloadError as error:
            return error, context, download


def texts(thing: object) -> Iterator[str]:
    """Yield all that can be read of an outcome: as text, and in whatever it holds on to."""
    yield repr(thing)
    yield str(thing)
    if isinstance(thing, BaseException):
        yield "".join(traceback.format_exception(thing))
        yield str(thing.args)
    seen: set[int] = set()
    yield from walk(thing, seen)


def walk(thing: object, seen: set[int]) -> Iterator[str]:
    """Yield every str that hangs on *thing*, the attachment and URLs for programs left out."""
    if id(thing) in seen or isinstance(thing, type):
        return
    seen.add(id(thing))
    if isinstance(thing, str):
        yield thing
        return
    if isinstance(thing, bytes):
        yield thing.decode("latin-1")
        return
    yield repr(thing)
    if isinstance(thing, Mapping):
        for name, value in thing.items():
            if name not in {"Set-Cookie", "Location"}:  # what the server told us, for us
                yield from walk(value, seen)
        return
    if isinstance(thing, list | tuple | set | frozenset):
        for each in thing:
            yield from walk(each, seen)
        return
    if isinstance(thing, BaseException):
        for each in (thing.args, thing.__cause__, thing.__context__, getattr(thing, "__notes__", ())):
            yield from walk(each, seen)
    slots = [slot for kind in type(thing).__mro__ for slot in getattr(kind, "__slots__", ())]
    attributes = {**getattr(thing, "__dict__", {}), **{slot: getattr(thing, slot, None) for slot in slots}}
    for name, value in attributes.items():
        if name in OURS_TO_TELL:
            assert PASSWORD not in str(value), f"{name} has userinfo"
        elif name != "attachment":
            yield from walk(value, seen)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("how", ["run", "stream", "batch"])
@pytest.mark.parametrize("case", CASES)
def test_nothing_secret_gets_out(
    form: str, how: str, case: str, driver: MemDriver, caplog: pytest.LogCaptureFixture
) -> None:
    """Users, passwords, tokens, header values, keys and query values are in nothing that one can see or keep."""
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="downhaul")
    outcome, context, download = outcome_of(form, how, case, driver)
    assert isinstance(outcome, Result) == case.startswith(("success", "resumed", "plugin fails in done")), outcome
    for text in texts(outcome):
        assert MARK not in text.replace(f"attachment='{MARK}'", ""), text
    for record in caplog.records:
        shown = logging.Formatter("%(message)s").format(record)
        assert MARK not in shown, shown
    for attempt in outcome.history:
        attempt.error.attachment = None
        assert MARK.encode() not in pickle.dumps(attempt)
    if isinstance(outcome, Result):
        outcome = replace(outcome, attachment=None, headers=Headers())
    else:
        outcome.attachment = None
    assert MARK.encode() not in pickle.dumps(outcome)
    assert MARK not in f"{context!r} {download!r} {download.settings!r}"


def test_plugins_show_nothing_secret() -> None:
    """A plugin's repr may stand in anybody's log: its URLs are shown without userinfo and values of the query."""
    for url in (f"https://{USER}:{PASSWORD}@host/", f"https://host/?key={QUERY}"):
        with pytest.raises(ValueError, match="without user and query") as caught:
            BearerToken(fail, within=url)
        assert MARK not in str(caught.value)
    assert MARK not in repr(MirrorList(f"https://{USER}:{PASSWORD}@host/list?key={QUERY}"))


def test_the_walk_finds_secrets() -> None:
    """The search of the test above finds what is hidden in causes, notes, arguments, history and attributes."""

    def hidden(change: Callable[[DownloadError], object]) -> bool:
        error = DownloadError("all is well")
        change(error)
        return any(MARK in text for text in texts(error))

    assert not hidden(lambda error: None)
    assert hidden(lambda error: error.add_note(MARK))
    assert hidden(lambda error: setattr(error, "__cause__", ValueError(MARK)))
    assert hidden(lambda error: setattr(error, "__context__", ValueError({"a": [MARK]})))
    assert hidden(lambda error: setattr(error, "reason", {"deep": (MARK,)}))
    assert hidden(lambda error: setattr(error, "args", (MARK,)))
    assert not hidden(lambda error: setattr(error, "attachment", MARK))


@pytest.mark.parametrize("debug", [False, True])
def test_nothing_secret_in_asyncio_debug_mode(debug: bool, driver: MemDriver, caplog: pytest.LogCaptureFixture) -> None:
    """Asyncio's own log, in debug mode too, shows no secrets: tasks and coroutines have none in their reprs."""
    caplog.set_level(logging.DEBUG)
    driver.site(ASKED, GOOD)

    async def work() -> None:
        asyncio.get_running_loop().slow_callback_duration = 0  # type: ignore[attr-defined]
        async with Context(drivers={"mem": driver}, settings=SETTINGS) as context:
            await Download(URL, BufferWriter(), context=context, plugins=[Token()]).run()

    asyncio.run(work(), debug=debug)
    assert debug == ("took" in caplog.text)
    assert MARK not in caplog.text


def test_digest_errors_and_files(driver: MemDriver, tmp_path: Path) -> None:
    """The digests of an error are no secret, and are told: both the expected and the actual one."""
    driver.site(ASKED, GOOD)
    with (
        Context(drivers={"mem": driver}) as context,
        pytest.raises(ValidationError, match=r"sha256 is \w{64}, expected 0{64}"),
    ):
        Download(URL, BufferWriter(), context=context, validations=[DigestValidation("sha256", "0" * 64)], retries=0)()
