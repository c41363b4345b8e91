"""The bars: what downhaul may take at most, as a multiple of what it is compared with."""

from __future__ import annotations

from typing import Final, NamedTuple

from .contestants import HASHING, OURS, OURS_SIX

WALL: Final = "wall"
CPU: Final = "CPU"


class Bar(NamedTuple):
    """In the workload called *key*: the *measure* of *ours* is at most so many times that of *theirs*."""

    key: str
    ours: str
    theirs: str
    measure: str
    at_most: float


SMALLER, LARGER = f"{OURS} at 10", f"{OURS} at 500"
BARS: Final = (
    Bar("W1", OURS, "curl", WALL, 1.00),
    Bar("W1", OURS, "aria2", WALL, 0.50),
    Bar("W2", OURS, "curl", WALL, 0.90),
    Bar("W2", OURS_SIX, HASHING, WALL, 1.20),
    Bar("W3", OURS, "aria2", CPU, 0.60),
    Bar("W3", OURS, "aria2", WALL, 0.60),
    Bar("W3", OURS, "httpx", CPU, 0.10),
    Bar("W3", OURS, "aiohttp", CPU, 0.90),
    Bar("W4", OURS, "aria2", CPU, 0.80),
    Bar("W5", OURS, "aria2", CPU, 0.60),
    Bar("W6 one", OURS, "curl", WALL, 1.25),
    Bar("W6 many", OURS, "curl", WALL, 1.25),
    Bar("W7", LARGER, SMALLER, CPU, 1.50),
)


def at_most(key: str, ours: str, theirs: str, measure: str) -> float | None:
    """Return the bar for that, if there is one."""
    return next((bar.at_most for bar in BARS if bar[:4] == (key, ours, theirs, measure)), None)
