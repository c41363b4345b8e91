"""Exit codes: wget's, and three more."""

from __future__ import annotations

import errno
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from downhaul import (
    AccessDenied,
    FetchError,
    PolicyError,
    PreparationError,
    ProtocolError,
    RangeRefused,
    RedirectError,
    SourcesExhausted,
    StatusError,
    StreamBroken,
    TLSError,
    UnsupportedScheme,
    ValidationError,
    WriteError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable


class Code(IntEnum):
    """What the command exits with."""

    OK = 0
    GENERIC = 1
    USAGE = 2
    FILE = 3
    NETWORK = 4
    TLS = 5
    AUTHENTICATION = 6
    PROTOCOL = 7
    RESPONSE = 8
    VALIDATION = 9
    DISK_FULL = 10
    REFUSED = 11
    INTERRUPTED = 130


EXPLAINED: Final = """\b
Exit codes:
   0  every file was downloaded       6  authentication failed
   1  any other failure               7  the server broke its protocol
   2  wrong usage, no driver          8  the server refused: 404, 500, ...
   3  a file cannot be written        9  wrong size or digest
   4  network, name, proxy, time-out 10  disk full, or over quota
   5  TLS, untrusted certificate     11  refused by policy
 130  Ctrl-C                        143  SIGTERM

Of several failures, of several files or of several mirrors of one, the lowest
code above 1 counts. When something that is needed first fails (a mirror list),
the code is that of its failure; when standard output breaks off, that of what
happened last.
"""

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_LOGIN: Final = frozenset({0, 401, 332, 430, 530, 532})  # wget has 8 for a 403

_BY_TYPE: Final[tuple[tuple[type[BaseException], Code], ...]] = (
    (UnsupportedScheme, Code.USAGE),
    (PolicyError, Code.REFUSED),
    (ValidationError, Code.VALIDATION),
    (TLSError, Code.TLS),
    (StatusError, Code.RESPONSE),
    (ProtocolError, Code.PROTOCOL),
    (RangeRefused, Code.PROTOCOL),
    (RedirectError, Code.PROTOCOL),
    (FetchError, Code.NETWORK),
)


def code_of(error: BaseException | None) -> Code:
    """Return the exit code for *error*."""
    match error:
        case WriteError():
            return code_of_errno(error.errno)
        case SourcesExhausted():
            return combined(map(code_of, error.errors)) or Code.GENERIC
        case PreparationError():
            return code_of(error.cause)
        case StreamBroken():
            return code_of(error.history[-1].error) if error.history else Code.GENERIC
        case AccessDenied() if error.code in _LOGIN:
            return Code.AUTHENTICATION
    return next((code for kind, code in _BY_TYPE if isinstance(error, kind)), Code.GENERIC)


def code_of_errno(number: int | None) -> Code:
    """Return the exit code for a file that cannot be written, for the system's reason *number*."""
    return Code.DISK_FULL if number in _NO_SPACE else Code.FILE


def combined(codes: Iterable[Code]) -> Code:
    """Return the exit code for several outcomes: the lowest, but 1 only if there is no other failure."""
    failures = sorted(set(codes) - {Code.OK})
    return next((code for code in failures if code != Code.GENERIC), failures[0] if failures else Code.OK)
