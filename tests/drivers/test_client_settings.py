"""Every setting of the client libraries has its line in the README of the driver."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import aioftp
import httpx
import pytest

from downhaul import TLS, Context, Settings, Timeout
from downhaul_ftp import FtpOptions
from downhaul_http import HttpOptions

ROOT = Path(__file__).parents[2] / "drivers"
KINDS = {each.__name__: each for each in (Context, FtpOptions, HttpOptions, Settings, TLS, Timeout)}


def table(driver: str, title: str) -> dict[str, str]:
    """Return the table of a README that begins with *title*: each name of the first column, and what it stands for."""
    lines = iter((ROOT / driver / "README.md").read_text().splitlines())
    next(line for line in lines if line.startswith(f"| `{title}(…)` |"))
    next(lines)
    found = {}
    for line in lines:
        if not line.startswith("|"):
            break
        names, here = line.strip("| ").split(" | ")
        for name in re.findall("`([a-z0-9_]+)`", names):
            found[name] = here
    return found


def parameters(kind: type) -> set[str]:
    """Return the names of the arguments of a class."""
    return set(inspect.signature(kind).parameters)


@pytest.mark.parametrize(
    ("driver", "kind", "title"),
    [("http", httpx.AsyncClient, "httpx.AsyncClient"), ("ftp", aioftp.Client, "aioftp.Client")],
)
def test_every_setting_has_its_place(driver: str, kind: type, title: str) -> None:
    """The table has a line for each argument of the client, and for nothing else."""
    assert set(table(driver, title)) == parameters(kind)


def test_the_transport_too() -> None:
    """What httpx tells its transport only has its lines as well."""
    rest = parameters(httpx.AsyncHTTPTransport) - parameters(httpx.AsyncClient)
    assert set(table("http", "httpx.AsyncHTTPTransport")) == rest


@pytest.mark.parametrize(
    ("driver", "title"),
    [("http", "httpx.AsyncClient"), ("http", "httpx.AsyncHTTPTransport"), ("ftp", "aioftp.Client")],
)
def test_the_places_exist(driver: str, title: str) -> None:
    """What the tables name is an argument of what they name it for."""
    found = [
        (KINDS[name], argument)
        for here in table(driver, title).values()
        for name, arguments in re.findall(r"\b(Context|FtpOptions|HttpOptions|TLS|Timeout)\(([^)]*)\)", here)
        for argument in re.findall(r"(\w+)=", arguments)
    ]
    assert found
    for kind, argument in found:
        assert argument in parameters(kind)
    for here in table(driver, title).values():
        for name in re.findall(r"`(\w+)=", here):
            assert name in parameters(Settings)
