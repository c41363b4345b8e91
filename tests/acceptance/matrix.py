"""Prints what the acceptance tests prove: a matrix of use cases and forms, one for each adapter of the streamer."""

from __future__ import annotations

import inspect
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Final

import pytest
from tests.acceptance.use_cases import ADAPTERS, FORMS, ROLES

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROPERTY: Final = "use case"
_TABLES: Final = {
    "importer": {"use cases of the importer": "importer"},
    "streamer": {f"use cases of the streamer: {each}": f"streamer {each}" for each in ADAPTERS},
}


class Matrix:
    """A plugin of pytest: notes the cell of each test that bears the mark ``use_case``, and what became of it.

    With several processes each test is run in one and reported in another: a cell travels with the report.
    """

    def __init__(self) -> None:
        self._outcomes: dict[tuple[str, int, str], Counter[str]] = defaultdict(Counter)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        """Put the cell on the report."""
        report = yield
        mark = item.get_closest_marker("use_case")
        if mark is not None and isinstance(item, pytest.Function) and (report.when == "call" or not report.passed):
            role, number, form, *adapter = mark.args
            own = "asyncio" if inspect.iscoroutinefunction(item.function) else "sync"
            report.user_properties.append((_PROPERTY, [" ".join((role, *adapter)), number, form or own]))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what became of it."""
        for name, value in report.user_properties:
            if name == _PROPERTY and isinstance(value, list) and (report.when == "call" or not report.passed):
                table, number, form = value
                self._outcomes[table, number, form][report.outcome] += 1

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print each matrix of which anything was run."""
        for role, titles in ROLES.items():
            width = max(map(len, titles.values()))
            for heading, table in _TABLES[role].items():
                if not any(cell[0] == table for cell in self._outcomes):
                    continue
                terminalreporter.section(heading)
                terminalreporter.line(f"{'':>3} {'':<{width}}" + "".join(f"  {form:<20}" for form in FORMS))
                for number, title in titles.items():
                    cells = (_told(self._outcomes.get((table, number, form), Counter())) for form in FORMS)
                    terminalreporter.line(f"{number:>2}. {title:<{width}}" + "".join(f"  {each:<20}" for each in cells))


def _told(outcome: Counter[str]) -> str:
    told = [f"{outcome[each]} {each}" for each in ("failed", "skipped", "passed") if outcome[each]]
    return ", ".join(told) or "not run"
