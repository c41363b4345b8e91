"""Run the benchmarks: ``python -m benchmarks [--only NAME]``. Exits with 1 where a bar is missed."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Final

from . import memory, mirrors, relay
from .figures import machine, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .figures import Figure

BENCHMARKS: Final[dict[str, Callable[[float], Iterator[Figure]]]] = {
    "memory": memory.figures,
    "mirrors": mirrors.figures,
    "relay": relay.figures,
}


def main() -> int:
    """Run what was asked for, and print a table; return the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure, and hold the figures to their bars.")
    parser.add_argument("--only", choices=BENCHMARKS, metavar="NAME", help=f"one of: {', '.join(BENCHMARKS)}")
    parser.add_argument("--scale", type=float, default=1.0, help="the part of the full size to run, such as 0.1")
    arguments = parser.parse_args()
    print(machine())
    found: list[Figure] = []
    for name, figures in BENCHMARKS.items():
        if arguments.only in (None, name):
            for each in figures(arguments.scale):
                found.append(each)
                print(f"  {name}: {each.case}: {each.what}: {each.measured}", file=sys.stderr, flush=True)
    print(table(found))
    return 0 if all(each.passes for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
