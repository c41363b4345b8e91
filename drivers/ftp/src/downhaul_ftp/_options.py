"""What only FTP can be told."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class FtpOptions:
    """Options of the FTP driver: ``Settings(options=(FtpOptions(keep_alive=60),))``.

    `keep_alive` is how many seconds a control connection without work is kept for the next file; 0 keeps none.
    `read_ahead` is how many bytes of one file may wait for their consumer before the driver stops reading. It is
    also about the size of the largest block; what one read brings (256 KiB at most) may come on top.
    """

    keep_alive: float = 15.0
    read_ahead: int = 1024 * 1024

    def __post_init__(self) -> None:
        if not 0 <= self.keep_alive < math.inf:
            raise ValueError(f"FtpOptions(keep_alive=…) is a number of seconds, from 0; not {self.keep_alive!r}")
        if self.read_ahead < 1:
            raise ValueError(f"FtpOptions(read_ahead=…) is a number of bytes, from 1; not {self.read_ahead!r}")
