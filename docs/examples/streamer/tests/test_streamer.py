"""The streamer passes files on from real servers to real clients: pip, apt and curl."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from downhaul_streamer import digests
from tests.servers.nginx import nginx
from tests.servers.program import PATIENCE, free_port, need, wait_for

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "importer/tests"))
from repository import SUITE, Apt, Repository, signer, why_missing
from wheels import corrupt_copy, simple_index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.servers.nginx import Nginx

README = Path(__file__).parents[1] / "README.md"
WHEELS = {"small": 20_000, "other": 30_000, "large": 2_000_000}
PACKAGES = {"hello": 2000, "big": 1_500_000, "plus+tilde": 70_000}
WHEEL = "packages/{}-1.0-py3-none-any.whl"
_ANSWER = re.compile(r'"([A-Z]+) /(\S*) [^"]*" (\d{3}) (\d+)')


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make what the origin has: an index of wheels, a repository without signature, and a signed one."""
    need(why_missing())
    need(None if shutil.which("gpg") and shutil.which("gpgv") else "gpg and gpgv are not installed")
    need(None if shutil.which("curl") else "curl is not installed")
    root = tmp_path_factory.mktemp("site") / "origin"
    simple_index(root, WHEELS)
    (root / "plain.bin").write_bytes(os.urandom(500_000))
    with signer() as key:
        shutil.copy(key.keyring, root / "keyring.gpg")
        for repository in (Repository(root / "debian"), Repository(root / "signed", key, **{"Acquire-By-Hash": "yes"})):
            for name, size in PACKAGES.items():
                repository.add(name, size=size)
            repository.index()
    for index in (root / "signed").rglob("Packages*"):
        by_hash = index.parent / "by-hash/SHA512" / hashlib.sha512(index.read_bytes()).hexdigest()
        by_hash.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(index, by_hash)
    return root


@pytest.fixture(scope="module")
def spoiled(site: Path) -> Path:
    """Make a copy of it in which every file has a wrong byte, and the same size and time."""
    return corrupt_copy(site, site.with_name("corrupt"))


@pytest.fixture
def origin(site: Path) -> Iterator[Nginx]:
    """Serve the origin."""
    with nginx(site) as server:
        yield server


@pytest.fixture
def corrupt(spoiled: Path) -> Iterator[Nginx]:
    """Serve the corrupt mirror."""
    with nginx(spoiled) as server:
        yield server


@pytest.fixture
def dead() -> Iterator[str]:
    """Yield the URL of a mirror that does not listen."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unused.getsockname()[1]}/"


class Streamer:
    """The command at work: `url` with a "/" at its end, `process`, and after its end `said` on its error output."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.url, self.process, self.said = f"http://127.0.0.1:{port}/", process, ""

    def curl(self, path: str, *options: str) -> subprocess.CompletedProcess[bytes]:
        """Run curl for *path*."""
        command = ["curl", "-sS", "--noproxy", "*", "--max-time", "30", *options, self.url + path]
        return subprocess.run(command, capture_output=True, check=False)

    def status(self, path: str, *options: str) -> int:
        """Return the status that curl gets for *path*."""
        return int(self.curl(path, "-o", os.devnull, "-w", "%{http_code}", *options).stdout)

    def pip(self, name: str, target: Path) -> int:
        """Return the exit code of pip, which downloads a wheel into *target*."""
        options = "--isolated --no-cache-dir --disable-pip-version-check --retries 0 --no-deps --dest"
        command = ["-m", "pip", "download", *options.split(), str(target), "--index-url", f"{self.url}simple/", name]
        return subprocess.run([sys.executable, *command], capture_output=True, timeout=60, check=False).returncode

    def end(self, number: signal.Signals) -> int:
        """Send the signal *number*; return the exit code."""
        self.process.send_signal(number)
        self.said = self.process.communicate(timeout=PATIENCE)[1].decode()
        return self.process.returncode


@contextmanager
def streaming(*sources: str) -> Iterator[Streamer]:
    """Run the command, which can write to no file, for *sources*, the origin first; see that it ends well."""
    port = free_port()
    with started(["--port", str(port), *sources], port) as streamer:
        yield streamer
        if streamer.process.returncode is None:
            assert streamer.end(signal.SIGTERM) == -signal.SIGTERM, streamer.said
        assert "Warning" not in streamer.said


@contextmanager
def started(arguments: list[str], port: int) -> Iterator[Streamer]:
    """Run the command where no byte can be written to a file (RLIMIT_FSIZE), and none can be created."""
    command = [sys.executable, "-W", "error", "-m", "downhaul_streamer", *arguments]
    with tempfile.TemporaryDirectory() as empty:
        Path(empty).chmod(0o555)
        process = subprocess.Popen(
            ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh", *command],
            cwd=empty,
            env={**os.environ, "TMPDIR": f"{empty}/none", "HOME": f"{empty}/none", "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            wait_for(process, port)
            yield Streamer(port, process)
            assert list(Path(empty).iterdir()) == []  # root may write anywhere
        finally:
            process.kill()
            process.communicate()


def sent(server: Nginx) -> list[tuple[str, str, int]]:
    """Return method, path and status of what nginx answered; it may write behind the answer."""
    end, last = time.monotonic() + 0.2, server.access_log()
    while time.monotonic() < end:
        time.sleep(0.02)
        if (now := server.access_log()) != last:
            end, last = time.monotonic() + 0.2, now
    return [(match[1], match[2], int(match[3])) for match in map(_ANSWER.search, last) if match]


def paths(server: Nginx) -> list[str]:
    """Return the paths that nginx was asked for, each once."""
    return list(dict.fromkeys(path for _, path, _ in sent(server)))


def until(reached: Callable[[], bool]) -> None:
    """Wait until *reached*."""
    end = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_it_is_short() -> None:
    """The program has 100 lines at most, blank ones and comments included."""
    program = README.parent / "src" / "downhaul_streamer.py"
    assert len(program.read_text("utf-8").splitlines()) <= 100


def test_its_help() -> None:
    """It says how it is called."""
    command = [sys.executable, "-m", "downhaul_streamer", "--help"]
    assert (
        "[--port N] ORIGIN [MIRROR ...]" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    )


def test_the_demonstration(tmp_path: Path) -> None:
    """The first command of the README prints what stands there."""
    page = README.read_text("utf-8")
    script = re.search(r"^\$ python docs/examples/streamer/(\S+)$", page, re.MULTILINE)
    expected = re.search(r"^```text\n(\$ python.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert script is not None
    assert expected is not None
    asked = [sys.executable, "-W", "error", str(README.parent / script[1])]
    ended = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    printed = re.sub(r"(127\.0\.0\.1:|--port )\d+", r"\1…", ended.stdout)
    assert printed.strip() == expected[1].strip()
    assert list(tmp_path.iterdir()) == []


def test_the_command_of_the_readme(site: Path, origin: Nginx, corrupt: Nginx, dead: str) -> None:
    """What has a digest comes from the one mirror that has it right; what has none, from the origin alone."""
    line = re.search(
        r"^\$ python -m downhaul_streamer (--port 8080 (?:.*\\\n)*.*)$", README.read_text("utf-8"), re.MULTILINE
    )
    assert line is not None
    port = free_port()
    with nginx(site) as mirror:
        words = shlex.split(line[1].replace("\\\n", " "))
        told = {
            "8080": str(port), "https://dl.example.org/": origin.url(), "https://dead.example.net/": dead,
            "https://corrupt.example.net/": corrupt.url(), "https://mirror.example.net/": mirror.url(),
        }  # fmt: skip
        assert {*told} == {*words} - {"--port"}
        with started([told.get(word, word) for word in words], port) as streamer:
            wheel = WHEEL.format("small")
            assert streamer.curl(wheel).stdout == site.joinpath(wheel).read_bytes()
            assert paths(origin) == [wheel]
            assert paths(mirror) == paths(corrupt) == []
            assert streamer.curl("simple/small/").stdout == (site / "simple/small/index.html").read_bytes()
            assert streamer.curl(wheel).stdout == site.joinpath(wheel).read_bytes()
            assert paths(origin) == [wheel, "simple/small/"]
            assert paths(mirror) == paths(corrupt) == [wheel]


def test_pip(site: Path, origin: Nginx, corrupt: Nginx, dead: str, tmp_path: Path) -> None:
    """A small wheel is right at the first try, whoever sends it wrong; the corrupt mirror is not asked again."""
    small, other = map(WHEEL.format, ("small", "other"))
    with streaming(origin.url(), dead, corrupt.url()) as streamer:
        assert streamer.pip("small", tmp_path) == 0
        assert (tmp_path / Path(small).name).read_bytes() == site.joinpath(small).read_bytes()
        streamer.curl("simple/other/")
        assert streamer.curl(other).stdout == site.joinpath(other).read_bytes()
    assert paths(corrupt) == [small]


def test_pip_sees_what_broke(site: Path, origin: Nginx, corrupt: Nginx, dead: str, tmp_path: Path) -> None:
    """A large wheel of which wrong bytes are under way fails; the next try succeeds, without that mirror."""
    file = WHEEL.format("large")
    with streaming(origin.url(), dead, corrupt.url()) as streamer:
        assert streamer.pip("large", tmp_path) != 0
        assert list(tmp_path.iterdir()) == []
        before = sent(corrupt)
        assert {path for _, path, _ in before} == {file}
        assert streamer.pip("large", tmp_path) == 0
        assert (tmp_path / Path(file).name).read_bytes() == site.joinpath(file).read_bytes()
        assert sent(corrupt) == before


@pytest.mark.parametrize(("repository", "option"), [("debian", "trusted=yes"), ("signed", "signed-by={}")])
def test_apt(
    repository: str, option: str, site: Path, origin: Nginx, corrupt: Nginx, dead: str, tmp_path: Path
) -> None:
    """Apt reads a repository by Release, or by InRelease and the by-hash names of its indices, and gets what it has."""
    with streaming(origin.url(), dead, corrupt.url()) as streamer:
        told = option.format(site / "keyring.gpg")
        apt = Apt(tmp_path / "apt", f"deb [{told}] {streamer.url}{repository} {SUITE} main")
        apt.update()
        for name in PACKAGES:
            (package,) = site.glob(f"{repository}/pool/**/{name}_*.deb")
            assert apt.download(name) == hashlib.sha256(package.read_bytes()).hexdigest()
    (index,) = paths(corrupt)  # one that was wrong: nothing is learnt from it, and the mirror is not asked again
    assert index.startswith(f"{repository}/dists/{SUITE}/main/binary-amd64/")
    assert ("by-hash" in index) == (repository == "signed")


def test_apt_sees_what_broke(site: Path, origin: Nginx, tmp_path: Path) -> None:
    """A mirror that has one package wrong: the rest comes from it, that package fails, and then comes right."""
    copy = corrupt_copy(site, tmp_path / "mirror", "**/big*.deb")
    with nginx(copy) as mirror, streaming(origin.url(), mirror.url()) as streamer:
        apt = Apt(tmp_path / "apt", f"deb [trusted=yes] {streamer.url}debian {SUITE} main")
        apt.update()
        hello, big = (next(site.glob(f"debian/pool/**/{name}_*.deb")) for name in ("hello", "big"))
        assert apt.download("hello") == hashlib.sha256(hello.read_bytes()).hexdigest()
        assert not any(path.endswith(".deb") for path in paths(origin))
        with pytest.raises(RuntimeError, match="ended with 100"):
            apt.download("big")
        assert apt.download("big") == hashlib.sha256(big.read_bytes()).hexdigest()


def test_curl_sees_what_broke(site: Path, origin: Nginx, corrupt: Nginx, tmp_path: Path) -> None:
    """So does curl, which is told the size before; it may not go on, and a new try gets what is right."""
    file = WHEEL.format("large")
    with streaming(origin.url(), corrupt.url()) as streamer:
        streamer.curl("simple/large/")
        broken = streamer.curl(file)
        assert broken.returncode == 18  # a part of the file
        assert 0 < len(broken.stdout) < site.joinpath(file).stat().st_size
        begun = tmp_path / "begun"
        begun.write_bytes(broken.stdout)
        assert streamer.curl(file, "-f", "-C", "-", "-o", str(begun)).returncode != 0, "it would keep the wrong bytes"
        assert begun.read_bytes() == broken.stdout
        assert streamer.curl(file).stdout == site.joinpath(file).read_bytes()


def test_parts(site: Path, origin: Nginx, corrupt: Nginx, dead: str, tmp_path: Path) -> None:
    """Curl gets parts, resumes, and is told the size, of a file without a known digest and of one with it."""
    path = WHEEL.format("large")
    content = site.joinpath(path).read_bytes()
    with streaming(origin.url(), dead, corrupt.url()) as streamer:
        for known in (False, True):
            if known:
                streamer.curl("simple/large/")
            assert streamer.curl(path, "-r", "-500").stdout == content[-500:]
            assert streamer.curl(path, "-r", "100-199").stdout == content[100:200]
            assert streamer.status(path, "-r", f"{len(content)}-") == 416
            begun = tmp_path / "begun"
            begun.write_bytes(content[:1_234_567])
            assert streamer.curl(path, "-C", "-", "-o", str(begun)).returncode == 0
            assert begun.read_bytes() == content
            head = streamer.curl(path, "-I").stdout.decode()
            assert "200 OK" in head
            assert f"content-length: {len(content)}\r\n" in head
            tag = re.search(r"etag: (.*)\r", head)
            assert tag is not None
            assert streamer.status(path, "-H", f"If-None-Match: {tag[1]}") == 304
            assert bool(paths(corrupt)) == known


def test_a_mirror_with_files_of_other_sizes(site: Path, origin: Nginx, tmp_path: Path) -> None:
    """A part is one of the right file, or refused, where a mirror that has another size is asked first; then it is."""
    path = WHEEL.format("small")
    content = site.joinpath(path).read_bytes()
    for size in (10_000, 40_000):
        wrong = tmp_path / str(size) / path
        wrong.parent.mkdir(parents=True)
        wrong.write_bytes(os.urandom(size))
        with nginx(tmp_path / str(size)) as mirror, streaming(origin.url(), mirror.url()) as streamer:
            streamer.curl("simple/small/")
            first = streamer.curl(path, "-f", "-r", "-500")
            assert first.stdout in {content[-500:], content} if first.returncode == 0 else first.stdout == b""
            assert streamer.curl(path, "-r", "-500").stdout == content[-500:]
            assert paths(mirror) == [path]


def test_a_digest_comes_from_the_origin_only(site: Path, origin: Nginx, tmp_path: Path) -> None:
    """Nobody makes us learn from what a mirror alone has, be it under the name of its digest, or of an index."""
    evil = Repository(tmp_path / "evil")
    evil.root.rename(tmp_path / "moved")
    shutil.copytree(site / "debian", tmp_path / "evil")
    for package in evil.packages().values():
        package.write_bytes(os.urandom(1000))
    evil.index()
    binary = evil.dists / "main/binary-amd64"
    by_hash = binary / "by-hash/SHA256" / hashlib.sha256((binary / "Packages").read_bytes()).hexdigest()
    by_hash.parent.mkdir(parents=True)
    shutil.copy(binary / "Packages", by_hash)
    hello = evil.packages()["hello"]
    with nginx(evil.root) as mirror, streaming(origin.url("/debian"), mirror.url()) as streamer:

        def curl(path: Path, status: int = 200) -> bytes:
            name = path.relative_to(evil.root).as_posix()
            assert streamer.status(name) == status
            return streamer.curl(name).stdout

        curl(by_hash, 404)
        assert curl(evil.dists / "Release") == (site / f"debian/dists/{SUITE}/Release").read_bytes()
        curl(by_hash, 404)
        assert curl(binary / "Packages") == (site / f"debian/dists/{SUITE}/main/binary-amd64/Packages").read_bytes()
        assert curl(hello) == (site / "debian" / hello.relative_to(evil.root)).read_bytes()
        assert paths(mirror) == [(binary / "Packages").relative_to(evil.root).as_posix()]


def test_what_is_not_as_the_index_says(site: Path, dead: str, tmp_path: Path) -> None:
    """A file that changed is refused until its index has passed again; an index may be damaged, but not too large."""
    shutil.copytree(site, tmp_path / "changing")
    wheel, path = tmp_path / "changing" / WHEEL.format("small"), WHEEL.format("small")
    page = tmp_path / "changing/simple/small/index.html"
    index = tmp_path / f"changing/debian/dists/{SUITE}/main/binary-amd64/Packages.gz"
    with nginx(tmp_path / "changing") as changing, streaming(changing.url(), dead) as streamer:
        streamer.curl("simple/small/")
        assert streamer.status(path) == 200
        before = hashlib.sha256(wheel.read_bytes()).hexdigest()
        wheel.write_bytes(b"changed")
        assert streamer.status(path) == 502
        page.write_text(page.read_text().replace(before, hashlib.sha256(b"changed").hexdigest()))
        streamer.curl("simple/small/")
        assert streamer.curl(path).stdout == b"changed"
        index.write_bytes(index.read_bytes()[:-100])
        assert streamer.curl(index.relative_to(tmp_path / "changing").as_posix()).stdout == index.read_bytes()
        with page.open("wb") as file:
            file.truncate(64 * 2**20 + 1)
        assert streamer.status("simple/small/") == 502


def test_where_the_origin_is_dead(site: Path, dead: str) -> None:
    """Then a mirror has what is known; what is not known is a 502, and a 404 only on the word of the origin."""
    path = WHEEL.format("small")
    with nginx(site) as mirror, ExitStack() as stack:
        origin = stack.enter_context(nginx(site))
        with streaming(origin.url(), dead, mirror.url()) as streamer:
            assert streamer.status("nothing") == 404
            streamer.curl("simple/small/")
            stack.close()
            assert streamer.curl(path).stdout == site.joinpath(path).read_bytes()
            assert streamer.status("plain.bin") == 502
            assert streamer.status("plain.bin", "-I") == 502
            assert "ConnectError" in streamer.curl("nothing").stdout.decode()


def test_nothing_outside(site: Path, corrupt: Nginx) -> None:
    """No path leads out of the directory that is the origin, or to another server."""
    with nginx(site) as server, streaming(server.url("/packages"), corrupt.url("/packages")) as streamer:
        wheel = WHEEL.format("small").removeprefix("packages/")
        assert streamer.status(wheel) == 200
        for path in (
            "../plain.bin", "..%2fplain.bin", "a/../../plain.bin", "%2e%2e/plain.bin", "/../plain.bin",
            f"/{corrupt.url('/plain.bin')}", f"{corrupt.url('/plain.bin')}", f"//127.0.0.1:{corrupt.port}/plain.bin",
        ):  # fmt: skip
            assert streamer.status(path, "--path-as-is") in {400, 404}, path
        assert {path for path in paths(server) if not path.startswith("packages/")} == set()
        assert paths(corrupt) == []


def test_clients_of_one_file_share_a_fetch(site: Path) -> None:
    """Two that ask for the same at the same time get it from one request, and one that hangs up stops neither."""
    with nginx(site, server="limit_rate 400k; limit_rate_after 100k;") as slow, streaming(slow.url()) as streamer:
        command = ["curl", "-sS", "--noproxy", "*", f"{streamer.url}plain.bin"]
        clients = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
        assert clients[0].stdout is not None
        clients[0].stdout.read(10_000)
        clients[0].kill()
        came = [client.communicate(timeout=PATIENCE)[0] for client in clients]
        assert [each == (site / "plain.bin").read_bytes() for each in came] == [False, True, True]
        assert sent(slow) == [("GET", "plain.bin", 200)]


def test_a_client_that_hangs_up(site: Path) -> None:
    """The request to the origin ends with the client, long before the file would."""
    with nginx(site, server="limit_rate 10k; limit_rate_after 200k;") as slow, streaming(slow.url()) as streamer:
        with socket.create_connection(("127.0.0.1", int(streamer.url[:-1].rpartition(":")[2]))) as client:
            client.sendall(b"GET /plain.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
        until(lambda: len(slow.access_log()) == 1)
        answer = _ANSWER.search(slow.access_log()[0])
        assert answer is not None
        assert int(answer[4]) < 500_000
        assert streamer.status("nothing") == 404


def test_told_to_end_at_work(site: Path) -> None:
    """Told by SIGTERM, it ends in a few seconds, and who is not served by then sees that."""
    with nginx(site, server="limit_rate 10k; limit_rate_after 200k;") as slow, streaming(slow.url()) as streamer:
        command = ["curl", "-sS", "--noproxy", "*", f"{streamer.url}plain.bin"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as client:
            assert client.stdout is not None
            client.stdout.read(10_000)
            begin = time.monotonic()
            assert streamer.end(signal.SIGTERM) == -signal.SIGTERM, streamer.said
            assert time.monotonic() - begin < 10
            client.communicate(timeout=PATIENCE)
        assert client.returncode == 18  # a part of the file
        assert "Application shutdown complete" in streamer.said
        assert "never retrieved" not in streamer.said


def test_told_to_end_by_the_keyboard(origin: Nginx) -> None:
    """Told by Ctrl-C, it ends without an error, and at once where nobody is served."""
    with streaming(origin.url()) as streamer:
        assert streamer.status("nothing") == 404
        assert streamer.end(signal.SIGINT) == 0, streamer.said
        assert "Application shutdown complete" in streamer.said
        assert "Traceback" not in streamer.said


A, B = "a" * 64, "b" * 64
_PACKAGES = f"""\
Package: a
Filename: ./pool/a+b~c_1.deb
Size: 1
SHA256: {A}
Description: none

Package: half
Filename: pool/half.deb

Package: b
Filename: pool/x.deb
SHA512: {A}{B}
SHA256: {B}
"""
_LISTED = {"http://o/d/pool/a%2Bb~c_1.deb": A, "http://o/d/pool/x.deb": B}
_RELEASE = f"""\
Suite: s
MD5Sum:
 {A[:32]} 1 main/no
SHA256:
 {A}     12 main/x/Packages
 {B} 3 y
SHA512:
 {A}{B} 3 y
"""
_INDICES = {
    "http://o/d/dists/s/main/x/Packages": A, f"http://o/d/dists/s/main/x/by-hash/SHA256/{A}": A,
    "http://o/d/dists/s/y": A + B, f"http://o/d/dists/s/by-hash/SHA256/{B}": B,
    f"http://o/d/dists/s/by-hash/SHA512/{A}{B}": A + B,
}  # fmt: skip
_PAGE = f"""<a href="../../p/a%2bb-1.whl#sha256={A}">a</a> <a data-x="" href='http://o/d/p/c%20d.whl#sha256={B}'>c</a>
<a href="no.whl">no</a> <a href="no.whl#md5={A[:32]}">no</a> <a href="no.whl#sha256={A[:63]}">no</a>"""


@pytest.mark.parametrize(
    ("url", "content", "expected"),
    [
        ("http://o/d/simple/a/", _PAGE.encode(), {"http://o/d/p/a%2Bb-1.whl": A, "http://o/d/p/c%20d.whl": B}),
        ("http://o/d/simple/a/", b"\xff", {}),
        ("http://o/d/dists/s/Release", _RELEASE.encode(), _INDICES),
        ("http://o/d/dists/s/InRelease", f"-----BEGIN\nHash: SHA256\n\n{_RELEASE}-----".encode(), _INDICES),
        ("http://o/d/dists/s/main/binary-x/Packages", _PACKAGES.encode(), _LISTED),
        ("http://o/d/dists/s/main/binary-x/Packages.gz", gzip.compress(_PACKAGES.encode()), _LISTED),
        ("http://o/d/dists/s/main/binary-x/Packages.xz", lzma.compress(_PACKAGES.encode()), _LISTED),
        (f"http://o/d/dists/s/main/binary-x/by-hash/SHA256/{A}", lzma.compress(_PACKAGES.encode()), _LISTED),
    ],
)
def test_what_an_index_tells(url: str, content: bytes, expected: dict[str, str]) -> None:
    """The digests of all files that have one, whatever else is there, by the one spelling of their URLs."""
    kinds = {64: "sha256", 128: "sha512"}
    assert dict(digests(url, content)) == {each: (kinds[len(digits)], digits) for each, digits in expected.items()}
