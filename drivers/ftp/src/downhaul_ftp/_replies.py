"""Replies of servers, read tolerantly: RFC 959, section 4.2; RFC 2428, section 3; RFC 3659, sections 2 to 4."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final

from downhaul import ProtocolError

MAX_LINE: Final = 8 * 1024
"""The longest line of a reply, in bytes."""

_MAX_REPLY: Final = 64 * 1024
_CODE: Final = re.compile(r"([1-5]\d\d)(?!\d)(-?)")
_EPSV: Final = re.compile(r"\((?P<mark>[!-~])(?P=mark)(?P=mark)(?P<port>\d{1,6})(?P=mark)\)")
_PASV: Final = re.compile(r"(?<!\d)\d{1,3}(?:,\d{1,3}){3},(?P<high>\d{1,3}),(?P<low>\d{1,3})(?!\d)")
_SIZE: Final = re.compile(r"\s*(\d{1,18})(?!\d)")
_TIME: Final = re.compile(r"\s*(\d{14}(?:\.\d{1,9})?)(?!\d)")
_BYTES: Final = re.compile(r"\((\d{1,18}) bytes?\b", re.IGNORECASE)
_SHOWN: Final = 300


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply: its code, its text with one character per byte, and the secrets that the text may repeat."""

    code: int
    text: str = field(repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, answer: tuple[str, list[str]], secrets: tuple[str, ...]) -> Reply:
        """Return the reply of which *answer* is the code, and the lines without it."""
        code, lines = answer
        return cls(int(code), " ".join(filter(None, map(str.strip, lines))), secrets)

    @property
    def shown(self) -> str:
        """The text as it may be shown."""
        return shown(self.text, self.secrets)

    @property
    def preliminary(self) -> bool:
        """Whether another reply follows."""
        return 100 <= self.code < 200

    @property
    def positive(self) -> bool:
        """Whether what was asked is done."""
        return 200 <= self.code < 300

    @property
    def intermediate(self) -> bool:
        """Whether the server waits for the next command of a sequence."""
        return 300 <= self.code < 400

    @property
    def transient(self) -> bool:
        """Whether it was refused for now."""
        return 400 <= self.code < 500


class Assembly:
    """Replies as they come, line by line (RFC 959, section 4.2), one character per byte.

    Empty lines before a reply are passed over; lines within it may look like anything.
    """

    def __init__(self) -> None:
        self._code = ""
        self._lines: list[str] = []
        self._size = 0

    @property
    def begun(self) -> bool:
        """Whether a reply has begun and not ended."""
        return bool(self._code)

    def add(self, line: bytes) -> tuple[str, list[str]] | None:
        """Take the next line; return the code of the reply that it ends, and the reply's lines without it, or None.

        Raises `ProtocolError` for what is no reply or is too long.
        """
        self._size += len(line)
        if len(line) > MAX_LINE or self._size > _MAX_REPLY:
            raise no_reply()
        text = line.decode("latin-1").rstrip("\r\n")
        code = self._code
        if code:
            ends = text[:3] == code and text[3:4] in {"", " "}
            self._lines.append(text[4:] if ends or text[:4] == f"{code}-" else text)
        elif not text.strip():
            return None
        elif (match := _CODE.match(text)) is None:
            raise no_reply()
        else:
            code, ends = match[1], not match[2]
            self._code, self._lines = code, [text[4:]]
        if not ends:
            return None
        self._code, self._size = "", 0
        return code, self._lines


def no_reply() -> ProtocolError:
    """Return the error for what a server says that is no reply, or is endless."""
    return ProtocolError(f"no reply of an FTP server, or one longer than {MAX_LINE} bytes a line, {_MAX_REPLY} in all")


def shown(text: str, secrets: tuple[str, ...]) -> str:
    """Return *text* for people: without *secrets* that the server repeats, as UTF-8 where it is, not endless."""
    for secret in secrets:
        text = text.replace(secret, "***")
    with suppress(UnicodeDecodeError):  # an old server's Latin-1, which it is already
        text = text.encode("latin-1").decode()
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def extended_port(reply: Reply) -> int | None:
    """Return the port in the reply to EPSV, or None if there is none to be had."""
    match = _EPSV.search(reply.text) if reply.positive else None
    port = int(match["port"]) if match else 0
    return port if 0 < port < 65536 else None


def passive_port(reply: Reply) -> int | None:
    """Return the port in the reply to PASV, or None; the address beside it is nobody's business (CVE-2020-8284)."""
    match = _PASV.search(reply.text) if reply.positive else None
    if match is None:
        return None
    high, low = int(match["high"]), int(match["low"])
    port = high << 8 | low
    return port if port and high < 256 and low < 256 else None


def size_of(reply: Reply) -> int | None:
    """Return the number of bytes in the reply to SIZE, or None."""
    match = _SIZE.match(reply.text) if reply.code == 213 else None
    return int(match[1]) if match else None


def time_of(reply: Reply) -> str | None:
    """Return the time in the reply to MDTM, as the server wrote it, or None."""
    match = _TIME.match(reply.text) if reply.code == 213 else None
    return match[1] if match else None


def announced_size(reply: Reply, path: bytes) -> int | None:
    """Return the N of "(N bytes)" in the reply that opens a transfer of *path*, or None."""
    text = reply.text
    for name in (path.decode("latin-1"), path.rpartition(b"/")[2].decode("latin-1")):
        if _BYTES.search(name):  # a file may be called "(7 bytes)"
            text = text.replace(name, "")
    found = _BYTES.findall(text)
    return int(found[-1]) if found else None


def http_date(time: str) -> str | None:
    """Return the time of an MDTM reply as a date of RFC 9110, section 5.6.7, or None if it is none."""
    try:
        year, month, day, hour, minute, second = int(time[:4]), *(int(time[at : at + 2]) for at in range(4, 14, 2))
        return format_datetime(datetime(year, month, day, hour, minute, second, tzinfo=UTC), usegmt=True)
    except ValueError:
        return None
