"""Exit codes, from errors."""

from __future__ import annotations

import errno

import pytest

import downhaul
from downhaul import (
    AccessDenied,
    Attempt,
    ConnectError,
    DigestMismatch,
    DownloadError,
    FetchError,
    NotFound,
    PluginError,
    PolicyError,
    PreparationError,
    ProtocolError,
    ProxyError,
    RangeRefused,
    RedirectError,
    ServerError,
    SourcesExhausted,
    StreamBroken,
    TimeoutExceeded,
    TLSError,
    Truncated,
    UnsupportedScheme,
    WriteError,
)
from downhaul.cli._codes import Code, code_of, combined


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UnsupportedScheme("no"), 2),
        (WriteError("no", errno.EACCES), 3),
        (ConnectError("no"), 4),
        (ProxyError("no"), 4),
        (TimeoutExceeded("no", "idle"), 4),
        (Truncated("no"), 4),
        (TLSError("no"), 5),
        (AccessDenied("no", 401), 6),
        (AccessDenied("no", 530), 6),
        (AccessDenied("no", 403), 8),
        (ProtocolError("no"), 7),
        (RedirectError("no"), 7),
        (RangeRefused("no"), 7),
        (NotFound("no", 404), 8),
        (ServerError("no", 503), 8),
        (DigestMismatch("no"), 9),
        (WriteError("no", errno.ENOSPC), 10),
        (WriteError("no", errno.EDQUOT), 10),
        (PolicyError("no"), 11),
        (PluginError("no"), 1),
    ],
)
def test_each_kind_of_error_has_its_code(error: DownloadError, code: int) -> None:
    """Codes 0 to 8 are wget's; validation, a full disk and policy have their own."""
    assert code_of(error) == code


def test_every_error_of_the_tree_has_a_code_of_its_own_or_1() -> None:
    """No error, however it is built, is left without a code, and none counts as success or as a signal."""
    kinds = [each for each in vars(downhaul).values() if isinstance(each, type) and issubclass(each, DownloadError)]
    assert len(kinds) > 20
    assert {code_of(kind("no")) for kind in kinds} <= set(Code) - {Code.OK, Code.INTERRUPTED}
    assert [kind for kind in kinds if issubclass(kind, FetchError) and code_of(kind("no")) == Code.GENERIC] == []


def test_of_several_sources_the_lowest_code_counts() -> None:
    """A file whose sources failed for different reasons follows the rule for several files."""
    assert code_of(SourcesExhausted("no", [NotFound("no", 404), TLSError("no"), PluginError("no")])) == 5
    assert code_of(SourcesExhausted("no")) == 1


def test_what_is_needed_first_lends_its_code() -> None:
    """A PreparationError has the code of its cause."""
    assert code_of(PreparationError("no", NotFound("no", 404))) == 8
    assert code_of(PreparationError("names no URL")) == 1


def test_a_broken_stream_has_the_code_of_the_last_failure() -> None:
    """Which is why nobody continued it."""
    error = StreamBroken("no")
    assert code_of(error) == 1
    error.history = (Attempt("s", 1, 0, NotFound("no", 404)), Attempt("s", 1, 0, DigestMismatch("no")))
    assert code_of(error) == 9


@pytest.mark.parametrize(
    ("codes", "code"), [([], 0), ([0, 0], 0), ([0, 8, 4], 4), ([1, 8], 8), ([0, 1], 1), ([11, 10], 10)]
)
def test_of_several_files_the_lowest_code_counts_except_0_and_1(codes: list[int], code: int) -> None:
    """The rule is wget's."""
    assert combined(map(Code, codes)) == code
