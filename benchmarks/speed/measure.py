"""What one run of a contestant takes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

SCRIPTS: Final = Path(__file__).parent / "scripts"
_PATIENCE: Final = 900.0  # seconds
_TOLD: Final = 2000  # characters of what a command printed


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds until it ended, seconds of a processor with those of its children, and the peak of its largest process.

    The *peak* is the most that was resident, in bytes.
    *others* are the seconds of a processor that everybody else used meanwhile: the server, and who disturbed.
    """

    wall: float
    cpu: float
    others: float
    peak: int


def measure(name: str, command: Sequence[str], work: Path) -> Run:
    """Run *command*, which is *name*, in the directory *work*; raise RuntimeError with what it printed if it fails."""
    output = work / "output"
    launch = [sys.executable, "-I", "-S", str(SCRIPTS / "launch.py"), str(output), *command]
    with subprocess.Popen(
        launch, stdout=subprocess.PIPE, cwd=work, env=_environment(work), start_new_session=True, text=True
    ) as process:
        try:
            text, _ = process.communicate(timeout=_PATIENCE)
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    told = json.loads(text) if process.returncode == 0 else {"code": process.returncode}
    if told["code"] != 0:
        raise RuntimeError(f"{name} ended with {told['code']}:\n{_end_of(output)}")
    return Run(told["wall"], told["cpu"], told["others"], told["peak"])


def _end_of(output: Path) -> str:
    return output.read_text(errors="replace")[-_TOLD:] if output.exists() else ""


def _environment(home: Path) -> dict[str, str]:
    """Return an environment without settings of anybody: no proxies, no configuration, and bytecode may be cached."""
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(home), "TMPDIR": str(home)}
