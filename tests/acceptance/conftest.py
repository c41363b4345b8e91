"""Prints what the acceptance tests prove: a matrix of use cases and forms, one for each adapter of the streamer."""

from __future__ import annotations

import inspect
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Final

import pytest
from tests.acceptance.use_cases import ADAPTERS, FORMS, ROLES

if TYPE_CHECKING:
    from collections.abc import Iterator

_CELL: Final = pytest.StashKey[tuple[str, int, str]]()
_OUTCOMES: Final = pytest.StashKey[dict[tuple[str, int, str], Counter[str]]]()
_TABLES: Final = {
    "importer": {"use cases of the importer": "importer"},
    "streamer": {f"use cases of the streamer: {each}": f"streamer {each}" for each in ADAPTERS},
}


def pytest_configure(config: pytest.Config) -> None:
    """Make room for what will have been proven."""
    config.stash[_OUTCOMES] = defaultdict(Counter)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Read the marks."""
    for item in items:
        mark = item.get_closest_marker("use_case")
        if mark is not None and isinstance(item, pytest.Function):
            role, number, form, *adapter = mark.args
            own = "asyncio" if inspect.iscoroutinefunction(item.function) else "sync"
            item.stash[_CELL] = " ".join((role, *adapter)), number, form or own


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[pytest.TestReport]:
    """Note what became of each test that bears a mark."""
    report = yield
    cell = item.stash.get(_CELL, None)
    if cell is not None and (report.when == "call" or not report.passed):
        item.config.stash[_OUTCOMES][cell][report.outcome] += 1
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print each matrix of which anything was run."""
    outcomes = config.stash[_OUTCOMES]
    for role, titles in ROLES.items():
        width = max(map(len, titles.values()))
        for heading, table in _TABLES[role].items():
            if not any(cell[0] == table for cell in outcomes):
                continue
            terminalreporter.section(heading)
            terminalreporter.line(f"{'':>3} {'':<{width}}" + "".join(f"  {form:<20}" for form in FORMS))
            for number, title in titles.items():
                cells = (_told(outcomes.get((table, number, form), Counter())) for form in FORMS)
                terminalreporter.line(f"{number:>2}. {title:<{width}}" + "".join(f"  {cell:<20}" for cell in cells))


def _told(outcome: Counter[str]) -> str:
    told = [f"{outcome[each]} {each}" for each in ("failed", "skipped", "passed") if outcome[each]]
    return ", ".join(told) or "not run"
