"""The real squid, on a free port of the loopback, for as long as a ``with`` lasts.

with squid(user=("elmer", "secret")) as proxy:
... proxy.url() ... proxy.url("elmer:secret@") ... proxy.lines(2) ...
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.servers.program import free_port, need, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    import trustme

PROGRAM: Final = shutil.which("squid", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin:/opt/homebrew/sbin")
PATIENCE: Final = 30.0

_CONFIG: Final = """\
{listen}
visible_hostname proxy.example.org
pid_filename none
coredump_dir {work}
cache_log {work}/cache.log
logformat told %>Hs %rm %ru %un %{{Authorization}}>h
access_log stdio:{work}/access.log told
strip_query_terms off
netdb_filename none
cache deny all
cache_mem 1 MB
memory_cache_shared off
max_filedescriptors 1024
pinger_enable off
shutdown_lifetime 0 seconds
connect_timeout 5 seconds
{access}
"""
_USERS: Final = """\
auth_param basic program /bin/sh {work}/users
auth_param basic children 1 startup=1 idle=1
auth_param basic realm proxy
acl known proxy_auth REQUIRED
http_access allow known
http_access deny all
"""
_ASK: Final = """\
while read -r line; do
    if [ "$line" = "{name} {password}" ]; then echo OK; else echo ERR; fi
done
"""


@dataclass(frozen=True)
class Line:
    """One transaction, as squid logged it: of a tunnel when it was closed."""

    status: int
    method: str
    target: str
    user: str
    authorization: str
    """What the proxy saw of the header Authorization, which is for the origin."""


class Squid:
    """A running squid."""

    def __init__(self, port: int, scheme: str, work: Path) -> None:
        self.port = port
        self.scheme = scheme
        self._work = work

    def url(self, userinfo: str = "") -> str:
        """Return the URL of the proxy."""
        host = "localhost" if self.scheme == "https" else "127.0.0.1"
        return f"{self.scheme}://{userinfo}{host}:{self.port}"

    def lines(self, number: int) -> list[Line]:
        """Wait until squid has logged *number* transactions, and return all that it did."""
        end = time.monotonic() + PATIENCE
        while len(found := self._read()) < number:
            assert time.monotonic() < end, f"squid logged {found} only"
            time.sleep(0.01)
        return found

    def _read(self) -> list[Line]:
        file = self._work / "access.log"
        text = file.read_text() if file.exists() else ""
        rows = (line.split(" ", 4) for line in text[: text.rfind("\n") + 1].splitlines())
        # Connections on which nothing was asked (ours, that sees whether it runs) are logged without a method.
        return [Line(int(status), *rest) for status, *rest in rows if rest[0] in {"GET", "HEAD", "CONNECT"}]


@contextmanager
def squid(*, user: tuple[str, str] | None = None, tls: trustme.LeafCert | None = None) -> Iterator[Squid]:
    """Run a proxy for everybody, or for *user* only; with the certificate *tls* it is reached by TLS.

    Name and password are letters and digits. Without the program the test fails where CI is "true", and is skipped
    elsewhere.
    """
    need(None if PROGRAM else "squid is not installed (apt-get install squid-openssl)")
    assert PROGRAM
    with tempfile.TemporaryDirectory(prefix="squid-", ignore_cleanup_errors=True) as directory:
        work = Path(directory)
        work.chmod(0o777)  # squid gives up the rights of root, if it has them
        port = free_port()
        listen, access = f"http_port 127.0.0.1:{port}", "http_access allow all"
        if tls is not None:
            tls.private_key_and_cert_chain_pem.write_to_path(work / "tls.pem")
            listen = f"https_port 127.0.0.1:{port} tls-cert={work}/tls.pem tls-key={work}/tls.pem"
        if user is not None:
            assert "".join(user).isalnum()
            (work / "users").write_text(_ASK.format(name=user[0], password=user[1]))
            access = _USERS.format(work=work)
        (work / "squid.conf").write_text(_CONFIG.format(work=work, listen=listen, access=access))
        service = f"downhaul{os.getpid()}x{port}"
        with (work / "output").open("wb") as output:
            process = subprocess.Popen(
                [PROGRAM, "-N", "-n", service, "-f", str(work / "squid.conf")],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=directory,
            )  # fmt: skip
        try:
            wait_for(process, port)
            yield Squid(port, "https" if tls else "http", work)
        except Exception as reason:
            for name in ("output", "cache.log"):
                if (work / name).exists():
                    reason.add_note(f"{name} of squid:\n{(work / name).read_text(errors='replace')[-2000:]}")
            raise
        finally:
            process.kill()  # told to end, it takes two seconds; its helper ends with it
            process.wait()
            for segment in Path("/dev/shm").glob(f"{service}-*"):  # shared memory, which it would have removed
                segment.unlink()
