"""Files of the real nginx, which notes by which connection each request came."""

from __future__ import annotations

import hashlib
import os
import random
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from tests.core.forms import wait_until
from tests.servers import nginx

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass
class Files:
    """The name, the URL and the expected digests of each file, and what the server saw."""

    server: nginx.Nginx
    rows: list[tuple[str, str, dict[str, str]]]
    log: Path

    @property
    def names(self) -> list[str]:
        """The names of all files, sorted."""
        return [name for name, _, _ in self.rows]

    def check_connections(self, *, most: int, requests: int) -> None:
        """There were that many requests since the last time, by connections used again, at most so many at a time."""
        wait_until(lambda: self.log.read_bytes().count(b"\n") >= requests)  # it is written after the answer
        lines = [tuple(map(int, line.split())) for line in self.log.read_text().splitlines()]
        self.log.write_bytes(b"")
        assert len(lines) == requests
        assert max(active for _, active in lines) <= most
        assert len({connection for connection, _ in lines}) <= most


@contextmanager
def counted_files(root: Path, number: int) -> Iterator[Files]:
    """Serve that many files; skip, or fail on the project's own machines, where nginx is missing."""
    if nginx.PROGRAM is None:
        reason = "nginx is not installed (apt-get install nginx-light)"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    log, public, chance, digests = root / "connections.log", root / "public", random.Random(8), {}
    public.mkdir()
    for directory in (root, public):
        directory.chmod(0o755)
    for name in (f"file-{each:03}" for each in range(number)):
        content = chance.randbytes(chance.choice([1, 1000, 100_000]))
        (public / name).write_bytes(content)
        digests[name] = {"sha256": hashlib.sha256(content).hexdigest()}
    counted = f"log_format counted '$connection $connections_active'; access_log {log} counted;"
    with nginx.nginx(public, http=counted) as server:
        yield Files(server, [(name, server.url(f"/{name}"), expected) for name, expected in digests.items()], log)
