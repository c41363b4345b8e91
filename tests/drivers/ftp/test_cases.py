"""Recorded FTP conversations: never other bytes than meant, never a hang, never an error out of the tree.

The conversations are data from outside, kept beside the checkout in ``../shared/cases`` and not in it.
"""

from __future__ import annotations

import ast
import asyncio
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from downhaul import DownloadError, Request, Settings, Timeout, User
from downhaul_ftp import FtpDriver

ROOT = Path(__file__).parents[3]
CASES = ROOT.parent / "shared" / "cases"


def download(url: str, _: object, path: str, seconds: float) -> None:
    """Save the file at *url* as *path*, or raise an error; one out of the tree leaves a file, which is a failure."""
    try:
        content = asyncio.run(_content(url, seconds))
    except DownloadError:
        raise
    except BaseException as error:
        Path(path).write_text(repr(error))
        raise
    Path(path).write_bytes(content)


async def _content(url: str, seconds: float) -> bytes:
    parts = urlsplit(url)
    userinfo, at, _ = parts.netloc.rpartition("@")
    request = Request(url.replace(userinfo + at, "", 1))
    if at:
        name, _, password = userinfo.partition(":")
        request = request.authorized(user=User(unquote(name), unquote(password)))
    driver = FtpDriver()
    try:
        async with driver.open(request, Settings(timeout=Timeout(seconds, seconds)).complete()) as payload:
            return b"".join([block async for block in payload.body])
    finally:
        await driver.aclose()


def test_recorded_conversations() -> None:
    """Each conversation ends in the bytes that were meant, or in an error of the tree."""
    if not (CASES / "harness.py").exists():
        reason = f"the recorded conversations are not at {CASES}"
        assert os.environ.get("CI") != "true", reason
        pytest.skip(reason)
    paths = [ROOT, ROOT / "core" / "src", ROOT / "drivers" / "ftp" / "src"]
    ran = subprocess.run(  # a process of its own: the judge leaves files and sockets to the collector
        [sys.executable, CASES / "harness.py", CASES / "wire.json.gz", f"{__name__}:download", "--part", "ftp", "-v"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (score,) = (line for line in ran.stdout.splitlines() if line.startswith("ftp {"))
    assert ast.literal_eval(score[4:]).get("same", 0) >= 14, ran.stdout
