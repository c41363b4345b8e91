"""What remotes share and what they never do: connections, tokens, mirror lists; counted at the servers."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from typing import TYPE_CHECKING

import pytest
from tests.acceptance.remotes import BODY, Authority, forms, site
from tests.servers.http import http_server
from tests.servers.squid import squid

from downhaul import TLS, Batch, BufferWriter, Context, User
from downhaul.plugins import BearerToken, MirrorList
from downhaul_http import HttpOptions

if TYPE_CHECKING:
    from pathlib import Path

    from downhaul import Download, Result

ROUNDS = 10


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Who vouches for everybody."""
    return Authority()


def everything(form: str, remotes: list[Context], urls: list[str], concurrency: int) -> list[Result]:
    """Fetch the URL of each remote `ROUNDS` times, by turns, through one context that is nobody's own."""

    def jobs(shared: Context) -> list[Download]:
        found = []
        for number in range(ROUNDS * len(remotes)):
            download = remotes[number % len(remotes)].download(urls[number % len(remotes)], BufferWriter(), retries=0)
            download.context = shared
            found.append(download)
        return found

    if form == "sync":
        with Context() as shared, Batch(jobs(shared), concurrency=concurrency, backlog=100) as batch:
            return [plan.result() for plan in batch()]

    async def work() -> list[Result]:
        async with Context() as shared, Batch(jobs(shared), concurrency=concurrency, backlog=100) as batch:
            return [plan.result() async for plan in batch()]

    return asyncio.run(work())


def remotes_by(kind: str, authority: Authority, tmp_path: Path) -> list[Context]:
    """Return two remotes that differ in *kind* only."""
    trust = authority.pem
    if kind == "client certificate":
        pairs = [authority.identity(name) for name in ("a@example.org", "b@example.org")]
        return [Context(tls=TLS(trust, certificate, key)) for certificate, key in pairs]
    mine = authority.identity("a@example.org")
    tls = TLS(trust, *mine)
    if kind == "authorities":
        return [Context(tls=tls), Context(tls=TLS(f"{trust}{Authority().pem}", *mine))]
    if kind == "verification":
        return [Context(tls=tls), Context(tls=TLS(trust, *mine, verify=False))]
    if kind == "options":
        return [Context(tls=tls), Context(tls=tls, options=[HttpOptions(keepalive_expiry=20)])]
    if kind == "user":
        return [Context(tls=tls, user=User(name, word)) for name, word in (("elmer", "secret"), ("fudd", "hidden"))]
    assert kind == "user or none"
    return [Context(tls=tls, user=User("elmer", "secret")), Context(tls=tls)]


@forms(9)
@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize(
    "kind", ["client certificate", "authorities", "verification", "options", "user", "user or none"]
)
def test_different_remotes_never_share_a_connection(form, concurrency, kind, authority, tmp_path) -> None:
    """Whatever remotes differ in, each connection carried one of them only, and carried it many times."""
    tls = authority.ca.issue_cert("localhost")
    with site(tmp_path / "site", tls=tls, client_ca=authority.pem) as origin:
        path = "/user/pkg.rpm" if kind == "user" else "/pkg.rpm"
        urls = [origin.url(f"{path}?remote={name}") for name in "ab"]
        results = everything(form, remotes_by(kind, authority, tmp_path), urls, concurrency)
        assert [result.size for result in results] == [len(BODY)] * ROUNDS * 2
        connections = origin.carried("target", 2 * ROUNDS)
        assert 2 <= len(connections) <= 2 * concurrency
        assert all(len(carried) == 1 for carried in connections.values())
        assert all(len(carried) == 1 for carried in origin.carried("serial", 2 * ROUNDS).values())
        assert len({visit.serial for visit in origin.visits()}) == (2 if kind == "client certificate" else 1)
        if kind == "user":
            assert {(visit.target[-1], visit.user) for visit in origin.visits()} == {("a", "elmer"), ("b", "fudd")}


@forms(9)
def test_equal_remotes_share(form, authority, tmp_path) -> None:
    """Remotes with equal settings use one connection, though nobody told them of each other."""
    tls = authority.ca.issue_cert("localhost")
    mine = authority.identity("a@example.org")
    with site(tmp_path / "site", tls=tls, client_ca=authority.pem) as origin:
        remotes = [Context(tls=TLS(authority.pem, *mine), user=User("elmer", "secret")) for _ in "ab"]
        everything(form, remotes, [origin.url(f"/user/pkg.rpm?remote={name}") for name in "ab"], 1)
        assert len(origin.carried("target", 2 * ROUNDS)) == 1


@forms(9)
def test_one_goes_through_a_proxy(form, tmp_path) -> None:
    """Of two remotes that differ in the proxy, only one is seen there."""
    with site(tmp_path / "site") as origin, squid() as proxy:
        remotes = [Context(proxy=proxy.url()), Context(proxy="")]
        urls = [origin.url(f"/pkg.rpm?remote={name}") for name in "ab"]
        everything(form, remotes, urls, 2)
        assert {line.target for line in proxy.lines(ROUNDS)} == {urls[0]}
        assert all(len(carried) == 1 for carried in origin.carried("target", 2 * ROUNDS).values())


@forms(9)
def test_users_of_one_proxy_have_their_own_connections(form) -> None:
    """Different credentials for one proxy: each connection to it carried one of them."""

    async def forward(exchange) -> None:
        await exchange.respond(body=BODY)

    with http_server(forward) as proxy:
        remotes = [Context(proxy=proxy.url("").replace("://", f"://{name}:word@")) for name in ("a", "b")]
        everything(form, remotes, ["http://dl.example.org/pkg.rpm"] * 2, 2)
        carried: dict[int, set[str | None]] = {}
        for exchange in proxy.requests:
            carried.setdefault(exchange.connection, set()).add(exchange.header("Proxy-Authorization"))
    assert all(len(each) == 1 for each in carried.values())
    expected = {f"Basic {b64encode(f'{name}:word'.encode()).decode()}" for name in ("a", "b")}
    assert set().union(*carried.values()) == expected


@forms(9)
def test_tokens_and_mirror_lists(form, tmp_path) -> None:
    """Equal plugins fetch once however many ask, unequal ones for themselves; no token goes to another's origin."""
    with (
        site(tmp_path / "mirror") as mirror,
        http_server(_token_site(mirror.url())) as a,
        http_server(_token_site(mirror.url())) as b,
    ):
        asked: list[str] = []

        def provider(name: str, url: str):
            def token() -> str:
                asked.append(name)
                return f"token-of-{name}"

            return BearerToken(token, within=url.rstrip("/"))

        token_a, token_b = provider("a", a.url()), provider("b", b.url())
        remotes = [
            Context(plugins=[token_a, MirrorList(a.url("/list"), replaces=a.url("/pub/"))]),
            Context(plugins=[MirrorList(a.url("/list"), replaces=a.url("/pub/")), token_a]),
            Context(plugins=[token_b, MirrorList(b.url("/list"), replaces=b.url("/pub/"))]),
        ]
        urls = [each.url(path) for each, path in ((a, "/pub/pkg.rpm"), (a, "/private"), (b, "/pub/pkg.rpm"))]
        assert len(everything(form, remotes, urls, 4)) == 3 * ROUNDS
        assert sorted(asked) == ["a", "b"]
        for origin, name in ((a, "a"), (b, "b")):
            assert [each.target for each in origin.requests].count("/list") == 1
            assert {each.header("Authorization") for each in origin.requests} == {f"Bearer token-of-{name}"}
        assert {visit.authorization for visit in mirror.visits(2 * ROUNDS)} == {""}
        assert len(mirror.visits()) == 2 * ROUNDS


def _token_site(mirror: str):
    async def answer(exchange) -> None:
        await exchange.respond(body=mirror.encode() if exchange.target == "/list" else BODY)

    return answer
