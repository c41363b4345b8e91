"""downhaul drivers."""

from __future__ import annotations

import json


def test_drivers_are_listed_as_text(downhaul) -> None:
    """Where standard output is no terminal: columns, no box, no escape sequence."""
    ended = downhaul("drivers")
    header, *rows = [line.split() for line in ended.out.splitlines()]
    assert header == ["scheme", "distribution", "version", "class"]
    assert ["ftp", "downhaul-ftp", "0.1.0", "downhaul_ftp:FtpDriver"] in rows
    assert ["https", "downhaul-http", "0.1.0", "downhaul_http:HttpDriver"] in rows
    assert rows == sorted(rows)
    assert ended.out.isascii()


def test_drivers_are_listed_as_json(downhaul) -> None:
    """One object, with a version."""
    listed = json.loads(downhaul("drivers", "--json").out)
    assert listed["version"] == 1
    assert {
        "scheme": "ftp", "distribution": "downhaul-ftp", "version": "0.1.0", "class": "downhaul_ftp:FtpDriver",
    } in listed["drivers"]  # fmt: skip


def test_no_driver_is_imported(downhaul) -> None:
    """Listing looks at entry points only, so a broken driver is listed too."""
    code = """
import sys
from downhaul.cli import run
code = run(["drivers"])
assert not {"downhaul_http", "downhaul_ftp", "httpx", "aioftp"} & set(sys.modules)
sys.exit(code)
"""
    assert downhaul(python=("-c", code)).code == 0
