"""The command with its parts, and what every one of them has in common: errors, signals, exit codes."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Final, NoReturn

import click

from downhaul import __version__

from ._codes import Code
from ._demo import demo
from ._drivers import drivers
from ._get import get
from ._output import Failure, plain

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

_ENDING: Final = (signal.SIGTERM, signal.SIGHUP)


@click.group(no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="downhaul", message="%(prog)s %(version)s")
def downhaul() -> None:
    """Download files, and repair on the way what can be repaired."""


for _part in (get, drivers, demo):
    downhaul.add_command(_part)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command with *arguments* (by default those of the process) and return its exit code."""
    for number in _ENDING:
        if signal.getsignal(number) is signal.SIG_DFL:  # under nohup, SIGHUP stays ignored
            signal.signal(number, _end)
    try:
        code = downhaul.main(arguments, prog_name="downhaul", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as nothing:
        nothing.show()
        return Code.USAGE
    except click.ClickException as error:
        sys.stderr.write(f"downhaul: {plain(error.format_message())}\n")
        return error.code if isinstance(error, Failure) else Code.USAGE
    except click.Abort:
        return Code.INTERRUPTED
    return int(code or Code.OK)


def _end(number: int, _: FrameType | None) -> NoReturn:
    """Leave by way of every ``with`` and ``finally``, so that nothing stays behind."""
    raise SystemExit(128 + number)
