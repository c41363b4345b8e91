"""``downhaul drivers``: which protocols are installed."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Final

import click

from ._output import print_json, print_table

_COLUMNS: Final = ("scheme", "distribution", "version", "class")


@click.command()
@click.option("--json", "as_json", is_flag=True, help='Print one object: {"version": 1, "drivers": [...]}.')
def drivers(as_json: bool) -> None:
    """List the installed drivers, without importing them."""
    points = entry_points(group="downhaul.drivers")
    # A distribution may be found twice, installed and in a checkout.
    found = sorted({
        (point.name.lower(), *((point.dist.name, point.dist.version) if point.dist else ("", "")), point.value)
        for point in points
    })  # fmt: skip
    if as_json:
        print_json({"version": 1, "drivers": [dict(zip(_COLUMNS, row, strict=True)) for row in found]})
    elif found:
        print_table(_COLUMNS, found)
    else:
        click.echo("downhaul: no driver is installed: pip install 'downhaul[http,ftp]'", err=True)
