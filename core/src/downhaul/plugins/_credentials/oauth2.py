"""Tokens of OAuth 2.0 for machines: client credentials and refresh tokens (RFC 6749, sections 4.4 and 6)."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import parse_qsl, urlsplit

from downhaul import (
    BufferWriter,
    Credentials,
    Download,
    Plugin,
    PluginError,
    PreparationError,
    Settings,
    covers,
    hookimpl,
    origin,
    show,
)
from downhaul.plugins._hosts import is_loopback

from .authority import Authorizer
from .tokens import Token, bearer

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from downhaul import Transfer

    from .authority import Grant

_SIZE: Final = 1024 * 1024  # bytes
_SHOWN: Final = 500
_METHODS: Final = ("client_secret_basic", "client_secret_post", "none")


class _Client(Authorizer):
    """What the two grants have in common: a client of a token endpoint, and how that is asked."""

    token_url: str
    client_id: str
    client_secret: str | None
    scope: str | None
    audience: str | None
    auth_method: str
    _texts: ClassVar[tuple[str, ...]] = ()
    """The fields that are texts and may not be left out."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({show(self.token_url)!r}, {self.client_id!r}, within={self.within!r})"

    def __post_init__(self) -> None:
        super().__post_init__()
        plugin = type(self).__name__
        for name in ("token_url", "client_id", *self._texts):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise TypeError(f"{plugin}({name}) is a str, not {type(value).__name__}")
            if not value:
                raise ValueError(f"{plugin}({name}) is empty")
        for name in ("client_secret", "scope", "audience"):
            if not isinstance(getattr(self, name), str | None):
                raise TypeError(f"{plugin}({name}=…) is a str, or None")
        _check_endpoint(plugin, self.token_url)
        if self.auth_method not in _METHODS:
            raise ValueError(f"{plugin}(auth_method=…) is one of {', '.join(_METHODS)}; not {self.auth_method!r}")
        basic = f"{self.client_id}{self.client_secret}"
        cannot = not basic.isprintable() or max(basic) > "\xff" or ":" in self.client_id
        if self.auth_method == _METHODS[0] and cannot:
            raise ValueError(
                f"{plugin}: client_secret_basic sends what is in ISO 8859-1, and no colon in the client_id;"
                ' auth_method="client_secret_post" sends everything'
            )

    async def _ask(self, transfer: Transfer, grant_type: str, **parameters: str | None) -> dict[str, Any]:
        """Post what the endpoint wants to know, and return its answer."""
        body, headers = self._post(grant_type, parameters)
        post = _Post(self.token_url, (*headers, ("Accept", "application/json")), tuple(parse_qsl(body, True)))
        writer = BufferWriter()
        nested = transfer.nested(self, self.token_url, writer)
        await nested.clone(plugins=(post, *nested.plugins), settings=Settings(max_size=_SIZE)).run()
        answer = _object(writer.content())
        if "error" not in answer:
            return answer
        secrets = Credentials("", post.headers, form=(*post.form, ("", self.client_secret or "")))
        told = secrets.hide(f"{answer['error']} {answer.get('error_description', '')}".strip())
        raise PreparationError(f"the token endpoint {show(self.token_url)} refuses: {told[:_SHOWN]}")

    def _post(self, grant_type: str, parameters: dict[str, str | None]) -> tuple[str, list[tuple[str, str]]]:
        """Return the body, and the header fields, of the request for a token."""
        try:
            from authlib.oauth2.auth import ClientAuth
            from authlib.oauth2.rfc6749.parameters import prepare_token_request
        except ImportError:
            raise PluginError(
                f"{type(self).__name__} needs the package authlib: pip install 'downhaul[oauth2]'"
            ) from None
        wanted = {"scope": self.scope, "audience": self.audience, **parameters}
        body = prepare_token_request(grant_type, "", **{name: value for name, value in wanted.items() if value})
        client = ClientAuth(self.client_id, self.client_secret, self.auth_method)
        headers: dict[str, str] = {}
        _, headers, body = client.prepare("POST", self.token_url, headers, body)
        return body, list(headers.items())

    def _grant(self, answer: dict[str, Any]) -> Grant:
        """Return the token in *answer* as it is sent."""
        from authlib.oauth2.rfc6749 import OAuth2Token

        if str(answer.get("token_type") or "Bearer").lower() == "bearer":
            try:
                expires = OAuth2Token({"expires_in": answer.get("expires_in")}).get("expires_at")
                seconds = None if expires is None else max(0.0, expires - time.time())
                return bearer(Token(answer.get("access_token", ""), seconds))
            except (TypeError, ValueError, OverflowError):
                pass  # whose words may repeat the token
        raise PreparationError(f"the answer of the token endpoint {show(self.token_url)} holds no token to be sent")


@dataclass(frozen=True, repr=False)
class OAuth2ClientCredentials(_Client):
    """Sends a token that the token endpoint at *token_url* gives to a client (RFC 6749, section 4.4).

    *scope* is what the token is to be for, words with blanks between them; *audience* is who it is for, where a server
    wants to be told. *auth_method* is how the client says who it is: ``client_secret_basic``, ``client_secret_post`` or
    ``none``. See `Scoped` for *within*: where the token goes, which is not the endpoint.

    Needs ``pip install 'downhaul[oauth2]'``. Raises ValueError for an endpoint that is not asked by https, unless it is
    on this machine, and for what else cannot be meant.
    """

    token_url: str
    client_id: str
    client_secret: str = field(repr=False)
    scope: str | None = None
    audience: str | None = None
    auth_method: str = field(default="client_secret_basic", kw_only=True)
    _texts = ("client_secret",)

    async def obtain(self, transfer: Transfer, need: Hashable) -> Grant:  # noqa: ARG002
        """Return a new token."""
        return self._grant(await self._ask(transfer, "client_credentials"))


@dataclass(frozen=True, repr=False)
class OAuth2RefreshToken(_Client):
    """Sends a token that the token endpoint at *token_url* gives for a *refresh_token* (RFC 6749, section 6).

    Where an answer brings another refresh token, that is used the next time, for as long as the context lives; *keep*
    is called with it, in a thread, so that it may outlive the context. A client without a secret says its name only.
    For the rest see `OAuth2ClientCredentials`.
    """

    token_url: str
    refresh_token: str = field(repr=False)
    client_id: str
    client_secret: str | None = field(default=None, repr=False)
    scope: str | None = None
    audience: str | None = None
    keep: Callable[[str], object] | None = field(default=None, repr=False, kw_only=True)
    auth_method: str = field(default="", kw_only=True)
    _texts = ("refresh_token",)

    def __post_init__(self) -> None:
        if not self.auth_method:
            object.__setattr__(self, "auth_method", _METHODS[0] if self.client_secret is not None else _METHODS[-1])
        super().__post_init__()
        if self.keep is not None and not callable(self.keep):
            raise TypeError("OAuth2RefreshToken(keep=…) is a function that takes the new refresh token")

    async def obtain(self, transfer: Transfer, need: Hashable) -> Grant:
        """Return a new token, and remember the refresh token that came with it."""
        assert isinstance(need, _Rotation)
        answer = await self._ask(transfer, "refresh_token", refresh_token=need.token)
        following = answer.get("refresh_token")
        if isinstance(following, str) and following not in {"", need.token}:
            need.token = following
            if self.keep is not None:
                await asyncio.to_thread(self.keep, following)
        return self._grant(answer)

    async def need(self, transfer: Transfer, reach: str) -> Hashable:  # noqa: ARG002
        """Return what holds the refresh token, which is so in use for as long as the tokens are."""
        return await transfer.context.once(self, _Rotation, self._begin)

    async def _begin(self) -> _Rotation:
        return _Rotation(self.refresh_token)


@dataclass(eq=False)
class _Rotation:
    """The refresh token to be used next."""

    token: str = field(repr=False)


@dataclass(frozen=True)
class _Post(Plugin):
    """Makes a nested download a request for a token."""

    url: str = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    form: tuple[tuple[str, str], ...] = field(repr=False)

    @hookimpl(trylast=True)
    async def prepare(self, transfer: Transfer) -> None:
        """Add the form, and who sends it."""
        transfer.authorize(self.url, self.headers, form=self.form)


def _object(content: bytes) -> dict[str, Any]:
    """Return the answer of an endpoint; one that is none holds nothing."""
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _check_endpoint(plugin: str, url: str) -> None:
    parts = urlsplit(Download(url).url)
    if "@" in parts.netloc or parts.fragment or not covers(url, url) or not parts.hostname:
        raise ValueError(f"{plugin}(token_url) is a URL without user, dots and fragment; not {show(url)!r}")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(origin(url))):
        raise ValueError(f"{plugin}(token_url) is asked by https, or on this machine; not {show(url)!r}")
