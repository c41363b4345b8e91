"""Plugins that come with downhaul; each is attached by hand, and written against public names only."""

from __future__ import annotations

from ._mirrors import MirrorList
from ._tokens import BearerToken

__all__ = ["BearerToken", "MirrorList"]
