"""Run the benchmarks: ``python -m benchmarks [--only NAME]``. Exits with 1 where a bar is missed."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from . import memory, mirrors, relay
from .figures import machine, table
from .speed import limits, peak, report, rounds, saved
from .speed.peers import PEERS, PLOTS, versions
from .speed.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .figures import Figure
    from .speed.rounds import Outcome
    from .speed.workloads import Workload

BENCHMARKS: Final[dict[str, Callable[[float], Iterator[Figure]]]] = {
    "memory": memory.figures,
    "mirrors": mirrors.figures,
    "relay": relay.figures,
    "limits": limits.figures,
    "W9": peak.figures,
}
_OF_SPEED: Final = ("limits", *dict.fromkeys(workload.name for workload in WORKLOADS), "W9")
_NAMES: Final = ("memory", "mirrors", "relay", "speed", *_OF_SPEED)
_ROOT: Final = Path(__file__).parent.parent
_PICTURES: Final = _ROOT / "docs" / "images" / "performance"


def main() -> int:
    """Run what was asked for, and print tables; return the exit code."""
    arguments = _arguments()
    if arguments.needs:
        print("\n".join(_needs(arguments)))
        return 0
    told = "\n".join((machine(), *_particulars(arguments)))
    print(told)
    with tempfile.TemporaryDirectory() as directory:
        file = arguments.save or Path(directory) / "rounds.json"
        found = list(_figures(arguments))
        outcomes: list[Outcome] = []
        for outcome in _outcomes(arguments):
            print(f"\n{report.absolute(outcome)}", flush=True)
            outcomes.append(outcome)
            found += report.ratios(outcome)
            saved.save(file, told, outcomes, found)  # each time: the next workload may fail
        print(f"\n{table(found)}")
        if arguments.plots and outcomes:
            _draw(file)
    return 0 if all(each.passes for each in found) else 1


def _draw(file: Path) -> None:
    """Draw what was saved in *file*, by the interpreter that has what it takes."""
    if PLOTS.missing:
        print(f"no pictures: {PLOTS.missing}")
        return
    command = [str(PLOTS.python), "-m", "benchmarks.plots", str(file.absolute()), str(_PICTURES)]
    subprocess.run(command, cwd=_ROOT, check=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure, and hold the figures to their bars.")
    parser.add_argument("--only", choices=_NAMES, metavar="NAME", help=f"one of: {', '.join(_NAMES)}")
    parser.add_argument("--scale", type=_part, default=1.0, help="the part of the full size to run, such as 0.1")
    speed = parser.add_argument_group("of speed")
    speed.add_argument("--peers", type=_names, default=tuple(PEERS), help=f"some of: {','.join(PEERS)}")
    speed.add_argument("--rounds", type=_count, default=5, help="how many count, after one that does not (default: 5)")
    speed.add_argument("--sync", action="store_true", help="run downhaul in its synchronous form")
    speed.add_argument("--workers", type=_count, default=1, help="processes of each batch of downhaul (default: 1)")
    speed.add_argument("--save", type=Path, metavar="FILE", help="keep all rounds there, as JSON")
    speed.add_argument("--plots", action="store_true", help="draw the pictures of docs/performance.md")
    parser.add_argument("--needs", action="store_true", help="only tell what has to be installed")
    return parser.parse_args()


def _part(text: str) -> float:
    if not 0 < float(text) <= 1:
        raise argparse.ArgumentTypeError("more than 0, and 1 at most")
    return float(text)


def _count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("1 or more")
    return int(text)


def _names(text: str) -> tuple[str, ...]:
    if unknown := sorted({*text.split(",")} - {*PEERS}):
        raise argparse.ArgumentTypeError(f"no such peer: {', '.join(unknown)} (there are: {', '.join(PEERS)})")
    return tuple(text.split(","))


def _workloads(arguments: argparse.Namespace) -> list[Workload]:
    return [each for each in WORKLOADS if arguments.only in (None, "speed", each.name)]


def _peers(arguments: argparse.Namespace) -> list[str]:
    """Return the names of the peers that take part in what was asked for."""
    wanted = {entry.contestant.peer for workload in _workloads(arguments) for entry in workload.entries()}
    return [name for name in PEERS if name in wanted and name in arguments.peers]


def _needs(arguments: argparse.Namespace) -> Iterator[str]:
    """Yield what scripts/bench is to install for what was asked for."""
    for name in _peers(arguments):
        yield PEERS[name].need
    if arguments.plots:
        yield PLOTS.need


def _figures(arguments: argparse.Namespace) -> Iterator[Figure]:
    """Run the benchmarks that tell figures, and nothing else."""
    for name, figures in BENCHMARKS.items():
        if arguments.only in (None, name) or (arguments.only == "speed" and name in _OF_SPEED):
            for each in figures(arguments.scale):
                print(f"  {name}: {each.case}: {each.what}: {each.measured}", file=sys.stderr, flush=True)
                yield each


def _particulars(arguments: argparse.Namespace) -> Iterator[str]:
    """Yield with what, and how, the workloads are run, if there are any."""
    if _workloads(arguments):
        yield ", ".join(versions(_peers(arguments)))
        yield f"downhaul's form: {_form(arguments)}, its workers: {arguments.workers}, rounds: {arguments.rounds}"


def _form(arguments: argparse.Namespace) -> str:
    return "sync" if arguments.sync else "asyncio"


def _outcomes(arguments: argparse.Namespace) -> Iterator[Outcome]:
    """Run the workloads."""
    plan = rounds.Plan(arguments.rounds, _peers(arguments), _form(arguments), arguments.workers, arguments.scale)
    for workload in _workloads(arguments):
        yield rounds.run(workload, plan)


if __name__ == "__main__":
    sys.exit(main())
