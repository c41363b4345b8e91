"""The workloads: how many files of which size, how they are served, who fetches them, and who is compared with whom."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from .contestants import CONTESTANTS, HASHING, OURS, OURS_SIX, OURS_SYNC
from .files import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .contestants import Contestant

_KIB: Final = 1024
_GIB: Final = 1024 * MIB
_LEAST_SIZE: Final = 16 * MIB  # bytes of an only file; less is over before it has begun
_LEAST_NUMBER: Final = 20  # files


@dataclass(frozen=True, slots=True)
class Entry:
    """A contestant that takes part, called *label*, with how many files at a time."""

    label: str
    contestant: Contestant
    concurrency: int


@dataclass(frozen=True, slots=True)
class Workload:
    """*number* files of *size* bytes by *scheme*; where there are several concurrencies, each contestant has them all.

    *name* is what is asked for by ``--only``; two may share it, and differ in *part*.
    """

    name: str
    number: int
    size: int
    concurrencies: tuple[int, ...]
    contestants: tuple[str, ...]
    part: str = ""
    scheme: str = "http"

    @property
    def key(self) -> str:
        """What nobody else is called."""
        return f"{self.name} {self.part}".rstrip()

    @property
    def title(self) -> str:
        """What it is about, in a few words."""
        several = f"{self.number:,} x " if self.number > 1 else ""
        concurrency = f" at {self.concurrencies[0]}" if self.number > 1 and len(self.concurrencies) == 1 else ""
        scheme = f", {self.scheme.upper()}" if self.scheme != "http" else ""
        return f"{self.name} {several}{_told(self.size)}{concurrency}{scheme}"

    def entries(self) -> Iterator[Entry]:
        """Yield who takes part."""
        for name in self.contestants:
            contestant = CONTESTANTS[name]
            for concurrency in self.concurrencies:
                if concurrency <= contestant.most:
                    label = name if len(self.concurrencies) == 1 else f"{name} at {concurrency}"
                    yield Entry(label, contestant, concurrency)

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Yield the labels of those that are compared: ours, and theirs."""
        for ours, theirs in self._contests():
            for concurrency in self.concurrencies:
                at = "" if len(self.concurrencies) == 1 else f" at {concurrency}"
                yield ours + at, theirs + at

    def scaled(self, scale: float) -> Workload:
        """Return it with that part of its files, or of its only file."""
        if self.number == 1:
            return replace(self, size=max(int(self.size * scale), min(self.size, _LEAST_SIZE)))
        return replace(self, number=max(int(self.number * scale), min(self.number, _LEAST_NUMBER)))

    def _contests(self) -> Iterator[tuple[str, str]]:
        for name in self.contestants:
            if name == HASHING:
                yield OURS_SIX, name
            elif CONTESTANTS[name].peer:
                yield OURS, name
        if OURS_SYNC in self.contestants:
            yield OURS_SYNC, "curl"


def _told(size: int) -> str:
    for unit, name in ((_GIB, "GiB"), (MIB, "MiB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size / _KIB:.3g} KiB"


_HTTP: Final = ("curl", "aria2", "wget2", "httpx", "aiohttp")
_SMALL: Final = 16 * _KIB
WORKLOADS: Final = (
    Workload("W1", 1, 2 * _GIB, (1,), (OURS, OURS_SYNC, *_HTTP)),
    Workload("W2", 200, 8 * MIB, (10,), (OURS, OURS_SIX, HASHING, *_HTTP, "pulpcore")),
    Workload("W3", 5000, _SMALL, (20,), (OURS, *_HTTP, "pulpcore")),
    # these take several times as long: they have fewer files, and so has who is compared with them
    Workload("W3", 500, _SMALL, (20,), (OURS, "curl", "parfive", "pooch"), part="few"),
    Workload("W4", 5000, _SMALL, (20,), (OURS, *_HTTP), scheme="https"),
    # without httpx, which takes more than a minute for as many
    Workload("W5", 20_000, _KIB, (20,), (OURS, "curl", "aria2", "wget2", "aiohttp")),
    Workload("W6", 1, _GIB, (1,), (OURS, "curl", "aria2", "lftp"), part="one", scheme="ftp"),
    # without aria2, which logs in anew for each file: of a thousand, it had a fifth after two minutes
    Workload("W6", 1000, _SMALL, (10,), (OURS, "curl", "lftp"), part="many", scheme="ftp"),
    Workload("W7", 5000, _SMALL, (1, 10, 50, 100, 200, 500), (OURS, "curl")),
)
