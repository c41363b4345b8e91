"""Files at three mirrors: a dead one, a corrupt one, and a right one, which has the list of all three as well."""

from __future__ import annotations

import hashlib
import random
import socket
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.servers import nginx

from downhaul import ConnectError, DigestMismatch, NotFound, SourcesExhausted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from downhaul import Plan


@dataclass
class Mirrored:
    """Where the files are, what they are, and whether somebody got them as it should be."""

    server: nginx.Nginx
    prefix: str
    list_url: str
    mirrors: list[str]
    digests: dict[str, dict[str, str]]

    @contextmanager
    def one_list_fetched(self) -> Iterator[None]:
        """Within this block, the list is fetched once."""
        before = self._lists_fetched()
        yield
        assert self._lists_fetched() - before == 1

    def _lists_fetched(self) -> int:
        return sum('"GET /mirrors.txt ' in line for line in self.server.access_log())

    def check(self, plans: Sequence[Plan], target: Path) -> None:
        """All files came from the right mirror after the others failed; ``missing`` was looked for at every one."""
        results = [plan.result() for plan in plans if plan.error is None]
        [error] = [plan.error for plan in plans if plan.error is not None]
        dead, corrupt, right = self.mirrors
        names = set()
        for result in results:
            name = result.url.removeprefix(self.prefix)
            names.add(name)
            assert result.source == right + name
            assert [each.source for each in result.history] == [dead + name, corrupt + name]
            assert [type(each.error) for each in result.history] == [ConnectError, DigestMismatch]
            assert hashlib.sha256((target / name).read_bytes()).hexdigest() == self.digests[name]["sha256"]
        assert names == set(self.digests) == {path.name for path in target.iterdir()}
        assert isinstance(error, SourcesExhausted)
        assert [type(each) for each in error.errors] == [ConnectError, NotFound, NotFound]
        assert [each.source for each in error.history] == [mirror + "missing" for mirror in self.mirrors]
        assert all(mirror + "missing" in str(error) for mirror in self.mirrors)


@contextmanager
def mirrored_files(root: Path, number: int) -> Iterator[Mirrored]:
    """Serve that many files; their own server does not have them, only its list of mirrors."""
    chance, digests = random.Random(8), {}
    for directory in (root, root / "right", root / "corrupt"):
        directory.mkdir(exist_ok=True)
        directory.chmod(0o755)
    for name in (f"file-{each}" for each in range(number)):
        content = chance.randbytes(chance.choice([1, 1000, 100_000]))
        (root / "right" / name).write_bytes(content)
        (root / "corrupt" / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        digests[name] = {"sha256": hashlib.sha256(content).hexdigest()}
    with nginx.nginx(root) as server, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # taken, and nobody listens
        dead = f"http://127.0.0.1:{nobody.getsockname()[1]}/"
        mirrors = [dead, server.url("/corrupt/"), server.url("/right/")]
        (root / "mirrors.txt").write_text("\n".join(mirrors))
        yield Mirrored(server, server.url("/pub/"), server.url("/mirrors.txt"), mirrors, digests)
