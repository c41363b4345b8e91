"""downhaul: a pluggable download framework for software that imports, mirrors and serves remote content.

`download` fetches one file, `Download` describes one, `Batch` runs many, `Context` holds what they share. Protocols are
spoken by drivers, looked up by URL scheme; what happens around a transfer is up to plugins: see `downhaul.hookspecs`.
"""

from __future__ import annotations

from ._batch import Batch
from ._context import Context
from ._crew import Plan
from ._defaults import BUILT_IN, Retries
from ._download import Download, download
from ._drivers import Driver
from ._errors import (
    AccessDenied,
    ConnectError,
    DigestMismatch,
    DownloadError,
    FetchError,
    NameResolutionError,
    NotFound,
    PluginError,
    PolicyError,
    PreparationError,
    ProtocolError,
    ProxyError,
    RangeRefused,
    RedirectError,
    ServerError,
    SizeMismatch,
    SourcesExhausted,
    StatusError,
    StreamBroken,
    TimeoutExceeded,
    TLSError,
    TooManyRequests,
    Truncated,
    UnsupportedScheme,
    ValidationError,
    WriteError,
)
from ._idle import IdleConnections
from ._models import Attempt, Block, Credentials, Headers, Info, Payload, Redirected, Request, Result, Retry, Version
from ._progress import Progress
from ._settings import TLS, LowSpeed, Settings, Timeout, User
from ._stream import Stream
from ._transfer import Transfer
from ._urls import below, covers, origin, same_place, show
from ._validations import Check, DigestValidation, PieceValidation, SizeValidation, Validation
from ._writers import BufferWriter, FileWriter, Sink, Writer
from .hookspecs import Plugin, hookimpl, hookspec

# The composition root: only here the context learns of downloads and of the built-in plugins.
Context.download_type = Download
Context.built_in = BUILT_IN

__version__ = "0.1.0"

__all__ = [
    "TLS", "AccessDenied", "Attempt", "Batch", "Block", "BufferWriter", "Check", "ConnectError", "Context",
    "Credentials", "DigestMismatch", "DigestValidation", "Download", "DownloadError", "Driver", "FetchError",
    "FileWriter", "Headers", "IdleConnections", "Info", "LowSpeed", "NameResolutionError", "NotFound", "Payload",
    "PieceValidation", "Plan",
    "Plugin", "PluginError", "PolicyError", "PreparationError", "Progress", "ProtocolError", "ProxyError",
    "RangeRefused", "RedirectError", "Redirected", "Request", "Result", "Retries", "Retry", "ServerError",
    "Settings", "Sink", "SizeMismatch", "SizeValidation", "SourcesExhausted", "StatusError", "Stream",
    "StreamBroken", "TLSError", "Timeout", "TimeoutExceeded", "TooManyRequests", "Transfer", "Truncated",
    "UnsupportedScheme", "User", "Validation", "ValidationError", "Version", "WriteError", "Writer", "below", "covers",
    "download", "hookimpl", "hookspec", "origin", "same_place", "show",
]  # fmt: skip
