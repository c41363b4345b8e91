"""Memory: 100,000 downloads from a generator take no more than the first ten thousand did.

A real nginx in a process of its own serves a small file; each case runs in a fresh process. *Peak* is the most that was
ever resident (VmHWM). *Growth* is what became resident (VmRSS) between the 10,000th plan and the last one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.servers.nginx import nginx

from .figures import Figure
from .importing import CASES, EVERY, MISSING, origins

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.nginx import Nginx

DOWNLOADS: Final = 100_000
WARM: Final = 10_000  # downloads after which nothing may grow
PEAK: Final = 80.0  # MB
GROWTH: Final = 2.0  # MB
_MB: Final = 1000 * 1000
_ROOT: Final = Path(__file__).parent.parent

_HTTP: Final = 'split_clients $request_id $flaky { 30% 1; * ""; } access_log off;'
_SERVER: Final = "location /flaky/ { if ($flaky) { return 503; } alias %s/pub/; }"


@dataclass(frozen=True, slots=True)
class Course:
    """How the memory of one run went, in bytes."""

    samples: list[int]
    peak: int
    succeeded: int = 0
    failed: int = 0

    def growth(self, warm: int) -> int:
        """Return what came to be resident between the plan number *warm* and the last one."""
        return self.samples[-1] - self.samples[warm // EVERY - 1]


@contextmanager
def server() -> Iterator[Nginx]:
    """Run nginx on all the addresses that the cases use, with a file of 1,000 bytes."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        root.chmod(0o755)
        (root / "pub").mkdir()
        (root / "pub" / "file").write_bytes(b"x" * 1000)
        with nginx(root, http=_HTTP, server=_SERVER % root, addresses=["127.0.0.1", *origins()]) as it:
            yield it


def run(case: str, base: str, number: int) -> Course:
    """Run *case* with *number* downloads in a fresh process."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "benchmarks.importing", case, base, str(number), directory]
        done = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, check=True)
    course = Course(**json.loads(done.stdout))
    missing = len(range(0, number, MISSING)) if case.startswith("failures") else 0
    if (course.succeeded, course.failed) != (number - missing, missing):
        raise RuntimeError(f"{case}: {course.failed} of {number} downloads failed, {missing} are meant to")
    return course


def figures(scale: float) -> Iterator[Figure]:
    """Yield peak and growth of every case."""
    number = max(int(DOWNLOADS * scale), 2 * EVERY)
    warm = min(WARM, number // 2)
    with server() as it:
        for case in CASES:
            course = run(case, it.url(""), number)
            yield Figure(case, "peak", course.peak / _MB, "MB", PEAK)
            yield Figure(case, "growth", course.growth(warm) / _MB, "MB", GROWTH)
