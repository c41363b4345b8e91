"""Show the importer at work: mirror a small repository twice, from a dead mirror, a corrupt one and a good one.

All of it is made for that, and served on loopback; of the importer it runs the command.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

from repository import SUITE, Repository, why_missing

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Handler(SimpleHTTPRequestHandler):
    """Serves a directory, and counts the packages that it sends."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def log_request(self, *_: object) -> None:
        """Count it."""
        if self.path.endswith(".deb"):
            self.server.sent.append(self.path)


@contextmanager
def served(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve *root*; yield its URL, and the list of the packages that it sends."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=root)) as server:
        server.sent = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", server.sent
        finally:
            server.shutdown()
            thread.join()


def main() -> int | str:
    """Make it all, and run the importer; return its exit code, or what is missing for that."""
    if reason := why_missing():
        return reason
    with tempfile.TemporaryDirectory() as made, ExitStack() as stack:
        origin, target = Repository(Path(made, "origin")), Path(made, "mirror")

        def publish(*packages: str, version: str) -> Path:
            for name in packages:
                origin.add(name, version)
            origin.index()
            shutil.rmtree(Path(made, "corrupt"), ignore_errors=True)
            return origin.corrupt_copy(Path(made, "corrupt"), "**/*.deb")

        corrupt, spoiled = stack.enter_context(served(publish("hello", "jolly", "sailor", version="1.0")))
        good, sent = stack.enter_context(served(origin.root))
        nobody = stack.enter_context(socket.socket())
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        dead = f"http://127.0.0.1:{nobody.getsockname()[1]}/"

        def run() -> int:
            command = ["-m", "downhaul_importer", str(target), SUITE, dead, corrupt, good]
            print("$ python", *command, flush=True)
            code = subprocess.run([sys.executable, *command], check=False).returncode
            print(f"exit code {code}; corrupt packages that came: {len(spoiled)}, good ones: {len(sent)}\n")
            spoiled.clear()
            sent.clear()
            return code

        run()
        print("One package has a new version now.\n")
        publish("hello", version="1.1")
        return run()


if __name__ == "__main__":
    sys.exit(main())
