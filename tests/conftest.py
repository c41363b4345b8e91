"""What all tests share: whatever is run, in one process or several, the use cases that it proves are told."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from tests.acceptance.matrix import Matrix

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def no_file_was_wrong() -> Iterator[None]:
    """Let each test begin without the memory of what the adapters have sent in others."""
    yield
    module = sys.modules.get("downhaul.adapters._wrong")
    if module is not None:
        module.wrong_files.forget()


def pytest_configure(config: pytest.Config) -> None:
    """Let the matrix of use cases be printed."""
    config.pluginmanager.register(Matrix())
