"""What a download is told about the world: time limits, TLS, proxy, credentials, headers, retries."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypedDict, TypeVar

from ._urls import check_url, show

if TYPE_CHECKING:
    from collections.abc import Iterator

_Options = TypeVar("_Options")
_PUBLIC_HEADERS: Final = frozenset({"accept", "accept-language", "user-agent"})
_TOKEN: Final = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


@dataclass(frozen=True)
class Timeout:
    """Time limits, in seconds; None is no limit.

    `connect` is for the connection with its TLS handshake, `read` is the longest silence between two pieces of the
    answer, its head included unless `head` is set, `total` is for the whole download, its waits and retries included.
    """

    connect: float | None = 10.0
    read: float | None = 30.0
    head: float | None = None
    total: float | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None and not (_is_number(value) and 0 < value < math.inf):
                raise ValueError(f"Timeout({each.name}=…) is a positive number of seconds or None, not {value!r}")


@dataclass(frozen=True)
class LowSpeed:
    """Less than this is too slow: *size* bytes within *seconds* of waiting for the source; a *size* of 0 is no limit.

    Time that passes while a consumer or a disk takes its time, or a slot is waited for, does not count.
    """

    size: int
    seconds: float

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or isinstance(self.size, bool) or self.size < 0:
            raise ValueError(f"LowSpeed(size=…) is a number of bytes, from 0; not {self.size!r}")
        if not (_is_number(self.seconds) and 0 < self.seconds < math.inf):
            raise ValueError(f"LowSpeed(seconds=…) is a positive number of seconds, not {self.seconds!r}")


@dataclass(frozen=True)
class User:
    """A name and a password, sent unasked (Basic; USER and PASS) to the origin of the download and nowhere else."""

    name: str
    password: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not isinstance(self.password, str):
            raise TypeError("User(name, password) takes two str")

    def __repr__(self) -> str:
        return "User(***)"


@dataclass(frozen=True)
class TLS:
    """Trust and identity: PEM text, or the path of a PEM file.

    `ca_certificate` replaces the system's authorities; `client_certificate` and `client_key` (None: the key is in
    the certificate's file) are shown to the origin of the download only; `verify=False` trusts everybody.
    """

    ca_certificate: str | Path | None = None
    client_certificate: str | Path | None = None
    client_key: str | Path | None = field(default=None, repr=False)
    verify: bool = True

    def __post_init__(self) -> None:
        if self.client_key is not None and self.client_certificate is None:
            raise ValueError("TLS(client_key=…) needs client_certificate=… too")
        for each in fields(self)[:3]:
            value = getattr(self, each.name)
            if value is not None and not isinstance(value, str | Path):
                raise TypeError(f"TLS({each.name}=…) is PEM text or a path, not {type(value).__name__}")
            if value == "":
                raise ValueError(f"TLS({each.name}=…) is PEM text or a path, or None for none; not an empty str")
        if not isinstance(self.verify, bool):
            raise TypeError(f"TLS(verify=…) is True or False, not {type(self.verify).__name__}; see ca_certificate")

    def __repr__(self) -> str:
        return f"TLS({', '.join(f'{each.name}={_shown(getattr(self, each.name))}' for each in fields(self))})"


class SettingsFields(TypedDict, total=False):
    """The fields of `Settings`, as keywords of `Download`, `Context` and `downhaul.download`."""

    timeout: Timeout | None
    low_speed: LowSpeed | None
    tls: TLS | None
    user: User | None
    proxy: str | None
    no_proxy: Iterable[str] | None
    environment: bool | None
    headers: Mapping[str, str] | None
    retries: int | None
    require_proof: bool | None
    max_size: int | None
    schemes: Iterable[str] | None
    options: Iterable[object]


@dataclass(frozen=True)
class Settings:
    """The settings of a download; what is None is unset, and filled from the context, then from the defaults.

    `low_speed` gives up a source that is slower than that; the bytes are kept, as after a lost connection.
    `proxy` is the URL of a proxy, credentials included, or "" for none whatever the context and the environment
    say. `no_proxy` names what is reached without it, as several entries or one str with commas: a name means that
    host and every one below, a leading dot only those below, addresses and networks (``10.0.0.0/8``) mean literal
    addresses, ``*`` means all, and a port (``host:8080``) that port only. `environment` takes the proxy, and
    `no_proxy`, from environment variables where they are unset. `headers` go to the origin of the download only,
    save Accept, Accept-Language and User-Agent. `retries` counts rounds after the first (default 3).
    `require_proof` refuses a download that nothing proves complete. `max_size` is in bytes. `schemes` are those
    that anything remote (redirect, mirror list) may name, besides the download's own. `options` are typed options
    of drivers, such as ``HttpOptions(http2=True)``.
    """

    timeout: Timeout | None = None
    low_speed: LowSpeed | None = None
    tls: TLS | None = None
    user: User | None = None
    proxy: str | None = None
    no_proxy: Iterable[str] | None = None
    environment: bool | None = None
    headers: Mapping[str, str] | None = None
    retries: int | None = None
    require_proof: bool | None = None
    max_size: int | None = None
    schemes: Iterable[str] | None = None
    options: Iterable[object] = ()

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            value = getattr(self, name)
            if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
                raise TypeError(f"{name}=… takes {kind.__name__}, not {type(value).__name__}")
        if self.proxy:
            check_url(self.proxy)
            if "://" not in self.proxy:
                raise ValueError(f"proxy=… is a URL, such as http://gateway:3128; not {show(self.proxy)!r}")
        if self.no_proxy is not None:
            from ._proxies import no_proxy_entries  # few need it, and it would cost a tenth of the import of downhaul

            object.__setattr__(self, "no_proxy", no_proxy_entries(self.no_proxy))
        if self.retries is not None and self.retries < 0:
            raise ValueError(f"retries=… counts rounds after the first, from 0; not {self.retries}")
        if self.max_size is not None and self.max_size < 0:
            raise ValueError(f"max_size=… is a number of bytes, from 0; not {self.max_size}")
        if self.headers is not None:
            object.__setattr__(self, "headers", HeaderFields(self.headers))
        if self.schemes is not None:
            if isinstance(self.schemes, str) or not isinstance(self.schemes, Iterable):
                raise TypeError('schemes=… takes several names, such as ("http", "https")')
            schemes = tuple(self.schemes)
            if not all(isinstance(scheme, str) for scheme in schemes):
                raise TypeError('schemes=… takes names, such as ("http", "https")')
            object.__setattr__(self, "schemes", frozenset(scheme.lower() for scheme in schemes))
        if isinstance(self.options, str) or not isinstance(self.options, Iterable):
            raise TypeError("options=… takes several, such as (HttpOptions(http2=True),)")
        options = tuple(self.options)
        for option in options:
            try:
                hash(option)
            except TypeError:
                raise TypeError(f"{type(option).__name__} among options is not hashable: make it frozen") from None
        if len({type(option) for option in options}) < len(options):
            raise ValueError("options=… holds two of one type")
        object.__setattr__(self, "options", options)

    def of(self, kind: type[_Options]) -> _Options:
        """Return the options of type *kind*, or ``kind()`` where none were given."""
        for option in self.options:
            if isinstance(option, kind):
                return option
        return kind()

    def filled(self, other: Settings) -> Settings:
        """Return these settings, with what is unset taken from *other*; options are joined by their type."""
        if other is self or other == _EMPTY:
            return self
        if self == _EMPTY:
            return other
        mine = {type(option) for option in self.options}
        options = (*self.options, *(option for option in other.options if type(option) not in mine))
        values = {
            each.name: getattr(other, each.name) if getattr(self, each.name) is None else getattr(self, each.name)
            for each in fields(self)
        }
        return Settings(**{**values, "options": options})

    def complete(self) -> Settings:
        """Return these settings with every default in its place, except where None means something by itself."""
        return self.filled(DEFAULTS)

    def proxy_for(self, url: str) -> str:
        """Return the URL of the proxy for *url*, credentials included, or "" for none."""
        if not (self.proxy or self.environment):
            return ""
        from ._proxies import choose_proxy  # as above

        entries = None if self.no_proxy is None else tuple(self.no_proxy)
        return choose_proxy(url, self.proxy, entries, environment=bool(self.environment))

    @cached_property
    def connection(self) -> Settings:
        """The part that decides which connections may be shared: TLS, the proxy and where none is used, options.

        Hashable, without time limits and headers: the key of a driver's pools, together with ``Request.origin`` and
        ``Request.user``.
        """
        return Settings(**{name: getattr(self, name) for name in _CONNECTION})

    @cached_property
    def home(self) -> Settings:
        """These settings as a driver gets them for the download's own origin: user and headers are in the request."""
        return replace(self, user=None, headers=None)

    @cached_property
    def elsewhere(self) -> Settings:
        """These settings for any other origin: without user, private headers and client certificate."""
        tls, headers = self.tls, self.headers
        if tls is not None and tls.client_certificate is not None:
            tls = replace(tls, client_certificate=None, client_key=None)
        if headers is not None:
            headers = dict(HeaderFields(headers).public())
        return replace(self, tls=tls, user=None, headers=headers)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(getattr(self, each.name) for each in fields(self)))

    def __getstate__(self) -> dict[str, object]:
        return {each.name: getattr(self, each.name) for each in fields(self)}  # a hash is good in one process only

    def __repr__(self) -> str:
        shown = []
        for each in fields(self):
            value = getattr(self, each.name)
            if value is None or (each.name == "options" and not value):
                continue
            shown.append(f"{each.name}={show(value)!r}" if each.name == "proxy" else f"{each.name}={value!r}")
        return f"Settings({', '.join(shown)})"


class HeaderFields(Mapping[str, str]):
    """Header fields to be sent, checked: a hashable mapping whose names ignore case and whose repr hides the values."""

    __slots__ = ("_fields", "_private", "_public")

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._fields: dict[str, tuple[str, str]] = {}
        for name, value in headers.items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise TypeError("headers=… maps str to str")
            if not name or not _TOKEN.issuperset(name):
                raise ValueError(f"{name!r} is no header field name (RFC 9110, section 5.1)")
            if any(character in value for character in "\r\n\0") or value != value.strip():
                raise ValueError(f"the value of header {name} holds a line break, NUL or blanks around it")
            self._fields[name.lower()] = name, value
        self._public = tuple(pair for key, pair in self._fields.items() if key in _PUBLIC_HEADERS)
        self._private = tuple(pair for key, pair in self._fields.items() if key not in _PUBLIC_HEADERS)

    def public(self) -> tuple[tuple[str, str], ...]:
        """Return the fields that any origin may see: Accept, Accept-Language and User-Agent."""
        return self._public

    def private(self) -> tuple[tuple[str, str], ...]:
        """Return the fields that only the origin of the download may see."""
        return self._private

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()][1]

    def __iter__(self) -> Iterator[str]:
        return iter(name for name, _ in self._fields.values())

    def __len__(self) -> int:
        return len(self._fields)

    def __hash__(self) -> int:
        return hash(frozenset(self._fields.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HeaderFields) and self._fields == other._fields

    def __repr__(self) -> str:
        return f"{{{', '.join(f'{name}: ***' for name, _ in self._fields.values())}}}"


def _shown(pem: object) -> str:
    """Return a field of TLS as it may be shown: PEM text may hold a key."""
    return "***" if isinstance(pem, str) and "-----" in pem else repr(pem)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_KINDS: Final[dict[str, type]] = {
    "timeout": Timeout, "low_speed": LowSpeed, "tls": TLS, "user": User, "proxy": str, "environment": bool,
    "headers": Mapping, "retries": int, "require_proof": bool, "max_size": int,
}  # fmt: skip
_CONNECTION: Final = ("tls", "proxy", "no_proxy", "environment", "options")
_EMPTY: Final = Settings()
DEFAULTS: Final = Settings(
    timeout=Timeout(), tls=TLS(), environment=False, headers={}, retries=3, require_proof=False,
    schemes=("http", "https", "ftp", "ftps"),
)  # fmt: skip
"""What is in force where neither the download nor the context says otherwise."""
