"""twisted.web: what the contract says, and what is its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from tests.adapters.contract import FREED, RelayContract, remote_and_handle
from tests.adapters.wire import DATA, PATIENCE, Client, Remote
from tests.fronts.twisted import call, listening, serve
from tests.servers.http import http_server
from twisted.internet import reactor

from downhaul.adapters.twisted import Relay

if TYPE_CHECKING:
    from pathlib import Path

ALONE = """
import sys, threading
from importlib import import_module
import_module(f"twisted.internet.{sys.argv[1]}").install()
from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import Site
from downhaul import Download
from downhaul.adapters.twisted import Relay

class Everything(Resource):
    isLeaf = True
    relay = Relay()
    def render_GET(self, request):
        return self.relay.render(request, Download(sys.argv[2] + request.path.decode()))

port = reactor.listenTCP(0, Site(Everything()), interface="127.0.0.1")
print(port.getHost().port, flush=True)
reactor.run()
print(*(thread.name for thread in threading.enumerate()))
"""


class TestTwisted(RelayContract):
    serve = staticmethod(serve)


@pytest.mark.parametrize("name", ["epollreactor", "selectreactor", "asyncioreactor"])
def test_reactor_stops(name: str) -> None:
    """Whichever reactor stops, it resets what is under way, lets the remote go, and leaves no thread."""
    with http_server(Remote()) as remote:
        command = [sys.executable, "-W", "error", "-c", ALONE, name, remote.url("")]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
            try:
                with Client(f"http://127.0.0.1:{process.stdout.readline().strip()}") as client:
                    client.ask("/stalled-unsized", version="1.0")
                    client.read_some()
                    process.terminate()
                    assert client.read().end == "reset"
                assert "downhaul-twisted" not in process.stdout.read().split()
                remote.wait_until(lambda remote: remote.open == 0, FREED)
                process.wait(PATIENCE)
            finally:
                process.kill()


def test_close_leaves_no_thread() -> None:
    """A relay has one thread, however many requests, and none once it is closed."""
    with remote_and_handle() as (_, _, handle):
        with serve(handle) as base, Client(base) as one, Client(base) as other:
            one.ask("/stalled")
            other.ask("/stalled")
            one.read_some()
            other.read_some()
            assert _threads() == 1
        assert _threads() == 0


def test_closed_relay_takes_no_request() -> None:
    """A relay can be closed again, and unused; then it refuses requests."""
    relay = Relay(reactor)
    call(relay.close)
    call(relay.close)
    with pytest.raises(RuntimeError, match="closed"):
        call(relay.render, None, None)


def test_type_is_not_invented() -> None:
    """Where the remote tells no Content-Type, neither does the answer; Twisted would say that it is HTML."""
    with remote_and_handle() as (_, _, handle), serve(handle) as base, Client(base) as client:
        assert "Content-Type" not in client.get("/file").fields


def test_local_socket_knows_no_reset(tmp_path: Path) -> None:
    """Over a local socket an HTTP/1.0 client would take a lost connection for the end: no file of unknown size."""
    path = str(tmp_path / "socket")

    def ask(target: str, version: str) -> tuple[int, bytes]:
        with Client.at(path) as client:
            got = client.get(target, version=version)
        return got.status, got.body

    with remote_and_handle() as (_, _, handle), listening(handle, lambda site: reactor.listenUNIX(path, site)):
        assert ask("/unsized", "1.0")[0] == 502
        assert ask("/unsized", "1.1") == (200, DATA)
        assert ask("/file", "1.0") == (200, DATA)


def _threads() -> int:
    return sum(thread.name == "downhaul-twisted" for thread in threading.enumerate())
