"""The part of the contract about ranges and continuations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from downhaul import DownloadError, FetchError, RangeRefused, Version

from ._failures import check_error
from ._inheritance import Inheritance
from ._stage import difference, sample

if TYPE_CHECKING:
    from downhaul import Driver, Info

_SIZE = 100_003


class RangeFacts(Inheritance):
    """Facts about parts of files: nothing is ever appended that does not belong there."""

    @pytest.mark.parametrize(
        ("offset", "length"),
        [(1, None), (60_001, None), (_SIZE - 1, None), (0, 10), (70_000, 1), (70_000, 20_000), (99_000, 50_000)],
    )
    def test_range(self, offset: int, length: int | None) -> None:
        """A range gives exactly its bytes, from its offset, up to the end at most, and the size of the whole."""
        self.needs("resumable")
        content = sample(_SIZE, seed=20)
        url = self.url_of(content)
        info, received = self.play(lambda driver: self.get(driver, url, offset=offset, length=length))
        assert info.start == offset
        assert info.size == len(content)
        assert not difference(received, content[offset:][:length])

    def test_whole_after_range(self) -> None:
        """A range that ended before the end of the file does not show in the next answer."""
        self.needs("resumable")
        content = sample(self.largest, seed=21)
        url = self.url_of(content)

        async def scenario(driver: Driver) -> list[bytes]:
            return [(await self.get(driver, url, offset=1000, length=n))[1] for n in (10, 10, None)]

        for received, length in zip(self.play(scenario), (10, 10, None), strict=True):
            assert not difference(received, content[1000:][:length])

    def test_offset_that_is_not_honoured(self) -> None:
        """A driver that cannot start at an offset starts at 0 and says so, or refuses."""
        content = sample(_SIZE, seed=22)
        url = self.url_of(content)
        match self.play(lambda driver: self.attempt(driver, url, offset=50_000)):
            case (info, received):
                assert info.start in {0, 50_000}
                assert not difference(received, content[info.start :])
            case error:
                assert not self.resumable, f"the range was refused: {error}"
                check_error(error)

    @pytest.mark.parametrize("beyond", [0, 1000])
    def test_offset_at_and_behind_the_end(self, beyond: int) -> None:
        """Behind the last byte is nothing: a FetchError, or the whole file from 0; at the end also no bytes."""
        content = sample(_SIZE, seed=23)
        url = self.url_of(content)
        offset = len(content) + beyond
        match self.play(lambda driver: self.attempt(driver, url, offset=offset)):
            case (info, received):
                assert info.start == 0 or (info.start == offset and beyond == 0)
                assert not difference(received, content[info.start :])
            case error:
                assert isinstance(error, FetchError)
                check_error(error)

    def test_continues_its_version(self) -> None:
        """A continuation guarded by the file's own version gets the rest of the file, and sees the same version."""
        self.needs("resumable")
        self.needs("versioned")
        content = sample(_SIZE, seed=24)
        url = self.url_of(content)

        async def scenario(driver: Driver) -> tuple[Info, Info, bytes]:
            known, _ = await self.get(driver, url)
            return known, *await self.get(driver, url, offset=60_000, version=known.version)

        known, info, received = self.play(scenario)
        if info.start == 0:  # allowed for a version that is not strong (RFC 9110, section 13.1.5)
            assert known.version is not None
            assert not known.version.strong, "a strong version is not continued"
        assert not difference(received, content[info.start :])
        assert info.version == known.version

    def test_never_continues_another_version(self) -> None:
        """A continuation guarded by another file's version is refused, or the file comes from its start."""
        content, other = sample(_SIZE, seed=25), sample(_SIZE + 7, seed=26)
        url, other_url = self.url_of(content), self.url_of(other)

        async def scenario(driver: Driver) -> tuple[Info, bytes] | DownloadError:
            known, _ = await self.get(driver, other_url)
            version = known.version or Version('"another"', "Sat, 01 Jan 2000 00:00:00 GMT", len(other), strong=True)
            answer = await self.attempt(driver, url, offset=60_000, version=version)
            assert not difference((await self.get(driver, url))[1], content)
            return answer

        match self.play(scenario):
            case (info, received):
                assert info.start == 0
                assert not difference(received, content)
            case error:
                assert isinstance(error, RangeRefused)
                check_error(error)

    def test_never_continues_replaced_content(self) -> None:
        """A file that was replaced in between is not continued: refused, or the new one comes from its start."""
        self.needs("versioned")
        before, after = sample(_SIZE, seed=27), sample(_SIZE + 1, seed=28)
        url = self.url_of(before)
        known, _ = self.play(lambda driver: self.get(driver, url))
        self.replace_content(url, after)
        match self.play(lambda driver: self.attempt(driver, url, offset=60_000, version=known.version)):
            case (info, received):
                assert info.start == 0
                assert not difference(received, after)
            case error:
                assert isinstance(error, RangeRefused)
                check_error(error)
