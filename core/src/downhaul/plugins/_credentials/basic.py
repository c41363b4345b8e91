"""User and password for an origin (RFC 7617; RFC 959, section 4.1.1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from downhaul import User

from .authority import Authorizer, Grant

if TYPE_CHECKING:
    from collections.abc import Hashable

    from downhaul import Transfer


@dataclass(frozen=True)
class BasicAuth(Authorizer):
    """Sends a user's *name* and *password* unasked: as Basic by HTTP, as USER and PASS by FTP.

    ``Settings(user=…)`` does the same for the download's own origin; this is for another one, such as a mirror, or for
    a part of one. Raises ValueError for what cannot be sent, TypeError for what is no str.
    """

    name: str = field(repr=False)
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_user("BasicAuth", self.name, self.password)

    async def obtain(self, transfer: Transfer, need: Hashable) -> Grant:  # noqa: ARG002
        """Return the user, who is always the same."""
        return Grant(user=User(self.name, self.password), renewable=False)


def check_user(plugin: str, name: str, password: str) -> None:
    """Raise ValueError where *name* or *password* would break the request that they are sent with."""
    if not isinstance(name, str) or not isinstance(password, str):
        raise TypeError(f"{plugin}(name, password) takes two str")
    if any(ord(character) < 0x20 or character == "\x7f" for character in name + password):
        raise ValueError(f"{plugin}(name, password): one of them holds a line break or another control character")
