"""Tokens in header fields: those of RFC 6750, and of servers that have a field of their own for theirs."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from .authority import Authorizer, Grant

if TYPE_CHECKING:
    from collections.abc import Hashable

    from downhaul import Transfer

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_OURS: Final = frozenset({
    "accept-encoding", "connection", "content-length", "content-type", "expect", "host", "if-match",
    "if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "keep-alive", "proxy-authorization",
    "proxy-connection", "range", "te", "trailer", "transfer-encoding", "upgrade",
})  # fmt: skip


@dataclass(frozen=True)
class Token:
    """A token, and for how many seconds from now it is good (None: until it is refused).

    Raises ValueError for what cannot stand in a header field, without repeating it.
    """

    value: str = field(repr=False)
    expires: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.value, str):
            raise TypeError(f"the value of a Token is a str, not {type(self.value).__name__}")
        if not self.value or self.value != self.value.strip() or re.search(r"[\x00-\x1f\x7f]", self.value):
            raise ValueError("a token is not empty, and holds no line break, no NUL and no blanks around it")
        expires = self.expires
        if expires is not None and (
            isinstance(expires, bool) or not isinstance(expires, int | float) or not expires >= 0
        ):
            raise ValueError(f"Token(expires=…) is a number of seconds from now, or None; not {expires!r}")


Provider = Callable[[], str | Token | Awaitable[str | Token]]


@dataclass(frozen=True)
class BearerToken(Authorizer):
    """Sends ``Authorization: Bearer …`` to one origin, and asks *provider* for a new token when that answers 401.

    *provider* takes nothing and returns the token as a str, or as a `Token` that says when it expires, or an awaitable
    of either; a plain function is called in a thread, so it may wait. However many downloads meet the 401, it is asked
    once. Where there is only one token, it stands in the place of the provider. See `Scoped` for *within*.
    """

    provider: str | Provider = field(repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_provider("BearerToken", self.provider)
        if isinstance(self.provider, str):
            bearer(Token(self.provider))

    async def obtain(self, transfer: Transfer, need: Hashable) -> Grant:  # noqa: ARG002
        """Return the token that the provider gives."""
        return bearer(await _ask("BearerToken", self.provider), renewable=not isinstance(self.provider, str))


@dataclass(frozen=True)
class HeaderToken(Authorizer):
    """Sends a token in the header field *name*, such as ``PRIVATE-TOKEN`` or ``X-Api-Key``, to one origin.

    *token* is the value of the field, or a provider of it: see `BearerToken`. Raises ValueError for a name that is
    none (RFC 9110, section 5.1), or that of a field which says something else.
    """

    name: str
    token: str | Provider = field(repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ValueError(f"HeaderToken(name, …) is the name of a header field, not {self.name!r}")
        if self.name.lower() in _NOT_OURS:
            raise ValueError(f"HeaderToken(name, …): the header field {self.name} is no place for a token")
        _check_provider("HeaderToken", self.token)
        if isinstance(self.token, str):
            Token(self.token)

    async def obtain(self, transfer: Transfer, need: Hashable) -> Grant:  # noqa: ARG002
        """Return the token that the provider gives."""
        token = await _ask("HeaderToken", self.token)
        return Grant(((self.name, token.value),), expires=token.expires, renewable=not isinstance(self.token, str))


def bearer(token: Token, *, renewable: bool = True) -> Grant:
    """Return *token* as it is sent (RFC 6750, section 2.1). Raises ValueError for one with a blank in it."""
    if any(character.isspace() for character in token.value):
        raise ValueError("a bearer token holds no blanks: it is what stands behind the word Bearer")
    return Grant((("Authorization", f"Bearer {token.value}"),), expires=token.expires, renewable=renewable)


def _check_provider(plugin: str, provider: object) -> None:
    if not isinstance(provider, str) and not callable(provider):
        raise TypeError(f"{plugin} takes a token as a str, or a function that returns it")


async def _ask(plugin: str, provider: str | Provider) -> Token:
    if isinstance(provider, str):
        return Token(provider)
    if inspect.iscoroutinefunction(provider):
        answer = await provider()
    else:
        answer = await asyncio.to_thread(provider)
        if inspect.isawaitable(answer):
            answer = await answer
    if isinstance(answer, Token):
        return answer
    if not isinstance(answer, str) or not answer:
        raise TypeError(
            f"the provider of a {plugin} returns the token as a str or a Token, not {type(answer).__name__}"
        )
    return Token(answer)
