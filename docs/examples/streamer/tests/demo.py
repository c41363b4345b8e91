"""Show the streamer at work: pip downloads wheels by way of it, from a dead mirror, a corrupt one and their origin.

All of it is made for that, and served on loopback; of the streamer it runs the command.
"""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

from wheels import corrupt_copy, simple_index

if TYPE_CHECKING:
    from collections.abc import Iterator

_PIP = (sys.executable, "-m", "pip", "download", "--isolated", "--no-cache-dir", "--disable-pip-version-check")


class _Handler(SimpleHTTPRequestHandler):
    """Serves a directory, and notes what it sends of the wheels."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def log_request(self, *_: object) -> None:
        """Note it."""
        if self.path.endswith(".whl"):
            self.server.senders.append(self.server.name)


@contextmanager
def served(root: Path, name: str, senders: list[str]) -> Iterator[str]:
    """Serve *root*; yield its URL. Whenever a wheel is sent, *name* is added to the *senders*."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=root)) as server:
        server.name, server.senders = name, senders
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def streaming(*sources: str) -> Iterator[str]:
    """Run the command; yield the URL that it answers at."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    command = ["-m", "downhaul_streamer", "--port", str(port), *sources]
    print("$ python", *command, flush=True)
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not _listens(port):
            if process.poll() is not None:
                raise RuntimeError(f"it ended with {process.returncode}")
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def main() -> int | str:
    """Make it all, and let pip download; return an exit code, or what is missing for that."""
    if importlib.util.find_spec("pip") is None:
        return "not installed: pip (python -m ensurepip)"
    with tempfile.TemporaryDirectory() as made, ExitStack() as stack:
        root, senders = Path(made), list[str]()
        wheels = simple_index(root / "origin", {"small": 20_000, "large": 2_000_000})
        origin = stack.enter_context(served(root / "origin", "the origin", senders))
        spoiled = corrupt_copy(root / "origin", root / "corrupt")
        corrupt = stack.enter_context(served(spoiled, "the corrupt mirror", senders))
        nobody = stack.enter_context(socket.socket())
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        dead = f"http://127.0.0.1:{nobody.getsockname()[1]}/"
        came = []
        for names in (["small"], ["large", "large"]):
            with streaming(origin, dead, corrupt) as url:
                for name in names:
                    print("$ pip download --index-url", f"{url}simple/", name, flush=True)
                    command = [*_PIP, "--no-deps", "--dest", made, "--index-url", f"{url}simple/", name]
                    code = subprocess.run(command, capture_output=True, check=False).returncode
                    file = root / wheels[name].name
                    right = file.exists() and file.read_bytes() == wheels[name].read_bytes()
                    came.append((code == 0, right))
                    outcome = "the right file" if right else "a wrong file" if file.exists() else "no file"
                    print(f"exit code {code}: {outcome}; sent by {', then '.join(dict.fromkeys(senders))}")
                    senders.clear()
            print()
        return 0 if came == [(True, True), (False, False), (True, True)] else 1


if __name__ == "__main__":
    sys.exit(main())
