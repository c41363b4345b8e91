"""The FTP driver of downhaul: ``ftp://`` (RFC 959, with RFC 1738, RFC 2428 and RFC 3659)."""

from __future__ import annotations

from ._driver import FtpDriver
from ._options import FtpOptions

__all__ = ["FtpDriver", "FtpOptions"]
