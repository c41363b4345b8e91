"""A client that the user made, in place of the driver's pools."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx

    from downhaul import IdleConnections, Request, Settings

    from ._senders import Send, Sender


class OwnClient:
    """A client that the user made: used for every request, never closed.

    What it was told about redirects, cookies, parameters and its base URL is not used. Its header fields and its
    authentication are, as a user's, for the origin of the download, never for a mirror or where a redirect leads.
    """

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def take(
        self,
        request: Request,
        settings: Settings,  # noqa: ARG002 - the client has its own
        idle: IdleConnections,  # noqa: ARG002 - so are its connections
    ) -> Sender:
        """Return what sends *request* through the client."""
        return _ClientSender(self._client, at_home=request.at_home)

    async def give_back(self, sender: Sender, *, clean: bool) -> None:
        """Do nothing: the client is not ours."""

    async def aclose(self) -> None:
        """Do nothing: the client is not ours."""


class _ClientSender:
    def __init__(self, client: httpx.AsyncClient, *, at_home: bool) -> None:
        self.send: Send = partial(
            client.send, stream=True, follow_redirects=False, auth=client.auth if at_home else None
        )
        self.proxied = False
        self.defaults = [pair for pair in client.headers.raw if _is_set_by_user(*pair)] if at_home else []


def _is_set_by_user(name: bytes, value: bytes) -> bool:
    # httpx sets these by itself; of the last one only its own value.
    name = name.lower()
    return name not in {b"accept", b"accept-encoding", b"connection"} and not (
        name == b"user-agent" and value.startswith(b"python-httpx/")
    )
