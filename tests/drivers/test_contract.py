"""The drivers keep their contract with real servers."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
import trustme
from tests.servers.nginx import nginx
from tests.servers.vsftpd import vsftpd

from downhaul import TLS, Settings
from downhaul.testing import DriverContract
from downhaul_ftp import FtpDriver
from downhaul_http import HttpDriver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def closed_port() -> int:
    """Return a port of the loopback on which nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


class Published(DriverContract):
    """What the suites have in common: files of a directory that a server serves."""

    root: Path

    def url_of(self, content: bytes) -> str:
        name = f"file-{len(list(self.root.iterdir()))}"
        (self.root / name).write_bytes(content)
        return self.url(name)

    def missing_url(self) -> str:
        return self.url("missing")

    def replace_content(self, url: str, content: bytes) -> None:
        (self.root / url.rpartition("/")[2]).write_bytes(content)

    def url(self, name: str) -> str:
        raise NotImplementedError


class TestHttp(Published):
    """The HTTP driver, with nginx."""

    @pytest.fixture(autouse=True)
    def serve(self, tmp_path: Path) -> Iterator[None]:
        self.root = tmp_path
        with nginx(tmp_path) as self.server:
            yield

    def make_driver(self) -> HttpDriver:
        return HttpDriver()

    def url(self, name: str) -> str:
        return self.server.url(f"/{name}")

    def unreachable_url(self) -> str:
        return f"http://127.0.0.1:{closed_port()}/file"


class TestHttps(Published):
    """The HTTP driver, with nginx and TLS."""

    @pytest.fixture(autouse=True)
    def serve(self, tmp_path: Path) -> Iterator[None]:
        authority = trustme.CA()
        self.settings = Settings(tls=TLS(ca_certificate=authority.cert_pem.bytes().decode()))
        self.root = tmp_path
        with nginx(tmp_path, tls=authority.issue_cert("localhost")) as self.server:
            yield

    def make_driver(self) -> HttpDriver:
        return HttpDriver()

    def url(self, name: str) -> str:
        return self.server.url(f"/{name}")

    def unreachable_url(self) -> str:
        return f"https://127.0.0.1:{closed_port()}/file"


class TestFtp(Published):
    """The FTP driver, with vsftpd."""

    @pytest.fixture(autouse=True)
    def serve(self, tmp_path: Path) -> Iterator[None]:
        with vsftpd(tmp_path) as self.server:
            self.root = self.server.root
            yield

    def make_driver(self) -> FtpDriver:
        return FtpDriver()

    def url(self, name: str) -> str:
        return self.server.url(name)

    def unreachable_url(self) -> str:
        return f"ftp://127.0.0.1:{closed_port()}/file"
