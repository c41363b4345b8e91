"""Netrc: whom an entry is for, and what a file may hold."""

from __future__ import annotations

import asyncio
import shutil
import string
import subprocess
import tempfile
from base64 import b64decode
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.mem import MemDriver, Mirrors, Reply
from tests.servers.http import http_server

from downhaul import BufferWriter, Context, Download, PreparationError, Retries, User
from downhaul.plugins import BearerToken, Netrc
from downhaul.plugins._credentials.netrc import _read

ELMER = User("elmer", "s3cr3t")
ENTRIES = """
# a comment
machine host login elmer password s3cr3t
machine secure login elmer password s3cr3t
machine nameless password s3cr3t
machine [::1] login nobody password wrong
machine ::1 login elmer password s3cr3t
machine CAPITAL.example login elmer password s3cr3t
machine empty
machine default-host login elmer password s3cr3t
default login anybody password wh4tever
"""
ANYBODY = User("anybody", "wh4tever")


@pytest.fixture
def file(tmp_path, monkeypatch) -> Path:
    """A file that is named by path, and no other one anywhere."""
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    path = tmp_path / "netrc"
    path.write_text(ENTRIES)
    return path


def context_of(mem: MemDriver, *plugins: object, **options) -> Context:
    """Return a context where *mem* serves every scheme."""
    schemes = ("http", "https", "ftp", "ftps", "mem")
    return Context(drivers=dict.fromkeys(schemes, mem), plugins=(*plugins, Retries(base=0)), **options)


async def asked_by(*plugins: object, url: str, mirrors: tuple[str, ...] = (), **options) -> list[User | None]:
    """Return who asked in each request of a download that finds the file at the last place only."""
    mem = MemDriver()
    for each in (url, *mirrors):
        mem.site(each.replace("//elmer@", "//").replace("//elmer:pw@", "//").replace("//bugs@", "//"))
    for each in list(mem.sites)[:-1]:
        mem.site(each, Reply(status=404))
    aims = [Mirrors((url, *mirrors))] if mirrors else []
    async with context_of(mem, *plugins, *aims) as context:
        await Download(url, BufferWriter(), context=context, **options).run()
    return [each.request.user for each in mem.log]


# Whom an entry is for


@pytest.mark.parametrize(
    ("url", "user"),
    [
        ("http://host/file", ELMER),
        ("https://host:8443/file", ELMER),
        ("ftp://host/file", ELMER),
        ("https://HOST/file", ELMER),
        ("https://capital.example/file", ELMER),
        ("https://[::1]/file", ELMER),
        ("https://host.example/file", ANYBODY),
        ("https://sub.host/file", ANYBODY),
        ("https://hos/file", ANYBODY),
        ("https://nameless/file", None),
        ("https://empty/file", None),
        ("https://default/file", ANYBODY),
        ("https://machine/file", ANYBODY),
    ],
)
async def test_the_host_of_the_download(url, user, file):
    """The entry of the very host, whatever the scheme and the port; `default` for every other host."""
    assert await asked_by(Netrc(file), url=url) == [user]


@pytest.mark.parametrize(
    ("mirror", "user"),
    [
        ("https://secure/file", ELMER),
        ("https://secure:443/file", ELMER),
        ("ftps://secure/file", ELMER),
        ("http://secure/file", None),
        ("ftp://secure/file", None),
        ("mem://secure/file", None),
        ("https://secure:8443/file", None),
        ("https://sub.secure/file", None),
        ("https://unknown/file", None),
        ("https://default/file", None),
    ],
)
async def test_other_origins(mirror, user, file):
    """Elsewhere: by https or ftps, at the default port, the very host; never `default`."""
    home = "mem://plain/file" if mirror.startswith("mem:") else f"{mirror.partition(':')[0]}://plain/file"
    assert await asked_by(Netrc(file), url=home, mirrors=(mirror,)) == [ANYBODY, user]


@pytest.mark.parametrize(
    ("url", "user"),
    [
        ("https://elmer@host/file", ELMER),
        ("https://bugs@host/file", User("bugs", "")),
        ("https://elmer:pw@host/file", User("elmer", "pw")),
        ("https://elmer@nameless/file", ELMER),
        ("https://elmer@unknown/file", User("elmer", "")),
    ],
)
async def test_a_url_that_names_a_user(url, user, file):
    """An entry of that user completes it; of another one, or where there is a password, it is nobody's business."""
    assert await asked_by(Netrc(file), url=url) == [user]


async def test_a_user_in_the_settings(file):
    """What the settings say goes before the file."""
    user = User("bugs", "from-settings")
    assert await asked_by(Netrc(file), url="https://host/file", user=user) == [user]


@pytest.mark.parametrize("swapped", [False, True])
async def test_never_together_with_an_authorization(swapped, file):
    """A token is sent alone, in whichever order the plugins are given, and so is a field of the settings."""
    seen: list[str | None] = []

    async def script(exchange):
        seen.append(exchange.header("Authorization"))
        await exchange.respond()

    plugins = [Netrc(file), BearerToken("token")]
    with http_server(script) as server:
        file.write_text("machine 127.0.0.1 login elmer password s3cr3t")
        async with Context(plugins=plugins[::-1] if swapped else plugins) as context:
            await Download(server.url(), BufferWriter(), context=context).run()
        async with Context(plugins=[Netrc(file)]) as context:
            await Download(server.url(), BufferWriter(), context=context, headers={"authorization": "Key x"}).run()
            await Download(server.url(), BufferWriter(), context=context).run()
    assert [each if each.startswith(("Bearer", "Key")) else "Basic" for each in seen] == [
        "Bearer token", "Key x", "Basic",
    ]  # fmt: skip


async def test_where_a_redirect_leads(file):
    """To another host nothing is sent, though the file knows it."""
    mem = MemDriver()
    mem.site("https://host/file", Reply(location="https://secure/file"))
    mem.site("https://secure/file", Reply(b"bytes"))
    async with context_of(mem, Netrc(file)) as context:
        await Download("https://host/file", BufferWriter(), context=context).run()
    assert [each.request.user for each in mem.log] == [ELMER, None]


async def test_nobody_reads_it_without_the_plugin(file, monkeypatch):
    """Without the plugin there is no such file."""
    monkeypatch.setenv("NETRC", str(file))
    assert await asked_by(url="https://host/file") == [None]


# Which file, and when


async def test_the_file_of_the_environment(file, monkeypatch):
    """Without a path it is that of $NETRC."""
    monkeypatch.setenv("NETRC", str(file))
    assert await asked_by(Netrc(), url="https://host/file") == [ELMER]


async def test_the_file_at_home(file, monkeypatch):
    """Without both it is ~/.netrc; a path may begin with ~, too."""
    monkeypatch.setenv("HOME", str(file.parent))
    file.rename(file.parent / ".netrc").chmod(0o600)
    assert await asked_by(Netrc(), url="https://host/file") == [ELMER]
    assert await asked_by(Netrc("~/.netrc"), url="https://host/file") == [ELMER]


async def test_no_file_at_home(file):
    """Without ~/.netrc nobody is known, and that is no error."""
    assert await asked_by(Netrc(), url="https://host/file") == [None]


async def test_a_file_that_is_named_and_missing(file, monkeypatch):
    """Who names a file means it."""
    for plugin, name in ((Netrc(file.parent / "gone"), "gone"), (Netrc("~nobody.here/x"), "x"), (Netrc(), "elsewhere")):
        monkeypatch.setenv("NETRC", str(file.parent / "elsewhere"))
        with pytest.raises(PreparationError, match=rf"{name} cannot be used: there is no such file"):
            await asked_by(plugin, url="https://host/file")


async def test_a_file_that_cannot_be_read(file):
    """What the system says is told."""
    with pytest.raises(PreparationError, match="cannot be used: Is a directory"):
        await asked_by(Netrc(file.parent), url="https://host/file")


async def test_a_file_at_home_that_others_may_read(file, monkeypatch):
    """~/.netrc is refused where it is not for its owner alone."""
    monkeypatch.setenv("HOME", str(file.parent))
    file.rename(file.parent / ".netrc").chmod(0o644)
    with pytest.raises(PreparationError, match="not for its owner alone") as caught:
        await asked_by(Netrc(), url="https://host/file")
    assert "s3cr3t" not in str(caught.value)


async def test_it_is_read_once(file, monkeypatch):
    """One read for all downloads of a context, and another one after a minute."""
    reads = []
    monkeypatch.setattr("downhaul.plugins._credentials.netrc._read", lambda path: reads.append(path) or _read(path))
    now = [0.0]

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return now[0]

    monkeypatch.setattr("downhaul._once.time", Clock)
    mem = MemDriver()
    mem.site("https://host/file", Reply(b"bytes"))
    async with context_of(mem, Netrc(file)) as context:
        download = Download("https://host/file", BufferWriter(), context=context)
        await asyncio.gather(*(download.clone(writer=BufferWriter()).run() for _ in range(20)))
        now[0] += 59
        await download.run()
        assert reads == [str(file)]
        file.write_text("")
        now[0] += 2
        await download.run()
    assert reads == [str(file)] * 2
    assert mem.log[-1].request.user is None


# What a file may hold


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("s3cr3t", 1),
        ("machine host login elmer password s3cr3t s3cr3t2 x", 1),
        ("machine host\n  login elmer\n  password pass s3cr3t x", 3),
        ("machine a login b password c\n\nmachine", 3),
        ("machine host passwort s3cr3t\n", 1),
        ("macdef init\ns3cr3t", None),
        ("machine host login elmer\n\n\n\n  s3cr3t password x", 5),
    ],
)
async def test_a_file_that_cannot_be_understood(content, line, file, caplog):
    """The line is told, and nothing of what stands there; nothing was asked."""
    caplog.set_level(0)
    file.write_text(content)
    mem = MemDriver()
    async with context_of(mem, Netrc(file)) as context:
        with pytest.raises(PreparationError, match="cannot be understood near line") as caught:
            await Download("https://host/file", BufferWriter(), context=context).run()
    if line is not None:
        assert str(caught.value).endswith(f"near line {line}")
    assert mem.log == []
    told = repr((caught.value, caught.value.history, caught.value.__context__)) + str(caught.value) + caplog.text
    assert "s3cr3t" not in told
    assert "pass" not in told


async def test_a_file_that_is_no_text(file):
    """Neither is a picture a netrc file, nor is it told."""
    file.write_bytes(b"machine host login \xff\xfe password s3cr3t\xff")
    with pytest.raises(PreparationError) as caught:
        await asked_by(Netrc(file), url="https://host/file")
    assert "it is not text" in str(caught.value)


@pytest.mark.parametrize("path", ["", "a\0b", b"netrc"])
def test_what_is_no_path(path):
    """The path of a file is a str or a Path."""
    with pytest.raises(ValueError, match="path of a file"):
        Netrc(path)
    with pytest.raises(TypeError):
        Netrc(5)


def test_values(tmp_path):
    """Equal are plugins of one path, however it is given."""
    assert Netrc(tmp_path) == Netrc(str(tmp_path))
    assert Netrc() != Netrc(tmp_path)
    assert hash(Netrc(tmp_path)) == hash(Netrc(str(tmp_path)))


# As curl reads it

WORD = st.text(string.ascii_letters + string.digits + "!$%&()*+,-./:;<=>?@[]^_{|}~", min_size=1, max_size=8)
NAME = WORD.filter(lambda word: ":" not in word)  # which HTTP cannot send
GAP = st.sampled_from([" ", "\n", "\t", "  ", "\n\t"])
KEYWORDS = {"machine", "default", "login", "password", "account", "macdef", "user"}


@st.composite
def netrc_files(draw) -> tuple[str, str]:
    """Return a file in what all readers agree about, and a host to be asked for."""
    hosts = draw(st.lists(st.sampled_from(["localhost", "127.0.0.1", "other", "localhos"]), min_size=1, unique=True))
    words = []
    for host in [*hosts, *draw(st.sampled_from([[], ["default"]]))]:
        pairs = [("login", draw(NAME)), ("password", draw(WORD))]
        for _, value in pairs:
            words.append(value)
        top = "default" if host == "default" else f"machine{draw(GAP)}{host}"
        if draw(st.booleans()):
            pairs.reverse()
        words[-2:] = [f"{top}{draw(GAP)}" + draw(GAP).join(f"{key}{draw(GAP)}{value}" for key, value in pairs)]
    comment = draw(st.sampled_from(["", "# a comment\n"]))
    return comment + "\n".join(words) + draw(st.sampled_from(["", "\n"])), draw(
        st.sampled_from(["localhost", "127.0.0.1"])
    )


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(netrc_files())
def test_as_curl_reads_it(case):
    """What curl sends for a file in the common subset, is sent."""
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    text, host = case

    async def script(exchange):
        await exchange.respond()

    with tempfile.TemporaryDirectory() as directory, http_server(script) as server:
        path = Path(directory, "netrc")
        path.write_text(text)
        url = f"http://{host}:{server.port}/"
        command = [curl, "-sS", "-4", "--noproxy", "*", "--netrc-file", str(path), url]
        subprocess.run(command, check=True, timeout=20, env={"HOME": directory})
        with Context(plugins=[Netrc(path)]) as context:
            Download(url, BufferWriter(), context=context)()
        theirs, ours = (each.header("Authorization") for each in server.requests)
    decoded = [None if each is None else b64decode(each.removeprefix("Basic ")) for each in (theirs, ours)]
    assert decoded[0] == decoded[1]
