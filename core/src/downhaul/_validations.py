"""Validations: judges of the bytes, described apart from the state of their work."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ._digests import Digests, check_hexdigest, digest_name, is_strong
from ._errors import DigestMismatch, SizeMismatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._models import Block


class Check(Protocol):
    """A validation at work on one run of bytes; synchronous, and called from one thread at a time."""

    def update(self, block: Block) -> None:
        """Take the next *block*; raise ValidationError as soon as the bytes cannot be right any more."""

    def finish(self) -> None:
        """All bytes have come: raise ValidationError if they are not the right ones. It has a thread, and its time."""


class Validation(ABC):
    """Base class of validations: a description that makes a fresh `Check` whenever the bytes start from 0.

    Where `enforced` is false a failure is logged as a warning and refuses nothing. `identifies` says that the
    validation pins the exact bytes, so that bytes may be continued from another source on its strength.
    """

    enforced: bool = True
    identifies: bool = False

    @abstractmethod
    def check(self) -> Check:
        """Return a check for bytes that start from 0."""


@dataclass(frozen=True)
class SizeValidation(Validation):
    """The file has exactly *size* bytes."""

    size: int
    enforced: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or isinstance(self.size, bool):
            raise TypeError(f"SizeValidation takes a number of bytes, not {self.size!r}")
        if self.size < 0:
            raise ValueError(f"SizeValidation takes a number of bytes, from 0; not {self.size}")

    def check(self) -> Check:
        """Return a check that refuses the first byte too many at once."""
        return _SizeCheck(self)


@dataclass(frozen=True)
class DigestValidation(Validation):
    """The file has the digest *hexdigest* by *algorithm*, a name that `hashlib` knows; "SHA-256" will do for sha256."""

    algorithm: str
    hexdigest: str
    enforced: bool = True
    identifies: bool = field(init=False)

    def __post_init__(self) -> None:
        name = digest_name(self.algorithm)
        # What __setattr__ of a frozen class would do three times.
        vars(self).update(algorithm=name, hexdigest=check_hexdigest(name, self.hexdigest), identifies=is_strong(name))

    def check(self) -> Check:
        """Return a check that calculates the digest itself."""
        return _OwnDigestCheck(self)

    def sharing(self, digests: Digests) -> Check:
        """Return a check that relies on *digests*, which are calculated anyway."""
        return _DigestCheck(self, digests)


@dataclass(frozen=True)
class PieceValidation(Validation):
    """Each *length* bytes of the file have the digest in its turn of *hexdigests* by *algorithm*; the last may be less.

    A bad piece is refused as soon as it has come, and may be fetched again by itself.
    """

    algorithm: str
    length: int
    hexdigests: Sequence[str] = field(repr=False)
    enforced: bool = True
    identifies: bool = field(init=False)

    def __post_init__(self) -> None:
        name = digest_name(self.algorithm)
        if not isinstance(self.length, int) or isinstance(self.length, bool) or self.length < 1:
            raise ValueError(f"PieceValidation(length=…) is a number of bytes, from 1; not {self.length!r}")
        if isinstance(self.hexdigests, str):
            raise TypeError("PieceValidation(hexdigests=…) takes several: the digest of each piece")
        object.__setattr__(self, "algorithm", name)
        object.__setattr__(self, "hexdigests", tuple(check_hexdigest(name, digits) for digits in self.hexdigests))
        object.__setattr__(self, "identifies", is_strong(name))

    def check(self) -> Check:
        """Return a check that calculates the digest of each piece."""
        return _PieceCheck(self)

    def check_piece(self, number: int, content: Block) -> None:
        """Raise DigestMismatch unless *content* is the piece with this *number*, which counts from 0."""
        digests = Digests([self.algorithm])
        digests.update(content)
        self._compare(number, digests)

    def _compare(self, number: int, digests: Digests) -> None:
        if number >= len(self.hexdigests):
            raise DigestMismatch(f"there is a piece {number}, expected are {len(self.hexdigests)} pieces")
        actual, expected = digests.hexdigest(self.algorithm), self.hexdigests[number]
        if actual != expected:
            raise DigestMismatch(f"{self.algorithm} of piece {number} is {actual}, expected {expected}")


class _SizeCheck:
    def __init__(self, validation: SizeValidation) -> None:
        self._size, self._seen = validation.size, 0

    def update(self, block: Block) -> None:
        self._seen += len(block)
        if self._seen > self._size:
            raise SizeMismatch(f"more than the {self._size} bytes that were expected")

    def finish(self) -> None:
        if self._seen != self._size:
            raise SizeMismatch(f"{self._seen} bytes, expected {self._size}")


class _DigestCheck:
    def __init__(self, validation: DigestValidation, digests: Digests) -> None:
        self._validation, self._digests = validation, digests

    def update(self, block: Block) -> None:
        """Nothing to do: the digests see the block anyway."""

    def finish(self) -> None:
        name, expected = self._validation.algorithm, self._validation.hexdigest
        if (actual := self._digests.hexdigest(name)) != expected:
            raise DigestMismatch(f"{name} is {actual}, expected {expected}")


class _OwnDigestCheck(_DigestCheck):
    def __init__(self, validation: DigestValidation) -> None:
        super().__init__(validation, Digests([validation.algorithm]))

    def update(self, block: Block) -> None:
        self._digests.update(block)


class _PieceCheck:
    def __init__(self, validation: PieceValidation) -> None:
        self._validation = validation
        self._number = self._seen = 0
        self._digests = Digests([validation.algorithm])

    def update(self, block: Block) -> None:
        view = memoryview(block)
        while view:
            part = view[: self._validation.length - self._seen]
            self._digests.update(part)
            self._seen += len(part)
            view = view[len(part) :]
            if self._seen == self._validation.length:
                self._next()

    def finish(self) -> None:
        if self._seen:
            self._next()
        if self._number != len(self._validation.hexdigests):
            raise DigestMismatch(f"{self._number} pieces, expected {len(self._validation.hexdigests)}")

    def _next(self) -> None:
        self._validation._compare(self._number, self._digests)
        self._number, self._seen = self._number + 1, 0
        self._digests = Digests([self._validation.algorithm])
