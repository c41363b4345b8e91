"""A site to import from, for who has none at hand."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def site() -> Iterator[tuple[str, Callable[[], object]]]:
    """Serve 20 files on loopback, one of them corrupt; yield the URL of their SHA256SUMS, and what repairs that one."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        files = {f"file {n}": f"file {n}\n".encode() * 1000 * n for n in range(20)}
        for name, content in files.items():
            (root / name).write_bytes(content)
        sums = (f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items())
        (root / "SHA256SUMS").write_text("".join(sums))
        (root / "file 7").write_bytes(b"corrupt")
        with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=directory)) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                repair = partial((root / "file 7").write_bytes, files["file 7"])
                yield f"http://127.0.0.1:{server.server_port}/SHA256SUMS", repair
            finally:
                server.shutdown()
                thread.join()
