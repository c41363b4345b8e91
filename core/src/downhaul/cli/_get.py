"""``downhaul get``: download what the URLs name."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Unpack

import click

from downhaul import Batch, Context, DigestValidation, DownloadError, FileWriter, PluginError, UnsupportedScheme
from downhaul.plugins import MirrorList

from ._codes import EXPLAINED, Code, code_of, combined
from ._names import file_names
from ._output import Failure, output_errors, print_json, standard_output
from ._progress import Display, Watch, has_terminal
from ._records import record, sentence
from ._settings import Options, settings_of, settings_options

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from downhaul import Download, Result, Transfer

_STDOUT: Final = "-"
_BACKLOG: Final = 100
_CONNECTIONS: Final = 100
_CONNECTIONS_PER_ORIGIN: Final = 20


@dataclass(frozen=True)
class _Job:
    """The attachment of a download: its place on the command line, from 1, and its name for people."""

    index: int
    name: str


@click.command(epilog=EXPLAINED)
@click.argument("urls", metavar="URL...", nargs=-1, required=True)
@click.option("-o", "--output", metavar="FILE", help='Write to this file; "-" is standard output.')
@click.option("-d", "--directory", metavar="DIR", help="Write there, under the names in the URLs. [.]")
@click.option("--checksum", metavar="ALG:HEX", help="Accept only this digest, such as sha256:...")
@click.option("--digest", "digests", metavar="ALG", multiple=True, help="Calculate and report a digest.")
@click.option("--mirrorlist", metavar="URL", help="Ask the URLs in this list for the file, one after another.")
@click.option("--plugin", "plugins", metavar="NAME", multiple=True, help="Enable an installed plugin.")
@click.option("-j", "--concurrency", metavar="N", type=click.IntRange(1), default=10, help="Files at a time. [10]")
@settings_options
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object per line and file.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
def get(
    urls: Sequence[str],
    output: str | None,
    directory: str | None,
    checksum: str | None,
    digests: Sequence[str],
    mirrorlist: str | None,
    plugins: Sequence[str],
    concurrency: int,
    as_json: bool,
    quiet: bool,
    **options: Unpack[Options],
) -> int:
    """Download URLs into files, all or nothing of each; existing files are replaced."""
    if len(urls) > 1:
        for option, value in (("-o", output), ("--checksum", checksum), ("--mirrorlist", mirrorlist)):
            if value is not None:
                raise click.UsageError(f"{option} is for a single URL; {len(urls)} were given")
    if output is not None and directory is not None:
        raise click.UsageError("-o and -d exclude each other")
    if output == _STDOUT and as_json:
        raise click.UsageError("standard output takes the file or JSON, not both")
    watch = Watch()
    with _usage_errors():
        context = Context(
            plugins=[*plugins, watch],
            connections=max(_CONNECTIONS, concurrency),
            connections_per_origin=max(_CONNECTIONS_PER_ORIGIN, concurrency),
        )
    with context:
        _check_urls(context, [*urls, *([mirrorlist] if mirrorlist is not None else [])])
        names = [output] if output is not None else file_names(urls, described="metalink" in plugins)
        if directory is not None and not Path(directory).is_dir():
            raise Failure(f"there is no directory {directory!r}; create it first", Code.FILE)
        with _usage_errors():
            validations = [] if checksum is None else [_digest(checksum)]
            settings = settings_of(options)
            downloads = [
                context.download(
                    url,
                    None if output == _STDOUT else FileWriter(Path(directory or "", name)),
                    digests=digests,
                    validations=validations,
                    plugins=[] if mirrorlist is None else [MirrorList(mirrorlist)],
                    attachment=_Job(index, name),
                    settings=settings,
                )
                for index, (url, name) in enumerate(zip(urls, names, strict=True), 1)
            ]
        with _display(watch, quiet=quiet, busy=as_json or output == _STDOUT) as display:
            report = _Report(display, as_json=as_json, quiet=quiet)
            if output == _STDOUT:
                report.add(1, _to_standard_output(downloads[0]))
            else:
                _to_files(downloads, concurrency, context, report, display)
        return report.code


class _Report:
    """Tells what became of each file, and sums up the exit code."""

    def __init__(self, display: Display | None, *, as_json: bool, quiet: bool) -> None:
        self._display, self._as_json, self._quiet = display, as_json, quiet
        self._codes: list[Code] = []

    @property
    def code(self) -> Code:
        """The exit code for all that came."""
        return combined(self._codes)

    def add(self, index: int, outcome: Result | DownloadError) -> None:
        """Report the file at place *index*."""
        if isinstance(outcome, DownloadError):
            code, silent = code_of(outcome), False
        else:
            code, silent = Code.OK, self._quiet or self._as_json
        self._codes.append(code)
        if self._as_json:
            print_json(record(index, outcome))
        if silent:
            return
        if self._display is not None:
            self._display.print(sentence(outcome))
        else:
            click.echo(sentence(outcome), err=True)


def _check_urls(context: Context, urls: Sequence[str]) -> None:
    """Refuse what is no URL, and schemes without a driver, before anything else is done with them."""
    for url in urls:
        try:
            context.download(url)
        except ValueError as reason:
            # Where a URL is malformed, nobody can tell which part of it is the password.
            told = "malformed URL; such as https://name:password@host/path" if "@" in url else str(reason)
            raise click.UsageError(told) from None
        except UnsupportedScheme as reason:
            raise click.UsageError(str(reason)) from None


def _digest(checksum: str) -> DigestValidation:
    algorithm, colon, digits = checksum.partition(":")
    if not colon:
        raise click.UsageError("--checksum takes ALG:HEX, such as sha256:...")
    return DigestValidation(algorithm, digits)


@contextlib.contextmanager
def _usage_errors() -> Iterator[None]:
    """Turn what the objects of downhaul refuse to be made of into wrong usage."""
    try:
        yield
    except (ValueError, UnsupportedScheme, PluginError) as reason:
        raise click.UsageError(str(reason)) from None


def _display(watch: Watch, *, quiet: bool, busy: bool) -> contextlib.AbstractContextManager[Display | None]:
    """Return a display, unless nobody wants one, or standard output is *busy* on the same terminal."""
    if quiet or not has_terminal() or (busy and sys.stdout.isatty()):
        return contextlib.nullcontext()
    return Display(watch, _name)


def _name(transfer: Transfer) -> str:
    job = transfer.download.attachment
    assert isinstance(job, _Job)
    return job.name


def _to_files(
    downloads: Sequence[Download], concurrency: int, context: Context, report: _Report, display: Display | None
) -> None:
    backlog = max(_BACKLOG, concurrency)
    with Batch(downloads, concurrency=concurrency, backlog=backlog, context=context) as batch:
        if display is not None:
            display.follow(batch)
        for plan in batch():
            job = plan.download.attachment
            assert isinstance(job, _Job)
            try:
                report.add(job.index, plan.result())
            except DownloadError as error:
                report.add(job.index, error)


def _to_standard_output(download: Download) -> Result | DownloadError:
    out = standard_output()
    try:
        with download.stream() as stream:
            for block in stream:
                with output_errors():
                    out.write(block)
            with output_errors():
                out.flush()
        return stream.result()
    except DownloadError as error:
        return error
