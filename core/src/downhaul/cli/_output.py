"""What leaves the command: text that cannot steer a terminal, records of JSON, tables."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING, BinaryIO

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ._codes import Code, code_of_errno

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


class Failure(click.ClickException):
    """The command ends with a sentence and an exit code."""

    def __init__(self, message: str, code: Code) -> None:
        super().__init__(message)
        self.code = code


def plain(text: str) -> str:
    """Return *text* with every character that is not printable written as an escape; for show() it takes URLs only."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "surrogatepass").decode() for each in text
    )


def standard_output() -> BinaryIO:
    """Return standard output, for bytes."""
    if sys.stdout is None:
        raise Failure("standard output is closed", Code.FILE)
    return sys.stdout.buffer


@contextlib.contextmanager
def output_errors() -> Iterator[None]:
    """Turn an OSError of standard output into a `Failure`."""
    try:
        yield
    except OSError as reason:
        # What is still buffered would fail once more when the interpreter ends, with a traceback.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
        message = f"cannot write to standard output: {reason.strerror or reason}"
        raise Failure(message, code_of_errno(reason.errno)) from None


def print_text(text: str) -> None:
    """Print *text* on standard output, with a line end."""
    out = standard_output()
    with output_errors():
        out.write(f"{text}\n".encode(sys.stdout.encoding or "utf-8", "backslashreplace"))
        out.flush()


def print_json(record: Mapping[str, object]) -> None:
    """Print *record* on standard output, as one line of JSON in ASCII."""
    print_text(json.dumps(record))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Print a table on standard output: drawn on a terminal, else as text whose columns are two blanks apart.

    A column whose name begins with ">" is set flush right.
    """
    names = [column.removeprefix(">") for column in columns]
    right = [column.startswith(">") for column in columns]
    cells = [[plain(cell) for cell in row] for row in rows]
    if sys.stdout is not None and sys.stdout.isatty():
        table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", title_style="bold")
        for name, is_right in zip(names, right, strict=True):
            table.add_column(name, justify="right" if is_right else "left", overflow="fold")
        for row in cells:
            table.add_row(*map(Text, row))
        Console(markup=False, highlight=False).print(table)
        return
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in (names, *cells)
    ]
    print_text("\n".join([*([title] if title else []), *lines, *([""] if title else [])]))
