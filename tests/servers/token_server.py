"""A token server as a docker-registry wants it: it signs what it grants, and remembers who asked for what.

with token_server(users={"elmer": "secret"}, public={"library/files"}) as tokens:
... tokens.realm ... tokens.asked ... tokens.lifetimes = [Lifetime(accepted=2), Lifetime()] ...

Tokens are JSON Web Tokens (RFC 7519) signed with ES256, and carry the certificate of their key in `x5c` (RFC 7515,
section 4.1.6), which the registry verifies with the authority that it was given as its `rootcertbundle`.
"""

from __future__ import annotations

import json
import time
from base64 import b64decode, b64encode, urlsafe_b64encode
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlsplit

import trustme
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509 import load_pem_x509_certificate
from tests.servers.http import http_server

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Set

    from tests.servers.http import Exchange, HttpServer

SERVICE: Final = "registry.example.org"
ISSUER: Final = "tokens.example.org"
LEEWAY: Final = 60
"""Seconds after its end for which the registry still accepts a token."""


@dataclass(frozen=True)
class Lifetime:
    """For how many seconds the registry accepts a token, and what the client is told of it (None: nothing)."""

    accepted: float = 300.0
    announced: int | None = 300


@dataclass(frozen=True)
class Asked:
    """One request for a token: who asked ("" for nobody), for what, and the status that answered."""

    user: str
    service: str
    scopes: tuple[str, ...]
    status: int
    authorization: str = field(default="", repr=False)


class TokenServer:
    """A running token server.

    `lifetimes` are those of the tokens in turn, the last one stays. `asked` are all requests, `issued` all tokens.
    """

    def __init__(self, users: Mapping[str, str], public: Set[str], *, strict: bool) -> None:
        self.users = dict(users)
        self.public = set(public)
        self.strict = strict
        self.lifetimes = [Lifetime()]
        self.asked: list[Asked] = []
        self.issued: list[str] = []
        self.server: HttpServer
        authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
        identity = authority.issue_cert(ISSUER, key_type=trustme.KeyType.ECDSA)
        self.authority: Final = authority.cert_pem.bytes()
        self._key = serialization.load_pem_private_key(identity.private_key_pem.bytes(), None)
        leaf = load_pem_x509_certificate(identity.cert_chain_pems[0].bytes())
        self._chain = [b64encode(leaf.public_bytes(serialization.Encoding.DER)).decode()]

    @property
    def realm(self) -> str:
        """The URL that tokens are asked at."""
        return self.server.url("/token")

    def sign(self, access: list[dict[str, Any]], lifetime: Lifetime, subject: str = "") -> str:
        """Return a token for *access*, which the registry accepts for as long as *lifetime* says."""
        assert isinstance(self._key, ec.EllipticCurvePrivateKey)
        now = time.time()
        claims = {
            "iss": ISSUER, "sub": subject, "aud": SERVICE, "jti": str(len(self.issued)), "access": access,
            "nbf": int(now) - 600, "iat": int(now), "exp": int(now + lifetime.accepted) - LEEWAY,
        }  # fmt: skip
        parts = [_encoded({"typ": "JWT", "alg": "ES256", "x5c": self._chain}), _encoded(claims)]
        r, s = decode_dss_signature(self._key.sign(".".join(parts).encode(), ec.ECDSA(hashes.SHA256())))
        return ".".join((*parts, _base64(r.to_bytes(32, "big") + s.to_bytes(32, "big"))))

    async def answer(self, exchange: Exchange) -> None:
        """Answer one request, and take a note of it."""
        parts = urlsplit(exchange.target)
        query = parse_qsl(parts.query)
        scopes = tuple(scope for name, value in query if name == "scope" for scope in value.split())
        authorization = exchange.header("Authorization") or ""
        user = self._user(authorization)
        granted = [] if user is None else [each for each in map(self._granted, scopes, [user] * len(scopes)) if each]
        known = exchange.method == "GET" and parts.path == "/token"
        refused = user is None or (self.strict and not granted)
        status = 404 if not known else 401 if refused else 200
        self.asked.append(Asked(user or "", dict(query).get("service", ""), scopes, status, authorization))
        if status != 200:
            challenge = [("WWW-Authenticate", 'Basic realm="tokens"')] if status == 401 else []
            await exchange.respond(status, b'{"details": "refused"}', challenge)
            return
        lifetime = self.lifetimes.pop(0) if len(self.lifetimes) > 1 else self.lifetimes[0]
        token = self.sign(granted, lifetime, user or "")
        self.issued.append(token)
        answer: dict[str, Any] = {"token": token, "access_token": token}
        if lifetime.announced is not None:
            answer["expires_in"] = lifetime.announced
        await exchange.respond(200, json.dumps(answer).encode(), [("Content-Type", "application/json")])

    def _user(self, authorization: str) -> str | None:
        """Return who asks, "" for nobody, or None for who is not who they say."""
        scheme, _, coded = authorization.partition(" ")
        if not authorization:
            return ""
        name, _, password = b64decode(coded).decode().partition(":") if scheme.lower() == "basic" else ("", "", "")
        return name if name in self.users and self.users[name] == password else None

    def _granted(self, scope: str, user: str) -> dict[str, Any] | None:
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        if kind != "repository" or "pull" not in actions.split(",") or (not user and name not in self.public):
            return None
        return {"type": kind, "name": name, "actions": ["pull"]}


@contextmanager
def token_server(
    users: Mapping[str, str] | None = None, public: Set[str] = frozenset(), *, strict: bool = False
) -> Iterator[TokenServer]:
    """Run a token server that lets *users*, names to passwords, pull everything, and everybody what is *public*.

    Who may have nothing of what they asked for gets a token for nothing, as some servers do it; with *strict* 401, as
    others do.
    """
    tokens = TokenServer(users or {}, public, strict=strict)
    with http_server(tokens.answer) as tokens.server:
        yield tokens


def _encoded(value: object) -> str:
    return _base64(json.dumps(value, separators=(",", ":")).encode())


def _base64(value: bytes) -> str:
    return urlsafe_b64encode(value).rstrip(b"=").decode()
