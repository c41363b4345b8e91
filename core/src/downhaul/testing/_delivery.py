"""The part of the contract about what is delivered, and what is said of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from downhaul import Driver, Settings

from ._failures import check_error
from ._inheritance import Inheritance
from ._stage import difference, opened, sample

if TYPE_CHECKING:
    from downhaul import DownloadError, Info


class DeliveryFacts(Inheritance):
    """Facts about whole files."""

    @pytest.mark.parametrize("size", [0, 1, 100_003, "largest"])
    def test_delivers_the_bytes_exactly(self, size: int | str) -> None:
        """A file arrives byte for byte, empty or large, in bytes-like blocks."""
        content = sample(self.largest if isinstance(size, str) else size)
        url = self.url_of(content)
        _, received = self.play(lambda driver: self.get(driver, url))
        assert not difference(received, content)

    @pytest.mark.parametrize("size", [0, 100_003])
    def test_info_is_true(self, size: int) -> None:
        """What is said before the first byte is so: the size or None, a start of 0, the scheme, the proof."""
        content = sample(size, seed=1)
        url = self.url_of(content)
        info, _ = self.play(lambda driver: self.get(driver, url))
        assert info.size in {None, size}
        assert info.start == 0
        assert not info.not_modified
        assert info.url.partition(":")[0].lower() == url.partition(":")[0].lower()
        assert info.proof, "`proof` names what proves the body complete, or is 'unproven'"
        assert not (info.size is not None and info.proof == "unproven"), "a known size proves the body complete"
        assert info.resumable or not self.resumable or size == 0

    def test_one_after_another(self) -> None:
        """A driver serves one request after another, and again the first."""
        first, second = sample(50_000, seed=2), sample(70_000, seed=3)
        urls = self.url_of(first), self.url_of(second)

        async def scenario(driver: Driver) -> list[bytes]:
            return [(await self.get(driver, url))[1] for url in (*urls, urls[0])]

        for received, content in zip(self.play(scenario), (first, second, first), strict=True):
            assert not difference(received, content)

    def test_ten_at_once(self) -> None:
        """Ten requests at once get each its own bytes."""
        contents = [sample(90_000 + number, seed=number) for number in range(10)]
        urls = [self.url_of(content) for content in contents]

        async def scenario(driver: Driver) -> list[tuple[Info, bytes]]:
            return await asyncio.gather(*(self.get(driver, url) for url in urls))

        for (_, received), content in zip(self.play(scenario), contents, strict=True):
            assert not difference(received, content)

    def test_two_read_in_turns(self) -> None:
        """Two answers that are open at once and read block by block in turns do not mix."""
        contents = sample(300_000, seed=4), sample(300_000, seed=5)
        urls = [self.url_of(content) for content in contents]
        settings = self.settings.complete()

        async def scenario(driver: Driver) -> list[bytearray]:
            received = [bytearray(), bytearray()]
            async with (
                opened(driver, self.request(urls[0]), settings) as one,
                opened(driver, self.request(urls[1]), settings) as other,
            ):
                bodies = [(aiter(one.body), received[0]), (aiter(other.body), received[1])]
                while bodies:
                    for body, kept in tuple(bodies):
                        block = await anext(body, None)
                        if block is None:
                            bodies.remove((body, kept))
                        else:
                            kept += block
            return received

        for received, content in zip(self.play(scenario), contents, strict=True):
            assert not difference(bytes(received), content)

    def test_stat(self) -> None:
        """A stat gives the size and no bytes; without `stats` it may be refused."""
        content = sample(12_345, seed=6)
        url = self.url_of(content)

        async def scenario(driver: Driver) -> tuple[Info, bytes] | DownloadError:
            answer = await self.attempt(driver, url, verb="stat")
            assert not difference((await self.get(driver, url))[1], content)
            return answer

        match self.play(scenario):
            case (info, received):
                assert received == b""
                assert info.size == len(content) or (info.size is None and not self.stats)
            case error:
                assert not self.stats, f"stat was refused: {error}"
                check_error(error)

    def test_replaced_content(self) -> None:
        """What was replaced on the server is delivered anew, and with another version."""
        before, after = sample(40_000, seed=7), sample(30_001, seed=8)
        url = self.url_of(before)

        async def scenario(driver: Driver) -> tuple[tuple[Info, bytes], tuple[Info, bytes]]:
            first = await self.get(driver, url)
            await asyncio.to_thread(self.replace_content, url, after)
            return first, await self.get(driver, url)

        (old, old_bytes), (new, new_bytes) = self.play(scenario)
        assert not difference(old_bytes, before)
        assert not difference(new_bytes, after)
        assert old.version != new.version or not self.versioned

    def test_version_is_stable(self) -> None:
        """The same file has an equal version whenever and by whomever it is opened."""
        self.needs("versioned")
        url = self.url_of(sample(40_000, seed=9))
        versions = [self.play(lambda driver: self.get(driver, url))[0].version for _ in range(2)]
        assert versions[0] is not None
        assert versions[0] == versions[1]

    def test_not_modified(self) -> None:
        """Asked for nothing if the file still has its version, the driver says so and gives no bytes."""
        self.needs("versioned")
        url = self.url_of(sample(40_000, seed=10))

        async def scenario(driver: Driver) -> tuple[Info, bytes]:
            known, _ = await self.get(driver, url)
            return await self.get(driver, url, unless=known.version)

        info, received = self.play(scenario)
        assert info.not_modified
        assert received == b""

    def test_modified(self) -> None:
        """Asked for nothing if the file has another file's version, the driver delivers it."""
        self.needs("versioned")
        content, other = sample(40_000, seed=11), sample(50_000, seed=12)
        url, other_url = self.url_of(content), self.url_of(other)

        async def scenario(driver: Driver) -> tuple[Info, bytes]:
            known, _ = await self.get(driver, other_url)
            return await self.get(driver, url, unless=known.version)

        info, received = self.play(scenario)
        assert not info.not_modified
        assert not difference(received, content)

    def test_options_are_values(self) -> None:
        """The types of a driver's options are made without arguments, and two such are equal and hash alike."""
        for kind in type(self.play(_itself)).options:
            assert kind() == kind()
            assert hash(kind()) == hash(kind())
            assert Settings(options=(kind(),)).of(kind) == kind()

    def test_closes_unused(self) -> None:
        """A driver that nobody asked for anything can be closed."""
        assert isinstance(self.play(_itself), Driver)


async def _itself(driver: Driver) -> Driver:
    return driver
