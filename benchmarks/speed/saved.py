"""What is kept of a run: every round of every contestant, and every figure, as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from benchmarks.figures import Figure

    from .rounds import Outcome


def save(file: Path, machine: str, outcomes: Iterable[Outcome], figures: Iterable[Figure]) -> None:
    """Write all of it to *file*."""
    content = {
        "machine": machine,
        "workloads": [_kept(outcome) for outcome in outcomes],
        "figures": [asdict(figure) for figure in figures],
    }
    file.write_text(json.dumps(content, indent=1) + "\n")


def _kept(outcome: Outcome) -> dict[str, Any]:
    workload = outcome.workload
    return {
        "key": workload.key,
        "title": workload.title,
        "scale": outcome.scale,
        "number": workload.number,
        "size": workload.size,
        "scheme": workload.scheme,
        "missing": outcome.missing,
        "runs": {label: [asdict(run) for run in runs] for label, runs in outcome.runs.items()},
    }
