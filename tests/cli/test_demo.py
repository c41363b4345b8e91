"""downhaul demo."""

from __future__ import annotations

import json

import pytest

from downhaul.cli._demo_scene import Scene
from downhaul.cli._demo_servers import Tokens

from .conftest import environment


def test_the_demo_succeeds_twice_in_a_row(downhaul, tmp_path) -> None:
    """Exit code 0, the table's lines, 80 columns at most, and nothing is left behind."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    for _ in range(2):
        ended = downhaul("demo", "--files", "60", env={**environment(), "TMPDIR": str(scratch)})
        assert (ended.code, ended.err) == (0, "")
        lines = [line.split() for line in ended.out.splitlines()]
        assert ["Files", "verified", "by", "reading", "them", "back:", "60", "of", "60"] in lines
        assert ["Tokens", "asked", "for:", "2"] in lines
        assert ["DigestMismatch", "corrupt", "mirror", "MirrorList", "5"] in lines
        assert ["Truncated", "cutting", "mirror", "MirrorList", "5"] in lines
        assert ["Truncated", "origin", "Retries", "5"] in lines
        assert ["Truncated", "FTP", "server", "Retries", "7"] in lines
        assert {("ConnectError", "dead"), ("AccessDenied", "origin")} <= {tuple(line[:2]) for line in lines}
        assert {("FTP", "20"), ("HTTP", "40"), ("together", "60")} <= {tuple(line[:2]) for line in lines}
        assert max(map(len, ended.out.splitlines())) <= 80
        assert ended.out.isascii()
        assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("files", [12, 13, 14])
def test_the_smallest_demos_have_every_failure_in_them(downhaul, files: int) -> None:
    """And tell so as JSON."""
    ended = downhaul("demo", "--json", "--files", str(files))
    told = json.loads(ended.out)
    assert (ended.code, ended.err) == (0, "")
    assert told["version"] == 1
    assert told["ok"] is True
    assert told["verified"] == told["files"] == files
    assert {(each["server"], each["repaired_by"]) for each in told["failures"]} == {
        ("FTP server", "Retries"), ("corrupt mirror", "MirrorList"), ("cutting mirror", "MirrorList"),
        ("dead mirror", "MirrorList"), ("origin", "BearerToken"), ("origin", "Retries"),
    }  # fmt: skip


SABOTAGE = """
import sys
from downhaul.cli import run, _demo_scene, _demo_servers
{sabotage}
sys.exit(run(["demo", "--files", "12"]))
"""


AFTERWARDS = """
from downhaul.cli import _demo
verify = _demo._verify
def meddle(course, directory):
    {meddling}
    verify(course, directory)
_demo._verify = meddle
"""


@pytest.mark.parametrize(
    ("sabotage", "complaint"),
    [
        ("_demo_servers.Server.cuts = lambda self, path: False", "Truncated at the origin were to be repaired"),
        ("_demo_servers.Tokens.admits = lambda self, field: True", "none was renewed"),
        ("_demo_scene.DemoFile.sha256 = '0' * 64", "SourcesExhausted"),
        (AFTERWARDS.format(meddling="next(directory.glob('pub*')).write_bytes(b'x')"), "other bytes than the server"),
        (AFTERWARDS.format(meddling="next(directory.glob('pub*')).unlink()"), "is missing"),
        (AFTERWARDS.format(meddling="(directory / 'left').touch()"), "left was left behind"),
    ],
)
def test_a_demo_that_goes_otherwise_says_so(downhaul, sabotage: str, complaint: str) -> None:
    """Exit code 1: where a repair did not happen, a file is not what it should be, or something is left behind."""
    ended = downhaul(python=("-c", SABOTAGE.format(sabotage=sabotage)))
    assert ended.code == 1
    assert complaint in ended.err


def test_the_scene_is_as_promised() -> None:
    """A third of the files comes over FTP; they have 0 bytes to 1 MiB, some MB in all."""
    files = Scene(300).files
    sizes = [len(file.content) for file in files]
    assert sum(file.directory == "archive" for file in files) == 100
    assert (min(sizes), max(sizes)) == (0, 1024 * 1024)
    assert 5_000_000 < sum(sizes) < 50_000_000
    assert len({file.name for file in files}) == 300


def test_a_token_expires_after_its_requests() -> None:
    """The first one; those after it last, and a new one makes the old one void."""
    tokens = Tokens(uses=2)
    assert not tokens.admits("Bearer ")
    first = f"Bearer {tokens.issue().decode()}"
    assert [tokens.admits(first) for _ in range(3)] == [True, True, False]
    second = f"Bearer {tokens.issue().decode()}"
    assert all(tokens.admits(second) for _ in range(9))
    assert not tokens.admits(first)
