"""Validators: reading them from an answer, asking by them, comparing them (RFC 9110, sections 8.8 and 13.1)."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from downhaul import RangeRefused, Version

from ._dates import http_date

if TYPE_CHECKING:
    from ._fields import Fields

_TAG: Final = re.compile(r'(?:W/)?"[ !#-~]*"')
_APART: Final = 60.0
"""Seconds by which Date must follow Last-Modified: within them, the file may change twice (section 8.8.2.2)."""


def version_of(fields: Fields, size: int | None, now: float) -> Version | None:
    """Return the version that *fields* name, or None if they name none."""
    tag, modified = fields.single("etag"), fields.single("last-modified")
    if tag is not None and _TAG.fullmatch(tag) is None:
        tag = None
    changed = http_date(modified, now)
    if changed is None:
        modified = None
    if tag is None and modified is None:
        return None
    if tag is not None:
        strong = not tag.startswith("W/")
    else:
        said = http_date(fields.single("date"), now)
        strong = said is not None and changed is not None and said - changed >= _APART
    return Version(tag, modified, size, strong)


def if_range(version: Version | None) -> str | None:
    """Return what If-Range says for *version*, or None where it is not strong enough (section 13.1.5)."""
    if version is None or not version.strong:
        return None
    if version.tag is not None:
        return None if version.tag.startswith("W/") else version.tag
    return version.modified


def check_unchanged(asked: Version, found: Version | None) -> None:
    """Raise RangeRefused where a 304 to *asked* names another version.

    It comes from a cache that mixes files up, or of an older file in the place of a newer one, which servers that
    compare If-Modified-Since as times do not tell apart (sections 13.1.3 and 15.4.5).
    """
    if found is not None and has_changed(replace(asked, strong=False), found, None):  # If-None-Match compares weakly
        raise RangeRefused("the server says not modified, but of another version")


def has_changed(asked: Version, found: Version | None, total: int | None) -> bool:
    """Tell whether a 206 shows another version than was *asked* for; what it does not say does not count."""
    if asked.size is not None and total is not None and asked.size != total:
        return True
    if found is None:
        return False
    if asked.tag is not None and found.tag is not None:
        if asked.strong:
            return asked.tag != found.tag
        return asked.tag.removeprefix("W/") != found.tag.removeprefix("W/")
    return asked.modified is not None and found.modified is not None and asked.modified != found.modified
