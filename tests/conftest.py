"""What all tests share: whatever is run, in one process or several, the use cases that it proves are told."""

from __future__ import annotations

import importlib
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


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the road of HTTP be chosen: the driver's own connections, or those of httpx, for whatever is fetched."""
    parser.addoption("--road", choices=("direct", "library"), default="direct", help="of HTTP, in all tests")


def pytest_configure(config: pytest.Config) -> None:
    """Let the matrix of use cases be printed, and the road be taken."""
    config.pluginmanager.register(Matrix())
    if config.getoption("--road") == "library":
        importlib.import_module("downhaul_http._pools").is_mocked = lambda: True  # type: ignore[attr-defined]
