from __future__ import annotations

import asyncio
import importlib.util
import socket
from dataclasses import fields

import pytest
from tests.servers.http import http_server

import downhaul_http
from downhaul import Driver, Request, Settings
from downhaul_http import HttpDriver, HttpOptions


def test_exported():
    """What is public is listed, and nothing else is."""
    assert downhaul_http.__all__ == ["DigestAuth", "HttpDriver", "HttpOptions", "Transport"]
    assert issubclass(HttpDriver, Driver)
    assert HttpDriver.options == (HttpOptions,)


def test_every_option_is_documented():
    """The docstring of HttpOptions has a word on each option."""
    for each in fields(HttpOptions):
        assert f"`{each.name}`:" in HttpOptions.__doc__


def test_options_are_values():
    """Equal options are one key; the defaults need no argument."""
    assert HttpOptions() == HttpOptions(http1=True)
    assert hash(HttpOptions()) == hash(HttpOptions())
    assert Settings().complete().of(HttpOptions) == HttpOptions()


@pytest.mark.parametrize(
    "wrong",
    [
        {"http1": False},
        {"keepalive_expiry": -1},
        {"keepalive_expiry": float("nan")},
        {"max_idle_connections": -1},
        {"socket_options": ((socket.SOL_SOCKET, 9999, 1),)},
        {"socket_options": ((1, 2),)},
    ],
)
def test_wrong_options(wrong):
    """Options that make no sense are refused where they are made."""
    with pytest.raises(ValueError):
        HttpOptions(**wrong)


def test_http2_without_its_package(monkeypatch):
    """HTTP/2 without its package says which package is missing."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("downhaul_http._options.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="httpx\\[http2\\]"):
        HttpOptions(http2=True)


async def answer(exchange):
    """Answer with the address that the connection comes from."""
    await exchange.respond(body=str(exchange.writer.get_extra_info("peername")[0]).encode())


async def test_local_address(fetch):
    """A local address is where the connection comes from."""
    settings = Settings(options=[HttpOptions(local_address="127.0.0.2")]).complete()
    with http_server(answer) as server:
        assert (await fetch(Request(server.url()), settings))[1] == b"127.0.0.2"


async def test_socket_options(fetch):
    """Socket options are set on the socket."""
    option = (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    settings = Settings(options=[HttpOptions(socket_options=(option,))]).complete()
    with http_server(answer) as server:
        assert (await fetch(Request(server.url()), settings))[1] == b"127.0.0.1"


async def test_unix_socket(fetch, tmp_path):
    """A Unix socket answers for every host."""

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        await reader.read()
        writer.close()

    path = str(tmp_path / "socket")
    settings = Settings(options=[HttpOptions(unix_socket=path)]).complete()
    server = await asyncio.start_unix_server(serve, path)
    assert (await fetch(Request("http://any.invalid/"), settings))[1] == b"hello"
    server.close()


async def test_max_idle_connections(driver):
    """With no idle connections allowed, each request has its own."""
    settings = Settings(options=[HttpOptions(max_idle_connections=0)]).complete()
    with http_server(answer) as server:
        for _ in range(3):
            async with driver.open(Request(server.url()), settings) as payload:
                async for _ in payload.body:
                    pass
        assert server.connections == 3
