"""A thousand files each from the real nginx and the real vsftpd, by the public synchronous API and by asyncio."""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from tests.servers import nginx as real_nginx
from tests.servers import vsftpd as real_vsftpd

from downhaul import Batch, Context, DigestValidation, Download, FileWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FILES = 1000
CONCURRENCY = 10
BACKLOG = 50


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A directory of files from 0 to some 20,000 bytes, and their SHA-256 by name."""
    root, digests, chance = tmp_path_factory.mktemp("tree"), {}, random.Random(7)
    for number in range(FILES):
        content = chance.randbytes(chance.choice([0, 1, 1000, 20_000]))
        (root / f"file-{number}").write_bytes(content)
        digests[f"file-{number}"] = hashlib.sha256(content).hexdigest()
    root.chmod(0o755)
    return root, digests


@contextmanager
def nginx(root: Path) -> Iterator[tuple[str, Callable[[], int]]]:
    """Run nginx; yield the base URL, and what tells the most connections that it saw at the same time."""
    counted = root.parent / f"connections-{random.randrange(10**9)}.log"
    log = f"log_format counted '$connections_active'; access_log {counted} counted;"
    with real_nginx.nginx(root, http=log) as server:

        def peak() -> int:
            return max(map(int, counted.read_text().split()))

        yield server.url("/"), peak


@contextmanager
def vsftpd(root: Path) -> Iterator[tuple[str, Callable[[], int]]]:
    """Run vsftpd; yield the base URL, and what tells how many control connections were opened in all."""
    with real_vsftpd.vsftpd(root) as server:
        yield server.url(), server.controls


class Jobs:
    """The downloads, made one by one; knows how far the batch has pulled ahead of who consumes its plans."""

    def __init__(self, base: str, digests: dict[str, str], target: Path) -> None:
        self._base, self._digests, self._target = base, digests, target
        self.consumed = self.furthest = 0
        self.threads: set[int] = set()

    def __iter__(self) -> Iterator[Download]:
        for pulled, (name, digest) in enumerate(self._digests.items(), 1):
            self.furthest = max(self.furthest, pulled - self.consumed)
            self.threads.add(threading.get_ident())
            yield Download(
                self._base + name,
                FileWriter(self._target / name),
                validations=[DigestValidation("sha256", digest)],
                attachment=name,
            )

    def check(self, names: list[object], peak: int) -> None:
        """All files came, each once and right; bounds were kept."""
        assert sorted(names) == sorted(self._digests)
        assert sorted(path.name for path in self._target.iterdir()) == sorted(self._digests)
        for name, digest in self._digests.items():
            assert hashlib.sha256((self._target / name).read_bytes()).hexdigest() == digest
        assert 0 < peak <= CONCURRENCY
        assert CONCURRENCY < self.furthest <= BACKLOG


@pytest.mark.parametrize("server", [nginx, vsftpd])
def test_synchronously_from_a_plain_thread(server, tree, tmp_path) -> None:
    """A thread without a loop gets 1,000 files: verified, over at most 10 connections, at most 50 jobs ahead."""
    root, digests = tree
    outcome: list[object] = []

    def importer(base: str) -> None:
        jobs = Jobs(base, digests, tmp_path)
        with Context() as context, Batch(jobs, concurrency=CONCURRENCY, backlog=BACKLOG, context=context) as batch:
            names = []
            for plan in batch():
                jobs.consumed += 1
                names.append(plan.result().attachment)
        assert jobs.threads == {threading.get_ident()}
        outcome.extend((jobs, names))

    with server(root) as (base, peak):
        thread = threading.Thread(target=importer, args=(base,))
        thread.start()
        thread.join(100)
        assert outcome, "the importer's thread failed"
        jobs, names = outcome
        jobs.check(names, peak())


@pytest.mark.parametrize("server", [nginx, vsftpd])
async def test_with_asyncio(server, tree, tmp_path) -> None:
    """The same on a running loop."""
    root, digests = tree
    with server(root) as (base, peak):
        jobs, names = Jobs(base, digests, tmp_path), []
        async with (
            Context() as context,
            Batch(jobs, concurrency=CONCURRENCY, backlog=BACKLOG, context=context) as batch,
        ):
            async for plan in batch():
                jobs.consumed += 1
                names.append(plan.result().attachment)
                await asyncio.sleep(0)
        jobs.check(names, peak())
