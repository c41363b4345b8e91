"""Metalinks as aria2 reads them, side by side: names and sizes, the order of mirrors, and which digests count."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.plugins.test_metalink_reader import FEDORA, OPENSUSE, files, metalink
from tests.servers.http import http_server
from tests.servers.program import need

from downhaul import DigestMismatch, DigestValidation, PieceValidation
from downhaul.plugins._mirror import WORST, Mirror
from downhaul.plugins._parsing.digest_fields import strongest
from downhaul.plugins._parsing.metalink_reader import MetalinkFile, read_metalink

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.http import Exchange

PROGRAM = shutil.which("aria2c")
BASE = "http://host/dir/"
PATIENCE = 60.0
CONTENT = bytes(range(256)) * 16
OTHER = CONTENT[:-1] + b"!"
MISMATCH = 32  # aria2's exit status for a digest that is not the expected one
WITH_PROCESSES = settings(max_examples=25, deadline=None, derandomize=True)

_SHOWN = re.compile(r"^ *\d+\|(.*)\n +\|\S+ \(([\d,]+)\)$", re.MULTILINE)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory for aria2, which is skipped where there is none."""
    need(None if PROGRAM else "aria2c is not installed (apt-get install aria2)")
    return tmp_path_factory.mktemp("aria2")


def aria2(work: Path, content: bytes, *options: str) -> subprocess.CompletedProcess[str]:
    """Run aria2 on a metalink, with *work* to leave files in."""
    (work / "a.metalink").write_bytes(content)
    command = [
        str(PROGRAM), "--no-conf", "--no-netrc", "--dir", str(work), "--metalink-file", str(work / "a.metalink"),
        "--console-log-level=error", "--summary-interval=0", "--download-result=hide", "--auto-file-renaming=false",
        "--allow-overwrite", "--follow-torrent=false", "--enable-dht=false", *options,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=PATIENCE, check=False)


def shown_by_aria2(work: Path, content: bytes) -> list[tuple[str, int]]:
    """Return names and sizes of the files that aria2 sees in a metalink."""
    shown = _SHOWN.findall(aria2(work, content, "--show-files").stdout)
    return [(name, int(size.replace(",", ""))) for name, size in shown]


def asked_by_aria2(work: Path, content: bytes, server, *options: str) -> list[str]:
    """Return what aria2 asks *server* for, one URL after another, which answers all of them with 404."""
    before = len(server.requests)
    one_by_one = ("--split=1", "--max-connection-per-server=1", "--max-tries=1", "--uri-selector=inorder")
    aria2(work, content, *one_by_one, *options)
    return [server.url(exchange.target) for exchange in server.requests[before:]]


async def nothing_here(exchange: Exchange) -> None:
    """Answer 404."""
    await exchange.respond(404)


# Names and sizes


@pytest.mark.parametrize("version", [4, 3])
def test_it_sees_the_same_files(work: Path, version: int) -> None:
    """Names and sizes of whatever files; a size that is not told is shown as 0."""

    @given(st.lists(files(version).filter(_comparable), min_size=1, max_size=4))
    @WITH_PROCESSES
    def compare(described: list[MetalinkFile]) -> None:
        content = metalink(version, *described)
        shown = shown_by_aria2(work, content)
        assert shown == [(file.name, file.size or 0) for file in read_metalink(content, BASE)]
        assert len(shown) == len(described)

    compare()


def _comparable(file: MetalinkFile) -> bool:
    """Tell whether aria2 lists *file* under its name: it needs a URL, and shows the "&" of a name as "&#38;"."""
    return bool(file.mirrors) and "&" not in str(file.name)


@pytest.mark.parametrize("content", [FEDORA, OPENSUSE], ids=["Fedora", "openSUSE"])
def test_it_sees_the_same_in_real_ones(work: Path, content: bytes) -> None:
    """With all that real metalinks have around what counts, and sizes of alternates in it."""
    (file,) = read_metalink(content, BASE)
    assert shown_by_aria2(work, content) == [(file.name, file.size)]


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "..", ".", "a/"])
@pytest.mark.parametrize("version", [4, 3])
def test_neither_takes_a_name_that_leaves_the_directory(work: Path, version: int, name: str) -> None:
    """It refuses the file or the metalink as a whole; here the file is read, and has no name."""
    content = metalink(version, MetalinkFile(name, 5, mirrors=(Mirror("http://h/"),)))
    assert shown_by_aria2(work, content) == []
    assert [file.name for file in read_metalink(content, BASE)] == [None]


# The order of mirrors


# It takes "//host/path" for a path, unlike RFC 3986.
REFERENCES = ["{}", "./{}", "../{}", "/{}", "a/b/{}", "/a/../{}", "{}?x=y", "http://{host}/{}"]


@pytest.mark.parametrize("version", [4, 3])
def test_it_asks_mirrors_in_the_same_order(work: Path, version: int) -> None:
    """The best first, by priority or preference, and last the one without; relative ones resolved alike."""
    ranks = st.integers(1, 101 if version == 3 else WORST - 1) | st.just(WORST)
    places = st.lists(st.tuples(ranks, st.sampled_from(REFERENCES)), min_size=1, unique_by=lambda place: place[0])

    with http_server(nothing_here) as server:
        host, base = f"{server.host}:{server.port}", server.url("/d/e/a.meta4")

        @given(places)
        @WITH_PROCESSES
        def compare(drawn: list[tuple[int, str]]) -> None:
            references = [form.format(f"f{number}", host=host) for number, (_, form) in enumerate(drawn)]
            mirrors = [Mirror(url, rank) for url, (rank, _) in zip(references, drawn, strict=True)]
            content = metalink(version, MetalinkFile("f", mirrors=tuple(mirrors)))
            asked = asked_by_aria2(work, content, server, f"--metalink-base-uri={base}")
            assert asked == [mirror.url for mirror in read_metalink(content, base)[0].mirrors]
            assert len(asked) == len(drawn)

        compare()


@pytest.mark.parametrize("version", [4, 3])
def test_it_sees_the_same_locations(work: Path, version: int) -> None:
    """Where it is told to prefer a country, it begins with the mirrors that are read to be there."""
    with http_server(nothing_here) as server:
        places = [("de", 3), ("us", 2), ("de", 4), (None, 1)]
        mirrors = [Mirror(server.url(f"/{rank}"), rank, location) for location, rank in places]
        content = metalink(version, MetalinkFile("f", mirrors=tuple(mirrors)))
        asked = asked_by_aria2(work, content, server, "--metalink-location=de")
        (read,) = read_metalink(content, BASE)
        assert asked == [mirror.url for mirror in sorted(read.mirrors, key=lambda mirror: mirror.location != "de")]
        assert asked[:2] == [server.url("/3"), server.url("/4")]


def test_a_type_that_is_not_for_us_is_not_asked(work: Path) -> None:
    """Of version 3: what is said to be of another type is left out, though the URL begins with http."""
    with http_server(nothing_here) as server:
        mirrors = tuple(Mirror(server.url(f"/{number}"), number) for number in (1, 2, 3))
        content = metalink(3, MetalinkFile("f", mirrors=mirrors))
        content = content.replace(b'preference="99" type="http"', b'preference="99" type="rsync"')
        asked = asked_by_aria2(work, content, server)
        assert asked == [mirror.url for mirror in read_metalink(content, BASE)[0].mirrors]
        assert asked == [server.url("/1"), server.url("/3")]


# Which digests count


async def the_other_bytes(exchange: Exchange) -> None:
    """Answer with what differs in its last byte from what is expected."""
    await exchange.respond(200, OTHER)


def digests(*right: str, wrong: tuple[str, ...] = ()) -> tuple[tuple[str, str], ...]:
    """Return digests of what comes by the algorithms *right*, and of something else by those that are *wrong*."""
    pairs = [(name, hashlib.new(name, OTHER).hexdigest()) for name in right]
    return (*pairs, *((name, hashlib.new(name, CONTENT).hexdigest()) for name in wrong))


@pytest.mark.parametrize("version", [4, 3])
@pytest.mark.parametrize(
    ("told", "good"),
    [
        (digests("sha256"), True),
        (digests(wrong=("sha256",)), False),
        (digests("md5", wrong=("sha256",)), False),
        (digests("sha256", wrong=("md5", "sha1")), True),
        (digests("sha512", wrong=("sha256", "sha384")), True),
        (digests("sha256", "sha1", wrong=("sha384",)), False),
        (digests("sha1", wrong=("md5",)), True),
        ((("md5", "0" * 40), *digests("sha1")), True),
        ((("sha512", "0" * 40), *digests(wrong=("md5",))), False),
        ((("ed2k", "0" * 32), *digests("md5")), True),
    ],
)
def test_the_strongest_digest_counts(work: Path, version: int, told: tuple[tuple[str, str], ...], good: bool) -> None:
    """The others, and those that cannot be read, are not heeded."""
    with http_server(the_other_bytes) as server:
        content = metalink(version, MetalinkFile("f", None, told, None, (Mirror(server.url("/f"), 1),)))
        # These two it knows by no other name, whereas metalinks of version 3 have "sha512".
        content = content.replace(b'"sha512"', b'"sha-512"').replace(b'"sha384"', b'"sha-384"')
        status = aria2(work, content, "--check-integrity").returncode
    best = strongest(dict(read_metalink(content, BASE)[0].digests))
    assert best is not None
    assert accepts(DigestValidation(*best)) is good
    assert status == (0 if good else MISMATCH)


@pytest.mark.parametrize("version", [4, 3])
@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
@pytest.mark.parametrize("good", [True, False])
def test_pieces_are_judged_alike(work: Path, version: int, algorithm: str, good: bool) -> None:
    """Their length, their number and their order: the wrong byte is in the last one."""
    length = 1024
    source = OTHER if good else CONTENT
    parts = [source[at : at + length] for at in range(0, len(source), length)]
    pieces = PieceValidation(algorithm, length, [hashlib.new(algorithm, part).hexdigest() for part in parts])
    with http_server(the_other_bytes) as server:
        content = metalink(version, MetalinkFile("f", len(OTHER), (), pieces, (Mirror(server.url("/f"), 1),)))
        status = aria2(work, content, "--check-integrity", "--max-tries=1").returncode
    read = read_metalink(content, BASE)[0].pieces
    assert read == pieces
    assert accepts(read) is good
    assert (status == 0) is good


def accepts(validation: DigestValidation | PieceValidation) -> bool:
    """Tell whether *validation* takes what the server sends."""
    check = validation.check()
    try:
        check.update(OTHER)
        check.finish()
    except DigestMismatch:
        return False
    return True
