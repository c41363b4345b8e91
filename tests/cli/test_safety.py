"""What must never reach a terminal: steering characters, markup, secrets."""

from __future__ import annotations

import asyncio
import os
import pty
import select
import termios
import threading
from typing import TYPE_CHECKING

import pytest
from tests.servers.http import http_server

from downhaul.cli._output import plain

from .conftest import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "s3kr1t"


def on_terminal(
    start, *arguments: str, sight: bytes | None = None, then: Callable[[], object] | None = None
) -> tuple[int, bytes]:
    """Run the command on a terminal; return its exit code and all that was drawn. At the *sight*, call *then*."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    process = start(*arguments, stdout=theirs, stderr=theirs)
    os.close(theirs)
    drawn = b""
    with os.fdopen(ours, "rb", buffering=0) as screen:
        while select.select([screen], [], [], PATIENCE)[0]:
            try:
                drawn += screen.read(65536)
            except OSError:  # the other side is closed
                break
            if then is not None and sight is not None and sight in drawn:
                then()
                then = None
    return process.wait(PATIENCE), drawn


async def nasty(exchange) -> None:
    """Answer with a reason phrase that wants to be more than text."""
    await exchange.send(b"HTTP/1.1 404 \x1b]0;owned\x07[bold]\xe2\x80\xae[/bold]\x9b31m\r\nContent-Length: 0\r\n\r\n")


def test_control_characters_of_a_server_are_escaped(downhaul) -> None:
    """A reason phrase can neither steer the terminal nor be taken for markup; its text is shown as it came."""
    with http_server(nasty) as server:
        ended = downhaul("get", server.url("/a"))
        told = downhaul("get", "--json", server.url("/a"))
    assert ended.code == 8
    assert ended.said.isprintable()
    assert "[bold]" in ended.said
    assert told.records[0]["error"]["message"].isprintable()
    assert told.out.isascii()


def test_markup_is_literal_on_a_terminal(start) -> None:
    """What rich is given is text and no markup, in names of files and in errors."""
    with http_server(nasty) as server:
        code, drawn = on_terminal(start, "get", server.url("/[red]a[-red]"))
    assert code == 8
    assert b"[bold]" in drawn
    assert b"[red]a[-red]" in drawn
    assert b"\x1b]0;" not in drawn
    assert "\u202e".encode() not in drawn
    assert b"\x9b31m" not in drawn


def test_progress_is_drawn_on_a_terminal(start) -> None:
    """From what has been received, while it is under way; afterwards one line remains."""
    gate = threading.Event()

    async def slow(exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n" + bytes(500_000))
        await asyncio.to_thread(gate.wait, PATIENCE)
        await exchange.send(bytes(1_500_000))

    with http_server(slow) as server:
        code, drawn = on_terminal(start, "get", server.url("/[red]sail"), sight=b"0.5/2.0 MB", then=gate.set)
    assert code == 0
    assert gate.is_set()
    assert b"0 of 1 files" in drawn
    assert b"[red]sail: 2,000,000 bytes" in drawn


@pytest.mark.parametrize("arguments", [("-q",), ("--json",), ("-o", "-")])
def test_nothing_is_drawn_over_what_else_is_on_the_terminal(start, arguments) -> None:
    """With -q, and where the file or JSON goes to the same terminal, there is no display."""

    async def served(exchange) -> None:
        await exchange.respond(200, b"alpha")

    with http_server(served) as server:
        code, drawn = on_terminal(start, "get", *arguments, server.url("/a"))
    assert code == 0
    assert b"\x1b" not in drawn


def test_tables_are_drawn_on_a_terminal(start) -> None:
    """The demo, with its display: 80 columns are enough, and the end is the same as without a terminal."""
    code, drawn = on_terminal(start, "demo", "--files", "300")
    assert code == 0
    assert b"Traceback" not in drawn
    assert b"Files verified by reading them back: 300 of 300" in drawn
    assert "─".encode() in drawn


def test_plain_escapes_what_is_not_printable() -> None:
    """Control characters, bidirectional overrides, surrogates; everything else stays."""
    assert plain("é [b] \\ 漢") == "é [b] \\ 漢"
    assert plain("\x1b\x9b\n\u202e\udce9") == r"\x1b\x9b\n\u202e\udce9"


async def denied(exchange) -> None:
    """Refuse everything, redirect something."""
    if exchange.target.startswith("/away"):
        await exchange.respond(302, b"", [("Location", f"http://bob:{SECRET}@127.0.0.1:1/x?token={SECRET}")])
    else:
        await exchange.respond(403, b"")


@pytest.mark.parametrize(
    "arguments",
    [
        ["http://bob:{s}@{host}/a?token={s}"],
        ["http://bob:{s}@{host}/"],
        ["http://bob:{s}@{host}/a", "http://bob:{s}@{host}/b/a"],
        ["http://{host}/away?x={s}"],
        ["http://{host}/a", "--user", "bob:{s}"],
        ["http://{host}/a", "--header", "X-Key: {s}"],
        ["http://{host}/a", "--header", "X-Key {s}"],
        ["http://{host}/a", "--header", "X-Key {s}: x"],
        ["http://{host}/a", "--proxy", "http://bob:{s}@127.0.0.1:1"],
        ["http://{host}/a", "--proxy", "http://bob:{s}@127.0.0.1:99999"],
        ["http://{host}/a", "--proxy", "bob:{s}@127.0.0.1:1"],
        ["http://{host}/a", "--mirrorlist", "http://bob:{s}@{host}/list?token={s}"],
        ["http://{host}/a", "--mirrorlist", "http://bob:{s}@{host}:x/list"],
        ["http://{host}/a", "--mirrorlist", "//bob:{s}@{host}/list"],
        ["http://bob:{s}@{host}:x/a"],
        ["http://bob:{s}@[::1/a"],
        ["http:bob:{s}@{host}/a"],
        ["bob:{s}@{host}/a"],
        ["//bob:{s}@{host}/a"],
        ["gopher://bob:{s}@{host}/a"],
        ["ftp://bob:{s}@127.0.0.1:1/a"],
        ["http://bob:{s}@{host}/a", "--plugin", "nobody"],
    ],
)
def test_no_secret_is_in_any_output(downhaul, start, arguments) -> None:
    """Neither in URLs, good or malformed, nor in headers, users or proxies; as text, as JSON and on a terminal."""
    with http_server(denied) as server:
        host = f"127.0.0.1:{server.port}"
        given = ["get", "--retries", "0", *(argument.format(s=SECRET, host=host) for argument in arguments)]
        texts = [downhaul(*given), downhaul(*given, "--json")]
        code, drawn = on_terminal(start, *given)
    assert {ended.code for ended in texts} == {code}
    assert code != 0
    assert not [ended for ended in texts if SECRET in ended.out + ended.err]
    assert SECRET.encode() not in drawn


def test_a_secret_that_the_server_repeats_is_not_in_any_output(downhaul) -> None:
    """Credentials appear in no output, though a reason phrase may hold them."""

    async def parrot(exchange) -> None:
        await exchange.send(f"HTTP/1.1 403 {exchange.header('X-Key')} is bad\r\nContent-Length: 0\r\n\r\n".encode())

    with http_server(parrot) as server:
        ended = downhaul("get", "--header", f"X-Key: {SECRET}", server.url("/a"))
    assert ended.code == 8
    assert SECRET not in ended.err
