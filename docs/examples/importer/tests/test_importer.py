"""The importer mirrors a real repository, from real servers, to a directory that a real apt reads."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from downhaul_importer import File
from tests.servers import nginx as real_nginx
from tests.servers import vsftpd as real_vsftpd
from tests.servers.program import need

from downhaul import ValidationError

sys.path.insert(0, str(Path(__file__).parent))
from repository import SUITE, Apt, Repository, Signer, signer, why_missing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.nginx import Nginx

PACKAGES = {"hello": 2000, "big": 4_000_000, "tiny": 0, "plus+tilde": 70_000}
README = Path(__file__).parents[1] / "README.md"
_ANSWER = re.compile(r'"GET (\S+) [^"]*" (\d{3}) ')


@pytest.fixture(scope="module")
def key() -> Iterator[Signer]:
    """Make a key for the module."""
    need(None if shutil.which("gpg") and shutil.which("gpgv") else "gpg and gpgv are not installed")
    with signer() as made:
        yield made


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Make a repository of four packages, not signed."""
    need(why_missing())
    return filled(Repository(tmp_path / "origin", None, **{"Acquire-By-Hash": "yes"}))


def filled(repository: Repository) -> Repository:
    """Return *repository* with all packages."""
    for name, size in PACKAGES.items():
        repository.add(name, size=size, section="libs" if size else "misc")
    repository.index()
    return repository


@contextmanager
def served(root: Path, **directives: str) -> Iterator[Nginx]:
    """Serve *root* by nginx."""
    with real_nginx.nginx(root, **directives) as server:
        yield server


@contextmanager
def dead() -> Iterator[str]:
    """Yield the URL of a server that does not listen."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unused.getsockname()[1]}/"


def command(target: Path, *arguments: str) -> list[str]:
    """Return the command that runs the importer."""
    return [sys.executable, "-W", "error", "-m", "downhaul_importer", str(target), SUITE, *arguments]


def run(target: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the importer."""
    return subprocess.run(command(target, *arguments), capture_output=True, text=True, timeout=100, check=False)


def answers(server: Nginx, known: int = 0) -> list[tuple[str, int]]:
    """Return target and status of what nginx answered, less the first *known*; it may write behind the answer."""
    end, last = time.monotonic() + 0.2, server.access_log()
    while time.monotonic() < end:
        time.sleep(0.02)
        if (now := server.access_log()) != last:
            end, last = time.monotonic() + 0.2, now
    return [(match[1], int(match[2])) for match in map(_ANSWER.search, last[known:]) if match]


def check_read_by_apt(home: Path, source: str, expected: Repository) -> None:
    """Apt finds the mirror consistent, and downloads from it what is in the repository."""
    apt = Apt(home, source)
    apt.update()
    for name, path in expected.packages().items():
        assert apt.download(name) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_it_is_short() -> None:
    """The program has 150 lines at most, blank ones and comments included."""
    program = Path(__file__).parents[1] / "src" / "downhaul_importer.py"
    assert len(program.read_text("utf-8").splitlines()) <= 150


def test_a_release_of_another_suite_is_passed_over(repository: Repository, tmp_path: Path) -> None:
    """A mirror that answers with what is no Release of the suite, a login page say, is like a corrupt one."""
    stranger = tmp_path / "stranger"
    for name in ("InRelease", "Release"):
        (stranger / "dists" / SUITE).mkdir(parents=True, exist_ok=True)
        (stranger / "dists" / SUITE / name).write_text("<p>Please log in.</p>\n")
    with served(stranger) as one, served(repository.root) as other:
        assert run(tmp_path / "mirror", one.url("/"), other.url("/")).returncode == 0
        ended = run(tmp_path / "nothing", one.url("/"))
    assert ended.returncode == 1
    assert f"no Release of {SUITE}" in ended.stderr
    check_read_by_apt(tmp_path / "apt", f"deb [trusted=yes] file:{tmp_path}/mirror {SUITE} main", repository)


def test_the_demonstration(tmp_path: Path) -> None:
    """The first command of the README prints what stands there, but for the order of files that come together."""
    need(why_missing())
    page = README.read_text("utf-8")
    script = re.search(r"^\$ python docs/examples/importer/(\S+)$", page, re.MULTILINE)
    expected = re.search(r"^```text\n(\$ python.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert script is not None
    assert expected is not None
    asked = [sys.executable, "-W", "error", str(README.parent / script[1])]
    ended = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    printed = re.sub(
        r"^\$ python -m downhaul_importer \S+/mirror stable (\S+:)\d+/ (\S+:)\d+/ (\S+:)\d+/$",
        r"$ python -m downhaul_importer mirror stable \1…/ \2…/ \3…/",
        ended.stdout,
        flags=re.MULTILINE,
    )
    first, _, second = printed.partition("One package")
    told, _, told_then = expected[1].partition("One package")
    assert (sorted(first.split("\n")), second.strip()) == (sorted(told.split("\n")), told_then.strip())
    assert list(tmp_path.iterdir()) == []


def test_the_command_of_the_readme(repository: Repository, tmp_path: Path) -> None:
    """A dead mirror, a corrupt one and a good one: apt reads the result, as files and from a web server."""
    line = re.search(
        r"^\$ python (-m downhaul_importer mirror bookworm (?:.*\\\n)*.*)$", README.read_text("utf-8"), re.MULTILINE
    )
    assert line is not None
    corrupt = repository.corrupt_copy(tmp_path / "corrupt", "**/*[!e]")  # not the Release, which nothing proves here
    with ExitStack() as stack:
        hosts = {
            "https://dead.example.net/debian/": stack.enter_context(dead()),
            "https://corrupt.example.net/debian/": stack.enter_context(served(corrupt)).url("/"),
            "https://mirror.example.net/debian/": stack.enter_context(served(repository.root)).url("/"),
            "bookworm": SUITE,
        }
        words = line[1].replace("\\\n", " ")
        for name, address in hosts.items():
            assert name in words
            words = words.replace(name, address)
        asked = [sys.executable, "-W", "error", *shlex.split(words)]
        ended = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(ended.stdout.splitlines()) == 1 + len(PACKAGES)
    check_read_by_apt(tmp_path / "apt", f"deb [trusted=yes] file:{tmp_path}/mirror {SUITE} main", repository)
    with served(tmp_path / "mirror") as server:
        check_read_by_apt(tmp_path / "apt-http", f"deb [trusted=yes] {server.url('/')} {SUITE} main", repository)


@pytest.mark.parametrize("signed", [False, True])
def test_the_second_run_fetches_only_what_changed(signed: bool, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Nothing changed: one 304. One package changed: it, its index, the Release."""
    need(why_missing())
    repository = filled(Repository(tmp_path / "origin", request.getfixturevalue("key") if signed else None))
    target, release = tmp_path / "mirror", f"/dists/{SUITE}/InRelease" if signed else f"/dists/{SUITE}/Release"
    missing = [] if signed else [(f"/dists/{SUITE}/InRelease", 404)]
    with served(repository.root) as server:
        assert run(target, server.url("/")).returncode == 0
        first = len(answers(server))
        assert run(target, server.url("/")).stdout == ""
        assert answers(server, first) == [*missing, (release, 304)]
        repository.release["Description"] = "as it was, said otherwise"
        repository.index()
        again = len(answers(server))
        assert run(target, server.url("/")).stdout == ""
        assert answers(server, again) == [*missing, (release, 200)]
        old = target / repository.packages()["hello"].relative_to(repository.root)
        new = target / repository.add("hello", "1.1").relative_to(repository.root)
        repository.index()
        second = len(answers(server))
        assert run(target, server.url("/")).returncode == 0
        index = f"/dists/{SUITE}/main/binary-amd64/Packages.xz"
        expected = [*missing, (release, 200), (index, 200), (f"/{new.relative_to(target)}", 200)]
        assert answers(server, second) == expected
        assert old.exists()
        assert len(list((target / ".dists").iterdir())) == 3
    check_read_by_apt(tmp_path / "apt", f"deb [trusted=yes] file:{target} {SUITE} main", repository)


def test_over_ftp(repository: Repository, tmp_path: Path) -> None:
    """From vsftpd, beside a dead mirror; the second time SIZE and MDTM are asked for, and nothing is retrieved."""
    target = tmp_path / "mirror"
    with real_vsftpd.vsftpd(repository.root) as server, dead() as nobody:
        assert run(target, nobody, server.url()).returncode == 0
        retrieved = server.log().count('"RETR ')
        assert retrieved >= len(PACKAGES) + 2
        assert run(target, nobody, server.url()).returncode == 0
        log = server.log()
        assert re.search(rf'"MDTM /?dists/{SUITE}/Release"', log)
        assert [line for line in log.splitlines() if '"RETR ' in line and "InRelease" not in line][retrieved:] == []
        sent = [line for line in log.splitlines() if "OK DOWNLOAD" in line]
        assert len(sent) == len(PACKAGES) + 2
    check_read_by_apt(tmp_path / "apt", f"deb [trusted=yes] file:{target} {SUITE} main", repository)


@pytest.mark.parametrize("pattern", ["**/*.deb", "**/big*.deb", "**/Packages*", "**/*"])
def test_where_all_are_corrupt_nothing_is_shown(pattern: str, repository: Repository, tmp_path: Path) -> None:
    """What failed is reported, the exit code says so, and apt reads what was there before."""
    target, before = tmp_path / "mirror", Repository(tmp_path / "before")
    with served(repository.root) as server:
        assert run(target, server.url("/")).returncode == 0
    shutil.copytree(repository.root, before.root, dirs_exist_ok=True)
    for name in PACKAGES:
        repository.add(name, "2.0", size=5000)
    repository.index()
    corrupt = repository.corrupt_copy(tmp_path / "corrupt", pattern)
    with served(corrupt) as one, served(corrupt) as other:
        ended = run(target, one.url("/"), other.url("/"))
    assert ended.returncode == 1
    assert ended.stderr
    if pattern == "**/big*.deb":
        assert [line.split()[0] for line in ended.stderr.splitlines()] == ["pool/main/b/big/big_2.0_amd64.deb"]
        assert len(list(target.glob("pool/**/*_2.0_*.deb"))) == len(PACKAGES) - 1
    for path in target.glob("pool/**/*.deb"):
        good = next(
            root / path.relative_to(target)
            for root in (before.root, repository.root)
            if root.joinpath(path.relative_to(target)).exists()
        )
        assert path.read_bytes() == good.read_bytes()
    check_read_by_apt(tmp_path / "apt", f"deb [trusted=yes] file:{target} {SUITE} main", before)


def sweep(target: Path) -> None:
    """Remove what killed runs left behind, as the README says."""
    line = re.search(r"`(find mirror [^`]+)`", README.read_text("utf-8"))
    assert line is not None
    words = shlex.split(line[1].replace("find mirror", f"find {shlex.quote(str(target))}"))
    subprocess.run(words, timeout=60, check=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end(number: signal.Signals, repository: Repository, tmp_path: Path) -> None:
    """A run that is told to end by a signal leaves no part of a file behind."""
    target = tmp_path / "mirror"
    with served(repository.root, server="limit_rate 300k; limit_rate_after 100k;") as slow:
        process = subprocess.Popen(command(target, slow.url("/")), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            end = time.monotonic() + 60
            while not list(target.glob("pool/**/.big*.part")):
                assert time.monotonic() < end
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(number)
            _, told = process.communicate(timeout=30)
        finally:
            process.kill()
            process.wait(10)
    assert process.returncode
    assert number == signal.SIGINT or (process.returncode, told) == (128 + number, b"")
    assert list(target.rglob(".*.part")) == []
    assert not (target / "dists" / SUITE).exists()


def test_what_failed_is_named(repository: Repository, tmp_path: Path) -> None:
    """An error names the file, and the mirror that it came from."""
    corrupt = repository.corrupt_copy(tmp_path / "corrupt", "**/hello*.deb")
    with served(corrupt) as server, dead() as nobody:
        first, second = run(tmp_path / "mirror", nobody), run(tmp_path / "mirror", server.url("/"))
        assert f"ConnectError: {nobody}dists/{SUITE}/Release: " in first.stderr
        path = "pool/main/h/hello/hello_1.0_amd64.deb"
        assert second.stderr.startswith(f"{path} {server.url('/')}{path}: sha256 is ")
    assert (first.returncode, second.returncode) == (1, 1)


def test_killed_at_any_time(repository: Repository, tmp_path: Path) -> None:
    """A run that is killed shows nothing new; the next one takes over what came and completes it."""
    target, before = tmp_path / "mirror", Repository(tmp_path / "before")
    with served(repository.root) as server:
        assert run(target, server.url("/")).returncode == 0
    shutil.copytree(repository.root, before.root, dirs_exist_ok=True)
    for name in PACKAGES:
        repository.add(name, "2.0", size=3_000_000 if name == "big" else 1000)
    repository.index()
    shown = (target / "dists" / SUITE).readlink()
    with served(repository.root, server="limit_rate 300k; limit_rate_after 100k;") as slow:
        process = subprocess.Popen(command(target, slow.url("/")), stdout=subprocess.DEVNULL)
        try:
            end = time.monotonic() + 60
            while not (list(target.glob("pool/**/.big*")) and list(target.glob("pool/**/hello_2.0*"))):
                assert time.monotonic() < end
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        finally:
            process.kill()
            process.wait(10)
    assert (target / "dists" / SUITE).readlink() == shown
    check_read_by_apt(tmp_path / "apt", f"deb [trusted=yes] file:{target} {SUITE} main", before)
    left = list(target.rglob(".*.part"))
    assert left
    sweep(target)
    assert list(target.rglob(".*.part")) == left, "it might be that of another run"
    for path in left:
        os.utime(path, (time.time() - 2 * 86_400,) * 2)
    sweep(target)
    assert list(target.rglob(".*.part")) == []
    with served(repository.root) as server:
        ended = run(target, server.url("/"))
        assert ended.returncode == 0
        assert "hello" not in ended.stdout
    check_read_by_apt(tmp_path / "apt-2", f"deb [trusted=yes] file:{target} {SUITE} main", repository)


HOSTILE = [
    "/etc/passwd", "../outside", "pool/../../outside", "pool//x", "./../outside", "pool/./x", "dists/stable/Release",
    ".dists/x", "pool/.hidden", "pool/a\0b", "pool/a\x1b[2Jb", "pool/x/", "",
]  # fmt: skip


@pytest.mark.parametrize("path", HOSTILE)
def test_paths_that_are_refused(path: str) -> None:
    """A path that leads elsewhere, or that is no text, is that of no file."""
    with pytest.raises(ValidationError, match="no path below the mirror"):
        File(path, 1, "")


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "pool/a\x1b[2Jb"])
def test_paths_of_an_index_are_not_believed(path: str, repository: Repository, tmp_path: Path) -> None:
    """Such a path ends the run before anything is asked for by it or written to it."""
    name = repository.packages()["hello"].relative_to(repository.root).as_posix()
    repository.index(edit=(f"Filename: {name}", f"Filename: {path}"))
    target = tmp_path / "below" / "mirror"
    target.mkdir(parents=True)
    with served(repository.root) as server:
        ended = run(target, server.url("/"))
        asked = [each for each, _ in answers(server)]
    assert ended.returncode == 1
    assert "no path below the mirror" in ended.stderr
    assert ended.stderr.strip().isprintable()
    assert not any("passwd" in each or "outside" in each or "hello" in each for each in asked)
    assert [each.name for each in (tmp_path / "below").iterdir()] == ["mirror"]
    assert not (target / "dists").exists()


def test_paths_of_a_release_are_not_believed(repository: Repository, tmp_path: Path) -> None:
    """Nor are those of the Release, whichever of them are wanted."""
    release = repository.dists / "Release"
    release.write_text(release.read_text().replace(" main/binary-amd64/Packages\n", " ../../../outside\n"))
    with served(repository.root) as server:
        ended = run(tmp_path / "mirror", server.url("/"))
    assert ended.returncode == 1
    assert "no path below the mirror" in ended.stderr


def test_one_path_for_two_files(repository: Repository, tmp_path: Path) -> None:
    """Indices that contradict each other cannot both be served: the run ends."""
    names = [repository.packages()[name].relative_to(repository.root).as_posix() for name in ("big", "hello")]
    repository.index(edit=(names[0], names[1]))
    with served(repository.root) as server:
        ended = run(tmp_path / "mirror", server.url("/"))
    assert ended.returncode == 1
    assert f"{names[1]} is two different files" in ended.stderr


def test_what_was_lost_is_fetched_again(repository: Repository, tmp_path: Path) -> None:
    """Files that somebody removed or spoiled are mended by the next run, the Release itself included."""
    target = tmp_path / "mirror"
    with served(repository.root) as server:
        assert run(target, server.url("/")).returncode == 0
        next(target.glob("pool/**/hello*.deb")).unlink()
        big = next(target.glob("pool/**/big*.deb"))
        big.write_bytes(b"#" + big.read_bytes()[1:])
        ended = run(target, server.url("/"))
        assert (ended.returncode, len(ended.stdout.splitlines())) == (0, 2)
        (target / "dists" / SUITE / "Release").unlink()
        assert run(target, server.url("/")).returncode == 0
    check_read_by_apt(tmp_path / "apt", f"deb [trusted=yes] file:{target} {SUITE} main", repository)


def test_what_the_release_does_not_list(repository: Repository, tmp_path: Path) -> None:
    """A section that does not exist is named."""
    with served(repository.root) as server:
        ended = run(
            tmp_path / "mirror", server.url("/"), "--section", "main/binary-amd64", "--section", "fame/binary-amd64"
        )
    assert ended.returncode == 1
    assert "lists none of fame/binary-amd64/Packages" in ended.stderr
