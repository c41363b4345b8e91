"""Tokens of container registries: https://distribution.github.io/distribution/spec/auth/token/."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode, urlsplit

from downhaul import BufferWriter, PolicyError, PreparationError, Retry, Settings, User, covers, hookimpl, origin, show
from downhaul.plugins._hosts import is_loopback
from downhaul.plugins._parsing.challenges import read_challenges

from .authority import Authorizer, Grant, checked_scope, is_refused
from .basic import BasicAuth, check_user
from .tokens import Token, bearer

if TYPE_CHECKING:
    from collections.abc import Hashable

    from downhaul import DownloadError, Transfer

_OF_REPOSITORY: Final = re.compile(r"(.*/v2/.+)/(?:manifests|blobs|tags|referrers)/[^/]+")
_SIZE: Final = 1024 * 1024  # bytes
_EXPIRES: Final = 60  # seconds, where the answer does not say
_SCOPES: Final = 20


@dataclass(frozen=True)
class RegistryToken(Authorizer):
    """Pulls from a container registry: asks its token server for what each repository needs, and sends the tokens.

    Without *name* and *password* it asks as nobody, which is enough for public images. They are sent to the registry's
    token server, or to the registry where that wants no tokens; to a token server of another origin only if it is
    within the URL *realm*. For Docker Hub::

        RegistryToken(name, password, realm="https://auth.docker.io/token", within="https://registry-1.docker.io")

    The first request for a repository goes without: the refusal tells where tokens are had, and for what. A token is
    for its repository, and goes nowhere else: not to the storage that a blob redirects to. Where a server wants a wider
    one, that is asked for once. *within* is the URL of the registry, or of a part of it; see `Scoped`.

    A registry by https that names a token server by http, or any that names one on this machine while it is elsewhere,
    is a PolicyError. Raises ValueError for what cannot be meant.
    """

    name: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    realm: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.name is None) != (self.password is None):
            raise ValueError("RegistryToken(name, password) takes both, or none of them")
        if self.name is not None and self.password is not None:
            check_user("RegistryToken", self.name, self.password)
        if self.realm is not None:
            object.__setattr__(self, "realm", checked_scope("RegistryToken(realm=…)", self.realm))

    def reach(self, transfer: Transfer) -> str:
        """Return the URL of the repository that is asked for something."""
        registry = super().reach(transfer)
        urls = (transfer.request.url, *(request.url for request in transfer.alternatives))
        return next((_repository(url) for url in urls if covers(registry, url)), registry)

    async def need(self, transfer: Transfer, reach: str) -> Hashable | None:
        """Return what the registry has said that it wants, or None before it has said anything."""
        return (await self._known(transfer, reach)).need

    async def obtain(self, transfer: Transfer, need: Hashable) -> Grant:
        """Return the user where the registry wants that, or else a token."""
        assert isinstance(need, _Need)
        if need.realm is None:
            return Grant(user=self._user(), renewable=False)
        return await self._token(transfer, need, need.realm)

    @hookimpl(tryfirst=True)
    async def error(self, transfer: Transfer, error: DownloadError) -> Retry | None:
        """Learn from a refusal what the registry wants; have a token that was refused renewed."""
        sent = self._sent(transfer)
        unknown, wider = is_refused(error, 401, sent.reach), is_refused(error, 403, sent.reach)
        if not (unknown or wider):
            return None
        known = await self._known(transfer, sent.reach)
        challenge = getattr(error, "headers", {}).get("WWW-Authenticate", "")
        needed, insufficient = self._read(challenge, sent.reach)
        if needed is not None and (unknown or insufficient):
            known.need = needed.joined(known.need) if insufficient else needed
            before = None if sent.grant is None else sent.need
            if known.need != before:
                return Retry() if sent.is_first(transfer, challenge) else None
        return await super().error(transfer, error)

    def _read(self, challenge: str, reach: str) -> tuple[_Need | None, bool]:
        """Return what is wanted by what can be given, and whether what was sent was not enough."""
        challenges = read_challenges(challenge)
        for each in challenges:
            if each.scheme == "bearer" and (realm := each.get("realm")):
                scopes = tuple(dict.fromkeys((each.get("scope") or "").split()))
                need = _Need(origin(reach), realm, each.get("service"), scopes)
                return need, each.get("error") == "insufficient_scope"
        if self.name is not None and any(each.scheme == "basic" for each in challenges):
            return _Need(origin(reach)), False
        return None, False

    def _user(self) -> User:
        return User(self.name or "", self.password or "")

    async def _known(self, transfer: Transfer, reach: str) -> _Repository:
        return await transfer.context.once(self, (_Repository, reach), _Repository.new)

    async def _token(self, transfer: Transfer, need: _Need, realm: str) -> Grant:
        self._check(need.registry, realm)
        place, _, query = realm.partition("#")[0].partition("?")
        asked = [*([("account", self.name)] if self.name is not None else []), *need.parameters()]
        url = f"{place}?{'&'.join(filter(None, (query, urlencode(asked))))}"
        writer = BufferWriter()
        nested = transfer.nested(self, url, writer)
        user = self._user()
        plugins = () if self.name is None else (BasicAuth(user.name, user.password, within=place),)
        bounded = nested.clone(plugins=(*plugins, *nested.plugins), settings=Settings(max_size=_SIZE))
        result = await bounded.run()
        return _read_token(writer.content(), result.headers.get("Date", ""), show(place))

    def _check(self, registry: str, realm: str) -> None:
        """Raise PolicyError where nothing is to be asked at *realm*, or not with our name."""
        try:
            place = checked_scope("the realm", realm.partition("#")[0].partition("?")[0])
        except ValueError as reason:
            raise PolicyError(f"the registry {registry} names a token server that cannot be asked: {reason}") from None
        scheme = urlsplit(place).scheme
        if scheme not in {"https", urlsplit(registry).scheme}:
            raise PolicyError(f"the registry {registry} names a token server by {scheme}: {show(place)}")
        if is_loopback(place) and not is_loopback(registry):
            raise PolicyError(f"the registry {registry} names a token server on this machine: {show(place)}")
        if self.name is not None and origin(place) != registry and not (self.realm and covers(self.realm, place)):
            raise PolicyError(
                f"the registry {registry} wants name and password to be sent to {show(place)}; if they are for that,"
                f" say so: RegistryToken(…, realm={show(place)!r})"
            )


@dataclass(frozen=True)
class _Need:
    """What a registry wants to be told: a token of *realm* for *scopes*; without a realm, who asks."""

    registry: str
    realm: str | None = None
    service: str | None = None
    scopes: tuple[str, ...] = ()

    def joined(self, other: _Need | None) -> _Need:
        """Return this need with the scopes of *other*, where it is of the same token server."""
        if other is None or (self.realm, self.service) != (other.realm, other.service):
            return self
        return replace(self, scopes=tuple(dict.fromkeys((*other.scopes, *self.scopes)))[-_SCOPES:])

    def parameters(self) -> list[tuple[str, str]]:
        """Return the query parameters of the request for the token."""
        service = [] if self.service is None else [("service", self.service)]
        return [*service, *(("scope", scope) for scope in self.scopes)]


@dataclass
class _Repository:
    """What is known of a repository."""

    need: _Need | None = None

    @classmethod
    async def new(cls) -> _Repository:
        return cls()


def _repository(url: str) -> str:
    """Return the URL of the repository that *url* is of; of what is of none, its own."""
    path = urlsplit(url).path
    match = _OF_REPOSITORY.fullmatch(path)
    return origin(url) + (match[1] if match is not None else path)


def _read_token(content: bytes, date: str, where: str) -> Grant:
    """Return the token in an answer that was sent at *date*; PreparationError where there is none."""
    try:
        answer = json.loads(content)
        expires = float(answer.get("expires_in") or _EXPIRES) - _age(answer.get("issued_at"), date)
        return bearer(Token(answer.get("token") or answer.get("access_token"), max(0.0, expires)))
    except (AttributeError, TypeError, ValueError, RecursionError):
        pass  # whose words may repeat the token
    raise PreparationError(f"the answer of the token server {where} holds no token that can be sent")


def _age(issued: object, date: str) -> float:
    """Return for how many seconds a token has been there, by the clock of its server alone."""
    try:
        return max(0.0, (parsedate_to_datetime(date) - datetime.fromisoformat(str(issued))).total_seconds())
    except (TypeError, ValueError):
        return 0.0
