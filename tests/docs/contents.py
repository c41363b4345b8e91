"""The files on the hosts that the documentation speaks of."""

from __future__ import annotations

import gzip
import hashlib
import json
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

from tests.docs.pages import localized

if TYPE_CHECKING:
    from collections.abc import Mapping

_PIECE: Final = 256 * 1024  # bytes
_PACKAGES: Final = {f"pkg-{n}.rpm": f"package {n}\n".encode() * 3000 for n in range(1, 6)}
_FILES: Final = {
    "hello.txt": b"hello, world\n",
    "pkg.rpm": b"a package\n" * 4000,
    "image.iso": bytes(range(256)) * 4096,
    "notes.txt.gz": gzip.compress(b"a note\n" * 100, mtime=0),
    "page.html": b"<p>Please log in.</p>",
    **_PACKAGES,
}
MIRRORS: Final = tuple(f"https://{host}.example.net/pub/" for host in ("dead", "corrupt", "mirror"))
"""A mirror where nobody listens, one with a wrong byte, and a good one."""
_APT_MIRRORS: Final = """\
# The mirrors of dl.example.org
https://corrupt.example.net/pub/ priority:2 country:fr
https://mirror.example.net/pub/ priority:1 country:de
/pub/ priority:9
"""
_INDEX: Final = {
    "mirrors": [
        {"url": "https://corrupt.example.net/pub/", "priority": 2},
        {"url": "https://dead.example.net/pub/", "priority": 1},
        {"url": "https://mirror.example.net/pub/", "priority": 3},
    ],
    "files": {name: {"sha256": hashlib.sha256(content).hexdigest()} for name, content in _FILES.items()},
}


def contents(addresses: Mapping[str, str]) -> dict[str, bytes]:
    """Return the files by name; the hosts that they name are where *addresses* says."""
    listed = "".join(f"{url}\n" for url in MIRRORS)
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in _PACKAGES.items())
    return {
        **_FILES,
        "SHA256SUMS": sums.encode(),
        "mirrors.txt": localized(listed, addresses).encode(),
        "pkg.rpm.mirrors": localized(listed, addresses).replace("/pub/", "/pub/pkg.rpm").encode(),
        "mirrors-apt.txt": localized(_APT_MIRRORS, addresses).encode(),
        "pkg.rpm.meta4": _metalink(addresses, "pkg.rpm"),
        "image.iso.meta4": _metalink(addresses, "image.iso"),
        "all.meta4": _metalink(addresses, *_FILES),
        **_image(),
        "mirrors.json": localized(json.dumps(_INDEX), addresses).encode(),
    }


def _metalink(addresses: Mapping[str, str], *names: str) -> bytes:
    """Return a metalink of *names* (RFC 5854): their sizes, digests, pieces and mirrors."""
    files = []
    for name in names:
        content = _FILES[name]
        pieces = [content[place : place + _PIECE] for place in range(0, len(content), _PIECE)]
        hashes = "".join(f"<hash>{hashlib.sha256(piece).hexdigest()}</hash>" for piece in pieces)
        urls = [f"{localized(url, addresses)}{name}" for url in MIRRORS]
        files.append(
            f'<file name="{name}"><size>{len(content)}</size>'
            f'<hash type="sha-256">{hashlib.sha256(content).hexdigest()}</hash>'
            f'<pieces type="sha-256" length="{_PIECE}">{hashes}</pieces>'
            + "".join(f'<url priority="{place}">{escape(url)}</url>' for place, url in enumerate(urls, 1))
            + "</file>"
        )
    return f'<metalink xmlns="urn:ietf:params:xml:ns:metalink">{"".join(files)}</metalink>'.encode()


def _image() -> dict[str, bytes]:
    """Return the image of the registry: its manifest, and the blobs by their digests."""
    blobs = {hashlib.sha256(blob).hexdigest(): blob for blob in (b"{}", *_PACKAGES.values())}
    config, *layers = [{"digest": f"sha256:{digest}", "size": len(blob)} for digest, blob in blobs.items()]
    return {"manifests/1.0": json.dumps({"schemaVersion": 2, "config": config, "layers": layers}).encode(), **blobs}
