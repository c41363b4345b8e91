"""Relays: a file of 1 GiB through each adapter, side by side with a plain relay by httpx and with nginx.

A real nginx serves the file, from memory where the system has a place for that; the client counts the bytes and forgets
them; each relay runs in a fresh process. In every round each relay has its turn, and what is compared with a peer is
compared within the round: the figure is the median of these ratios, with the least and the greatest. *Peak* is the most
that was ever resident in the process of the relay (VmHWM), in all rounds.

The plain relay runs on the same uvicorn and Starlette, and verifies nothing; ours validates in the cases "sha256". By
default nginx relays 4 or 8 KiB at a time unless it buffers; "in 64 KiB" it takes as much as the other relays do.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from tests.servers.nginx import nginx

from .figures import Figure
from .importing import resident
from .relaying import ADAPTERS, FILE, PLAIN

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE: Final = 1024**3  # bytes
_LEAST: Final = SIZE // 16  # below that, the kernel's clock is too coarse
PEAK: Final = 100.0  # MB
SHA256: Final = ", sha256"
CASES: Final = tuple(name + suffix for name in ADAPTERS for suffix in ("", SHA256))
NGINX: Final = "nginx"
PROXIES: Final = {
    NGINX: "proxy_buffering off;",
    "nginx, in 64 KiB": "proxy_buffering off; proxy_buffer_size 64k; proxy_buffers 4 64k;",
    "nginx, buffered": "proxy_buffering on;",
}
_WALL: Final = {"asgi": 1.0, "aiohttp": 1.0}  # times what the plain relay takes
_ROUNDS, _FEW_ROUNDS = 5, 3
_WARM: Final = "/warm"
_MIB: Final = 1024 * 1024
_MB: Final = 1000 * 1000
_IN_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a temporary directory is made there
_PATIENCE: Final = 60.0  # seconds
_ROOT: Final = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the file is: the base URL of its server, its size in bytes, and its digest."""

    base: str
    size: int
    sha256: str


@dataclass(slots=True)
class Course:
    """A relay, and how its rounds went: seconds from the request to the last byte, and seconds of its processor."""

    base: str
    process: int | None
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @contextmanager
    def asking(self, path: str) -> Iterator[http.client.HTTPResponse]:
        """Ask for *path* over a connection of its own; yield the answer, unread."""
        with closing(http.client.HTTPConnection(urlsplit(self.base).netloc, timeout=_PATIENCE)) as connection:
            connection.request("GET", path)
            with connection.getresponse() as response:
                if response.status != http.HTTPStatus.OK:
                    raise RuntimeError(f"{self.base} answered with {response.status}")
                yield response

    def warm_up(self) -> None:
        """Relay a small file, which makes the relay import and connect."""
        with self.asking(_WARM) as response:
            drain(response)

    def turn(self, size: int) -> None:
        """Relay the file, which has *size* bytes, once."""
        before, begin = self.processor_time(), time.perf_counter()
        with self.asking(FILE) as response:
            number = drain(response)
            self.wall.append(time.perf_counter() - begin)
        if number != size:
            raise RuntimeError(f"{self.base} sent {number} bytes of {size}")
        self.cpu.append(self.processor_time() - before)

    def peak(self) -> int:
        """Return the most that was resident, in bytes."""
        assert self.process is not None
        return resident("VmHWM", self.process)

    def processor_time(self) -> float:
        """Return the seconds of a processor that the relay has used so far; 0 for nginx."""
        if self.process is None:
            return 0.0
        fields = Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def drain(response: http.client.HTTPResponse) -> int:
    """Read *response* to its end, and forget it; return the number of bytes."""
    buffer, number = bytearray(_MIB), 0
    while read := response.readinto(buffer):
        number += read
    return number


@contextmanager
def origin(size: int) -> Iterator[Origin]:
    """Run nginx with a file of *size* bytes."""
    in_memory = _IN_MEMORY.is_dir() and shutil.disk_usage(_IN_MEMORY).free > size + 64 * _MIB
    with tempfile.TemporaryDirectory(dir=_IN_MEMORY if in_memory else None) as directory:
        root = Path(directory)
        root.chmod(0o755)
        (root / _WARM[1:]).write_bytes(bytes(_MIB))
        sha256 = _fill(root / FILE[1:], size)
        with nginx(root, http="sendfile on; access_log off;") as server:
            yield Origin(server.url(""), size, sha256)


@contextmanager
def relay(case: str, origin: Origin) -> Iterator[Course]:
    """Run the relay of *case*, one of `CASES` or `PLAIN`, in a fresh process, warmed up."""
    name = case.removesuffix(SHA256)
    command = [sys.executable, "-m", "benchmarks.relaying", name, origin.base]
    if name != case:
        command.append(origin.sha256)
    with subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            base = process.stdout.readline().strip()
            if not base:
                raise RuntimeError(f"{case}: the relay did not start")
            course = Course(base, process.pid)
            course.warm_up()
            yield course
        finally:
            process.stdin.close()
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def proxy(directives: str, origin: Origin) -> Iterator[Course]:
    """Run nginx as a relay, with *directives*."""
    passing = f"proxy_pass {origin.base}; proxy_http_version 1.1; {directives}"
    with (
        tempfile.TemporaryDirectory() as empty,
        nginx(Path(empty), http="access_log off;", server=f"location / {{ {passing} }}") as server,
    ):
        course = Course(server.url(""), None)
        course.warm_up()
        yield course


def figures(scale: float) -> Iterator[Figure]:
    """Yield how fast the peers are, and of each relay how long it takes next to them, and its peak."""
    size, rounds = max(int(SIZE * scale), _LEAST), _ROUNDS if scale >= 1 else _FEW_ROUNDS
    with origin(size) as source, ExitStack() as running:
        courses = {PLAIN: running.enter_context(relay(PLAIN, source))}
        courses |= {name: running.enter_context(proxy(PROXIES[name], source)) for name in PROXIES}
        courses |= {case: running.enter_context(relay(case, source)) for case in CASES}
        for number in range(rounds):
            for course in list(courses.values())[:: -1 if number % 2 else 1]:
                course.turn(size)
        for peer in (PLAIN, *PROXIES):
            rates = [size / _MB / seconds for seconds in courses[peer].wall]
            yield Figure(peer, "throughput", median(rates), "MB/s", spread=(min(rates), max(rates)))
        yield Figure(PLAIN, "peak", courses[PLAIN].peak() / _MB, "MB")
        for case in CASES:
            ours, plain, direct = courses[case], courses[PLAIN], courses[NGINX]
            yield _ratio(case, f"wall time / {PLAIN}", ours.wall, plain.wall, _WALL.get(case))
            yield _ratio(case, f"wall time / {NGINX}", ours.wall, direct.wall)
            yield _ratio(case, f"CPU time / {PLAIN}", ours.cpu, plain.cpu)
            yield Figure(case, "peak", ours.peak() / _MB, "MB", PEAK)


def _ratio(case: str, what: str, ours: list[float], theirs: list[float], at_most: float | None = None) -> Figure:
    """Return the median of what *ours* is, round by round, as a multiple of *theirs*."""
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return Figure(case, what, median(ratios), "", at_most, (min(ratios), max(ratios)), digits=2)


def _fill(file: Path, size: int) -> str:
    """Write *size* bytes to *file*, which repeat each MiB; return their SHA-256."""
    block, digest = os.urandom(_MIB), hashlib.sha256()
    with file.open("wb") as out:
        for place in range(0, size, _MIB):
            piece = block[: size - place]
            out.write(piece)
            digest.update(piece)
    return digest.hexdigest()
