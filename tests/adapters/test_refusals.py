"""Refusals: the status for a client whose download failed."""

from __future__ import annotations

import pytest

from downhaul import (
    AccessDenied,
    ConnectError,
    DigestMismatch,
    DownloadError,
    NotFound,
    PluginError,
    PolicyError,
    PreparationError,
    ServerError,
    SourcesExhausted,
    StatusError,
    StreamBroken,
    TimeoutExceeded,
    TooManyRequests,
    Truncated,
    UnsupportedScheme,
    ValidationError,
    WriteError,
)
from downhaul.adapters._refusals import status_of

REFUSED = [
    (NotFound("gone", code=410), 404),
    (AccessDenied("401", code=401), 502),
    (AccessDenied("403", code=403), 403),
    (AccessDenied("530", code=530), 502),
    (TooManyRequests("429", code=429), 503),
    (TimeoutExceeded("slow", "idle"), 504),
    (ServerError("503", code=503), 502),
    (StatusError("451", code=451), 502),
    (ConnectError("refused"), 502),
    (Truncated("short"), 502),
    (PolicyError("no"), 502),
    (ValidationError("bad"), 502),
    (DigestMismatch("bad"), 502),
    (StreamBroken("broken"), 502),
    (PreparationError("no list", NotFound("404", code=404)), 502),
    (WriteError("disk full"), 500),
    (PluginError("bug"), 500),
    (UnsupportedScheme("what"), 500),
    (DownloadError("?"), 502),
    (SourcesExhausted("all", ()), 502),
    (SourcesExhausted("all", (NotFound("404", code=404), NotFound("410", code=410))), 404),
    (SourcesExhausted("all", (TimeoutExceeded("1", "idle"), TimeoutExceeded("2", "head"))), 504),
    (SourcesExhausted("all", (NotFound("404", code=404), ConnectError("refused"))), 502),
    (SourcesExhausted("all", (NotFound("404", code=404), TimeoutExceeded("1", "idle"))), 502),
]


@pytest.mark.parametrize(("error", "status"), REFUSED, ids=[f"{type(each).__name__} {each}" for each, _ in REFUSED])
def test_each_error_has_its_status(error: DownloadError, status: int) -> None:
    """Whose fault it was decides; our credentials are no business of the client's."""
    assert status_of(error) == status
