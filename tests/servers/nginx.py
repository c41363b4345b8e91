"""The real nginx, on a free port of the loopback, for as long as a ``with`` lasts.

with nginx(tmp_path, server="autoindex on;") as server:
... server.url("/file") ... server.access_log() ...
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.servers.program import free_port, need, running

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import trustme

PROGRAM = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin:/opt/homebrew/bin")

_CONFIG = """\
daemon off;
master_process off;
pid {work}/pid;
error_log stderr notice;
events {{ worker_connections {connections}; }}
http {{
    access_log {work}/access.log;
    client_body_temp_path {work}/body;
    proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi;
    scgi_temp_path {work}/scgi;
    default_type application/octet-stream;
    {http}
    server {{
        {listen}
        server_name localhost;
        root {root};
        {tls}
        {server}
    }}
}}
"""


class Nginx:
    """A running nginx."""

    def __init__(self, port: int, scheme: str, work: Path) -> None:
        self.port = port
        self.scheme = scheme
        self._work = work

    def url(self, path: str = "/", address: str = "") -> str:
        """Return the URL of *path*, at *address* where nginx has several."""
        host = address or ("localhost" if self.scheme == "https" else "127.0.0.1")
        return f"{self.scheme}://{host}:{self.port}{path}"

    def access_log(self) -> list[str]:
        """Return the lines of the access log, one for each answer that is complete."""
        file = self._work / "access.log"
        return file.read_text().splitlines() if file.exists() else []


@contextmanager
def nginx(
    root: Path,
    *,
    server: str = "",
    http: str = "",
    tls: trustme.LeafCert | None = None,
    http2: bool = False,
    addresses: Sequence[str] = ("127.0.0.1",),
) -> Iterator[Nginx]:
    """Serve the directory *root*; *server* and *http* are further directives of these blocks, *tls* a certificate.

    It listens on every one of *addresses*, the first of which is 127.0.0.1, on one port.
    """
    need(None if PROGRAM else "nginx is not installed (apt-get install nginx-light)")
    assert PROGRAM
    with tempfile.TemporaryDirectory(prefix="nginx-") as directory:
        work = Path(directory)
        lines = ""
        if tls is not None:
            tls.private_key_and_cert_chain_pem.write_to_path(work / "tls.pem")
            lines = f"ssl_certificate {work}/tls.pem; ssl_certificate_key {work}/tls.pem;"
        port = free_port()
        flags = (" ssl" if tls else "") + (" http2" if http2 else "")
        listen = "".join(f"listen {address}:{port}{flags};" for address in addresses)
        connections = 512 + len(addresses)
        config = _CONFIG.format(
            work=work, root=root, connections=connections, listen=listen, tls=lines, server=server, http=http
        )
        (work / "nginx.conf").write_text(config)
        with running("nginx", [PROGRAM, "-p", directory, "-c", str(work / "nginx.conf")], port, work / "stderr"):
            yield Nginx(port, "https" if tls else "http", work)
