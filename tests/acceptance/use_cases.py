"""The use cases that the acceptance tests are about, and the mark that says which one a test proves."""

from __future__ import annotations

from typing import Final

import pytest

IMPORTER: Final = {
    1: "Single files, with every common setting",
    2: "All settings of the client library, or one's own client",
    3: "An Artifact from size and digests",
    4: "Concurrent downloads from generators",
    5: "Validation",
    6: "Not all in memory",
    7: "An attachment in results and errors",
    8: "Any thread",
    9: "Shared sessions, pools, tokens, mirror lists",
    10: "Customised downloading",
    11: "Bounded connections",
    12: "Termination at any point",
    13: "Any protocol",
    14: "A batch goes on, and tells how far it is",
}
STREAMER: Final = {
    1: "The importer's download as a black box",
    2: "Validation of what is streamed",
    3: "Complex downloading, delegated",
    4: "The bit stream, bridged",
    5: "Headers",
    6: "The same plugins and context as the importer",
    7: "Fan-out",
}
ROLES: Final = {"importer": IMPORTER, "streamer": STREAMER}
FORMS: Final = ("sync", "asyncio")
ADAPTERS: Final = ("stream", "asgi", "aiohttp", "twisted", "wsgi", "django")
"""How a streamer answers: itself, from the stream, or by one of our adapters."""


def importer(number: int, form: str | None = None) -> pytest.MarkDecorator:
    """Return the mark of a test of an importer's use case.

    *form* is ``"sync"`` or ``"asyncio"``; without it, that of the test function.
    """
    assert number in IMPORTER
    assert form is None or form in FORMS
    return pytest.mark.use_case("importer", number, form)


def streamer(number: int, form: str | None = None, adapter: str = "stream") -> pytest.MarkDecorator:
    """Return the mark of a test of a streamer's use case, by *adapter*; *form* is that of the context."""
    assert number in STREAMER
    assert form is None or form in FORMS
    assert adapter in ADAPTERS
    return pytest.mark.use_case("streamer", number, form, adapter)
