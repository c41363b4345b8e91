"""What judges the bytes, on the wire: digests, sizes, signatures, magic numbers; what refuses, and what only warns."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from tests.acceptance.use_cases import importer
from tests.servers import nginx as real_nginx
from tests.servers.http import head, http_server
from tests.servers.program import need

from downhaul import (
    Block,
    BufferWriter,
    Check,
    Context,
    DigestMismatch,
    DigestValidation,
    Download,
    FileWriter,
    Plugin,
    PluginError,
    PolicyError,
    Retries,
    SizeMismatch,
    SizeValidation,
    Transfer,
    Validation,
    ValidationError,
    hookimpl,
)
from downhaul.plugins import MirrorList

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers.http import Exchange
    from tests.servers.nginx import Nginx

CONTENT = b"Origin: downhaul\n" * 50_000
EMPTY = {"md5": "d41d8cd98f00b204e9800998ecf8427e", "sha1": "da39a3ee5e6b4b0d3255bfef95601890afd80709"}
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """Serve Release, an empty file, and two mirrors of which the first is corrupt."""
    root = tmp_path_factory.mktemp("served")
    for mirror, content in (("", CONTENT), ("corrupt", b"#" + CONTENT[1:]), ("good", CONTENT)):
        (root / mirror).mkdir(exist_ok=True)
        (root / mirror / "Release").write_bytes(content)
    (root / "empty").touch()
    with real_nginx.nginx(root) as server:
        (root / "mirrors").write_text(f"{server.url('/corrupt/')}\n{server.url('/good/')}\n")
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Give a directory of the test's own, where nothing is."""
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


@pytest.fixture
def context() -> Iterator[Context]:
    """Give a context that does not wait between rounds."""
    with Context(plugins=[Retries(base=0)], retries=1) as context:
        yield context


# -- size and digests ----------------------------------------------------------------------------------------------


@importer(5)
def test_an_empty_file(server: Nginx, target: Path, context: Context) -> None:
    """No bytes are a size and have digests: all of that is enforced."""
    job = Download(server.url("/empty"), FileWriter(target / "file"), digests=EMPTY, context=context)
    result = job.clone(validations=[SizeValidation(0)], digests=EMPTY)()
    assert result.artifact_attributes == {"size": 0, **EMPTY}
    with pytest.raises(SizeMismatch, match="0 bytes, expected 1"):
        job.clone(validations=[SizeValidation(1)])()
    with pytest.raises(SizeMismatch, match="more than the 0 bytes"):
        job.clone(url=server.url("/Release"), validations=[SizeValidation(0)])()
    with pytest.raises(DigestMismatch, match=f"md5 is .*, expected {EMPTY['md5']}"):
        job.clone(url=server.url("/Release"))()


@importer(5)
@pytest.mark.parametrize("name", ["md5", "sha1", "SHA-256", "sha3-256", "blake2b"])
def test_digests(name: str, server: Nginx, target: Path, context: Context) -> None:
    """Whatever `hashlib` knows is validated, upper case and weak ones too, and is a keyword among the attributes."""
    known = name.lower().replace("sha-256", "sha256").replace("-", "_")
    digits = hashlib.new(known, CONTENT).hexdigest()
    job = Download(server.url("/Release"), FileWriter(target / "file"), digests={name: digits.upper()}, context=context)
    assert job().artifact_attributes == {"size": len(CONTENT), known: digits}
    wrong = ("0" if digits[0] != "0" else "1") + digits[1:]
    with pytest.raises(DigestMismatch, match=f"{known} is {digits}, expected {wrong}"):
        job.clone(digests={name: wrong})()
    with pytest.raises(ValueError, match=f"a {known} digest has {len(digits)} hexadecimal digits, not"):
        job.clone(digests={name: digits[:-1]})


@importer(5)
def test_a_policy_against_weak_digests(server: Nginx, target: Path) -> None:
    """Who wants no file on the strength of MD5 or SHA-1 alone says so in a plugin of the context."""

    @dataclass(frozen=True)
    class StrongOnly(Plugin):
        @hookimpl
        async def prepare(self, transfer: Transfer) -> None:
            if not any(each.identifies and each.enforced for each in transfer.download.validations):
                raise PolicyError("no strong digest is expected")

    job = Download(
        server.url("/Release"), FileWriter(target / "file"), digests={"md5": hashlib.md5(CONTENT).hexdigest()}
    )
    with Context(plugins=[StrongOnly()]) as context:
        with pytest.raises(PolicyError, match="no strong digest"):
            job.clone(context=context)()
        assert list(target.iterdir()) == []
        job.clone(context=context, digests={"sha256": SHA256})()


# -- a signature ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gpgv(Plugin):
    """Lets Debian's gpgv judge the file by a detached signature: a hook that needs the whole body."""

    keyring: Path
    signature: Path

    @hookimpl(trylast=True)  # behind the validations of the download: digests are cheaper
    async def validate(self, transfer: Transfer) -> None:
        if transfer.parent is not None:
            return  # what a plugin needs first, a mirror list, is not what was signed
        body = transfer.body()
        if body is None:
            raise PolicyError("what streams past cannot be verified")
        with body:
            gpgv = await asyncio.create_subprocess_exec(
                "gpgv", "--keyring", self.keyring, self.signature, "-",
                stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            _, said = await gpgv.communicate(body.read())
        if gpgv.returncode:
            raise ValidationError(f"gpgv refuses it: {said.decode().strip().splitlines()[-1]}")


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Gpgv:
    """Sign Release with a new key."""
    installed = all(map(shutil.which, ("gpg", "gpgv", "gpgconf")))
    need(None if installed else "gpg and gpgv are not installed (apt-get install gpg gpgv)")
    home = tmp_path_factory.mktemp("gpg")
    home.chmod(0o700)
    (home / "Release").write_bytes(CONTENT)

    def run(*command: str) -> None:
        subprocess.run(command, env={**os.environ, "GNUPGHOME": str(home)}, check=True, capture_output=True, timeout=60)

    try:
        user = ("--batch", "--passphrase", "", "--quick-generate-key", "Archive <archive@example.org>")
        run("gpg", *user, "ed25519", "sign", "never")
        run("gpg", "--batch", "--output", str(home / "keyring"), "--export")
        run("gpg", "--batch", "--output", str(home / "signature"), "--detach-sign", str(home / "Release"))
    finally:
        run("gpgconf", "--kill", "all")
    return Gpgv(home / "keyring", home / "signature")


@importer(5)
@pytest.mark.parametrize("in_memory", [True, False])
def test_an_openpgp_signature(in_memory: bool, signed: Gpgv, server: Nginx, target: Path, context: Context) -> None:
    """A signature of another file is refused with gpgv's own words; the right one lets the file pass."""
    writer = BufferWriter() if in_memory else FileWriter(target / "file")
    job = Download(server.url("/corrupt/Release"), writer, plugins=[signed], context=context)
    with pytest.raises(ValidationError, match=r'gpgv refuses it: .*BAD signature from "Archive'):
        job()
    assert list(target.iterdir()) == []
    job.clone(url=server.url("/Release"))()
    assert (writer.content() if isinstance(writer, BufferWriter) else writer.path.read_bytes()) == CONTENT


@importer(5)
async def test_a_signature_sends_to_another_mirror(signed: Gpgv, server: Nginx, target: Path) -> None:
    """What a signature refuses takes the road of errors: the next mirror is asked, and has the right file."""
    mirrors = MirrorList(server.url("/mirrors"), replaces=server.url("/"))
    async with Context() as context:
        job = Download(server.url("/Release"), FileWriter(target / "file"), plugins=[signed, mirrors], context=context)
        result = await job.run()
    assert [(attempt.source, attempt.repaired_by) for attempt in result.history] == [
        (server.url("/corrupt/Release"), "MirrorList")
    ]
    assert result.source == server.url("/good/Release")
    assert os.listdir(target) == ["file"]  # noqa: PTH208


# -- validations of one's own --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Begins(Validation):
    """The file begins with *first*."""

    first: bytes
    enforced: bool = True

    def check(self) -> Check:
        return _Begins(self.first)


class _Begins:
    def __init__(self, first: bytes) -> None:
        self._first, self._seen = first, b""

    def update(self, block: Block) -> None:
        self._seen = (self._seen + bytes(block[: len(self._first)]))[: len(self._first)]
        if not self._first.startswith(self._seen):
            raise ValidationError(f"begins with {self._seen!r}, expected {self._first!r}")

    def finish(self) -> None:
        if self._seen != self._first:
            raise ValidationError(f"is only {self._seen!r}, expected to begin with {self._first!r}")


@importer(5)
def test_an_early_refusal_leaves_the_rest_where_it_is(target: Path, context: Context) -> None:
    """What refuses the first bytes of an endless answer does not wait for the end, nor for long."""
    sent = 0

    async def endless(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.send(head(200, [("Content-Length", str(10**12))]))
        while True:
            await exchange.send(bytes(65536))
            sent += 65536

    with http_server(endless) as server:
        job = Download(server.url("/"), FileWriter(target / "file"), validations=[Begins(b"\x7fELF")], context=context)
        with pytest.raises(ValidationError, match=r"begins with b'\\x00\\x00\\x00\\x00', expected b'\\x7fELF'"):
            job.clone(retries=0)()
        server.wait_until(lambda server: server.open == 0)
    assert sent < 64 * 1024 * 1024
    assert list(target.iterdir()) == []


@importer(5)
def test_several_that_refuse(server: Nginx, target: Path, context: Context) -> None:
    """The first in the order given says why; those behind it are not asked, and may rely on that."""
    long, short = SizeValidation(len(CONTENT) + 1), Begins(b"#")
    job = Download(
        server.url("/Release"), FileWriter(target / "file"), digests={"sha256": "0" * 64}, context=context, retries=0
    )
    with pytest.raises(SizeMismatch, match=f"{len(CONTENT)} bytes, expected {len(CONTENT) + 1}"):
        job.clone(validations=[long, DigestValidation("sha256", "0" * 64)])()
    with pytest.raises(DigestMismatch):
        job.clone(validations=[DigestValidation("sha256", "0" * 64), long])()
    with pytest.raises(ValidationError, match="begins with"):
        job.clone(validations=[long, short])()  # at the first byte, before the end judges the size
    assert list(target.iterdir()) == []


@importer(5)
def test_what_is_not_enforced(server: Nginx, target: Path, context: Context, caplog: pytest.LogCaptureFixture) -> None:
    """A warning in the log each, and the file is published: early refusals, late ones, and those behind them."""
    soft = [
        Begins(b"#", enforced=False),
        SizeValidation(1, enforced=False),
        DigestValidation("sha256", "0" * 64, enforced=False),
    ]
    writer = FileWriter(target / "file")
    result = Download(server.url("/Release"), writer, validations=soft, context=context)()
    assert (target / "file").read_bytes() == CONTENT
    assert result.digests == {"sha256": SHA256}
    warned = [record for record in caplog.records if record.name == "downhaul.validation"]
    assert [record.levelname for record in warned] == ["WARNING"] * 3
    assert "begins with" in warned[0].getMessage()
    assert "more than the 1 bytes" in warned[1].getMessage()
    assert f"sha256 is {SHA256}, expected 000" in warned[2].getMessage()
    with pytest.raises(DigestMismatch):
        Download(server.url("/Release"), writer, validations=soft, digests={"sha256": "1" * 64}, context=context)()


@importer(5)
@pytest.mark.parametrize("kind", ["digest", "size", "own", "bug"])
def test_what_is_refused_leaves_no_trace(kind: str, server: Nginx, target: Path, context: Context) -> None:
    """An older file stays as it was, and no part of a new one is there, during no round and after the last."""

    class Buggy(Begins):
        def check(self) -> Any:
            raise KeyError("a bug")

    (target / "file").write_bytes(b"older")
    validation, error = {
        "digest": (DigestValidation("sha256", "0" * 64), DigestMismatch),
        "size": (SizeValidation(1), SizeMismatch),
        "own": (Begins(b"#"), ValidationError),
        "bug": (Buggy(b"#"), PluginError),
    }[kind]
    job = Download(server.url("/Release"), FileWriter(target / "file"), validations=[validation], context=context)
    with pytest.raises(error):
        job()
    assert [path.read_bytes() for path in target.iterdir()] == [b"older"]
