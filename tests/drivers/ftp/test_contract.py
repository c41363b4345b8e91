"""The driver keeps the contract of all drivers."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
from tests.servers.ftp import FtpServer

from downhaul.testing import DriverContract
from downhaul_ftp import FtpDriver

if TYPE_CHECKING:
    from collections.abc import Iterator


class TestFtp(DriverContract):
    """The contract, against the scripted server."""

    @pytest.fixture(autouse=True)
    def serve(self) -> Iterator[None]:
        with FtpServer() as self.server:
            yield

    def make_driver(self) -> FtpDriver:
        return FtpDriver()

    def url_of(self, content: bytes) -> str:
        name = f"dir/{len(self.server.files)}"
        self.server.files[name] = content
        return self.server.url(name)

    def missing_url(self) -> str:
        return self.server.url("missing")

    def unreachable_url(self) -> str:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            return f"ftp://127.0.0.1:{unused.getsockname()[1]}/file"

    def replace_content(self, url: str, content: bytes) -> None:
        self.server.files["/".join(url.split("/")[3:])] = content
