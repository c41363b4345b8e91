"""Digest authentication (RFC 7616), calculated by httpx."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import httpx

from downhaul import AccessDenied, covers, hookimpl, show
from downhaul.plugins import Scoped, read_challenges

from ._requests import client_url, message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from contextlib import AbstractAsyncContextManager

    from downhaul import Payload, Request, Transfer
    from downhaul.plugins import Challenge

_TRIES: Final = 3
_log: Final = logging.getLogger("downhaul.tokens")


@dataclass(frozen=True)
class DigestAuth(Scoped):
    """Proves to one origin that it knows the *password* of *name*, without sending it (RFC 7616).

    The first request goes without; the refusal brings a challenge, which is answered. From then on the requests of the
    context are signed beforehand, each with the next count of the nonce, until the server has a new one. A signature is
    for one request: parts of a file, and each new start, have their own. None of this counts as an attempt.

    A signature is for one URL, too: a redirect leaves it behind, on the same origin too (unless it leads to below the
    URL), and what is refused behind a redirect is not answered. Give the URL that it leads to.

    A challenge is answered if it is Digest, its algorithm one that httpx has, and its quality of protection "auth" or
    none. Where another Authorization is sent, this keeps out of it. See `downhaul.plugins.Scoped` for *within*. Raises
    ValueError for a name that cannot be sent.
    """

    name: str = field(repr=False)
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.name, str) or not isinstance(self.password, str):
            raise TypeError("DigestAuth(name, password) takes two str")
        if not self.name.isprintable() or not _can_be_quoted(self.name):
            raise ValueError("DigestAuth(name, …): quotes, backslashes and control characters in a name cannot be sent")

    @hookimpl(trylast=True)
    def fetch(self, transfer: Transfer) -> AbstractAsyncContextManager[Payload] | None:
        """Answer by signed requests for what is within the reach; pass for everything else."""
        request = transfer.request
        ours = request.url.partition(":")[0].lower() in {"http", "https"} and covers(self.reach(transfer), request.url)
        taken = any(name.lower() == "authorization" for name, _ in request.fields())
        return self._open(transfer, request) if ours and not taken else None

    @asynccontextmanager
    async def _open(self, transfer: Transfer, request: Request) -> AsyncIterator[Payload]:
        session = await transfer.context.once(self, self.reach(transfer), self._begin)
        async with AsyncExitStack() as stack:
            yield await self._enter(stack, transfer, request, session)

    async def _enter(self, stack: AsyncExitStack, transfer: Transfer, request: Request, session: _Session) -> Payload:
        signed, answered = session.signed(request), False
        for _ in range(_TRIES - 1):
            try:
                return await stack.enter_async_context(transfer.open(self, signed))
            except AccessDenied as error:
                # Who was led elsewhere may come from anywhere.
                mine = error.code == 401 and error.source in {"", request.url}
                answer = session.answer(request, error.headers, again=answered) if mine else None
                if answer is None:
                    raise
                signed, answered = answer, True
        return await stack.enter_async_context(transfer.open(self, signed))

    async def _begin(self) -> _Session:
        return _Session(self.name, self.password)


class _Session:
    """The challenge that was answered last, and how often: httpx counts, and calculates."""

    def __init__(self, name: str, password: str) -> None:
        self._name, self._password = name, password
        self._auth: httpx.DigestAuth | None = None
        self._nonce: str | None = None
        self._warned = False

    def signed(self, request: Request) -> Request:
        """Return *request* with a signature, as soon as there is a challenge."""
        if self._auth is None:
            return request
        flow = self._auth.auth_flow(_as_sent(request))
        try:
            return _with(request, next(flow))
        finally:
            flow.close()

    def answer(self, request: Request, headers: Mapping[str, str], *, again: bool) -> Request | None:
        """Return *request* with the answer to a challenge in *headers*, or None where there is none to be given.

        To be challenged *again* is to be refused, unless it is about the nonce (RFC 7616, section 3.3, "stale").
        """
        challenges = [each for each in read_challenges(headers.get("WWW-Authenticate", "")) if each.scheme == "digest"]
        for challenge in challenges:
            nonce = challenge.get("nonce")
            if again and (challenge.get("stale") or "").lower() != "true":
                return None
            if nonce is not None and nonce == self._nonce and not again:
                return self.signed(request)  # others have had it meanwhile; who counts anew would repeat a count
            auth = httpx.DigestAuth(self._name, self._password)
            try:
                answered = _answered(auth, request, challenge)
            except (KeyError, ValueError, NotImplementedError, httpx.ProtocolError):
                continue  # an algorithm or a protection that the library does not have
            self._auth, self._nonce = auth, nonce
            return answered
        if challenges and not self._warned:
            self._warned = True
            _log.warning("%s: no Digest challenge is one that can be answered", show(request.url))
        return None


def _answered(auth: httpx.DigestAuth, request: Request, challenge: Challenge) -> Request:
    """Return *request* with the answer of *auth* to *challenge*, which it remembers."""
    if not all(_can_be_quoted(value) for _, value in challenge.parameters):
        raise ValueError("a value that the library would not quote")
    asked = _as_sent(request)
    flow = auth.auth_flow(asked)
    try:
        next(flow)
        fields = ", ".join(f'{name}="{value}"' for name, value in challenge.parameters)
        refusal = httpx.Response(401, headers={"WWW-Authenticate": f"Digest {fields}"}, request=asked)
        return _with(request, flow.send(refusal))
    finally:
        flow.close()


def _as_sent(request: Request) -> httpx.Request:
    return message(request, client_url(request)).for_client()


def _with(request: Request, signed: httpx.Request) -> Request:
    """Return *request* with the signature, bound to its URL."""
    place = request.url.partition("#")[0].partition("?")[0]
    within = place if covers(place, request.url) else None
    return request.authorized([("Authorization", signed.headers["Authorization"])], within=within)


def _can_be_quoted(text: str) -> bool:
    return {'"', "\\"}.isdisjoint(text)
