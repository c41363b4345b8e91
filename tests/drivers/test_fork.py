"""A driver that the user made, on both sides of a fork."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.servers.ftp import FtpServer
from tests.servers.http import http_server

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
FORKS = ("-W", "ignore:This process:DeprecationWarning")  # Python 3.12 advises against what is tested here
BODY = b"hello, world\n" * 1000
PROGRAM = """
import os, sys
from downhaul import BufferWriter, Context, Download
from downhaul_ftp import FtpDriver
from downhaul_http import HttpDriver

url = sys.argv[1]
with Context(drivers={"http": HttpDriver(), "ftp": FtpDriver()}) as context:
    job = Download(url, BufferWriter(), context=context)
    before = job().size
    child = os.fork()
    if not child:
        assert job().size == before
        assert job().size == before
        sys.exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert job().size == before
print("both")
"""


@contextmanager
def http() -> Iterator[str]:
    """A server of HTTP with one file."""

    async def serve(exchange) -> None:
        await exchange.respond(200, BODY)

    with http_server(serve) as server:
        yield server.url("/file")


@contextmanager
def ftp() -> Iterator[str]:
    """A server of FTP with one file."""
    with FtpServer({"file": BODY}) as server:
        yield f"ftp://127.0.0.1:{server.port}/file"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.parametrize("serve", [http, ftp])
def test_a_given_driver_after_a_fork(serve) -> None:
    """Parent and child go on with one driver, each over connections of its own."""
    with serve() as url:
        ended = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "error", *FORKS, "-c", PROGRAM, url],
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "both\n", "")
