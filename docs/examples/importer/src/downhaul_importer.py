"""Mirror a suite of a Debian repository from several mirrors: ``python -m downhaul_importer --help``."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import re
import shutil
import subprocess
import sys
import time
from argparse import ArgumentParser
from dataclasses import asdict, dataclass
from email.utils import mktime_tz, parsedate_tz
from io import BytesIO, FileIO
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import downhaul
from downhaul import DigestValidation, Download, DownloadError, FileWriter, SizeValidation, ValidationError, Version
from downhaul.plugins import MirrorList

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass(frozen=True)
class File:
    """A file as an index names it. Whoever wrote the index chose the path, so it must stay where we put it."""

    path: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        parts = self.path.split("/")
        if not self.path.isprintable() or parts[0] == "dists" or any(part[:1] in {"", "."} for part in parts):
            raise ValidationError(f"an index names {self.path!r}, which is no path below the mirror")

    def is_in(self, root: Path) -> bool:
        """Tell whether it is below *root*, and right."""
        path = root / self.path
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        with path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest() == self.sha256


@dataclass(frozen=True)
class Release(downhaul.Plugin):
    """Sees that a file is the Release of *suite* and current; with *keyring*, that a key of it has signed it."""

    suite: str
    keyring: Path | None

    @downhaul.hookimpl
    async def validate(self, transfer: downhaul.Transfer) -> None:
        """Have the next mirror asked unless it is."""
        with transfer.body() or BytesIO() as body:
            self.read(body.read())

    def read(self, content: bytes) -> dict[str, str]:
        """Return the fields, those that are signed only; raise ValidationError."""
        if self.keyring is not None:
            command = ["gpgv", "--keyring", str(self.keyring.absolute()), "--output", "-"]
            ended = subprocess.run(command, input=content, capture_output=True, check=False)
            if ended.returncode:
                raise ValidationError(f"no good signature: {ended.stderr.decode(errors='replace')}")
            content = ended.stdout
        for fields in paragraphs(content.decode(errors="replace").splitlines(keepends=True)):
            until = parsedate_tz(fields.get("Valid-Until", "1 Jan 9999 00:00:00 +0000"))
            ours = self.suite in {fields.get("Suite"), fields.get("Codename")} and "SHA256" in fields
            if ours and until is not None and mktime_tz(until) > time.time():
                return fields
        raise ValidationError(f"this is no current Release of {self.suite}")


def paragraphs(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """Yield the fields of each paragraph (deb822(5))."""
    for filled, group in groupby(lines, key=lambda line: bool(line.strip())):
        if filled:
            yield dict(re.findall(r"(?m)^(\S+?):[ \t]*(.*(?:\n[ \t].*)*)", "".join(group)))


def packages(state: Path) -> Iterator[File]:
    """Yield the files that the indices below *state* name."""
    for index in sorted(state.rglob("Packages*")):
        opened = {".xz": lzma.LZMAFile, ".gz": gzip.GzipFile}.get(index.suffix, FileIO)
        with opened(index) as lines:
            for fields in paragraphs(map(bytes.decode, lines)):
                yield File(fields["Filename"].removeprefix("./"), int(fields["Size"]), fields["SHA256"])


def fetch(files: Iterable[File], url: str, root: Path, context: downhaul.Context) -> bool:
    """Fetch those of *files* that are not below *root* yet; report what fails, and tell whether nothing did."""

    def jobs() -> Iterator[Download]:
        known = dict[str, File]()
        for file in files:
            first = known.setdefault(file.path, file)
            if first != file:
                raise ValidationError(f"{file.path} is two different files")
            if first is file and not file.is_in(root):
                path = root / file.path
                path.parent.mkdir(parents=True, exist_ok=True)
                judges = SizeValidation(file.size), DigestValidation("sha256", file.sha256)
                yield Download(url + quote(file.path), FileWriter(path), validations=judges, attachment=file.path)

    with downhaul.Batch(jobs(), concurrency=10, backlog=100, context=context) as batch:
        for plan in batch():
            print(plan.download.attachment, plan.error or "fetched", file=sys.stderr if plan.error else sys.stdout)
        return batch.progress.failed == 0


def mirror(target: Path, url: str, release: Release, sections: list[str], context: downhaul.Context) -> bool:
    """Bring the suite in *target* up to date; its link leads to the new indices once all that they name is there."""
    link, dists, buffer = target / "dists" / release.suite, f"{url}dists/{release.suite}/", downhaul.BufferWriter()
    versions = json.loads((link / ".versions").read_text()) if (link / ".versions").exists() else {}
    for name in ("InRelease", "Release"):
        unless = Version(**versions[name]) if name in versions and (link / name).exists() else None
        try:
            result = Download(dists + name, buffer, plugins=[release], unless=unless, context=context)()
            break
        except DownloadError:
            if name == "Release" or release.keyring is not None:
                raise
    content = (link / name).read_bytes() if result.not_modified else buffer.content()
    rows = map(str.split, release.read(content)["SHA256"].split("\n")[1:])
    listed = {path: File(path, int(size), digest) for digest, size, path in rows}
    state = target / ".dists" / hashlib.sha256(content).hexdigest()
    found = {each: listed[each + end] for each in sections for end in ("", ".gz", ".xz") if each + end in listed}
    if len(found) < len(sections):
        raise ValidationError(f"the Release lists none of {', '.join(sorted({*sections} - {*found}))}")
    for file in found.values():
        if file.is_in(link) and not file.is_in(state):
            (state / file.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(link / file.path, state / file.path)
    if not (fetch(found.values(), dists, state, context) and fetch(packages(state), url, target, context)):
        return False
    put(state / name, content)
    put(state / ".versions", json.dumps({name: asdict(result.version)} if result.version else {}).encode())
    link.parent.mkdir(exist_ok=True)
    fresh = link.with_name(f".{link.name}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(Path("..", ".dists", state.name))
    fresh.replace(link)
    return True


def put(path: Path, content: bytes) -> None:
    """Make *content* the file, at one stroke."""
    path.with_name(f".{path.name}.new").write_bytes(content)
    path.with_name(f".{path.name}.new").replace(path)


def prune(target: Path) -> None:
    """Remove the states that no suite shows any more, and the files of the pool that none names."""
    states = {link.resolve() for link in (target / "dists").iterdir()}
    named = {target / file.path for state in states for file in packages(state)}
    for state in {*(target / ".dists").resolve().iterdir()} - states:
        shutil.rmtree(state)
    for path in (target / "pool").rglob("*"):
        if path.is_file() and path not in named:
            path.unlink()


def main() -> int:
    """Run the command; return its exit code."""
    parser = ArgumentParser("downhaul_importer", description="Mirror a suite of a Debian repository.")
    parser.add_argument("target", type=Path, help="the directory of the mirror")
    parser.add_argument("suite", help="such as bookworm")
    parser.add_argument("mirrors", nargs="+", help="URLs of the repository, asked in this order for each file")
    parser.add_argument("--section", action="append", help="such as main/binary-amd64, the default; may be repeated")
    parser.add_argument("--keyring", type=Path, help="refuse what no key of this file has signed (needs gpgv)")
    parser.add_argument("--prune", action="store_true", help="remove what is not named any more")
    given = parser.parse_args()
    mirrors = [f"{url.rstrip('/')}/" for url in given.mirrors]
    sections = [f"{each}/Packages" for each in given.section or ["main/binary-amd64"]]
    try:
        with downhaul.Context(plugins=[MirrorList(mirrors, replaces=mirrors[0])], retries=1) as context:
            done = mirror(given.target, mirrors[0], Release(given.suite, given.keyring), sections, context)
        if done and given.prune:
            prune(given.target)
    except (DownloadError, OSError, ValueError, KeyError, EOFError, lzma.LZMAError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
