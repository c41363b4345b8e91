"""The peers: what of them has to be installed, which version is, and why one is not."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .servers import PROGRAMS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_ROOT: Final = Path(__file__).parent.parent.parent
_VERSION: Final = re.compile(r"\d+(\.\d+)+")


@dataclass(frozen=True, slots=True)
class Program:
    """A peer that is a program, by a package of Debian."""

    name: str
    command: str
    package: str

    @property
    def need(self) -> str:
        """What has to be installed, as scripts/bench reads it."""
        return f"program {self.command} {self.package}"

    @property
    def missing(self) -> str:
        """Why it cannot run, or ""."""
        return "" if shutil.which(self.command) else f"there is no {self.command} (apt-get install {self.package})"

    @property
    def version(self) -> str:
        """Its version."""
        return version_of(self.command)


@dataclass(frozen=True, slots=True)
class Environment:
    """A peer that is a distribution of Python, in an environment of its own."""

    name: str
    requirement: str

    @property
    def need(self) -> str:
        """What has to be installed, as scripts/bench reads it."""
        return f"python {self.name} {self.requirement}"

    @property
    def python(self) -> Path:
        """The interpreter of its environment."""
        return self._directory / "bin" / "python"

    @property
    def missing(self) -> str:
        """Why it cannot run, or ""."""
        if (self._directory / "installed").exists():
            return ""
        why = self._directory / "missing"
        return why.read_text().strip() if why.exists() else "scripts/bench has not installed it"

    @property
    def version(self) -> str:
        """Its version."""
        code = f"from importlib.metadata import version; print(version({self.name!r}))"
        return subprocess.check_output([str(self.python), "-c", code], text=True).strip()

    @property
    def _directory(self) -> Path:
        return _ROOT / f".venv-bench-{self.name}"


Peer = Program | Environment
PEERS: Final[dict[str, Peer]] = {
    peer.name: peer
    for peer in (
        Program("curl", "curl", "curl"),
        Program("aria2", "aria2c", "aria2"),
        Program("wget2", "wget2", "wget2"),
        Program("lftp", "lftp", "lftp"),
        Environment("httpx", "httpx"),
        Environment("aiohttp", "aiohttp"),
        Environment("pulpcore", "pulpcore"),
        Environment("parfive", "parfive"),
        Environment("pooch", "pooch"),
    )
}
PLOTS: Final = Environment("plots", "matplotlib")
DOWNHAUL: Final = Environment("downhaul", "downhaul[http,ftp]")


def versions(names: Iterable[str]) -> Iterator[str]:
    """Yield the servers and the peers called *names*, each with its version."""
    for server in ("nginx", "vsftpd"):
        yield f"{server} {version_of(server)}"
    for peer in map(PEERS.__getitem__, names):
        yield f"{peer.name} {peer.version}" if not peer.missing else f"no {peer.name}"


def version_of(command: str) -> str:
    """Return what a program says is its version."""
    path = shutil.which(command, path=PROGRAMS) or command
    with tempfile.TemporaryFile() as sink:  # vsftpd tells it to standard input, where a client would be
        option = "-v" if command in ("nginx", "vsftpd") else "--version"
        subprocess.run([path, option], stdin=sink, stdout=sink, stderr=sink, check=False)
        sink.seek(0)
        found = _VERSION.search(sink.read().decode(errors="replace"))
    return found[0] if found else "of unknown version"
