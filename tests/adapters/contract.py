"""What holds for every adapter of a server that reads and writes sockets itself; see `RelayContract`."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from tests.adapters.wire import CUT, DATA, KIB, LARGE, MIB, TAG, Client, Remote
from tests.servers.http import Thread, http_server

from downhaul import Context, Download

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.adapters.wire import Got
    from tests.servers.http import HttpServer

FREED = 1.0  # seconds from a client's leaving until the remote is let go


@dataclass(frozen=True, slots=True)
class Site:
    """A server that relays what a remote has."""

    base: str
    remote: HttpServer
    script: Remote

    def get(self, path: str, *fields: str, **options: str) -> Got:
        """Ask over a connection of its own, and return the answer."""
        with Client(self.base) as client:
            return client.get(path, *fields, **options)

    def is_freed(self) -> bool:
        """Wait until the remote is let go: a connection on which all has come may wait for the next answer."""
        self.remote.wait_until(lambda remote: not remote.busy and remote.open <= 1, FREED)
        return True


@contextmanager
def remote_and_handle() -> Iterator[tuple[HttpServer, Remote, Callable[[str], Download]]]:
    """Run a remote, and a context with a loop of its own; yield it, its script, and what makes a download of a path."""
    script = Remote()
    with http_server(script) as remote, Context() as context:
        yield remote, script, lambda path: Download(remote.url(path), context=context, retries=0)


def on_another_loop(
    serve: Callable[..., AbstractContextManager[str]],
) -> Callable[..., AbstractContextManager[str]]:
    """Return the front *serve* with a context in the place of the download's, bound to a loop of another thread."""

    @contextmanager
    def serve_with_it(handle: Callable[[str], Download], **options: Any) -> Iterator[str]:
        context = Context()

        def bound(path: str) -> Download:
            download = handle(path)
            download.context = context
            return download

        with Thread() as thread:
            thread.run(context.__aenter__())
            try:
                with serve(bound, **options) as base:
                    yield base
            finally:
                thread.run(context.__aexit__(None, None, None))

    return serve_with_it


class RelayContract:
    """Derive from it, and give `serve`, a front; each test has a server, and a remote with a `Context` between them."""

    serve: Callable[..., AbstractContextManager[str]]

    @contextmanager
    def running(self, **options: Any) -> Iterator[Site]:
        """Run the server, the remote, and a context with a loop of its own."""
        with remote_and_handle() as (remote, script, handle), self.serve(handle, **options) as base:
            yield Site(base, remote, script)

    @pytest.fixture
    def site(self) -> Iterator[Site]:
        """Give a running server."""
        with self.running() as site:
            yield site

    def test_whole(self, site: Site) -> None:
        """A GET gets the file, its length and its entity tag."""
        got = site.get("/file")
        assert (got.status, got.body, got.end) == (200, DATA, "complete")
        assert got.fields["Content-Length"] == str(len(DATA))
        assert got.fields["ETag"] == TAG

    def test_connection_serves_again(self, site: Site) -> None:
        """Answers of each kind end where they should: the connection is good for the next request."""
        with Client(site.base) as client:
            assert client.get("/file", method="HEAD").fields["Content-Length"] == str(len(DATA))
            assert client.get("/file", f"If-None-Match: {TAG}").status == 304
            assert client.get("/file", method="POST").status == 405
            assert client.get("/missing", method="HEAD").status == 404
            assert client.get("/missing").status == 404
            assert client.get("/unsized").body == DATA
            assert client.get("/file").body == DATA

    def test_head(self, site: Site) -> None:
        """A HEAD gets the fields of a GET, and of the remote nothing more is asked than that."""
        got = site.get("/file", method="HEAD")
        assert (got.status, got.fields["Content-Length"], got.fields["ETag"]) == (200, str(len(DATA)), TAG)
        assert [each.method for each in site.remote.requests] == ["HEAD"]

    def test_range(self, site: Site) -> None:
        """One range is a 206 with these bytes."""
        got = site.get("/file", "Range: bytes=1000-1999")
        assert (got.status, got.body) == (206, DATA[1000:2000])
        assert got.fields["Content-Range"] == f"bytes 1000-1999/{len(DATA)}"

    def test_not_modified(self, site: Site) -> None:
        """Who has the file is told so."""
        got = site.get("/file", f"If-None-Match: {TAG}")
        assert (got.status, got.body, got.fields["ETag"]) == (304, b"", TAG)

    def test_missing(self, site: Site) -> None:
        """What the remote does not have is a 404."""
        got = site.get("/missing")
        assert (got.status, got.body) == (404, b"Not delivered: NotFound.\n")

    def test_other_methods(self, site: Site) -> None:
        """A POST is told what is allowed."""
        got = site.get("/file", "Content-Length: 0", method="POST")
        assert (got.status, got.fields["Allow"]) == (405, "GET, HEAD")

    def test_unsized(self, site: Site) -> None:
        """A file of unknown size ends with the last chunk."""
        got = site.get("/unsized")
        assert (got.status, got.body, got.end) == (200, DATA, "complete")
        assert "Content-Length" not in got.fields

    @pytest.mark.parametrize("wish", ["close", "keep-alive"])
    def test_unsized_in_http_1_0(self, site: Site, wish: str) -> None:
        """To a client without chunks a file of unknown size ends with the connection, whatever it wishes."""
        got = site.get("/unsized", f"Connection: {wish}", version="1.0")
        assert (got.status, got.body, got.end) == (200, DATA, "closed")

    @pytest.mark.parametrize(
        ("path", "version"), [("/cut", "1.1"), ("/cut-unsized", "1.1"), ("/cut", "1.0"), ("/cut-unsized", "1.0")]
    )
    def test_break_is_a_reset(self, site: Site, path: str, version: str) -> None:
        """A download that breaks half-way resets the connection: no client takes what it has for the file."""
        got = site.get(path, version=version)
        assert (got.status, got.end) == (200, "reset")
        assert got.body == DATA[: len(got.body)]
        assert len(got.body) < CUT

    def test_break_of_what_is_held_back(self) -> None:
        """A download that breaks while all of it is held back is a proper status."""
        with self.running(hold_back=1024 * KIB) as site:
            got = site.get("/cut")
        assert (got.status, got.end) == (502, "complete")

    def test_hang_up_between_blocks(self, site: Site) -> None:
        """A client that hangs up frees the remote, though no block comes that could not be sent."""
        with Client(site.base) as client:
            client.ask("/stalled")
            assert client.read_head()[0] == 200
            client.read_until_quiet()
        assert site.is_freed()

    def test_hang_up_before_the_head(self, site: Site) -> None:
        """A client that hangs up frees the remote, though that has not answered yet."""
        with Client(site.base) as client:
            client.ask("/silent")
            site.remote.wait_until(lambda remote: len(remote.requests) == 1)
        assert site.is_freed()

    def test_hang_up_of_who_does_not_read(self, site: Site) -> None:
        """A client that hangs up frees the remote, though the server had to wait for it."""
        with Client(site.base, buffer=64 * KIB) as client:
            client.ask("/large")
            assert site.script.held.wait(20)
        assert site.is_freed()

    def test_back_pressure(self, site: Site) -> None:
        """A client that does not read holds the remote back, and gets everything once it reads."""
        with Client(site.base, buffer=64 * KIB) as client:
            client.ask("/large")
            assert site.script.held.wait(20)
            assert site.script.sent < 12 * MIB  # what the kernel keeps for three connections
            got = client.read()
        assert (len(got.body), got.end) == (LARGE, "complete")

    @pytest.mark.parametrize(("path", "version"), [("/stalled", "1.1"), ("/stalled-unsized", "1.0")])
    def test_server_stops(self, path: str, version: str) -> None:
        """A server that stops in the middle of an answer resets the connection, and lets the remote go."""
        with remote_and_handle() as (remote, script, handle):
            with self.serve(handle) as base:
                client = Client(base)
                client.ask(path, version=version)
                client.read_some()
            with client:
                assert client.read().end == "reset"
            assert Site(base, remote, script).is_freed()

    def test_context_closes(self) -> None:
        """A context that is closed in the middle of an answer resets the connection; later there is none to ask."""
        with remote_and_handle() as (remote, script, handle), self.serve(handle) as base:
            with Client(base) as client:
                client.ask("/stalled-unsized", version="1.0")
                client.read_some()
                handle("/").context.close()
                assert client.read().end == "reset"
            assert Site(base, remote, script).get("/file").status == 500
