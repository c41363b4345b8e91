"""What is told of the rounds: figures, of which some have bars, and a table of what each contestant took."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Final

from benchmarks.figures import Figure, columns

from .bars import BARS, CPU, WALL, at_most

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .measure import Run
    from .rounds import Outcome
    from .workloads import Workload

_MB: Final = 1000 * 1000
_MEASURES: Final[dict[str, Callable[[Run], float]]] = {WALL: lambda run: run.wall, CPU: lambda run: run.cpu}


def ratios(outcome: Outcome) -> Iterator[Figure]:
    """Yield what downhaul took as a multiple of each peer: the median of all rounds, and the least and the greatest."""
    key = outcome.workload.key
    bars = [(bar.ours, bar.theirs) for bar in BARS if bar.key == key]
    for ours, theirs in dict.fromkeys((*outcome.workload.pairs(), *bars)):
        for measure in _MEASURES:
            if figure := _ratio(outcome, ours, theirs, measure):
                yield figure


def _ratio(outcome: Outcome, ours: str, theirs: str, measure: str) -> Figure | None:
    """Return the figure, or None where *theirs* was not asked for."""
    bar = at_most(outcome.workload.key, ours, theirs, measure)
    case, what = outcome.workload.title, f"{measure} / {theirs}"
    if ours != "downhaul":
        what = f"{ours}: {what}"
    if theirs in outcome.missing:
        return Figure(case, what, 0, "", bar, note=outcome.note, missing=f"not installed: {outcome.missing[theirs]}")
    if theirs not in outcome.runs:
        return None
    of = _MEASURES[measure]
    both = zip(outcome.runs[ours], outcome.runs[theirs], strict=True)
    values = [of(mine) / of(other) for mine, other in both]
    return Figure(case, what, median(values), "", bar, (min(values), max(values)), digits=2, note=outcome.note)


def absolute(outcome: Outcome) -> str:
    """Return lines in columns: the medians of what each contestant took, and of what went on besides."""
    workload = outcome.workload
    rows: list[Sequence[str]] = [
        (workload.title, "wall s", "CPU s", "CPU us a file", "MB/s", "peak MB", "others' CPU s", outcome.note)
    ]
    rows += [(f"  {label}", *_medians(runs, workload), "") for label, runs in outcome.runs.items()]
    rows += [(f"  {label}", *[""] * 6, f"not installed: {why}") for label, why in outcome.missing.items()]
    return columns(rows)


def _medians(runs: Sequence[Run], workload: Workload) -> tuple[str, str, str, str, str, str]:
    wall, cpu = median(run.wall for run in runs), median(run.cpu for run in runs)
    rate = workload.number * workload.size / _MB / wall
    return (
        f"{wall:.2f}",
        f"{cpu:.2f}",
        f"{cpu / workload.number * 1e6:,.0f}",
        f"{rate:,.0f}",
        f"{max(run.peak for run in runs) / _MB:.0f}",
        f"{median(run.others for run in runs):.2f}",
    )
