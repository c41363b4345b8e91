"""Mirror a suite of a Debian repository from several mirrors: ``python -m downhaul_importer --help``."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import re
import shutil
import signal
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from io import BytesIO, FileIO
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

import downhaul.plugins


@dataclass(frozen=True)
class File:
    """A file as an index names it. Whoever wrote the index chose the path, so it must stay where we put it."""

    path: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        parts = self.path.split("/")
        if not self.path.isprintable() or parts[0] == "dists" or any(part[:1] in {"", "."} for part in parts):
            raise downhaul.ValidationError(f"an index names {self.path!r}, which is no path below the mirror")

    def is_in(self, root: Path) -> bool:
        """Tell whether it is below *root*, and right."""
        if (path := root / self.path).is_file() and path.stat().st_size == self.size:
            with path.open("rb") as content:
                return hashlib.file_digest(content, "sha256").hexdigest() == self.sha256
        return False


@dataclass(frozen=True)
class Release(downhaul.Plugin):
    """Sees that a file is the Release of *suite*; the next mirror is asked unless it is."""

    suite: str

    @downhaul.hookimpl
    async def validate(self, transfer: downhaul.Transfer) -> None:
        with transfer.body() or BytesIO() as body:
            self.read(body.read())

    def read(self, content: bytes) -> dict[str, str]:
        for fields in paragraphs(content.decode(errors="replace").splitlines(keepends=True)):
            if self.suite in {fields.get("Suite"), fields.get("Codename")} and "SHA256" in fields:
                return fields
        raise downhaul.ValidationError(f"this is no Release of {self.suite}")


def paragraphs(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """Return the fields of each paragraph (deb822(5))."""
    groups = ("".join(group) for filled, group in groupby(lines, key=lambda line: bool(line.strip())) if filled)
    return (dict(re.findall(r"(?m)^(\S+?):[ \t]*(.*(?:\n[ \t].*)*)", group)) for group in groups)


def packages(indices: Iterable[Path]) -> Iterator[File]:
    """Yield the files that the *indices* name."""
    for index in indices:
        with {".xz": lzma.LZMAFile, ".gz": gzip.GzipFile}.get(index.suffix, FileIO)(index) as lines:
            for fields in paragraphs(map(bytes.decode, lines)):
                yield File(fields["Filename"].removeprefix("./"), int(fields["Size"]), fields["SHA256"])


def fetch(files: Iterable[File], url: str, root: Path, context: downhaul.Context) -> bool:
    """Fetch those of *files* that are not below *root* yet; report what fails, and tell whether nothing did."""

    def jobs() -> Iterator[downhaul.Download]:
        known = dict[str, File]()
        for file in files:
            if known.setdefault(file.path, file) != file:
                raise downhaul.ValidationError(f"{file.path} is two different files")
            if known[file.path] is file and not file.is_in(root):
                writer = downhaul.FileWriter(root / file.path, parents=True)
                judges = downhaul.SizeValidation(file.size), downhaul.DigestValidation("sha256", file.sha256)
                yield downhaul.Download(url + quote(file.path), writer, validations=judges, attachment=file.path)

    with downhaul.Batch(jobs(), concurrency=10, backlog=100, context=context) as batch:
        for plan in batch():
            told = f"{getattr(plan.error, 'source', '')}: {plan.error}" if plan.error else "fetched"
            print(plan.download.attachment, told, file=sys.stderr if plan.error else sys.stdout)
        return batch.progress.failed == 0


def mirror(target: Path, url: str, release: Release, indices: list[str], context: downhaul.Context) -> bool:
    """Bring the suite in *target* up to date; its link leads to the new indices once all that they name is there."""
    link, dists, buffer = target / "dists" / release.suite, f"{url}dists/{release.suite}/", downhaul.BufferWriter()
    versions = json.loads((link / ".versions").read_text()) if (link / ".versions").exists() else {}
    for name in ("InRelease", "Release"):
        unless = downhaul.Version(**versions[name]) if name in versions and (link / name).exists() else None
        try:
            result = downhaul.Download(dists + name, buffer, plugins=[release], unless=unless, context=context)()
            break
        except downhaul.DownloadError:
            if name == "Release":
                raise
    content = (link / name).read_bytes() if result.not_modified else buffer.content()
    rows = map(str.split, release.read(content)["SHA256"].split("\n")[1:])
    listed = {path: File(path, int(size), digest) for digest, size, path in rows}
    state = target / ".dists" / hashlib.sha256(content).hexdigest()
    found = {each: listed[each + end] for each in indices for end in ("", ".gz", ".xz") if each + end in listed}
    if missing := {*indices} - {*found}:
        raise downhaul.ValidationError(f"the Release lists none of {', '.join(sorted(missing))}")
    if link.exists() and not state.exists():  # most indices are as they were
        shutil.copytree(link, state, ignore=shutil.ignore_patterns("*Release", ".versions"))
    named = packages(state / file.path for file in found.values())
    complete = fetch(found.values(), dists, state, context) and fetch(named, url, target, context)
    if complete and link.resolve() != state.resolve():
        (state / name).write_bytes(content)
        (state / ".versions").write_text(json.dumps({name: asdict(result.version)} if result.version else {}))
        fresh = link.with_name(f".{link.name}")
        fresh.parent.mkdir(exist_ok=True)
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(Path("..", ".dists", state.name))
        fresh.replace(link)
    return complete


def main() -> int | str:
    """Run the command; return its exit code, or what went wrong."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # ends like Ctrl-C: nothing is left behind
    parser = ArgumentParser("downhaul_importer", description="Mirror a suite of a Debian repository.")
    parser.add_argument("target", type=Path, help="the directory of the mirror")
    parser.add_argument("suite", help="such as bookworm")
    parser.add_argument("mirrors", nargs="+", type=lambda url: f"{url.rstrip('/')}/", help="URLs, in order of asking")
    parser.add_argument("--section", action="append", help="such as main/binary-amd64, the default; may be repeated")
    given = parser.parse_args()
    indices = [f"{section}/Packages" for section in given.section or ["main/binary-amd64"]]
    try:
        asked = downhaul.plugins.MirrorList(given.mirrors, given.mirrors[0], choice=downhaul.plugins.InOrder())
        with downhaul.Context(plugins=[asked]) as context:
            return 0 if mirror(given.target, given.mirrors[0], Release(given.suite), indices, context) else 1
    except (downhaul.DownloadError, OSError, ValueError, KeyError, EOFError, lzma.LZMAError) as error:
        return f"{type(error).__name__}: {getattr(error, 'source', '') or given.suite}: {error}"


if __name__ == "__main__":
    sys.exit(main())
