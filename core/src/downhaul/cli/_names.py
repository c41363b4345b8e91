"""File names from URLs, and nothing that could be more than a name."""

from __future__ import annotations

import os
import re
import unicodedata
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes, urlsplit

import click

from downhaul import show

from ._output import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

_FTP_TYPE: Final = re.compile(r";type=[a-z]$", re.IGNORECASE)
_METALINK: Final = re.compile(r"(?<=.)\.(meta4|metalink)$", re.IGNORECASE)
_FORBIDDEN: Final = frozenset({"Cc", "Zl", "Zp"})  # control characters, line and paragraph separators


def file_name(url: str) -> str:
    """Return the name of the file at *url*: the last segment of its path, percent-decoded once.

    Raises click.UsageError for what is no plain name then.
    """
    parts = urlsplit(url)
    path = parts.path if parts.netloc else ""
    if parts.scheme in {"ftp", "ftps"}:  # "?" belongs to the path there
        path = _FTP_TYPE.sub("", f"{path}?{parts.query}" if parts.query else path)
    name = os.fsdecode(unquote_to_bytes(path.rpartition("/")[2]))
    if name in {"", ".", ".."} or any(c in "/\\" or unicodedata.category(c) in _FORBIDDEN for c in name):
        raise click.UsageError(f"no file name can be taken from {show(url)}; use -o FILE")
    return name


def file_names(urls: Sequence[str], *, described: bool = False) -> list[str]:
    """Return the names of the files at *urls*, or of those *described* by metalinks there.

    Raises click.UsageError also where two are the same.
    """
    owner: dict[str, str] = {}
    for url in urls:
        name = file_name(url)
        if described:
            name = _METALINK.sub("", name)
        if name in owner:
            raise click.UsageError(
                f"{show(owner[name])} and {show(url)} both have the file name {plain(name)!r}; get them one by one"
            )
        owner[name] = url
    return list(owner)
