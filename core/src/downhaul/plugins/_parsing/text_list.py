"""Text lists of mirrors, as apt, yum, pacman and people write them."""

from __future__ import annotations

import re
from itertools import islice
from typing import Final

from downhaul.plugins._mirror import WORST, Mirror

from .fields import country, number
from .links import target

_MOST: Final = 1000
_MOST_READ: Final = 10_000
"""Lines that are looked at: behind so many that are no entry, no honest list has one."""

_BOM: Final = b"\xef\xbb\xbf"
_LINE: Final = re.compile(rb"[^\r\n]++")
_NAME: Final = re.compile(r"\w[\w \t]*+=[ \t]*+")
_ABSOLUTE: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*+://|file:")
_RELATIVE: Final = re.compile(r"\.{0,2}/(?!/)")
_METADATA: Final = re.compile(r"([A-Za-z][\w-]*+):(?!//)(.*)")


def read_text_list(text: bytes, base: str) -> tuple[Mirror, ...]:
    """Return the mirrors of a list that came from the URL *base*, each once, the best first; 1,000 at most.

    A line holds one URL, or ``name = URL``; behind blanks there may be metadata, ``key:value``, as in
    apt-transport-mirror(1): ``priority`` (lower comes first, none comes last) and ``country`` or ``location`` (two
    letters) are heeded. An entry that begins with "/", "./" or "../" is relative to *base*. What does not read so,
    blank lines and comments, which begin with "#", do not count: nor does anything of a page of HTML or XML, which
    begins with "<".
    """
    mirrors: dict[str, Mirror] = {}
    lines = dict.fromkeys(match[0].strip(b" \t") for match in _LINE.finditer(text.removeprefix(_BOM)))
    for line in islice(filter(_may_count, lines), _MOST_READ):
        if line.startswith(b"<") and not mirrors:
            return ()
        mirror = _read_line(line, base)
        if mirror is not None:
            mirrors.setdefault(mirror.url, mirror)
            if len(mirrors) == _MOST:
                break
    return tuple(sorted(mirrors.values(), key=lambda mirror: mirror.priority))


def _may_count(line: bytes) -> bool:
    return line.startswith(b"<") or (b"/" in line and not line.startswith(b"#"))


def _read_line(line: bytes, base: str) -> Mirror | None:
    try:
        text = line.decode()
    except ValueError:
        return None
    if not text.replace("\t", " ").isprintable():
        return None
    name = _NAME.match(text)
    reference, *words = text[name.end() if name else 0 :].split()  # there is something: no name holds a "/"
    if not _ABSOLUTE.match(reference) and (name or not _RELATIVE.match(reference)):
        return None
    metadata: dict[str, str] = {}
    for word in words:
        if word.startswith("#"):
            break
        match = _METADATA.fullmatch(word)
        if match is None:
            return None
        metadata.setdefault(match[1].lower(), match[2])
    url = target(reference, base)
    if url is None:
        return None
    priority = number(metadata.get("priority"), 0, WORST)
    location = country(metadata.get("country")) or country(metadata.get("location"))
    return Mirror(url, WORST if priority is None else max(1, priority), location)
