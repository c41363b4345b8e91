"""The servers: nginx and vsftpd on the loopback, each a process of its own, which log nothing that slows them down.

They are not those of the tests, which log what they do, and are looked at while they do it.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trustme
from tests.servers.program import free_port, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

PROGRAMS: Final = "/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin"  # where servers stand; a PATH may lack it

_NGINX: Final = """\
daemon off;
master_process off;
worker_processes 1;
pid {work}/pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    keepalive_requests 1000000;
    keepalive_timeout 3600s;
    default_type application/octet-stream;
    client_body_temp_path {work}/body;
    proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi;
    scgi_temp_path {work}/scgi;
    server {{
        listen 127.0.0.1:{port}{ssl};
        root {root};
        {certificate}
    }}
}}
"""
_VSFTPD: Final = {
    "listen": "YES", "listen_ipv6": "NO", "listen_address": "127.0.0.1", "background": "NO",
    "anonymous_enable": "YES", "local_enable": "NO", "write_enable": "NO", "anon_world_readable_only": "YES",
    "ftp_username": "ftp", "nopriv_user": "nobody", "max_clients": "0", "max_per_ip": "0",
    "connect_from_port_20": "NO", "xferlog_enable": "NO", "seccomp_sandbox": "NO", "isolate": "NO",
    "isolate_network": "NO", "tcp_wrappers": "NO",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server shows its directory, and the certificate of the authority that it is trusted by."""

    base: str
    certificate: Path | None = None


@contextmanager
def http(root: Path, work: Path) -> Iterator[Place]:
    """Run nginx, which shows *root*; *work* is for its own files."""
    with _nginx(root, work, "", "") as port:
        yield Place(f"http://127.0.0.1:{port}")


@contextmanager
def https(root: Path, work: Path) -> Iterator[Place]:
    """Run nginx with a certificate made for this, and an authority made for that."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(work / "authority.pem")
    leaf = work / "leaf.pem"
    authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(leaf)
    with _nginx(root, work, " ssl", f"ssl_certificate {leaf}; ssl_certificate_key {leaf};") as port:
        yield Place(f"https://127.0.0.1:{port}", work / "authority.pem")


@contextmanager
def ftp(root: Path, work: Path) -> Iterator[Place]:
    """Run vsftpd, which shows *root* to the anonymous user; *work* is for its own files."""
    port, empty, config = free_port(), work / "empty", work / "vsftpd.conf"
    empty.mkdir(mode=0o555)
    settings = _VSFTPD | {"listen_port": str(port), "anon_root": str(root), "secure_chroot_dir": str(empty)}
    config.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    with running("vsftpd", [_program("vsftpd"), str(config)], port, work / "vsftpd.log"):
        yield Place(f"ftp://127.0.0.1:{port}")


@contextmanager
def _nginx(root: Path, work: Path, ssl: str, certificate: str) -> Iterator[int]:
    port, config = free_port(), work / "nginx.conf"
    config.write_text(_NGINX.format(work=work, root=root, port=port, ssl=ssl, certificate=certificate))
    with running("nginx", [_program("nginx"), "-p", str(work), "-c", str(config)], port, work / "nginx.log"):
        yield port


def _program(name: str) -> str:
    """Return the path of a server."""
    path = shutil.which(name, path=PROGRAMS)
    if path is None:
        raise RuntimeError(f"{name} is not installed (apt-get install {name})")
    return path


SERVERS: Final[dict[str, Callable[[Path, Path], AbstractContextManager[Place]]]] = {
    "http": http,
    "https": https,
    "ftp": ftp,
}
