"""What became of a file, for people and for programs.

For programs: one JSON object per line and file, in ASCII, in order of completion. All keys are always there::

    {"version": 1, "index": 1, "url": "https://host/pkg.rpm", "source": "https://mirror/pkg.rpm",
     "path": "pkg.rpm", "size": 1234, "digests": {"sha256": "ab..."}, "attempts": 2, "proof": "length",
     "history": [{"source": "https://dead/pkg.rpm", "round": 1, "kept": 0, "error": "ConnectError",
                  "message": "Connection refused", "repaired_by": "MirrorList"}],
     "error": null}

`version` is that of this format: it changes when a key changes its meaning or goes, not when one is added. `index` is
the place of the URL on the command line, from 1. `source` is where the bytes came from, after redirects, or what was
asked last. `size` and `kept` are in bytes. `proof` says what proves the file complete. `history` holds the failed
attempts in order, and the plugin that knew what to do next, or null. Of a file that failed, `path`, `size` and `proof`
are null, and `error` is ``{"type": "NotFound", "message": "...", "exit_code": 8}``. URLs have neither userinfo nor the
values of their query.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from downhaul import DownloadError, Result, show

from ._codes import code_of
from ._output import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from downhaul import Attempt


def record(index: int, outcome: Result | DownloadError) -> dict[str, object]:
    """Return the object for the file at place *index*."""
    common = {"version": 1, "index": index, "url": show(outcome.url), "source": show(outcome.source)}
    if isinstance(outcome, Result):
        return {
            **common,
            "path": None if outcome.path is None else os.fspath(outcome.path),
            "size": outcome.size,
            "digests": dict(outcome.digests),
            "attempts": outcome.attempts,
            "proof": outcome.proof,
            "history": history(outcome.history),
            "error": None,
        }
    return {
        **common,
        "path": None,
        "size": None,
        "digests": {},
        "attempts": len(outcome.history),
        "proof": None,
        "history": history(outcome.history),
        "error": {"type": type(outcome).__name__, "message": plain(str(outcome)), "exit_code": int(code_of(outcome))},
    }


def history(attempts: Sequence[Attempt]) -> list[dict[str, object]]:
    """Return the objects for failed *attempts*."""
    return [
        {
            "source": show(attempt.source),
            "round": attempt.round,
            "kept": attempt.kept,
            "error": type(attempt.error).__name__,
            "message": plain(str(attempt.error)),
            "repaired_by": attempt.repaired_by,
        }
        for attempt in attempts
    ]


def sentence(outcome: Result | DownloadError) -> str:
    """Return a line for people; nothing in it can steer a terminal."""
    if isinstance(outcome, DownloadError):
        asked = f" (it asks to wait {outcome.retry_after:.0f} s)" if outcome.retry_after else ""
        return plain(f"downhaul: {show(outcome.url)}: {type(outcome).__name__}: {outcome}{asked}")
    where = "standard output" if outcome.path is None else os.fspath(outcome.path)
    details = [f"{outcome.size:,} bytes"]
    details += [f"{name} {digits}" for name, digits in outcome.digests.items()]
    details += [f"{outcome.attempts} attempts"] if outcome.attempts > 1 else []
    details += ["nothing proves it complete"] if outcome.proof == "unproven" else []
    return plain(f"{where}: {', '.join(details)}")
