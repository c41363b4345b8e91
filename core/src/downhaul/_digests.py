"""Digests that are calculated while the bytes pass."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from hashlib import _Hash

    from ._models import Block

_LOWER: Final = re.compile(r"[0-9a-f]*")
_HEXADECIMAL: Final = frozenset("0123456789abcdefABCDEF")


def digest_name(name: str) -> str:
    """Return the name that `hashlib` has for *name* ("SHA-256" is "sha256"); raise ValueError where it has none."""
    if not isinstance(name, str):
        raise TypeError(f"a digest algorithm is named by a str, not {type(name).__name__}")
    return _known_as(name)


@lru_cache(maxsize=64)
def _known_as(name: str) -> str:
    lower = name.lower()
    for candidate in (lower, lower.replace("-", ""), lower.replace("-", "_")):
        if candidate in hashlib.algorithms_available and not candidate.startswith("shake") and _works(candidate):
            return candidate
    known = ", ".join(sorted(each for each in hashlib.algorithms_guaranteed if not each.startswith("shake")))
    raise ValueError(f"unknown digest algorithm {name!r} (known: {known})")


def check_hexdigest(name: str, digits: str) -> str:
    """Return the hexadecimal *digits* in lower case; raise ValueError unless they fit the algorithm *name*."""
    if isinstance(digits, str) and len(digits) == _length(name) and _LOWER.fullmatch(digits) is not None:
        return digits
    if not isinstance(digits, str):
        raise TypeError(f"a digest is given as hexadecimal digits in a str, not {type(digits).__name__}")
    length = _length(name)
    if not _HEXADECIMAL.issuperset(digits):
        raise ValueError(f"a {name} digest has hexadecimal digits only, unlike {digits!r}")
    if len(digits) != length:
        raise ValueError(f"a {name} digest has {length} hexadecimal digits, not {len(digits)}")
    return digits.lower()


@lru_cache(maxsize=64)
def _length(name: str) -> int:
    """Return the number of hexadecimal digits of the algorithm *name*."""
    return hashlib.new(name, usedforsecurity=False).digest_size * 2


@lru_cache(maxsize=64)
def is_strong(name: str) -> bool:
    """Tell whether nobody can make two files with one digest of the algorithm *name*."""
    return not name.startswith("md") and "sha1" not in name


def _works(name: str) -> bool:
    """Tell whether the algorithm *name* can be had: OpenSSL may list some that it was built or told to go without."""
    try:
        hashlib.new(name, usedforsecurity=False)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=64)
def _maker(name: str) -> Callable[[], _Hash]:
    """Return what makes a hash object of the algorithm *name*: `hashlib.new` looks it up each time."""
    make = getattr(hashlib, name, None)
    if name in hashlib.algorithms_guaranteed and make is not None:
        return partial(make, usedforsecurity=False)
    return partial(hashlib.new, name, usedforsecurity=False)


class Digests:
    """Running digests, one per algorithm, of the bytes seen so far."""

    def __init__(self, names: Iterable[str]) -> None:
        self._hashes = {name: _maker(name)() for name in names}

    def update(self, block: Block) -> None:
        """Take the next *block* in."""
        for each in self._hashes.values():
            each.update(block)

    def hexdigests(self) -> Mapping[str, str]:
        """Return hexadecimal digits by the name of the algorithm."""
        return {name: each.hexdigest() for name, each in self._hashes.items()}

    def hexdigest(self, name: str) -> str:
        """Return the hexadecimal digits of one algorithm."""
        return self._hashes[name].hexdigest()
