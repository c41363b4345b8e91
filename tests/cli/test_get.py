"""downhaul get: what it fetches, what it says, how it ends."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import socket
import ssl
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme
from tests.servers.ftp import FtpServer
from tests.servers.http import http_server

from downhaul.cli._names import file_names

from .conftest import environment

BODY = b"Heave away, haul away.\n" * 5000


async def files(exchange) -> None:
    """Serve BODY under every path, save those that say otherwise."""
    path = exchange.target.partition("?")[0]
    if path.startswith("/status/"):
        await exchange.respond(int(path.split("/")[2]))
    elif path == "/malformed":
        await exchange.send(b"220 Welcome to the wrong port.\r\n\r\n")
        await exchange.cut()
    elif path == "/unproven":
        await exchange.respond(200, BODY, [("Connection", "close")], length=False)
        await exchange.cut()
    else:
        await exchange.respond(200, BODY)


@pytest.fixture
def server():
    """Run a server that serves BODY."""
    with http_server(files) as server:
        yield server


@contextmanager
def nobody():
    """Yield a port where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def left_in(directory) -> dict[str, bytes]:
    """Return the files in *directory*."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_file_is_named_after_its_url(downhaul, server, tmp_path) -> None:
    """It comes into the current directory; one line tells so; standard output stays empty."""
    ended = downhaul("get", server.url("/a%20b/fore%20sail?x=1"))
    assert (ended.code, ended.raw) == (0, b"")
    assert ended.said == "fore sail: 115,000 bytes"
    assert left_in(tmp_path) == {"fore sail": BODY}


def test_output_names_the_file_and_replaces_it(downhaul, server, tmp_path) -> None:
    """-o takes a path; what was there is replaced."""
    (tmp_path / "old").write_bytes(b"old")
    assert downhaul("get", "-o", "old", server.url("/")).code == 0
    assert left_in(tmp_path) == {"old": BODY}


def test_many_files_come_into_a_directory(downhaul, server, tmp_path) -> None:
    """-d takes several URLs, HTTP and FTP mixed; one line each."""
    (tmp_path / "hold").mkdir()
    with FtpServer({"c": b"alpha"}) as ftp:
        ended = downhaul("get", "-d", "hold", server.url("/a"), server.url("/b"), ftp.url("c"))
    assert ended.code == 0
    assert left_in(tmp_path / "hold") == {"a": BODY, "b": BODY, "c": b"alpha"}
    assert sorted(ended.err.splitlines()) == ["hold/a: 115,000 bytes", "hold/b: 115,000 bytes", "hold/c: 5 bytes"]


def test_quiet_says_nothing_but_errors(downhaul, server) -> None:
    """-q leaves out what went well."""
    assert downhaul("get", "-q", server.url("/a")).err == ""
    ended = downhaul("get", "-q", server.url("/a"), server.url("/status/404"))
    assert ended.code == 8
    assert "NotFound" in ended.said


def test_standard_output_gets_the_bytes_and_nothing_else(downhaul, server, tmp_path) -> None:
    """-o - for pipelines."""
    ended = downhaul("get", "-o", "-", server.url("/a"))
    assert (ended.code, ended.raw) == (0, BODY)
    assert ended.said == "standard output: 115,000 bytes"
    assert left_in(tmp_path) == {}


def test_bad_bytes_do_not_reach_standard_output_in_a_small_file(downhaul) -> None:
    """A file no larger than what is held back is validated whole before its first byte."""

    async def small(exchange) -> None:
        await exchange.respond(200, b"wrong")

    with http_server(small) as server:
        ended = downhaul("get", "-o", "-", "--retries", "0", "--checksum", f"sha256:{'0' * 64}", server.url("/a"))
    assert (ended.code, ended.raw) == (9, b"")


def test_bad_bytes_never_end_cleanly_on_standard_output(downhaul, server) -> None:
    """Of a larger file the last block is held back, and the code tells why."""
    ended = downhaul("get", "-o", "-", "--retries", "0", "--checksum", f"sha256:{'0' * 64}", server.url("/a"))
    assert ended.code == 9
    assert BODY.startswith(ended.raw)
    assert len(ended.raw) <= len(BODY) - 64 * 1024 // 2


def test_a_full_standard_output_is_code_10(downhaul, server) -> None:
    """For the file and for JSON alike, without a traceback."""
    for arguments in (["-o", "-"], ["--json"]):
        with Path("/dev/full").open("wb") as full:
            ended = downhaul("get", *arguments, server.url("/a"), stdout=full)
        assert ended.code == 10
        assert ended.said == "downhaul: cannot write to standard output: No space left on device"


def test_a_reader_that_leaves_is_code_3(downhaul, server) -> None:
    """As with `downhaul get -o - … | head -c1`."""
    reader, writer = socket.socketpair()
    reader.close()
    with writer:
        ended = downhaul("get", "-o", "-", server.url("/a"), stdout=writer)
    assert ended.code == 3
    assert "standard output" in ended.said


def test_json_tells_all_about_a_file(downhaul, server, tmp_path) -> None:
    """One object per line and file, with a version; nothing on standard error when all went well."""
    digest = hashlib.sha256(BODY).hexdigest()
    ended = downhaul("get", "--json", "--checksum", f"SHA-256:{digest.upper()}", server.url("/a?key=value"))
    assert (ended.code, ended.err) == (0, "")
    assert ended.records == [
        {
            "version": 1, "index": 1, "url": server.url("/a?key=***"), "source": server.url("/a?key=***"), "path": "a",
            "size": len(BODY), "digests": {"sha256": digest}, "attempts": 1, "proof": "length", "history": [],
            "error": None,
        }
    ]  # fmt: skip


def test_json_tells_of_failures_too(downhaul, server) -> None:
    """The same keys, with an error; the exit code is there, and a line on standard error."""
    ended = downhaul("get", "--json", "--retries", "0", server.url("/a"), server.url("/status/503"))
    good, bad = sorted(ended.records, key=lambda each: each["index"])
    assert good.keys() == bad.keys()
    assert bad["error"]["type"] == "ServerError"
    assert bad["error"]["exit_code"] == ended.code == 8
    assert (bad["path"], bad["size"], bad["proof"], bad["attempts"]) == (None, None, None, 1)
    assert bad["history"] == [
        {
            "source": server.url("/status/503"), "round": 1, "kept": 0, "error": "ServerError",
            "message": bad["error"]["message"], "repaired_by": None,
        }
    ]  # fmt: skip
    assert "ServerError" in ended.said


def test_a_mirror_list_repairs(downhaul, server, tmp_path) -> None:
    """--mirrorlist: lines are complete URLs; JSON names the dead one and the plugin."""
    with nobody() as port:
        dead = f"http://127.0.0.1:{port}/x"

        async def mirrors(exchange) -> None:
            await exchange.respond(200, f"# mirrors\n{dead}\n{server.url('/y')}\n".encode())

        with http_server(mirrors) as lists:
            ended = downhaul("get", "--json", "--mirrorlist", lists.url("/list"), server.url("/a"))
    (told,) = ended.records
    assert ended.code == 0
    assert left_in(tmp_path) == {"a": BODY}
    assert (told["url"], told["source"], told["attempts"]) == (server.url("/a"), server.url("/y"), 2)
    assert [(each["source"], each["error"], each["repaired_by"]) for each in told["history"]] == [
        (dead, "ConnectError", "MirrorList")
    ]


def test_a_mirror_list_that_fails_lends_its_code(downhaul, server) -> None:
    """PreparationError: a list that is not there is code 8, one from a dead host code 4."""
    assert downhaul("get", "--mirrorlist", server.url("/status/404"), server.url("/a")).code == 8
    with nobody() as port:
        url = f"http://127.0.0.1:{port}/list"
        assert downhaul("get", "--retries", "0", "--mirrorlist", url, server.url("/a")).code == 4


def test_what_nothing_proves_is_said(downhaul, server) -> None:
    """A body that ends with the connection is unproven; --require-proof refuses it."""
    assert downhaul("get", server.url("/unproven")).said == "unproven: 115,000 bytes, nothing proves it complete"
    assert downhaul("get", "--retries", "0", "--require-proof", server.url("/unproven")).code == 7


def test_digests_are_calculated(downhaul, server) -> None:
    """--digest reports what it is asked for."""
    ended = downhaul("get", "--digest", "md5", "--digest", "sha1", server.url("/a"))
    md5, sha1 = hashlib.md5(BODY).hexdigest(), hashlib.sha1(BODY).hexdigest()
    assert ended.said == f"a: 115,000 bytes, md5 {md5}, sha1 {sha1}"


def test_headers_and_user_are_sent(downhaul, server) -> None:
    """--header, twice for one name a list; --user with its password, or with one from standard input."""
    headers = ["--header", "X-Rope: hemp", "--header", "x-rope:manila", "--header", "Accept: text/plain"]
    assert downhaul("get", *headers, "--user", "bob:a:b", server.url("/a")).code == 0
    assert downhaul("get", "--user", "bob", server.url("/a"), given=b"hush\nmore").code == 0
    first, second = server.requests
    assert first.header("X-Rope") == "hemp, manila"
    assert first.header("Accept") == "text/plain"
    assert first.header("Authorization") == f"Basic {base64.b64encode(b'bob:a:b').decode()}"
    assert second.header("Authorization") == f"Basic {base64.b64encode(b'bob:hush').decode()}"


def test_a_proxy_is_used_and_the_environment_only_when_asked(downhaul, server) -> None:
    """--proxy takes precedence; proxies of the environment need --environment."""
    env = {**environment(), "http_proxy": server.url("")}
    assert downhaul("get", "--proxy", server.url(""), "http://rope.example/a").code == 0
    assert downhaul("get", "--environment", "http://rope.example/b", env=env).code == 0
    assert [each.target for each in server.requests] == ["http://rope.example/a", "http://rope.example/b"]
    assert downhaul("get", server.url("/c"), env=env).code == 0
    assert server.requests[-1].target == "/c"


def test_no_proxy_goes_straight(downhaul, server) -> None:
    """--no-proxy names what is reached without --proxy."""
    with nobody() as port:
        gone = ["--proxy", f"http://127.0.0.1:{port}", "--retries", "0"]
        assert downhaul("get", *gone, server.url("/a")).code == 4
        assert (
            downhaul("get", *gone, "--no-proxy", "127.0.0.0/8", "--no-proxy", ".corp,.lan", server.url("/a")).code == 0
        )


def test_tls_options(downhaul, tmp_path) -> None:
    """An unknown authority is code 5; --cacert trusts it, -k everybody."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with http_server(files, tls=context) as server:
        assert downhaul("get", "--retries", "0", server.url("/a")).code == 5
        assert downhaul("get", "--cacert", "ca.pem", server.url("/a")).code == 0
        assert downhaul("get", "-k", server.url("/a")).code == 0


def test_the_time_limit_is_in_force(downhaul) -> None:
    """--max-time ends a download that hangs: code 4."""

    async def silent(exchange) -> None:
        await exchange.stall()

    with http_server(silent) as server:
        ended = downhaul("get", "--max-time", "0.5", server.url("/a"))
        assert ended.code == 4
        assert "longer than 0.5 s in total" in ended.said
        ended = downhaul("get", "--read-timeout", "0.2", "--retries", "0", server.url("/a"))
        assert ended.code == 4


def test_concurrency_is_in_force(downhaul) -> None:
    """-j 1 gets one file after another; -j 3 waits for three at the same time."""
    waiting: list[asyncio.Event] = []

    async def together(exchange) -> None:
        waiting.append(asyncio.Event())
        if len(waiting) == 3:
            for each in waiting:
                each.set()
        await waiting[-1].wait()
        await exchange.respond(200, BODY)

    with http_server(together) as server:
        assert downhaul("get", "-j", "3", *(server.url(f"/{name}") for name in "abc")).code == 0
    with http_server(files) as server:
        assert downhaul("get", "-j", "1", *(server.url(f"/{name}") for name in "abc")).code == 0
        assert server.peak == 1


@pytest.mark.parametrize(
    ("path", "code"),
    [("/status/401", 6), ("/status/403", 8), ("/malformed", 7), ("/status/404", 8), ("/status/500", 8)],
)
def test_the_code_tells_what_the_server_did(downhaul, server, tmp_path, path: str, code: int) -> None:
    """One line on standard error, and nothing in the directory."""
    ended = downhaul("get", "--retries", "0", server.url(path))
    assert ended.code == code
    assert ended.said.startswith(f"downhaul: {server.url(path)}: ")
    assert left_in(tmp_path) == {}


def test_the_code_tells_what_went_wrong_here(downhaul, server, tmp_path) -> None:
    """File 3, network 4, validation 9, policy 11."""
    (tmp_path / "hold").mkdir()
    once = ["get", "--retries", "0"]
    assert downhaul(*once, "-o", "hold", server.url("/a")).code == 3
    assert downhaul(*once, "-o", "nowhere/a", server.url("/a")).code == 3
    assert downhaul(*once, "-d", "nowhere", server.url("/a")).code == 3
    assert server.requests == []
    assert downhaul(*once, "--checksum", f"md5:{'0' * 32}", server.url("/a")).code == 9
    assert downhaul(*once, "--max-size", "1000", server.url("/a")).code == 11
    with nobody() as port:
        assert downhaul(*once, f"http://127.0.0.1:{port}/a").code == 4
        assert downhaul(*once, server.url("/status/404"), f"http://127.0.0.1:{port}/b", server.url("/a")).code == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "hold"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{a}", "{b}", "-o", "x"], "-o is for a single URL; 2 were given"),
        (["{a}", "{b}", "--checksum", "md5:00"], "--checksum is for a single URL; 2 were given"),
        (["{a}", "{b}", "--mirrorlist", "{a}"], "--mirrorlist is for a single URL; 2 were given"),
        (["{a}", "{a}"], "both have the file name 'a'"),
        (["{a}", "{c}"], "both have the file name 'a'"),
        (["{a}", "-o", "x", "-d", "."], "exclude each other"),
        (["{a}", "-o", "-", "--json"], "not both"),
        (["{d}"], "no file name can be taken"),
        (["{d}..%2Fx"], "no file name can be taken"),
        (["gopher://host/a"], "no driver for 'gopher' (installed: "),
        (["host/a"], "no scheme"),
        (["http://"], "no host"),
        (["http://h:99999/a"], "malformed URL"),
        (["http://h/a\nb"], "malformed URL"),
        (["{a}", "--mirrorlist", "gopher://host/a"], "no driver for 'gopher'"),
        (["{a}", "--mirrorlist", "nothing"], "no scheme"),
        (["{a}", "--checksum", "rot13:00"], "unknown digest algorithm 'rot13'"),
        (["{a}", "--checksum", "md5:00"], "32 hexadecimal digits"),
        (["{a}", "--checksum", "abc"], "ALG:HEX"),
        (["{a}", "--digest", "rot13"], "unknown digest algorithm 'rot13'"),
        (["{a}", "--header", "nothing"], "--header takes NAME:VALUE"),
        (["{a}", "--header", "two words: x"], "--header takes NAME:VALUE"),
        (["{a}", "--header", "X: a\r\nY: b"], "--header takes NAME:VALUE"),
        (["{a}", "--plugin", "nobody"], "no plugin 'nobody'"),
        (["{a}", "--proxy", "gateway:3128"], "--proxy takes a URL"),
        (["{a}", "--no-proxy", "http://host/"], "--no-proxy takes names, .suffixes"),
        (["{a}", "--key", "{here}"], "--key needs --cert"),
        (["{a}", "--cacert", "nowhere.pem"], "does not exist"),
        (["{a}", "--max-time", "-1"], "no number of seconds"),
        (["{a}", "--read-timeout", "nan"], "no number of seconds"),
        (["{a}", "--retries", "-1"], "--retries"),
        (["{a}", "-j", "0"], "-j"),
        (["{a}", "--user", "bob"], "needs a password"),
        (["{a}", "--nonsense"], "No such option"),
        ([], "Missing argument"),
    ],
)
def test_wrong_usage_is_one_sentence_and_code_2(downhaul, server, tmp_path, arguments, said: str) -> None:
    """Before any I/O: nobody is asked, nothing is written, and there is no traceback."""
    paths = {"a": "/a", "b": "/b", "c": "/c/a?x", "d": "/d/"}
    names = {"here": __file__, **{name: server.url(path) for name, path in paths.items()}}
    ended = downhaul("get", *(argument.format(**names) for argument in arguments))
    assert ended.code == 2
    assert said in ended.said
    assert ended.said.startswith("downhaul: ")
    assert ended.raw == b""
    assert server.requests == []
    assert left_in(tmp_path) == {}


def test_0_is_no_time_limit(downhaul, server) -> None:
    """As elsewhere on command lines."""
    arguments = ["--max-time", "0", "--connect-timeout", "0", "--read-timeout", "0"]
    assert downhaul("get", *arguments, server.url("/a")).code == 0


def test_the_file_of_a_metalink_has_no_name_of_a_metalink():
    """What is stored is the file, not the metalink: its name is that of the URL without the suffix."""
    urls = ["https://host/pkg.rpm.meta4", "https://host/b.METALINK", "https://host/.meta4", "https://host/meta4"]
    assert file_names(urls, described=True) == ["pkg.rpm", "b", ".meta4", "meta4"]
    assert file_names(urls[:1]) == ["pkg.rpm.meta4"]
