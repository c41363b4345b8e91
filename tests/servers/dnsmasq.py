"""The real dnsmasq as a nameserver, on a free port of the loopback, for as long as a ``with`` lasts.

with dnsmasq(Srv("_http._tcp.dl.example.org", "localhost", 8080, priority=1)) as dns:
    ... dns.nameserver ... dns.asked() ...
"""

from __future__ import annotations

import getpass
import re
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.servers.program import free_port, need, running

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM: Final = shutil.which("dnsmasq", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin:/opt/homebrew/sbin")
_ASKED: Final = re.compile(r"query\[(\w+)\] (\S+) from")


@dataclass(frozen=True)
class Srv:
    """An SRV record (RFC 2782): of the least priority are asked first, and of these the heavier ones more often."""

    name: str
    target: str
    port: int
    priority: int = 0
    weight: int = 0


class Dnsmasq:
    """A running dnsmasq."""

    def __init__(self, port: int, log: Path) -> None:
        self.port = port
        self._log = log

    @property
    def nameserver(self) -> str:
        """Its address and port."""
        return f"127.0.0.1:{self.port}"

    def asked(self) -> list[tuple[str, str]]:
        """Return type and name of each query so far."""
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        return _ASKED.findall(text)


@contextmanager
def dnsmasq(*records: Srv, options: tuple[str, ...] = ()) -> Iterator[Dnsmasq]:
    """Answer with *records*, and for all other names that they do not exist; *options* are more of the command line."""
    need(None if PROGRAM else "dnsmasq is not installed (apt-get install dnsmasq-base)")
    assert PROGRAM
    with tempfile.TemporaryDirectory(prefix="dnsmasq-") as directory:
        work = Path(directory)
        port = free_port()
        command = [
            PROGRAM, "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file", f"--user={getpass.getuser()}",
            f"--port={port}", "--listen-address=127.0.0.1", "--bind-interfaces", "--no-resolv", "--no-hosts",
            "--local=/#/", "--log-queries", "--log-facility=-",
        ]  # fmt: skip
        command += [
            f"--srv-host={each.name},{each.target},{each.port},{each.priority},{each.weight}" for each in records
        ]
        with running("dnsmasq", [*command, *options], port, work / "log"):
            yield Dnsmasq(port, work / "log")
