"""The WSGI server of the standard library, with a thread for each connection, in a thread of this process."""

from __future__ import annotations

import io
import socket
import threading
from contextlib import contextmanager, suppress
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from downhaul.adapters.wsgi import relay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from downhaul import Download

PATIENCE: Final = 10.0  # seconds


@contextmanager
def serve(handle: Callable[[str], Download], **options: Any) -> Iterator[str]:
    """Answer every path with ``handle(path)`` relayed, *options* are those of `relay`; yield the base URL."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return relay(environ, start_response, handle(environ["PATH_INFO"]), **options)

    with running(app) as base:
        yield base


@contextmanager
def running(app: WSGIApplication, handler: type[WSGIRequestHandler] | None = None) -> Iterator[str]:
    """Run *app*; yield its base URL."""
    with _Server(("127.0.0.1", 0), handler or Quiet) as server:
        server.set_app(app)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="wsgiref")
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
            server.end_connections()


class Quiet(WSGIRequestHandler):
    """Says nothing of what it does, and sends the head of an answer in one piece, as most servers do."""

    wbufsize = 8192

    def log_message(self, *_: object) -> None:
        pass

    def get_stderr(self) -> io.StringIO:
        return io.StringIO()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 100

    def __init__(self, *arguments: Any) -> None:
        self._connections: dict[threading.Thread, socket.socket] = {}
        super().__init__(*arguments)

    def server_bind(self) -> None:
        """Do without asking for the name of this host, which can take long."""
        socket.socket.bind(self.socket, self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.server_address[:2]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        self._connections = {each: sock for each, sock in self._connections.items() if each.is_alive()}
        self._connections[thread] = request
        thread.start()

    def handle_error(self, *_: object) -> None:
        """Be silent about connections that are lost."""

    def end_connections(self) -> None:
        """End those that are open still, and wait until their threads, and those that served them, are gone."""
        for how, seconds in ((socket.SHUT_RD, 0.1), (socket.SHUT_RDWR, PATIENCE)):  # the latter ends them too well
            for thread, sock in self._connections.items():
                if thread.is_alive():
                    with suppress(OSError):
                        sock.shutdown(how)
            for thread in self._connections:
                thread.join(seconds)
        helpers = [thread for thread in threading.enumerate() if thread.name == "downhaul-adapters"]
        for thread in (*self._connections, *helpers):
            thread.join(PATIENCE)
            assert not thread.is_alive(), f"{thread.name} is still at work"
