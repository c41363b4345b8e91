"""What all tests share: whatever is run, in one process or several, the use cases that it proves are told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.acceptance.matrix import Matrix

if TYPE_CHECKING:
    import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Let the matrix of use cases be printed."""
    config.pluginmanager.register(Matrix())
