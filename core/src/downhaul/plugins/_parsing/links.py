"""The Link header field (RFC 8288), and the mirrors that it tells of (RFC 6249)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin

from downhaul import Download, show
from downhaul.plugins._mirror import WORST, Mirror, is_url

from .fields import FieldReader, country, number

if TYPE_CHECKING:
    from collections.abc import Iterable

"""The priority of a mirror for which none is told (RFC 6249, section 3.1; RFC 5854, section 4.2.16.1)."""

_TARGET: Final = re.compile(r"<([^<>]*+)>")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*+:")
_IN_NO_URL: Final = frozenset(' <>"\\')
_LONGEST: Final = 8000  # characters: what any server takes (RFC 9110, section 4.1)
_METALINKS: Final = ("application/metalink4+xml", "application/metalink+xml")


@dataclass(frozen=True, slots=True, repr=False)
class Link:
    """A link from the page that was asked for to `url`; `relations`, and the names of `parameters`, in lower case."""

    url: str
    relations: frozenset[str] = frozenset()
    parameters: tuple[tuple[str, str], ...] = field(default=())

    def get(self, name: str) -> str | None:
        """Return the value of the parameter *name*, the first one of several, or None."""
        return next((value for each, value in self.parameters if each == name), None)

    def __repr__(self) -> str:
        return f"Link({show(self.url)!r}, {len(self.relations)} relations)"


def read_links(value: str, base: str) -> tuple[Link, ...]:
    """Return the links of a Link header field that came from the URL *base* (RFC 8288, section 3); 1,000 at most.

    Links from elsewhere (``anchor``), and those to what is no URL, are left out. Several fields are joined by a comma.
    """
    links = []
    reader = FieldReader(value)
    for _ in reader.elements():
        match = reader.match(_TARGET)
        if match is None:
            continue
        # What ends in "*" is another spelling of a parameter (RFC 8187), and of none that we read.
        parameters = tuple(pair for pair in reader.parameters() if not pair[0].endswith("*"))
        url = target(match[1], base)
        if url is None or any(name == "anchor" for name, _ in parameters):
            continue
        relations = next((text for name, text in parameters if name == "rel"), "")
        links.append(Link(url, frozenset(relations.lower().split()), parameters))
    return tuple(links)


def read_mirrors(links: Iterable[Link]) -> tuple[Mirror, ...]:
    """Return the mirrors of a file whose head has *links* (RFC 6249, section 3), each once, and the best first.

    One without a priority (``pri``, from 1 to 999999), or with another one, comes last.
    """
    mirrors: dict[str, Mirror] = {}
    for link in links:
        if "duplicate" in link.relations and link.url not in mirrors:
            priority = number(link.get("pri"), 1, WORST) or WORST
            mirrors[link.url] = Mirror(link.url, priority, country(link.get("geo")))
    return tuple(sorted(mirrors.values(), key=lambda mirror: mirror.priority))


def described_by(links: Iterable[Link]) -> tuple[str, ...]:
    """Return the URLs of the metalinks that describe the file (RFC 6249, section 4.1), metalinks of version 4 first."""
    found = [
        (_METALINKS.index(kind), link.url)
        for link in links
        if "describedby" in link.relations and (kind := _media_type(link)) in _METALINKS
    ]
    return tuple(dict.fromkeys(url for _, url in sorted(found, key=lambda pair: pair[0])))


def target(reference: str, base: str) -> str | None:
    """Return the URL that *reference* means where the URL *base* was asked (RFC 3986, section 5.2), or None.

    None is for what is no URL, has no host, is longer than 8,000 characters, or holds what no URL may: control
    characters, blanks, quotes, "<", ">" and backslashes. Whether anybody may go there, to ``file:`` say, is not decided
    here.
    """
    if not 0 < len(reference) <= _LONGEST or not reference.isprintable() or not _IN_NO_URL.isdisjoint(reference):
        return None
    url = reference
    try:
        if not _SCHEME.match(reference):
            scheme, _, rest = base.partition(":")  # urljoin leaves a reference alone where it does not know the scheme
            url = f"{scheme}:{urljoin(f'http:{rest}', reference).partition(':')[2]}"
        if not is_url(url) and not url.lower().startswith("file:"):
            return None
        return Download(url).url  # which refuses what is no URL
    except ValueError:
        return None


def _media_type(link: Link) -> str:
    return (link.get("type") or "").partition(";")[0].strip().lower()
