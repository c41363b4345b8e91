"""Options of the command line that become `downhaul.Settings`.

What was typed may hold a secret in the wrong place, so a complaint never repeats it.
"""

from __future__ import annotations

import getpass
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict, TypeVar

import click

from downhaul import TLS, Settings, Timeout, User

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_Function = TypeVar("_Function", bound="Callable[..., object]")


class Options(TypedDict):
    """What `settings_options` adds to a command."""

    header: Sequence[str]
    user: str | None
    proxy: str | None
    no_proxy: Sequence[str]
    environment: bool | None
    insecure: bool
    cacert: Path | None
    cert: Path | None
    key: Path | None
    connect_timeout: float | None
    read_timeout: float | None
    max_time: float | None
    retries: int | None
    max_size: int | None
    require_proof: bool


class _Seconds(click.ParamType[float]):
    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return a number of seconds; 0 is no limit."""
        try:
            seconds = float(value)
        except ValueError:
            seconds = -1
        if not 0 <= seconds < math.inf:
            self.fail(f"{value!r} is no number of seconds, from 0.", param, ctx)
        return seconds


_PEM: Final = click.Path(exists=True, path_type=Path)
_SECONDS: Final = _Seconds()
_OPTIONS: Final = (
    click.option("--header", metavar="NAME:VALUE", multiple=True, help="Send a header, to the host of the URL only."),
    click.option(
        "--user", metavar="NAME[:PASSWORD]", help="Log in at the host of the URL; a missing password is asked for."
    ),
    click.option("--proxy", metavar="URL", help='Go through a proxy: http://[name:password@]host:port. "" is none.'),
    click.option(
        "--no-proxy",
        metavar="HOSTS",
        multiple=True,
        help="Reach these without it: names, .suffixes, addresses, networks, with commas; or *.",
    ),
    click.option("--environment/--no-environment", default=None, help="Take proxies from environment variables."),
    click.option("-k", "--insecure", is_flag=True, help="Accept every certificate."),
    click.option("--cacert", metavar="PEM", type=_PEM, help="Trust these authorities, in place of the system's."),
    click.option("--cert", metavar="PEM", type=_PEM, help="Show this client certificate to the host of the URL."),
    click.option("--key", metavar="PEM", type=_PEM, help="The key of --cert, where it is not in the same file."),
    click.option("--connect-timeout", metavar="SECONDS", type=_SECONDS, help="Wait so long for a connection. [10]"),
    click.option("--read-timeout", metavar="SECONDS", type=_SECONDS, help="Bear so long a silence. [30]"),
    click.option("--max-time", metavar="SECONDS", type=_SECONDS, help="Give each file so long, with all retries."),
    click.option("--retries", metavar="N", type=click.IntRange(0), help="Rounds after the first. [3]"),
    click.option("--max-size", metavar="BYTES", type=click.IntRange(0), help="Refuse a larger file."),
    click.option("--require-proof", is_flag=True, help="Refuse what nothing proves complete."),
)


def settings_options(function: _Function) -> _Function:
    """Give a command the options that `settings_of` reads."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def settings_of(options: Options) -> Settings:
    """Return the settings that *options* ask for; raises click.UsageError for what cannot be meant."""
    if options["key"] is not None and options["cert"] is None:
        raise click.UsageError("--key needs --cert")
    settings = Settings(
        timeout=_timeout(options),
        tls=TLS(options["cacert"], options["cert"], options["key"], verify=not options["insecure"]),
        proxy=_proxy(options["proxy"]),
        no_proxy=_no_proxy(options["no_proxy"]),
        environment=options["environment"],
        headers=_headers(options["header"]),
        retries=options["retries"],
        max_size=options["max_size"],
        require_proof=options["require_proof"],
    )
    return settings.filled(Settings(user=_user(options["user"])))  # last: it may ask for a password


def _timeout(options: Options) -> Timeout:
    given = {"connect": options["connect_timeout"], "read": options["read_timeout"], "total": options["max_time"]}
    return Timeout(**{name: seconds or None for name, seconds in given.items() if seconds is not None})


def _headers(lines: Sequence[str]) -> dict[str, str]:
    headers: dict[str, tuple[str, str]] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        try:
            Settings(headers={name: value.strip()} if colon else {"": ""})
        except ValueError:
            raise click.UsageError(
                "--header takes NAME:VALUE, the name without blanks, the value without line breaks"
            ) from None
        known = headers.get(name.lower())  # several of one name are one list (RFC 9110, section 5.3)
        headers[name.lower()] = name, value.strip() if known is None else f"{known[1]}, {value.strip()}"
    return dict(headers.values())


def _proxy(url: str | None) -> str | None:
    try:
        if url and "://" not in url:
            raise ValueError
        return Settings(proxy=url).proxy
    except ValueError:
        raise click.UsageError("--proxy takes a URL, such as http://gateway.example.org:3128") from None


def _no_proxy(given: Sequence[str]) -> Iterable[str] | None:
    try:
        return Settings(no_proxy=",".join(given)).no_proxy if given else None
    except ValueError as reason:
        raise click.UsageError(str(reason).replace("no_proxy=…", "--no-proxy")) from None


def _user(given: str | None) -> User | None:
    if given is None:
        return None
    name, colon, password = given.partition(":")
    return User(name, password if colon else _ask_password())


def _ask_password() -> str:
    if sys.stdin is not None and not sys.stdin.isatty():
        line = sys.stdin.readline()
    else:
        try:
            return getpass.getpass("Password: ")
        except EOFError:
            line = ""
    if not line:
        raise click.UsageError("--user NAME needs a password: none came from the terminal or standard input")
    return line.rstrip("\r\n")
