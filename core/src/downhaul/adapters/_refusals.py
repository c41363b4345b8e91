"""Which status tells a client that a download failed; to which fault the error belongs decides it."""

from __future__ import annotations

import math

from downhaul import (
    AccessDenied,
    DownloadError,
    NotFound,
    PluginError,
    RangeRefused,
    SourcesExhausted,
    StatusError,
    TimeoutExceeded,
    TooManyRequests,
    UnsupportedScheme,
    WriteError,
)

_DISLIKED = frozenset({400, 403, 405, 501})
"""What origins say to a HEAD that they do not like, though a GET may do (a signed URL is for one method)."""


def status_of(error: DownloadError) -> int:
    """Return the status for a client whose download ended with *error* before a byte was sent.

    A 401 is about credentials that are ours, not the client's: it is never passed on.
    """
    if isinstance(error, SourcesExhausted):
        alike = {status_of(each) for each in error.errors}
        return alike.pop() if len(alike) == 1 else 502
    if isinstance(error, NotFound):
        return 404
    if isinstance(error, AccessDenied):
        return 403 if error.code == 403 else 502
    if isinstance(error, TooManyRequests):
        return 503
    if isinstance(error, TimeoutExceeded):
        return 504
    return 500 if isinstance(error, (WriteError, PluginError, UnsupportedScheme)) else 502


def retry_after(error: DownloadError) -> tuple[tuple[str, str], ...]:
    """Return the Retry-After field for the client, where the source said when to come again (section 10.2.3)."""
    seconds = error.retry_after
    return () if seconds is None else (("Retry-After", str(math.ceil(seconds))),)


def refuses_part(error: DownloadError) -> bool:
    """Tell whether a source gave no part of the file, or of another file, which says nothing of the whole."""
    if isinstance(error, SourcesExhausted):
        return any(map(refuses_part, error.errors))
    return isinstance(error, RangeRefused)


def dislikes_head(error: DownloadError) -> bool:
    """Tell whether a source refused to describe the file, which says nothing of whether it would deliver it."""
    if isinstance(error, SourcesExhausted):
        return any(map(dislikes_head, error.errors))
    return isinstance(error, StatusError) and error.code in _DISLIKED
