"""The driver keeps the contract of all drivers, against a real server."""

from __future__ import annotations

import os
import socket
from importlib.util import find_spec

import pytest
import trustme
from tests.servers.nginx import PROGRAM, nginx

from downhaul import TLS, Settings
from downhaul.testing import DriverContract
from downhaul_http import HttpDriver, HttpOptions

if PROGRAM is None and not os.environ.get("CI"):
    pytest.skip("nginx is not installed", allow_module_level=True)


class TestHttp(DriverContract):
    """The contract over HTTP/1.1."""

    http2 = False
    certificate = None

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def serve(cls, tmp_path_factory):
        """Run nginx for all tests of the class."""
        cls.root = tmp_path_factory.mktemp("root")
        with nginx(cls.root, tls=cls.certificate, http2=cls.http2) as cls.server:
            yield

    def make_driver(self):
        """Make a driver."""
        return HttpDriver()

    def url_of(self, content):
        """Publish a file."""
        name = str(len(list(self.root.iterdir())))
        (self.root / name).write_bytes(content)
        return self.server.url(f"/{name}")

    def replace_content(self, url, content):
        """Publish another file in its place."""
        (self.root / url.rpartition("/")[2]).write_bytes(content)

    def missing_url(self):
        """A URL without a file."""
        return self.server.url("/missing")

    def unreachable_url(self):
        """A URL without a server."""
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            return f"{self.server.scheme}://localhost:{unused.getsockname()[1]}/"


_CA = trustme.CA()


class TestHttps(TestHttp):
    """The contract over TLS."""

    certificate = _CA.issue_cert("localhost")
    settings = Settings(tls=TLS(ca_certificate=_CA.cert_pem.bytes().decode()))


_H2 = find_spec("h2") is not None


@pytest.mark.skipif(not _H2 and not os.environ.get("CI"), reason="h2 is not installed: httpx[http2]")
class TestHttp2(TestHttps):
    """The contract over HTTP/2."""

    http2 = True
    settings = Settings(tls=TestHttps.settings.tls, options=[HttpOptions(http2=True)] if _H2 else [])
