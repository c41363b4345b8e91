"""Draw what a run of the speed benchmarks has kept: ``python -m benchmarks.plots FILE DIRECTORY``.

It needs matplotlib, and nothing of this project: it is run by the interpreter of ``.venv-bench-plots``, as
``scripts/bench --plots`` does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_OURS, _THEIRS, _MISSED, _INK = "#1f6f8b", "#b8c4cc", "#c8553d", "#333333"
_DOTS: Final = 144  # per inch
_US: Final = 1e6
_STYLE: Final = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}
_ABSOLUTE: Final = ("W1", "W3")


def bars(run: Mapping[str, Any]) -> Figure | None:
    """Return each ratio that has a bar, beside it, as a part of the bar: what ends left of 1 keeps it."""
    held = [each for each in run["figures"] if each["at_most"] and each["spread"] and not each["missing"]]
    if not held:
        return None
    held.reverse()
    figure, axes = plt.subplots(figsize=(9.5, 0.9 + 0.34 * len(held)))
    values = [each["value"] / each["at_most"] for each in held]
    least = [value - each["spread"][0] / each["at_most"] for value, each in zip(values, held, strict=True)]
    most = [each["spread"][1] / each["at_most"] - value for value, each in zip(values, held, strict=True)]
    colours = [_OURS if value <= 1 else _MISSED for value in values]
    axes.barh(range(len(held)), values, xerr=[least, most], color=colours, height=0.62, error_kw={"ecolor": _INK})
    axes.axvline(1, color=_INK, linewidth=1)
    axes.set_yticks(range(len(held)), [_label(each) for each in held])
    for place, each in enumerate(held):
        told = f" {each['value']:.2f} of {each['at_most']:.2f}"
        axes.text(values[place] + most[place], place, told, va="center", color=_INK)
    axes.set_xlim(0, 1.3 * max(map(sum, zip(values, most, strict=True))))
    axes.set_xlabel("ratio / bar (line: the bar; whiskers: the least and the greatest round)")
    axes.set_title(f"Ratios that have a bar{_scaled(run)}", x=0)
    return figure


def by_concurrency(run: Mapping[str, Any]) -> Figure | None:
    """Return the CPU time that a file takes, over how many are fetched at the same time."""
    found = _workload(run, "W7")
    if found is None:
        return None
    lines: dict[str, list[tuple[int, float]]] = {}
    for label, runs in found["runs"].items():
        name, _, concurrency = label.rpartition(" at ")
        lines.setdefault(name, []).append((int(concurrency), _cpu(runs) / found["number"] * _US))
    figure, axes = plt.subplots(figsize=(6.5, 3.6))
    for name, points in lines.items():
        colour = _OURS if name == "downhaul" else _THEIRS
        axes.plot(*zip(*sorted(points), strict=True), marker="o", color=colour, label=name)
    ticks = sorted({concurrency for points in lines.values() for concurrency, _ in points})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("files at the same time")
    axes.set_ylabel("CPU of the process / files, in us")
    axes.set_title(f"{found['title']}: CPU time of a file{_scaled(run)}")
    axes.legend()
    return figure


def absolute(run: Mapping[str, Any]) -> Figure | None:
    """Return what each contestant takes for one large file, and for many small ones."""
    found = [workload for key in _ABSOLUTE if (workload := _workload(run, key))]
    if not found:
        return None
    figure, all_axes = plt.subplots(1, len(found), figsize=(4.5 * len(found), 3.6), squeeze=False)
    for axes, workload in zip(all_axes[0], found, strict=True):
        _contestants(axes, workload)
    figure.suptitle(f"What each contestant takes{_scaled(run)}", x=0.01, ha="left")
    return figure


def _contestants(axes: Axes, workload: Mapping[str, Any]) -> None:
    """Draw wall and CPU time of each contestant, the fastest one on top."""
    runs = workload["runs"]
    labels = sorted(runs, key=lambda label: -_wall(runs[label]))
    colours = [_OURS if label.startswith("downhaul") else _THEIRS for label in labels]
    places = range(len(labels))
    axes.barh(places, [_wall(runs[label]) for label in labels], color=colours, height=0.62, label="wall")
    axes.plot([_cpu(runs[label]) for label in labels], places, "|", color=_INK, markersize=12, label="CPU")
    axes.set_yticks(places, labels)
    axes.set_xlabel("seconds (bar: wall time, mark: CPU time)")
    axes.set_title(workload["title"])


def _label(figure: Mapping[str, Any]) -> str:
    return f"{figure['case']}: {figure['what']}"


def _scaled(run: Mapping[str, Any]) -> str:
    scale = next((workload["scale"] for workload in run["workloads"]), 1)
    return "" if scale == 1 else f" (SCALED by {scale:g}: only to look at)"


def _workload(run: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    return next((workload for workload in run["workloads"] if workload["key"] == key), None)


def _wall(runs: Sequence[Mapping[str, float]]) -> float:
    return median(each["wall"] for each in runs)


def _cpu(runs: Sequence[Mapping[str, float]]) -> float:
    return median(each["cpu"] for each in runs)


def main() -> None:
    """Draw the pictures for which the run has what it takes."""
    file, directory = map(Path, sys.argv[1:])
    run = json.loads(file.read_text())
    directory.mkdir(parents=True, exist_ok=True)
    plt.rcParams.update(_STYLE)
    for name, draw in (("bars", bars), ("concurrency", by_concurrency), ("contestants", absolute)):
        if figure := draw(run):
            figure.tight_layout()
            figure.savefig(directory / f"{name}.png", dpi=_DOTS, bbox_inches="tight", metadata={"Software": None})
            print(f"{directory / name}.png")


if __name__ == "__main__":
    main()
