from __future__ import annotations

import contextlib
import logging

import httpx
import pytest
from tests.servers.http import head, http_server

from downhaul import DownloadError, ProxyError, Redirected, Request, Settings, User
from downhaul_http import HttpDriver

CANARY = "canary"


async def script(exchange):
    """Answer with secrets in every place that has room for one."""
    secrets = [("Set-Cookie", f"session={CANARY}"), ("X-Next", f"https://host/?sig={CANARY}")]
    if exchange.target.startswith("/to"):
        await exchange.respond(302, headers=[("Location", f"/x?sig={CANARY}"), *secrets])
    elif exchange.target.startswith("/none"):
        await exchange.respond(404, headers=secrets)
    elif exchange.target.startswith("/bad"):
        await exchange.send(f"HTTP/1.1 200 OK\r\nSet-Cookie: {CANARY}\r\n\0\r\n\r\n".encode())
    else:
        await exchange.send(head(200, [("Transfer-Encoding", "chunked"), *secrets]), b"1\r\nx\r\n")
        await exchange.send(f"0\r\nX-Trailer: {CANARY}\r\n\r\n".encode())


def asking(url):
    """A request with secrets in every place that has room for one."""
    return Request(url).authorized([("X-Key", CANARY)], [("token", CANARY)], User("name", CANARY))


async def everything(driver, server, settings):
    """See everything happen that is logged: files, redirects, refusals, failures."""
    for path in ("/file", "/to", "/none", "/bad", None):
        url = f"http://127.0.0.1:1/?sig={CANARY}" if path is None else server.url(f"{path}?sig={CANARY}")
        with contextlib.suppress(Redirected, DownloadError):
            async with driver.open(asking(url), settings) as payload:
                async for _ in payload.body:
                    pass
    assert [each.target.partition("?")[0] for each in server.requests] == ["/file", "/to", "/none", "/bad"]


@pytest.mark.parametrize("own", [False, True])
async def test_no_secret_in_any_log(own, caplog, settings, road):
    """At DEBUG, no logger of any library shows a credential, a query value or a cookie."""
    caplog.set_level(logging.DEBUG)
    with http_server(script) as server:
        if own:
            async with httpx.AsyncClient(trust_env=False) as client:
                await everything(HttpDriver(client=client), server, settings)
        else:
            driver = HttpDriver()
            await everything(driver, server, settings)
            await driver.aclose()
    names = {record.name for record in caplog.records}
    assert ("httpcore.http11" in names) == (own or road == "library")
    assert ("httpx" in names) == own
    assert CANARY not in caplog.text
    assert "sig=" not in caplog.text
    if own:
        assert "/file" in caplog.text


async def test_no_password_of_a_proxy_in_any_log(caplog):
    """The password of a proxy appears in no log."""
    caplog.set_level(logging.DEBUG)

    async def refuse(exchange):
        await exchange.respond(407, headers=[("Proxy-Authenticate", f"Basic realm={CANARY}")])

    with http_server(refuse) as proxy:
        settings = Settings(proxy=proxy.url().replace("://", f"://name:{CANARY}@")).complete()
        driver = HttpDriver()
        for url in ("http://host.invalid/", "https://host.invalid/"):
            with pytest.raises(ProxyError):
                async with driver.open(Request(url), settings):
                    pass
        await driver.aclose()
    assert "httpcore.http11" in {record.name for record in caplog.records}
    assert CANARY not in caplog.text


async def test_the_records_of_others_pass_as_they_are(caplog, settings):
    """Somebody else's use of httpx in the same program logs what it always did."""
    caplog.set_level(logging.DEBUG)
    driver = HttpDriver()
    with http_server(script) as server:
        async with driver.open(Request(server.url("/file")), settings) as payload:
            async with httpx.AsyncClient(trust_env=False) as client:
                await client.get(server.url(f"/file?sig={CANARY}"))
            async for _ in payload.body:
                pass
    await driver.aclose()
    assert f"sig={CANARY}" in caplog.text
    assert f"session={CANARY}" in caplog.text
