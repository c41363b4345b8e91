"""What a remote is made of in these tests: an authority, a site that wants to know who asks, and a way to ask it."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest
import trustme
from tests.acceptance.use_cases import importer
from tests.servers import nginx as real_nginx

from downhaul import BufferWriter, Context

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PATIENCE: Final = 20.0
BODY: Final = b"a package\n" * 1000
_LOG: Final = (
    "log_format told '$connection|$status|$request_uri|$ssl_client_serial|$remote_user|$http_x_api_key"
    "|$http_authorization|$http_proxy_authorization';"
)


def forms(number: int) -> pytest.MarkDecorator:
    """Run a test in both forms, as proof of the use case *number*."""
    both = [pytest.param(each, marks=importer(number, each)) for each in ("sync", "asyncio")]
    return pytest.mark.parametrize("form", both)


def fetch(
    form: str, url: str, *, plugins: Any = (), drivers: Any = None, retries: int = 0, own: Any = None, **settings: Any
) -> bytes:
    """Return the bytes of *url*: *own* are the download's settings, *settings* the context's, which is closed then."""
    writer, own = BufferWriter(), own or {}

    async def work() -> None:
        async with Context(plugins=plugins, drivers=drivers, retries=retries, **settings) as context:
            await context.download(url, writer, **own).run()

    if form == "asyncio":
        asyncio.run(work())
    else:
        with Context(plugins=plugins, drivers=drivers, retries=retries, **settings) as context:
            context.download(url, writer, **own)()
    return writer.content()


class Authority:
    """An authority, and what it vouches for."""

    def __init__(self) -> None:
        self.ca = trustme.CA()
        self.pem = self.ca.cert_pem.bytes().decode()

    def identity(self, name: str) -> tuple[str, str]:
        """Return a client certificate and its key, as PEM text."""
        issued = self.ca.issue_cert(name)
        chain = "".join(each.bytes().decode() for each in issued.cert_chain_pems)
        return chain, issued.private_key_pem.bytes().decode()


@dataclass(frozen=True)
class Visit:
    """A request as the site logged it; "" for what it did not have."""

    connection: str
    status: str
    target: str
    serial: str
    user: str
    key: str
    authorization: str
    proxy_authorization: str


class Site:
    """A running nginx with files below ``/`` for everybody, and below ``/user/`` for elmer and fudd."""

    def __init__(self, server: real_nginx.Nginx, log: Path) -> None:
        self.port = server.port
        self.url = server.url
        self._log = log

    def carried(self, what: str, number: int) -> dict[str, set[str]]:
        """Return for each connection which values its visits, *number* of them in all, had of the field *what*."""
        found: dict[str, set[str]] = {}
        for visit in self.visits(number):
            found.setdefault(visit.connection, set()).add(getattr(visit, what))
        return found

    def visits(self, number: int = 0) -> list[Visit]:
        """Wait until *number* requests were logged, and return all, in the order in which they were answered.

        An answer is logged when it was sent, so whoever has it may be faster.
        """
        end = time.monotonic() + _PATIENCE
        while (text := self._log.read_text()).count("\n") < number:
            assert time.monotonic() < end, f"nginx logged {text.splitlines()} only"
            time.sleep(0.01)
        rows = (line.split("|") for line in text[: text.rfind("\n") + 1].splitlines())
        return [Visit(*("" if each == "-" else each for each in row)) for row in rows]


@contextmanager
def site(
    directory: Path, *, tls: trustme.LeafCert | None = None, client_ca: str = "", server: str = ""
) -> Iterator[Site]:
    """Run a site with its files in the new directory *directory*.

    With the certificate *tls* it is reached by https, and with the authorities *client_ca* for clients it wants a
    client certificate. *server* are further directives of nginx.
    """
    if real_nginx.PROGRAM is None:
        reason = "nginx is not installed (apt-get install nginx-light)"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    for folder in ("root", "root/user"):
        (directory / folder).mkdir(parents=True)
        (directory / folder / "pkg.rpm").write_bytes(BODY)
    (directory / "users").write_text("elmer:{PLAIN}secret\nfudd:{PLAIN}hidden\n")
    lines = f"location /user/ {{ auth_basic site; auth_basic_user_file {directory}/users; }} {server}"
    if client_ca:
        (directory / "client-ca.pem").write_text(client_ca)
        lines += f" ssl_client_certificate {directory}/client-ca.pem; ssl_verify_client on;"
    http = f"{_LOG} access_log {directory}/visits.log told;"
    with real_nginx.nginx(directory / "root", server=lines, http=http, tls=tls) as running:
        yield Site(running, directory / "visits.log")
