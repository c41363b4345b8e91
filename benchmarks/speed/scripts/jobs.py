"""What all of these scripts begin with: their arguments, and the jobs that a manifest lists.

A script is run by the interpreter of its own environment, so it finds this module beside itself and knows no other one
of the benchmarks.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator


class Job(NamedTuple):
    """One file: where it is, its SHA-256, its size in bytes, and where it shall be."""

    url: str
    sha256: str
    size: int
    path: str


def arguments() -> dict[str, str]:
    """Return the arguments of the command line, each of which is ``name=value``."""
    return dict(argument.split("=", 1) for argument in sys.argv[1:])


def jobs(manifest: str) -> Iterator[Job]:
    """Yield the jobs of a *manifest*, line by line."""
    with open(manifest) as lines:  # noqa: PTH123 - pathlib is an import more
        for line in lines:
            url, sha256, size, path = line.rstrip("\n").split("\t")
            yield Job(url, sha256, int(size), path)
