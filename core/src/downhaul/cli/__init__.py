"""The command ``downhaul``: needs the extra ``downhaul[cli]``, and uses public names of downhaul only."""

from __future__ import annotations

from ._command import run

__all__ = ["run"]
