"""Digests: which names and digits are understood, and that each is calculated once, of the right bytes."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.mem import MemDriver, Mirrors, Reply, context_of

from downhaul import BufferWriter, DigestValidation, Download, Validation
from downhaul._digests import Digests, check_hexdigest, digest_name, is_strong

if TYPE_CHECKING:
    from collections.abc import Iterator

URL = "mem://host/file"
DATA = bytes(range(256)) * 700  # 175 KiB


@pytest.fixture
def driver() -> MemDriver:
    """Give a driver without sites."""
    return MemDriver()


@pytest.mark.parametrize(
    ("given_name", "name"),
    [("sha256", "sha256"), ("SHA-256", "sha256"), ("Sha512", "sha512"), ("sha3-256", "sha3_256"), ("MD5", "md5")],
)
def test_names_are_those_of_hashlib_or_of_common_use(given_name: str, name: str) -> None:
    """A digest may be named as `hashlib` does, or as IANA does."""
    assert digest_name(given_name) == name


@pytest.mark.parametrize("name", ["", "sha257", "crc32", "shake_128", "shake_256", "sha 256", "../sha256"])
def test_an_unknown_name_is_a_value_error_that_lists_the_known_ones(name: str) -> None:
    """An unknown algorithm is refused when the download is made; so is one without a fixed length."""
    with pytest.raises(ValueError, match=r"unknown digest algorithm .* sha256"):
        Download(URL, BufferWriter(), digests=[name])
    with pytest.raises(ValueError, match="unknown digest algorithm"):
        DigestValidation(name, "00" * 32)


def test_a_name_that_is_listed_but_not_usable_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """An algorithm that OpenSSL lists and does not have is refused at once, not in the midst of a download."""
    monkeypatch.setattr(hashlib, "algorithms_available", {*hashlib.algorithms_available, "md4-legacy"})
    with pytest.raises(ValueError, match="md4-legacy"):
        Download(URL, BufferWriter(), digests=["md4-legacy"])


@pytest.mark.parametrize("name", [None, 256, b"sha256"])
def test_a_name_is_a_str(name: Any) -> None:
    """Another type than str is a TypeError that says so."""
    with pytest.raises(TypeError, match="named by a str"):
        Download(URL, BufferWriter(), digests=[name])


@pytest.mark.parametrize(
    "digits",
    [
        "",
        "ab",
        "ab" * 33,
        "ab" * 31 + "a",
        "xy" * 32,
        "0x" + "ab" * 31,
        "ab" * 31 + "  ",
        " " + "ab " * 21,
        "٠١" * 32,  # noqa: RUF001 - digits, though not ASCII
        "ab" * 31 + "a\n",
    ],
)
def test_wrong_digits_are_a_value_error(digits: str) -> None:
    """Too short, too long, not hexadecimal, blanks among them: refused before any I/O."""
    with pytest.raises(ValueError, match="hexadecimal digits"):
        DigestValidation("sha256", digits)
    with pytest.raises(ValueError, match="hexadecimal digits"):
        Download(URL, BufferWriter(), digests={"sha256": digits})


def test_digits_given_as_bytes_are_a_type_error() -> None:
    """`hashlib` gives bytes from ``digest()``: a common mistake, told at once."""
    with pytest.raises(TypeError, match="hexadecimal digits in a str"):
        DigestValidation("sha256", hashlib.sha256().digest())  # type: ignore[arg-type]


def test_digits_ignore_case() -> None:
    """Digits in upper case are the same digest."""
    digits = hashlib.sha256(DATA).hexdigest()
    assert check_hexdigest("sha256", digits.upper()) == digits
    assert DigestValidation("SHA-256", digits.upper()) == DigestValidation("sha256", digits)


@pytest.mark.parametrize("name", ["md5", "sha1", "md5-sha1"])
def test_weak_algorithms_do_not_pin_the_bytes(name: str) -> None:
    """An expected md5 or sha1 validates, but bytes of two sources are not joined on its strength."""
    assert not is_strong(name)


@pytest.mark.parametrize("name", ["sha224", "sha256", "sha384", "sha512", "sha3_256", "blake2b"])
def test_strong_algorithms_pin_the_bytes(name: str) -> None:
    """Of the SHA-2 and SHA-3 families and BLAKE2 no collision is known."""
    assert is_strong(name)


@given(st.lists(st.binary(max_size=300)), st.sets(st.sampled_from(sorted(hashlib.algorithms_guaranteed))))
def test_running_digests_equal_those_of_the_whole(blocks: list[bytes], names: set[str]) -> None:
    """However the bytes are cut into blocks, and of whatever type these are, the digests are `hashlib`'s."""
    names = {name for name in names if not name.startswith("shake")}
    digests = Digests(names)
    for place, block in enumerate(blocks):
        digests.update((block, bytearray(block), memoryview(block))[place % 3])
    assert digests.hexdigests() == {name: hashlib.new(name, b"".join(blocks)).hexdigest() for name in names}


async def test_the_result_has_the_digests_that_were_asked_for_and_those_validated(driver: MemDriver) -> None:
    """What is named is calculated, what is expected is validated, and both are in the result."""
    driver.site(URL, data=DATA)
    expected = DigestValidation("sha512", hashlib.sha512(DATA).hexdigest())
    async with context_of(driver) as context:
        result = await Download(
            URL, BufferWriter(), digests=["md5", "SHA-256"], validations=[expected], context=context
        ).run()
    assert dict(result.digests) == {name: hashlib.new(name, DATA).hexdigest() for name in ("md5", "sha256", "sha512")}
    assert result.artifact_attributes == {"size": len(DATA), **result.digests}


async def test_digests_start_again_with_the_bytes(driver: MemDriver) -> None:
    """Digest state belongs to the run of bytes: after attempts that were dropped, resumed and dropped, it is right."""
    one, two = "mem://one/file", "mem://two/file"
    driver.site(one, Reply(b"x" * 5000, cut=3000, ranges=False), Reply(DATA, cut=90_000), Reply(status=503))
    driver.site(two, Reply(DATA, cut=50_000, tag=None), Reply(DATA, cut=150_000), Reply(DATA))
    writer = BufferWriter()
    async with context_of(driver, Mirrors((one, two))) as context:
        result = await Download(URL, writer, digests=["sha256", "sha1"], context=context).run()
    assert writer.content() == DATA
    assert dict(result.digests) == {name: hashlib.new(name, DATA).hexdigest() for name in ("sha256", "sha1")}
    assert result.size == len(DATA)


class CountingHash:
    """A hash of `hashlib` that counts the bytes that it is given."""

    fed: dict[str, int] = {}

    def __init__(self, name: str) -> None:
        self._hash, self._name = hashlib.new(name), name

    def update(self, block: bytes) -> None:
        self.fed[self._name] = self.fed.get(self._name, 0) + len(block)
        self._hash.update(block)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Count the bytes that each algorithm is given."""
    monkeypatch.setattr(CountingHash, "fed", {})
    monkeypatch.setattr(
        "downhaul._digests.Digests.__init__",
        lambda self, names: setattr(self, "_hashes", {name: CountingHash(name) for name in dict.fromkeys(names)}),
    )
    return CountingHash.fed  # type: ignore[return-value]


async def test_a_digest_that_is_asked_for_and_validated_is_calculated_once(
    driver: MemDriver, fed: dict[str, int]
) -> None:
    """`DigestValidation` shares the digests that are calculated anyway, also between several validations."""
    driver.site(URL, data=DATA)
    digits = hashlib.sha256(DATA).hexdigest()
    validations: list[Validation] = [DigestValidation("sha256", digits), DigestValidation("SHA-256", digits, False)]
    async with context_of(driver) as context:
        await Download(
            URL, BufferWriter(), digests={"sha256": digits, "md5": hashlib.md5(DATA).hexdigest()},
            validations=validations, context=context,
        ).run()  # fmt: skip
    assert fed == {"sha256": len(DATA), "md5": len(DATA)}


async def test_nothing_is_calculated_unasked(driver: MemDriver, fed: dict[str, int]) -> None:
    """Digests cost time: without a name and without an expectation there is none."""
    driver.site(URL, data=DATA)
    async with context_of(driver) as context:
        result = await Download(URL, BufferWriter(), context=context).run()
    assert (fed, dict(result.digests)) == ({}, {})
