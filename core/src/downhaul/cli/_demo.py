"""``downhaul demo``: some hundred files from servers in this process, most of which fail now and then."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import click

from downhaul import Batch, Context, Download, DownloadError, FileWriter, UnsupportedScheme, show

from ._codes import Code
from ._demo_scene import DemoFile, Repair, Scene
from ._output import Failure, plain, print_json, print_table, print_text
from ._progress import Display, Watch, has_terminal
from ._records import sentence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from downhaul import Attempt, Transfer

_CONCURRENCY: Final = 16
_PER_SERVER: Final = 8
_FEWEST: Final = 12  # so that everything happens that can


@dataclass
class _Course:
    """What happened."""

    scene: Scene
    seconds: float = 0.0
    attempts: int = 0
    verified: int = 0
    files: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    ended: dict[str, float] = field(default_factory=dict)
    repairs: Counter[Repair] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def note(self, attempts: tuple[Attempt, ...]) -> None:
        """Count the failed *attempts* of a file."""
        for each in attempts:
            server = self.scene.server_of(each.source)
            self.repairs[Repair(type(each.error).__name__, server, each.repaired_by or "nobody")] += 1

    def problems(self) -> list[str]:
        """Return what is not as it should be; nothing, if the demonstration succeeded."""
        scene = self.scene
        found = [*self.failed, *self.wrong]
        found += [
            f"{expected} times {repair.error} at the {repair.server} were to be repaired by {repair.plugin},"
            f" not {self.repairs[repair]}"
            for repair, expected in scene.expected.items()
            if self.repairs[repair] < expected
        ]
        found += [
            f"{server.name}: {scene.resumed[server.name]} transfers were to be continued, not {server.resumed}"
            for server in scene.site.servers
            if server.resumed < scene.resumed.get(server.name, 0)
        ]
        if scene.tokens.issued < 2:
            found.append(f"{scene.tokens.issued} tokens were asked for: none was renewed")
        return [*found, *(failure for server in scene.site.servers for failure in server.failures)]


@click.command()
@click.option("--files", metavar="N", type=click.IntRange(_FEWEST, 10_000), default=300, help="How many. [300]")
@click.option("--json", "as_json", is_flag=True, help="Print one object, with a version, in place of the tables.")
def demo(files: int, as_json: bool) -> int:
    """Download from servers that fail, all on this machine, and tell what was repaired.

    An HTTP and an FTP server run in this process, a mirror that is dead, one that is corrupt, one that cuts
    connections, and a token that expires. Every file is read back and verified. Nothing is left behind.
    """
    try:
        for scheme in ("http", "ftp"):
            Context().download(f"{scheme}://localhost/")
    except UnsupportedScheme as error:
        raise Failure(f"{error}; the demo needs both: pip install 'downhaul[http,ftp]'", Code.USAGE) from None
    course = _Course(Scene(files))
    with tempfile.TemporaryDirectory(prefix="downhaul-demo-") as directory, course.scene.site:
        _download(course, Path(directory))
        _verify(course, Path(directory))
    problems = course.problems()
    if as_json:
        print_json(_record(course, problems))
    else:
        _print(course)
    for problem in problems:
        click.echo(f"downhaul: {plain(problem)}", err=True)
    return Code.GENERIC if problems else Code.OK


def _download(course: _Course, directory: Path) -> None:
    """Download every file with one batch in one context."""
    scene, watch = course.scene, Watch()

    def downloads() -> Iterator[Download]:
        for file in scene.files:
            writer = FileWriter(directory / file.name)
            yield Download(scene.url(file), writer, digests={"sha256": file.sha256}, attachment=file)

    with (
        scene.context(_PER_SERVER, watch) as context,
        Display(watch, _name) if has_terminal() else contextlib.nullcontext() as display,
        Batch(downloads(), concurrency=_CONCURRENCY, context=context) as batch,
    ):
        if display is not None:
            display.follow(batch)
        for plan in batch():
            protocol = urlsplit(plan.download.url).scheme
            course.ended[protocol] = batch.progress.elapsed
            try:
                result = plan.result()
            except DownloadError as error:
                course.failed.append(sentence(error).removeprefix("downhaul: "))
                course.note(error.history)
            else:
                course.files[protocol] += 1
                course.bytes[protocol] += result.size
                course.note(result.history)
    course.attempts, course.seconds = batch.progress.attempts, batch.progress.elapsed


def _verify(course: _Course, directory: Path) -> None:
    """Read every file back, with nothing of downhaul, and see that there is no other."""
    for file in course.scene.files:
        path = directory / file.name
        if not path.is_file():
            course.wrong.append(f"{file.name} is missing")
        elif hashlib.sha256(path.read_bytes()).digest() != hashlib.sha256(file.content).digest():
            course.wrong.append(f"{file.name} has other bytes than the server")
        else:
            course.verified += 1
    strangers = {path.name for path in directory.iterdir()} - {file.name for file in course.scene.files}
    course.wrong.extend(f"{name} was left behind" for name in sorted(strangers))


def _name(transfer: Transfer) -> str:
    file = transfer.download.attachment
    return file.name if isinstance(file, DemoFile) else show(transfer.download.url)  # the token is no file


def _print(course: _Course) -> None:
    scene = course.scene
    rows = [
        (protocol.upper(), f"{course.files[protocol]}", f"{course.bytes[protocol]:,}", f"{course.ended[protocol]:.2f}")
        for protocol in sorted(course.ended)
    ]
    total = ("together", f"{course.files.total()}", f"{course.bytes.total():,}", f"{course.seconds:.2f}")
    print_table(("protocol", ">files", ">bytes", ">done after (s)"), [*rows, total], "Downloaded")
    print_table(
        ("failure", "at the", "repaired by", ">times"),
        [(each.error, each.server, each.plugin, f"{times}") for each, times in _sorted(course.repairs)],
        f"Failed attempts: {course.repairs.total()} of {course.attempts}",
    )
    print_table(
        ("server", ">requests", ">continued", ">connections", ">at most at once"),
        [
            (server.name, f"{server.requests}", f"{server.resumed}", f"{server.connections}", f"{server.peak}")
            for server in scene.site.servers
        ],
        "What the servers saw",
    )
    print_text(f"Tokens asked for: {scene.tokens.issued}")
    print_text(f"Files verified by reading them back: {course.verified} of {len(scene.files)}")


def _record(course: _Course, problems: list[str]) -> dict[str, object]:
    scene = course.scene
    return {
        "version": 1,
        "ok": not problems,
        "problems": problems,
        "seconds": round(course.seconds, 3),
        "files": course.files.total(),
        "bytes": course.bytes.total(),
        "verified": course.verified,
        "protocols": {
            protocol: {"files": course.files[protocol], "bytes": course.bytes[protocol], "seconds": round(ended, 3)}
            for protocol, ended in sorted(course.ended.items())
        },
        "attempts": course.attempts,
        "failures": [
            {"error": each.error, "server": each.server, "repaired_by": each.plugin, "times": times}
            for each, times in _sorted(course.repairs)
        ],
        "tokens": scene.tokens.issued,
        "servers": [
            {
                "name": server.name,
                "requests": server.requests,
                "continued": server.resumed,
                "connections": server.connections,
                "peak": server.peak,
            }
            for server in scene.site.servers
        ],
    }


def _sorted(repairs: Counter[Repair]) -> list[tuple[Repair, int]]:
    return sorted(repairs.items(), key=lambda item: (item[0].server, item[0].error, item[0].plugin))
