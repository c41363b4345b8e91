"""What only FTP can be told."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class FtpOptions:
    """Options of the FTP driver: ``Settings(options=(FtpOptions(keep_alive=60),))``.

    `keep_alive` is how many seconds a control connection without work is kept for the next file; 0 keeps none.
    `read_ahead` is how many bytes of one file the driver reads ahead of their consumer, and so the size of its largest
    block: at least 256 KiB and at most 1 MiB. What the system holds for it comes on top.
    """

    keep_alive: float = 15.0
    read_ahead: int = 1024 * 1024

    def __post_init__(self) -> None:
        if not 0 <= self.keep_alive < math.inf:
            raise ValueError(f"FtpOptions(keep_alive=…) is a number of seconds, from 0; not {self.keep_alive!r}")
        if self.read_ahead < 1:
            raise ValueError(f"FtpOptions(read_ahead=…) is a number of bytes, from 1; not {self.read_ahead!r}")

    @property
    def block(self) -> int:
        """The size of the largest block, in bytes."""
        return min(max(self.read_ahead, 256 * 1024), 1024 * 1024)
