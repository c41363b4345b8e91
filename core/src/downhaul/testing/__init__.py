"""Suites that third parties inherit to prove their own parts; they need pytest and nothing else.

A driver proves itself in the tests of its own distribution::

    from downhaul.testing import DriverContract

    class TestGopher(DriverContract):
        resumable = False                          # what the protocol cannot do is said, not hidden
        versioned = False

        @pytest.fixture(autouse=True)
        def serve(self, tmp_path):
            with GopherServer(tmp_path) as self.server:
                yield

        def make_driver(self):
            return GopherDriver()

        def url_of(self, content):
            return self.server.publish(content)

        def missing_url(self):
            return self.server.url + "/missing"

No event loop is running while pytest collects or makes fixtures: each test starts its own. Run a server in a process
or a thread of its own.
"""

from __future__ import annotations

import pytest

# Before the import: otherwise a failing assertion of the suite would not show its values.
pytest.register_assert_rewrite(
    *(f"{__name__}.{part}" for part in ("_stage", "_delivery", "_ranges", "_failures", "_freedom"))
)

from ._contract import DriverContract  # noqa: E402

__all__ = ["DriverContract"]
