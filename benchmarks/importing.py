"""An importer of very many small files, in a process of its own that tells how much memory it takes.

``python -m benchmarks.importing CASE BASE_URL NUMBER DIRECTORY`` prints, as JSON, the resident memory in bytes
after each thousandth file (`samples`), the most there ever was (`peak`), and how the downloads ended (`succeeded`,
`failed`).
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from downhaul import Batch, BufferWriter, Context, Download, FileWriter, Plan, Retries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from downhaul import Writer

EVERY: Final = 1000
_NAMES: Final = 100  # files that are there at one time
_ORIGINS: Final = 1000
MISSING: Final = 10  # one of how many in the mixed case


def origins() -> list[str]:
    """Return the addresses of the case "origins"."""
    return [f"127.1.{number // 250}.{number % 250 + 1}" for number in range(_ORIGINS)]


class Meter:
    """Looks at the process after each thousandth plan."""

    def __init__(self) -> None:
        self.samples: list[int] = []
        self.outcomes: Counter[str] = Counter()

    def consume(self, plan: Plan) -> None:
        """Take note of a plan, and let it go."""
        self.outcomes["succeeded" if plan.error is None else "failed"] += 1
        if self.outcomes.total() % EVERY == 0:
            self.samples.append(resident("VmRSS"))

    def told(self) -> str:
        """Return what was seen, as JSON."""
        return json.dumps({"samples": self.samples, "peak": resident("VmHWM"), **self.outcomes})


def resident(name: str, process: int | str = "self") -> int:
    """Return what the kernel tells of the memory of this *process* under *name*, in bytes."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"this system does not tell {name}")


class Importer:
    """Makes the jobs of a case, one by one."""

    def __init__(self, base: str, number: int, directory: Path) -> None:
        self.base, self.number, self.directory = base, number, directory

    def file(self, number: int) -> Writer:
        """Return the writer of a file whose name is used again."""
        return FileWriter(self.directory / str(number % _NAMES))

    def plain(self, writer: Callable[[int], Writer]) -> Iterator[Download]:
        """Yield downloads of one origin, each with a URL of its own."""
        for number in range(self.number):
            yield Download(f"{self.base}/pub/file?{number}", writer(number), digests=["sha256"])

    def mixed(self) -> Iterator[Download]:
        """Yield downloads with attachments, of which every tenth fails, and some need several attempts."""
        for number in range(self.number):
            path = "missing" if number % MISSING == 0 else "flaky/file" if number % MISSING == 1 else "pub/file"
            writer = self.file(number) if number % 2 else BufferWriter()
            url = f"{self.base}/{path}?{number}"
            yield Download(url, writer, digests=["sha256"], attachment={"number": number, "pad": "x" * 1000})

    def spread(self) -> Iterator[Download]:
        """Yield downloads of a thousand origins in turn."""
        addresses = origins()
        for number in range(self.number):
            base = self.base.replace("127.0.0.1", addresses[number % len(addresses)])
            yield Download(f"{base}/pub/file?{number}", BufferWriter())


def _context() -> Context:
    return Context(plugins=[Retries(base=0.001)], retries=20)


def synchronously(jobs: Iterator[Download], meter: Meter) -> None:
    """Consume a batch with ``for``."""
    with _context() as context, Batch(jobs, concurrency=20, backlog=100, context=context) as batch:
        for plan in batch():
            meter.consume(plan)


async def with_asyncio(jobs: Iterator[Download], meter: Meter) -> None:
    """Consume a batch with ``async for``."""
    async with _context() as context, Batch(jobs, concurrency=20, backlog=100, context=context) as batch:
        async for plan in batch():
            meter.consume(plan)


CASES: Final[dict[str, Callable[[Importer, Meter], None]]] = {
    "files, sync": lambda work, meter: synchronously(work.plain(work.file), meter),
    "files, asyncio": lambda work, meter: asyncio.run(with_asyncio(work.plain(work.file), meter)),
    "buffers, sync": lambda work, meter: synchronously(work.plain(lambda _: BufferWriter()), meter),
    "buffers, asyncio": lambda work, meter: asyncio.run(with_asyncio(work.plain(lambda _: BufferWriter()), meter)),
    "failures, retries, attachments, sync": lambda work, meter: synchronously(work.mixed(), meter),
    "failures, retries, attachments, asyncio": lambda work, meter: asyncio.run(with_asyncio(work.mixed(), meter)),
    "a thousand origins, sync": lambda work, meter: synchronously(work.spread(), meter),
}


def main() -> None:
    """Run one case."""
    case, base, number, directory = sys.argv[1:]
    meter = Meter()
    CASES[case](Importer(base, int(number), Path(directory)), meter)
    print(meter.told())


if __name__ == "__main__":
    main()
