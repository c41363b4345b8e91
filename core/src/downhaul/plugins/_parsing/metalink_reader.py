"""Metalinks: what files are, and where they can be had (RFC 5854; metalink 3 of metalinker.org, as Fedora has it)."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from downhaul import PieceValidation
from downhaul.plugins._mirror import WORST, Mirror

from .digest_fields import SIZES, digest_of
from .fields import country, number
from .links import target

if TYPE_CHECKING:
    from collections.abc import Mapping

_log: Final = logging.getLogger("downhaul.mirrors")

_MOST_FILES: Final = 1000
_MOST_URLS: Final = 1000
_DEEPEST: Final = 32
_LARGEST_PIECE: Final = 64 * 1024 * 1024  # bytes
_LONGEST_NAME: Final = 255  # bytes in UTF-8
_LARGEST: Final = 2**59  # bytes: less than what `number` reads
_FED: Final = 64 * 1024
"""Bytes that expat gets at a time: what a handler refuses, it reads to the end of these nevertheless."""

_ENCODINGS: Final = frozenset({"utf-8", "utf-16", "us-ascii", "ascii", "iso-8859-1"})
_XML_BASE: Final = "http://www.w3.org/XML/1998/namespace base"
_TYPES: Final = frozenset({"", "http", "https", "ftp", "ftps"})
_LEAVES: Final = frozenset({"size", "hash", "piece", "url"})

# What an element is, by what it stands in and its name; everything else, and all that is in it, does not count.
_VERSION_4: Final = {
    ("metalink", "file"): "file",
    ("file", "size"): "size",
    ("file", "hash"): "hash",
    ("file", "pieces"): "pieces",
    ("pieces", "hash"): "piece",
    ("file", "url"): "url",
}
_VERSION_3: Final = {
    ("metalink", "files"): "files",
    ("files", "file"): "file",
    ("file", "size"): "size",
    ("file", "verification"): "verification",
    ("verification", "hash"): "hash",
    ("verification", "pieces"): "pieces",
    ("pieces", "hash"): "piece",
    ("file", "resources"): "resources",
    ("resources", "url"): "url",
}
_NAMESPACES: Final = {"urn:ietf:params:xml:ns:metalink": _VERSION_4, "http://www.metalinker.org/": _VERSION_3}


@dataclass(frozen=True)
class MetalinkFile:
    """What a metalink tells of one file.

    `name` is one component of a path that is safe to use, or None where the metalink has none or anything else for it.
    `size` is in bytes; `digests` are pairs of an algorithm, as `hashlib` calls it, and hexadecimal digits; `mirrors`
    have complete URLs, the best first.
    """

    name: str | None
    size: int | None = None
    digests: tuple[tuple[str, str], ...] = ()
    pieces: PieceValidation | None = None
    mirrors: tuple[Mirror, ...] = field(default=(), repr=False)


def read_metalink(content: bytes, base: str) -> tuple[MetalinkFile, ...]:
    """Return the files of a metalink of version 4 or 3, whose URLs may be relative to *base*, where it came from.

    At most 1,000 files and 1,000 URLs in all are read. A digest of an unknown algorithm or of a wrong length is left
    out, as are pieces that do not fit the size, or are larger than 64 MiB; so are URLs that are none, and of version 3
    those of another type than HTTP and FTP. Where URLs lead is not judged here.

    Raises ValueError, and nothing else, for what is no metalink, has a DOCTYPE, or elements more than 32 deep.
    """
    from xml.parsers import expat

    reader = _Reader(base)
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.XmlDeclHandler = reader.declared
    parser.StartDoctypeDeclHandler = reader.doctype
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    try:
        for at in range(0, len(content), _FED):
            parser.Parse(content[at : at + _FED], False)
        parser.Parse(b"", True)
    except expat.ExpatError as reason:
        raise ValueError(f"it is no XML: {reason}" if content.strip() else "it is empty") from None
    if reader.hostile:
        _log.warning("a metalink has names that are no plain names of files, and not used: %s", reader.hostile)
    return tuple(reader.files)


def safe_name(name: str) -> bool:
    """Tell whether *name* is one plain component of a path: no path, drive, option or hidden file."""
    return (
        name.isprintable()  # neither control characters nor those that turn the direction of writing
        and name == name.strip()
        and not name.startswith((".", "-"))
        and frozenset("/\\:").isdisjoint(name)
        and 0 < len(name.encode()) <= _LONGEST_NAME
    )


@dataclass(frozen=True)
class _Element:
    """An element that is open, and what it is, if it counts."""

    kind: str | None
    attributes: Mapping[str, str]
    texts: list[str] = field(default_factory=list)


@dataclass
class _Draft:
    """What is known so far of a file."""

    name: str | None
    size: int | None = None
    digests: dict[str, str] = field(default_factory=dict)
    pieces: list[PieceValidation] = field(default_factory=list)
    mirrors: dict[str, Mirror] = field(default_factory=dict)

    def finished(self) -> MetalinkFile:
        pieces = [each for each in self.pieces if self.size is None or _fit(each, self.size)]
        best = min(pieces, key=lambda each: [*SIZES].index(each.algorithm), default=None)
        mirrors = sorted(self.mirrors.values(), key=lambda mirror: mirror.priority)
        return MetalinkFile(self.name, self.size, tuple(self.digests.items()), best, tuple(mirrors))


class _Reader:
    """The handlers for expat."""

    def __init__(self, base: str) -> None:
        self.files: list[MetalinkFile] = []
        self.hostile = ""
        self._base = base
        self._namespace, self._kinds = "", _VERSION_4
        self._open: list[_Element] = []
        self._file = _Draft(None)
        self._pieces: list[tuple[int | None, str]] = []
        self._urls = 0

    def declared(self, version: str, encoding: str | None, standalone: int) -> None:  # noqa: ARG002
        if encoding is not None and encoding.lower() not in _ENCODINGS:
            raise ValueError(f"its encoding is {encoding[:40]!a}, where UTF-8 is expected")

    def doctype(self, name: str, *_: object) -> None:
        what = "an HTML page" if name.lower() == "html" else "a document"
        raise ValueError(f"it is {what} with a DOCTYPE, {name[:40]!a}, and a metalink has none")

    def start(self, name: str, attributes: dict[str, str]) -> None:
        namespace, _, local = name.rpartition(" ")
        if len(self._open) == _DEEPEST:
            raise ValueError(f"its elements are more than {_DEEPEST} deep in each other")
        if not self._open:
            kind: str | None = self._root(namespace, local)
        else:
            above = self._open[-1].kind
            kind = self._kinds.get((above, local)) if above is not None and namespace == self._namespace else None
        if kind == "file":
            kind = self._new_file(attributes.get("name"))
        elif kind == "pieces":
            self._pieces = []
        self._open.append(_Element(kind, attributes))

    def text(self, text: str) -> None:
        if self._open[-1].kind in _LEAVES:
            self._open[-1].texts.append(text)

    def end(self, name: str) -> None:  # noqa: ARG002
        element = self._open.pop()
        attributes, text = element.attributes, "".join(element.texts).strip()
        match element.kind:
            case "file":
                self.files.append(self._file.finished())
            case "size" if self._file.size is None:
                self._file.size = number(text, 0, _LARGEST)
            case "hash":
                digest = digest_of(attributes.get("type", ""), text)
                if digest is not None:
                    self._file.digests.setdefault(*digest)
            case "piece":
                told = number(attributes.get("piece"), 0, _LARGEST)
                self._pieces.append((told if self._kinds is _VERSION_3 else len(self._pieces), text))
            case "pieces":
                self._end_pieces(attributes)
            case "url" if self._urls < _MOST_URLS:
                self._add_url(element, text)

    def _root(self, namespace: str, local: str) -> str:
        if local != "metalink" or namespace not in _NAMESPACES:
            what = "an HTML page" if local.lower() == "html" else f"XML whose root is {local[:40]!a}"
            raise ValueError(f"it is {what}, of the namespace {namespace[:80]!a}")
        self._namespace, self._kinds = namespace, _NAMESPACES[namespace]
        return "metalink"

    def _new_file(self, name: str | None) -> str | None:
        if len(self.files) == _MOST_FILES:
            return None
        safe = name is not None and safe_name(name)
        if name is not None and not safe:
            self.hostile = self.hostile or ascii(name[:_LONGEST_NAME])
        self._file = _Draft(name if safe else None)
        return "file"

    def _end_pieces(self, attributes: Mapping[str, str]) -> None:
        length = number(attributes.get("length"), 1, _LARGEST_PIECE)
        digests = {index: digest_of(attributes.get("type", ""), text) for index, text in self._pieces}
        in_order = [digests.get(index) for index in range(len(self._pieces))]
        known = [digest for digest in in_order if digest is not None]
        if length is not None and known and len(known) == len(in_order):
            with suppress(ValueError):  # of an algorithm that this machine is told to go without
                self._file.pieces.append(PieceValidation(known[0][0], length, [digits for _, digits in known]))

    def _add_url(self, element: _Element, text: str) -> None:
        attributes, above = element.attributes, self._open[-1].attributes
        if attributes.get("type", "").lower() not in _TYPES:
            return
        self._urls += 1
        base = self._base
        for each in (*self._open, element):
            base = target(each.attributes.get(_XML_BASE, ""), base) or base
        url = target(text, base)
        if url is None or url in self._file.mirrors:
            return
        priority = number(attributes.get("priority"), 1, WORST)
        if self._kinds is _VERSION_3:
            preference = number(attributes.get("preference"), 0, 100)  # 100 is the best
            priority = None if preference is None else 101 - preference
        limits = [number(each.get("maxconnections"), 1, _LARGEST) for each in (attributes, above)]
        most = min((limit for limit in limits if limit is not None), default=None)
        self._file.mirrors[url] = Mirror(url, priority or WORST, country(attributes.get("location")), most)


def _fit(pieces: PieceValidation, size: int) -> bool:
    return len(pieces.hexdigests) == -(-size // pieces.length)
