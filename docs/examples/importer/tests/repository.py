"""A real Debian repository, made with dpkg-deb and apt-ftparchive, and a real apt that reads one."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import random
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SUITE = "stable"
PROGRAMS = ("dpkg-deb", "apt-ftparchive", "apt-get")


def why_missing() -> str | None:
    """Return what a repository cannot be made without here, or None."""
    absent = [each for each in PROGRAMS if shutil.which(each) is None]
    return f"not installed: {', '.join(absent)} (apt-get install dpkg apt-utils apt)" if absent else None


class Repository:
    """A repository below *root* with the suite stable, signed by *signer* if there is one."""

    def __init__(self, root: Path, signer: Signer | None = None, **release: str) -> None:
        self.root, self.signer, self.release, self.clock = root, signer, release, 1_700_000_000
        self.dists = root / "dists" / SUITE
        root.mkdir()

    def add(self, name: str, version: str = "1.0", *, size: int = 2000, section: str = "misc") -> Path:
        """Build a package with *size* random bytes in the place of an older one; return its file."""
        folder = self.root / "pool" / "main" / name[0] / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with tempfile.TemporaryDirectory() as made:
            tree = Path(made)
            content = tree / "usr/share" / name / "content"
            content.parent.mkdir(parents=True)
            content.write_bytes(random.Random(f"{name} {version}").randbytes(size))
            (tree / "DEBIAN").mkdir()
            (tree / "DEBIAN/control").write_text(
                f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nSection: {section}\nPriority: optional\n"
                f"Maintainer: Nobody <nobody@example.org>\nDescription: a package of a test\n of two lines\n"
            )
            tree.chmod(0o755)
            target = folder / f"{name}_{version}_amd64.deb"
            _run("dpkg-deb", "--root-owner-group", "-Znone", "--build", made, str(target))
        return target

    def index(self, edit: tuple[str, str] = ("", "")) -> None:
        """Write the indices, with one text in the Packages replaced by another, and the Release over them."""
        binary = self.dists / "main/binary-amd64"
        binary.mkdir(parents=True, exist_ok=True)
        text = _run("apt-ftparchive", "packages", "pool", cwd=self.root).replace(*edit).encode()
        (binary / "Packages").write_bytes(text)
        (binary / "Packages.gz").write_bytes(gzip.compress(text, mtime=0))
        (binary / "Packages.xz").write_bytes(lzma.compress(text))
        for name in ("Release", "InRelease"):
            (self.dists / name).unlink(missing_ok=True)
        fields = {"Suite": SUITE, "Codename": SUITE, "Components": "main", "Architectures": "amd64", **self.release}
        options = [f"-oAPT::FTPArchive::Release::{name}={value}" for name, value in fields.items()]
        (self.dists / "Release").write_text(_run("apt-ftparchive", *options, "release", str(self.dists)))
        if self.signer is not None:
            self.signer.sign(self.dists / "Release", self.dists / "InRelease")
        self.clock += 10
        for name in ("Release", "InRelease"):
            if (self.dists / name).exists():
                os.utime(self.dists / name, (self.clock, self.clock))

    def packages(self) -> dict[str, Path]:
        """Return the files of the packages by name."""
        return {path.name.partition("_")[0]: path for path in sorted(self.root.glob("pool/**/*.deb"))}

    def corrupt_copy(self, root: Path, pattern: str = "**/*") -> Path:
        """Return a copy below *root* in which a byte of each file that fits the *pattern* is another."""
        shutil.copytree(self.root, root)
        for path in [each for each in root.glob(pattern) if each.is_file()]:
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
        return root


class Signer:
    """A key, and gpg to sign with it; `keyring` is for those who verify."""

    def __init__(self, home: Path) -> None:
        self._gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", "", "--yes"]
        _run(*self._gpg, "--quick-gen-key", "Nobody <nobody@example.org>", "ed25519", "sign", "never")
        self.keyring = home / "keyring.gpg"
        _run(*self._gpg, "--output", str(self.keyring), "--export")

    def sign(self, plain: Path, signed: Path) -> None:
        """Write *plain*, signed inline, to *signed*."""
        _run(*self._gpg, "--output", str(signed), "--clearsign", str(plain))


@contextmanager
def signer() -> Iterator[Signer]:
    """Make a key, and end the agent that gpg starts for it."""
    with tempfile.TemporaryDirectory(prefix="gpg-", ignore_cleanup_errors=True) as home:  # sockets want a short path
        try:
            yield Signer(Path(home))
        finally:
            _run("gpgconf", "--homedir", home, "--kill", "gpg-agent")


class Apt:
    """A real apt with nothing but its own directory and one source."""

    def __init__(self, home: Path, source: str) -> None:
        self._home = home
        for each in ("etc/apt", "lists/partial", "cache/archives/partial", "here"):
            (home / each).mkdir(parents=True)
        (home / "status").touch()
        (home / "etc/apt/sources.list").write_text(f"{source}\n")
        (home / "apt.conf").write_text(
            f'Dir "{home}"; Dir::Etc "etc/apt"; Dir::Etc::sourceparts "-"; Dir::Etc::parts "-"; Dir::State "{home}";\n'
            'Dir::State::status "status"; Dir::State::lists "lists"; Dir::Cache "cache"; APT::Sandbox::User "root";\n'
            'APT::Architecture "amd64"; APT::Architectures "amd64"; Acquire::Languages "none"; Acquire::Retries "0";\n'
            'Acquire::http::Proxy "DIRECT"; APT::Update::Error-Mode "any";\n'
        )

    def update(self) -> None:
        """Read the repository anew; raise CalledProcessError where it is not consistent."""
        self._get("update")

    def download(self, name: str) -> str:
        """Return the SHA-256 of the newest package of that name, as apt downloads it."""
        for old in (self._home / "here").iterdir():
            old.unlink()
        self._get("download", name)
        (package,) = (self._home / "here").glob("*.deb")
        return hashlib.sha256(package.read_bytes()).hexdigest()

    def _get(self, *arguments: str) -> None:
        environment = {**os.environ, "APT_CONFIG": str(self._home / "apt.conf"), "LC_ALL": "C"}
        _run("apt-get", "-q", *arguments, cwd=self._home / "here", env=environment)


def _run(*command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    ended = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=60, check=False)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}")
    return ended.stdout
