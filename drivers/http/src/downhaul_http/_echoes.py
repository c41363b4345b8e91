"""What a server, or a proxy before it, repeats of what it was sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from downhaul import Credentials, User

if TYPE_CHECKING:
    from downhaul import Request

    from ._heads import Head

_HARMLESS: Final = frozenset({
    "accept", "accept-encoding", "accept-language", "connection", "content-length", "content-type", "host",
    "if-modified-since", "if-none-match", "if-range", "range", "user-agent",
})  # fmt: skip
_CHALLENGES: Final = frozenset({"www-authenticate", "proxy-authenticate"})


class Echoes:
    """Hides what is secret in *request*, in what was sent for it, and in the URL of the *proxy* ("": none)."""

    def __init__(self, request: Request, head: Head, proxy: str) -> None:
        parts = urlsplit(proxy)
        user = User(unquote(parts.username), unquote(parts.password or "")) if parts.username else None
        sent = tuple(pair for pair in head.sent if pair[0] not in _HARMLESS)
        self._known = (*filter(None, (request.entitled,)), Credentials(request.origin, sent, user=user))

    def hidden(self, text: str, *, names: bool = True) -> str:
        """Return *text* with every secret replaced by ***; those of users' *names* too."""
        for each in self._known:
            text = each.hide(text, names=names)
        return text

    def hidden_in_field(self, name: str, value: str) -> str:
        """Return the *value* of the header field *name*: in a challenge, a user's name may be that of a scope."""
        return self.hidden(value, names=name.lower() not in _CHALLENGES)
