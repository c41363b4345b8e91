"""Validations: judges of the bytes, ours and yours, and those that only warn."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from tests.mem import Ledger, MemDriver, Mirrors, Reply, context_of

from downhaul import (
    BufferWriter,
    Check,
    DigestMismatch,
    DigestValidation,
    Download,
    PluginError,
    PolicyError,
    SizeMismatch,
    SizeValidation,
    Validation,
    ValidationError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from downhaul import Block

URL = "mem://host/file"
DATA = bytes(range(256)) * 40  # 10 KiB
RIGHT = DigestValidation("sha256", hashlib.sha256(DATA).hexdigest())
WRONG = DigestValidation("sha256", "00" * 32)


@pytest.fixture
def driver() -> MemDriver:
    """Give a driver that serves the file."""
    driver = MemDriver()
    driver.site(URL, data=DATA)
    return driver


async def fetch(driver: MemDriver, *validations: Validation, **options: Any) -> bytes:
    """Download URL once, with one round, and return what was published."""
    writer = BufferWriter()
    async with context_of(driver, retries=0) as context:
        await Download(URL, writer, validations=validations, context=context, **options).run()
    return writer.content()


@dataclass(frozen=True)
class Own(Validation):
    """A validation of somebody else's; what its check does is given."""

    on_update: Callable[[bytes], None] = lambda _: None
    on_finish: Callable[[], None] = lambda: None
    on_check: Callable[[], None] = lambda: None
    enforced: bool = True
    identifies: bool = False
    seen: list[bytes] = field(default_factory=list, compare=False)

    def check(self) -> Check:
        self.on_check()
        return _OwnCheck(self)


class _OwnCheck:
    def __init__(self, validation: Own) -> None:
        self._validation = validation

    def update(self, block: Block) -> None:
        self._validation.seen.append(bytes(block))
        self._validation.on_update(bytes(block))

    def finish(self) -> None:
        self._validation.on_finish()


def raising(error: BaseException) -> Callable[..., None]:
    """Return a function that raises *error*."""

    def function(*_: object) -> None:
        raise error

    return function


async def test_right_bytes_pass(driver: MemDriver) -> None:
    """A download whose validations hold is published."""
    assert await fetch(driver, RIGHT, SizeValidation(len(DATA))) == DATA


async def test_a_wrong_digest_refuses(driver: MemDriver) -> None:
    """DigestMismatch tells what was found and what was expected."""
    with pytest.raises(DigestMismatch, match=RIGHT.hexdigest + ".*" + WRONG.hexdigest):
        await fetch(driver, WRONG)


@pytest.mark.parametrize("size", [0, 1, len(DATA) - 1, len(DATA) + 1])
async def test_a_wrong_size_refuses(driver: MemDriver, size: int) -> None:
    """One byte too many or too few is a SizeMismatch."""
    with pytest.raises(SizeMismatch):
        await fetch(driver, SizeValidation(size))


async def test_an_empty_file_can_be_expected(driver: MemDriver) -> None:
    """Size 0 is a size like others."""
    driver.site(URL, data=b"")
    assert await fetch(driver, SizeValidation(0)) == b""


@pytest.mark.parametrize(("size", "error"), [(-1, ValueError), ("7", TypeError), (True, TypeError), (7.0, TypeError)])
def test_a_size_is_a_whole_number_from_0(size: Any, error: type[Exception]) -> None:
    """What cannot be a size is refused when the validation is made."""
    with pytest.raises(error, match="number of bytes"):
        SizeValidation(size)


async def test_too_many_bytes_are_refused_early(driver: MemDriver) -> None:
    """A server that does not stop is left when a batch is too much, not at its end."""
    seen = Own()
    driver.site(URL, Reply(b"x" * 40_000_000, size=False, proof="final chunk", block=256 * 1024))
    with pytest.raises(SizeMismatch, match="more than the 1000 bytes"):
        await fetch(driver, seen, SizeValidation(1000))
    assert sum(map(len, seen.seen)) < 4_000_000


async def test_an_announced_size_over_max_size_is_refused_before_a_byte_is_read(driver: MemDriver) -> None:
    """`max_size` is held against the announced size first; of the URL itself, that is terminal."""
    ledger = Ledger()
    with pytest.raises(PolicyError, match="max_size=10239"):
        await fetch(driver, max_size=len(DATA) - 1, plugins=[ledger])
    assert ledger.errors == []


async def test_bytes_over_max_size_are_refused_as_they_come(driver: MemDriver) -> None:
    """A size that was not announced does not get around `max_size`."""
    driver.site(URL, data=DATA, size=False, proof="final chunk")
    with pytest.raises(PolicyError, match="more than max_size=10239"):
        await fetch(driver, max_size=len(DATA) - 1)
    assert await fetch(driver, max_size=len(DATA)) == DATA


async def test_a_mirror_over_max_size_is_passed_over(driver: MemDriver) -> None:
    """Only the URL's own refusal is terminal: another mirror may have a file of the right size."""
    driver.site("mem://a/f", data=DATA + b"more")
    driver.site("mem://b/f", data=DATA)
    assert await fetch(driver, max_size=len(DATA), plugins=[Mirrors(("mem://a/f", "mem://b/f"))]) == DATA


@pytest.mark.parametrize(
    "validation",
    [
        DigestValidation("sha256", "00" * 32, enforced=False),
        SizeValidation(1, enforced=False),
        SizeValidation(len(DATA) + 1, enforced=False),
        Own(on_finish=raising(ValidationError("not mine")), enforced=False),
        Own(on_update=raising(ValidationError("not mine")), enforced=False),
    ],
    ids=["digest", "too many", "too few", "own, at the end", "own, early"],
)
async def test_what_is_not_enforced_warns(
    driver: MemDriver, validation: Validation, caplog: pytest.LogCaptureFixture
) -> None:
    """``enforced=False`` warns instead: once, and the bytes are published."""
    assert await fetch(driver, validation, RIGHT) == DATA
    (record,) = caplog.records
    assert (record.levelname, record.name) == ("WARNING", "downhaul.validation")
    assert "not enforced" in record.getMessage()


async def test_what_warned_early_is_asked_no_more(driver: MemDriver) -> None:
    """A check that has given its verdict before the end is not bothered with the rest, nor asked again."""
    driver.site(URL, data=DATA, block=1000)
    refused = Own(on_update=raising(ValidationError("no")), on_finish=raising(AssertionError()), enforced=False)
    assert await fetch(driver, refused) == DATA
    assert len(refused.seen) == 1


async def test_what_is_not_enforced_is_no_proof(driver: MemDriver) -> None:
    """A validation that refuses nothing proves nothing."""
    driver.site(URL, data=DATA, size=False)
    async with context_of(driver) as context:
        soft = DigestValidation("sha256", RIGHT.hexdigest, enforced=False)
        result = await Download(URL, BufferWriter(), validations=[soft], context=context).run()
    assert result.proof == "unproven"


async def test_an_own_validation_sees_all_the_bytes_in_order(driver: MemDriver) -> None:
    """`Check.update` gets each block, `finish` comes behind all of them."""
    ends: list[int] = []
    own = Own(on_finish=lambda: ends.append(len(own.seen)))
    driver.site(URL, data=DATA, block=1000)
    assert await fetch(driver, own) == DATA
    assert b"".join(own.seen) == DATA
    assert ends == [11]


async def test_a_fresh_check_is_made_whenever_the_bytes_start_from_0(driver: MemDriver) -> None:
    """`Validation.check` is called for each run of bytes, so nothing of the one before is left."""
    made: list[int] = []
    own = Own(on_check=lambda: made.append(len(own.seen)))
    driver.site(URL, Reply(b"wrong", ranges=False, cut=5), Reply(DATA))
    async with context_of(driver) as context:
        await Download(URL, BufferWriter(), validations=[own], context=context).run()
    assert made[0] == 0
    assert made[-1] == 1, "a new one after the wrong bytes"
    assert b"".join(own.seen[made[-1] :]) == DATA


@pytest.mark.parametrize("step", ["on_update", "on_finish", "on_check"])
@pytest.mark.parametrize("reason", [KeyError("oops"), OSError(5, "no such luck"), ZeroDivisionError()], ids=repr)
@pytest.mark.parametrize("enforced", [True, False])
async def test_a_validation_that_fails_itself_is_named(
    driver: MemDriver, step: str, reason: Exception, enforced: bool
) -> None:
    """What is no ValidationError is a PluginError that names the validation: the bytes were not judged."""
    ledger = Ledger()
    own = Own(enforced=enforced, **{step: raising(reason)})  # type: ignore[arg-type]
    with pytest.raises(PluginError, match=rf"Own\.{step[3:]} failed: {type(reason).__name__}") as caught:
        await fetch(driver, own, plugins=[ledger], attachment="mine")
    assert (caught.value.url, caught.value.attachment) == (URL, "mine")
    assert ledger.errors == [], "terminal: `error` is not asked"
    assert ledger.outcomes == [caught.value]


async def test_a_validation_that_makes_no_check_is_named(driver: MemDriver) -> None:
    """A forgotten ``return`` is told as what it is."""

    class Forgetful(Validation):
        def check(self) -> Any:
            pass

    with pytest.raises(PluginError, match="Forgetful"):
        await fetch(driver, Forgetful())


async def test_an_own_validation_refuses(driver: MemDriver) -> None:
    """A ValidationError of whatever validation refuses the bytes, early or at the end."""
    for step in ("on_update", "on_finish"):
        with pytest.raises(ValidationError, match="looks odd"):
            await fetch(driver, Own(**{step: raising(ValidationError("looks odd"))}))  # type: ignore[arg-type]


async def test_an_own_validation_that_identifies_is_a_proof(driver: MemDriver) -> None:
    """`Validation.identifies` pins the exact bytes: that they are complete, too."""
    driver.site(URL, data=DATA, size=False)
    async with context_of(driver) as context:
        result = await Download(URL, BufferWriter(), validations=[Own(identifies=True)], context=context).run()
        plain = await Download(URL, BufferWriter(), validations=[Own()], context=context).run()
    assert (result.proof, plain.proof) == ("digest", "unproven")


def test_validations_are_values() -> None:
    """Equal descriptions are equal: required on every attempt, a validation counts once."""
    assert SizeValidation(1) == SizeValidation(1) != SizeValidation(2)
    assert hash(RIGHT) == hash(DigestValidation("SHA256", RIGHT.hexdigest.upper()))


def test_validation_needs_no_arguments() -> None:
    """``Validation()`` of a subclass needs none: the base class has nothing to be told."""

    class Plain(Validation):
        def check(self) -> Check:
            return _OwnCheck(Own())

    assert (Plain().enforced, Plain().identifies) == (True, False)


async def test_the_verdict_of_an_own_validation_does_not_block_the_loop(driver: MemDriver) -> None:
    """`Check.finish` of somebody else's may take its time, to verify a signature say: it has a thread."""
    loop, moved = asyncio.get_running_loop(), threading.Event()

    def finish() -> None:
        loop.call_soon_threadsafe(moved.set)
        assert moved.wait(20), "the loop stands still"

    assert await fetch(driver, Own(on_finish=finish), RIGHT) == DATA


async def test_a_verdict_is_waited_for_when_cancelled(driver: MemDriver) -> None:
    """A cancelled download leaves no thread at work on its bytes."""
    begun, may_end, ended = asyncio.Event(), threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def finish() -> None:
        loop.call_soon_threadsafe(begun.set)
        may_end.wait(20)
        ended.set()

    task = asyncio.create_task(fetch(driver, Own(on_finish=finish)))
    await asyncio.wait_for(begun.wait(), 20)
    task.cancel()
    loop.call_later(0.05, may_end.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_the_first_that_refuses_gives_the_reason(driver: MemDriver) -> None:
    """Validations are asked in the order given, and none behind the one that refuses: it may rely on those before."""
    asked = Own(on_finish=raising(ValidationError("second")))
    with pytest.raises(ValidationError, match="first"):
        await fetch(driver, Own(on_finish=raising(ValidationError("first"))), asked)
    with pytest.raises(DigestMismatch):
        await fetch(driver, WRONG, Own(on_finish=raising(AssertionError("never asked"))))
