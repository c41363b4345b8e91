"""PieceValidation: each piece of a file has a digest of its own, and a bad one is refused as soon as it has come."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.mem import MemDriver, Mirrors, Reply, context_of

from downhaul import BufferWriter, DigestMismatch, Download, PieceValidation

HOME, OTHER = "mem://home/file", "mem://other/file"


def pieces(content: bytes, length: int, algorithm: str = "sha256") -> PieceValidation:
    """Return what the pieces of *content* are."""
    starts = range(0, len(content), length)
    digests = [hashlib.new(algorithm, content[at : at + length]).hexdigest() for at in starts]
    return PieceValidation(algorithm, length, digests)


@given(st.binary(max_size=60), st.integers(1, 20), st.lists(st.integers(1, 15), max_size=20))
def test_right_bytes_pass_in_whatever_blocks_they_come(content: bytes, length: int, cuts: list[int]):
    """Blocks and pieces need not have the same bounds."""
    check = pieces(content, length).check()
    rest = memoryview(content)
    for cut in [*cuts, len(content)]:
        check.update(rest[:cut])
        rest = rest[cut:]
    check.finish()


@given(st.binary(min_size=1, max_size=60), st.integers(1, 20), st.data())
def test_any_wrong_byte_is_found_at_the_end_of_its_piece(content: bytes, length: int, data: st.DataObject):
    """The check of a piece refuses as soon as the piece is there, or at the end for the last one."""
    place = data.draw(st.integers(0, len(content) - 1))
    wrong = bytearray(content)
    wrong[place] ^= 1
    check = pieces(content, length).check()
    end = min((place // length + 1) * length, len(content))
    check.update(wrong[: end - 1])
    with pytest.raises(DigestMismatch, match=f"piece {place // length}"):
        check.update(wrong[end - 1 : end])
        check.finish()


@given(st.binary(min_size=1, max_size=60), st.integers(1, 20), st.binary(min_size=1, max_size=30))
def test_too_few_and_too_many_bytes_are_refused(content: bytes, length: int, more: bytes):
    """The number of pieces is part of what is expected, and so is the length of the last."""
    for wrong in (content[:-1], content + more):
        check = pieces(content, length).check()
        with pytest.raises(DigestMismatch):
            check.update(wrong)
            check.finish()


@given(st.binary(min_size=1, max_size=60), st.integers(1, 20))
def test_a_piece_by_itself(content: bytes, length: int):
    """`check_piece` judges one piece, whoever has fetched it."""
    validation = pieces(content, length)
    for number, at in enumerate(range(0, len(content), length)):
        validation.check_piece(number, content[at : at + length])
        with pytest.raises(DigestMismatch):
            validation.check_piece(number, content[at : at + length] + b"!")
    with pytest.raises(DigestMismatch, match="expected are"):
        validation.check_piece(len(validation.hexdigests), b"")


async def test_a_bad_mirror_is_left_at_its_first_bad_piece():
    """The rest of the file is not fetched from there, and nothing of it is kept."""
    content = bytes(range(256)) * 4000
    bad = bytes(100_000) + content[100_000:]
    mem = MemDriver()
    mem.site(HOME, Reply(bad))
    mem.site(OTHER, Reply(content))
    async with context_of(mem, Mirrors((HOME, OTHER))) as context:
        writer = BufferWriter()
        result = await Download(HOME, writer, validations=[pieces(content, 65_536)], context=context).run()
    assert writer.content() == content
    assert [type(each.error) for each in result.history] == [DigestMismatch]
    assert "piece 0" in str(result.history[0].error)
    assert [each.offset for each in mem.log] == [0, 0]


async def test_strong_pieces_identify_the_file():
    """All of them together pin every byte: so another mirror may continue (with weak ones it may not)."""
    content = bytes(range(256)) * 1000
    mem = MemDriver()
    mem.site(HOME, Reply(content, cut=100_000))
    mem.site(OTHER, Reply(content, tag='"other"'))
    for algorithm, offset in (("sha256", 100_000), ("sha1", 0)):
        mem.log.clear()
        async with context_of(mem, Mirrors((HOME, OTHER))) as context:
            validations = [pieces(content, 65_536, algorithm)]
            await Download(HOME, BufferWriter(), validations=validations, context=context).run()
        assert [each.offset for each in mem.asked(OTHER)] == [offset]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("sha256", 0, ["0" * 64]), ValueError),
        (("sha256", True, ["0" * 64]), ValueError),
        (("sha256", 10, ["0" * 63]), ValueError),
        (("nosuch", 10, ["0" * 64]), ValueError),
        (("sha256", 10, "0" * 64), TypeError),
    ],
)
def test_what_can_be_no_pieces(arguments, error):
    """Refused when it is made."""
    with pytest.raises(error):
        PieceValidation(*arguments)


def test_it_is_a_value():
    """Equal and hashable by what it holds; its repr does not list a thousand digests."""
    one, other = pieces(b"abc", 2), pieces(b"abc", 2)
    assert one == other
    assert hash(one) == hash(other)
    assert one != pieces(b"abd", 2)
    assert one.hexdigests[0] not in repr(one)
