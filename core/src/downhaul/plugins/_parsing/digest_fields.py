"""Digests that a server tells in header fields: Repr-Digest (RFC 9530) and Digest (RFC 3230)."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Final

from .fields import FieldReader

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

SIZES: Final = {"sha512": 64, "sha384": 48, "sha256": 32, "sha224": 28, "sha1": 20, "md5": 16}
"""Bytes of a digest by algorithm, as `hashlib` calls it; the strongest first."""

_IN_FIELDS: Final = {"sha-512": "sha512", "sha-256": "sha256", "sha": "sha1", "md5": "md5"}
_HEXADECIMAL: Final = re.compile(r"[0-9a-f]+")
_LONGEST: Final = 16 * 1024
"""Characters of a value that is read: an honest one has a few hundred."""


def read_digests(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the digests of the representation that *headers* tell: lower-case hexadecimal digits by algorithm.

    *headers* are those of an answer; their names ignore case. Algorithms are called as in `hashlib`. Where both fields
    tell of one algorithm, Repr-Digest counts. Content-Digest and Content-MD5 are of what one message carries, a part
    perhaps, and tell nothing of the file. With a Content-Encoding the digests are of the encoded bytes.
    """
    told = (*_structured(headers.get("Repr-Digest", "")), *_instance(headers.get("Digest", "")))
    digests: dict[str, str] = {}
    for name, digest in told:
        algorithm = _IN_FIELDS.get(name)
        if algorithm is not None and len(digest) == SIZES[algorithm]:
            digests.setdefault(algorithm, digest.hex())
    return digests


def strongest(digests: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the algorithm and the digits of the strongest of *digests*, as `read_digests` returns them, or None."""
    return next(((name, digests[name]) for name in SIZES if name in digests), None)


def digest_of(name: str, digits: str) -> tuple[str, str] | None:
    """Return the algorithm *name* as `hashlib` calls it and *digits* in lower case, or None where they do not fit."""
    algorithm, digits = name.strip().lower().replace("-", ""), digits.strip().lower()
    fits = len(digits) == 2 * SIZES.get(algorithm, 0) and _HEXADECIMAL.fullmatch(digits)
    return (algorithm, digits) if fits else None


def _structured(value: str) -> Iterable[tuple[str, bytes]]:
    """Read Repr-Digest, a dictionary of byte sequences (RFC 9530, section 3)."""
    if not value or len(value) > _LONGEST:
        return ()
    import http_sf

    try:
        members = http_sf.parse(value.encode("ascii"), tltype="dictionary")
    except ValueError:
        return ()
    assert isinstance(members, dict)
    items = ((name, member[0]) for name, member in members.items() if isinstance(member, tuple))
    return [(name, bare) for name, bare in items if isinstance(bare, bytes)]


def _instance(value: str) -> Iterator[tuple[str, bytes]]:
    """Read Digest, a list of ``algorithm=base64`` (RFC 3230, section 4.3.2)."""
    if len(value) > _LONGEST:
        return
    reader = FieldReader(value)
    for _ in reader.elements():
        name = reader.token().lower()
        text = reader.value() if reader.take("=") else None
        if text is None:
            continue
        digits = text.rstrip("=")
        try:
            yield name, base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
        except ValueError:
            continue
