"""Challenges: how a server wants to be told who asks (WWW-Authenticate; RFC 9110, section 11.6.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from .fields import FieldReader, quoted

_GAP: Final = re.compile(r"[ \t]++")
_TOKEN68: Final = re.compile(r"([A-Za-z0-9._~+/-]++=*+)(?=[ \t]*+(?:,|\Z))")
_SHOWN: Final = 10


@dataclass(frozen=True, slots=True, repr=False)
class Challenge:
    """One way to authenticate: its `scheme`, and either `parameters` or a `token68`.

    The scheme, and the names of parameters, are in lower case.
    """

    scheme: str
    parameters: tuple[tuple[str, str], ...] = ()
    token68: str | None = None

    def get(self, name: str) -> str | None:
        """Return the value of the parameter *name*, the first one of several, or None."""
        return next((value for each, value in self.parameters if each == name), None)

    def as_text(self) -> str:
        """Return the challenge as it stands in a header field; ValueError for what cannot stand there."""
        if self.token68 is not None:
            return f"{self.scheme} {self.token68}"
        return f"{self.scheme} {', '.join(f'{name}={quoted(value)}' for name, value in self.parameters)}".rstrip()

    def __repr__(self) -> str:
        names = ", ".join(name[:_SHOWN] for name, _ in self.parameters[:_SHOWN])
        return f"Challenge({self.scheme[:_SHOWN]!r}{', ' if names else ''}{names})"


def read_challenges(value: str) -> tuple[Challenge, ...]:
    """Return the challenges of a WWW-Authenticate or Proxy-Authenticate header field, in their order.

    A scheme may come several times. What cannot be read is skipped, up to the next comma; no more than 1,000 elements
    of the list, schemes and parameters, are read. Several fields are joined by a comma.
    """
    challenges: list[Challenge] = []
    scheme, parameters, token68 = "", list[tuple[str, str]](), None
    reader = FieldReader(value)
    for _ in reader.elements():
        word = reader.token()
        if word and not reader.take("="):
            if scheme:
                challenges.append(Challenge(scheme, tuple(parameters), token68))
            scheme, parameters, token68 = word.lower(), [], None
            match = reader.match(_TOKEN68) if reader.match(_GAP) else None
            if match is not None:
                token68 = match[1]
                continue
            word = reader.token()
            if not reader.take("="):
                continue
        text = reader.value() if word else None
        if text is not None:
            parameters.append((word.lower(), text))
    if scheme:
        challenges.append(Challenge(scheme, tuple(parameters), token68))
    return tuple(challenges)
