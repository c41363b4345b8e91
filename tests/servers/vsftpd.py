"""The real vsftpd on a loopback port, for anonymous reading."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.servers.program import need

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM: Final = "/usr/sbin/vsftpd"

_STARTS: Final = 5
_SAMPLE: Final = 0.002
_SETTINGS: Final = {
    "listen": "YES", "listen_ipv6": "NO", "listen_address": "127.0.0.1", "background": "NO",
    "anonymous_enable": "YES", "no_anon_password": "NO", "local_enable": "NO", "write_enable": "NO",
    "ftp_username": "ftp", "nopriv_user": "nobody", "anon_world_readable_only": "YES",
    "max_clients": "0", "max_per_ip": "0", "connect_from_port_20": "NO",
    "xferlog_enable": "YES", "log_ftp_protocol": "YES", "dual_log_enable": "NO", "syslog_enable": "NO",
    "seccomp_sandbox": "NO", "isolate": "NO", "isolate_network": "NO", "tcp_wrappers": "NO", "use_localtime": "NO",
}  # fmt: skip


def why_missing() -> str | None:
    """Return why vsftpd cannot run here, or None if it can."""
    if not Path(PROGRAM).exists():
        return f"{PROGRAM} is not installed (apt-get install vsftpd)"
    if os.geteuid() != 0:
        return "vsftpd must be started by root"
    return None


class Vsftpd:
    """A running vsftpd: its `port`, the `root` that it shows, and what its log tells."""

    def __init__(self, port: int, root: Path, log: Path) -> None:
        self.port = port
        self.root = root
        self.peak_controls = 0
        """How many control connections were seen open at once, at most; looked at every 2 ms."""
        self._log = log

    def url(self, path: str = "") -> str:
        """Return the URL of *path*, which is taken as it is."""
        return f"ftp://127.0.0.1:{self.port}/{path}"

    def log(self) -> str:
        """Return the log of the protocol: commands and replies, with the process that served them."""
        return self._log.read_bytes().decode("latin-1") if self._log.exists() else ""

    def controls(self) -> int:
        """Return how many control connections were opened in all, less the one that waited for the greeting."""
        return len(re.findall(r"CONNECT: Client", self.log())) - 1

    def open_controls(self) -> int:
        """Return how many control connections are open now."""
        return len(_established(self.port))


@contextmanager
def vsftpd(root: Path, **options: str) -> Iterator[Vsftpd]:
    """Run vsftpd for the anonymous user in *root*; *options* are those of vsftpd.conf, such as ``max_per_ip="2"``.

    The user ``ftp`` must be able to reach *root*, which a directory of pytest does not allow. Then a copy is shown
    whose files are hard links; `Vsftpd.root` is where later files belong. What vsftpd printed is part of the error
    if it does not start.
    """
    need(why_missing())
    with tempfile.TemporaryDirectory(prefix="vsftpd-", ignore_cleanup_errors=True) as name:
        home = Path(name)
        home.chmod(0o711)
        shown = root if _reachable(root) else _linked(root, home / "root")
        empty = home / "empty"
        empty.mkdir(mode=0o555)
        process, server = _start(home, shown, {"secure_chroot_dir": str(empty), **options})
        watch = threading.Event()
        sampler = threading.Thread(target=_sample, args=(server, watch), daemon=True)
        sampler.start()
        try:
            yield server
        finally:
            watch.set()
            sampler.join()
            _end(process)


def _start(home: Path, root: Path, options: dict[str, str]) -> tuple[subprocess.Popen[bytes], Vsftpd]:
    log, output = home / "vsftpd.log", home / "output"
    for _ in range(_STARTS):  # somebody else may take the port in between
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        settings = {
            **_SETTINGS, "listen_port": str(port), "anon_root": str(root), "vsftpd_log_file": str(log), **options,
        }  # fmt: skip
        config = home / "vsftpd.conf"
        config.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        with output.open("wb") as sink:  # what goes wrong is told to standard input, where a client would be
            process = subprocess.Popen([PROGRAM, str(config)], stdin=sink, stdout=sink, stderr=sink)
        if _greets(process, port):
            return process, Vsftpd(port, root, log)
        _end(process)
    raise RuntimeError(f"vsftpd does not start: {output.read_text(errors='replace')}")


def _greets(process: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until vsftpd has greeted once, and has forgotten that: the connection would count for `max_per_ip`."""
    deadline = time.monotonic() + 10
    greeted = False
    while time.monotonic() < deadline and process.poll() is None:
        if greeted and not _descendants(process.pid):
            return True
        if not greeted:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as control:
                greeted = control.recv(3) == b"220"
        time.sleep(0.02)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """End vsftpd, and the processes of its sessions."""
    pids = [*_descendants(process.pid), process.pid]
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait(10)


def _descendants(parent: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            pid, rest = int(stat.parent.name), stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(rest[1]), []).append(pid)
    found: list[int] = []
    heads = [parent]
    while heads:
        heads = [child for head in heads for child in children.get(head, [])]
        found += heads
    return found


def _sample(server: Vsftpd, end: threading.Event) -> None:
    before: set[str] = set()
    while not end.wait(_SAMPLE):
        now = _established(server.port)
        # The table is no snapshot: of two of its rows, one may be gone before the other one comes. What was in the last
        # reading too was open between the two.
        server.peak_controls = max(server.peak_controls, len(now & before))
        before = now


def _established(port: int) -> set[str]:
    """Return the remote ends of the connections to *port* of 127.0.0.1 that are established."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return {row[2] for row in rows if row[1] == f"0100007F:{port:04X}" and row[3] == "01"}


def _reachable(root: Path) -> bool:
    """Tell whether everybody may enter *root* and read it, and nobody but its owner may write it."""
    root = root.resolve()
    return root.stat().st_mode & 0o027 == 0o005 and all(each.stat().st_mode & 0o001 for each in root.parents)


def _linked(root: Path, copy: Path) -> Path:
    shutil.copytree(root, copy, copy_function=_link, symlinks=True)
    for directory, _, _ in os.walk(copy):
        Path(directory).chmod(0o755)
    return copy


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
