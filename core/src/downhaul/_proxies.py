"""Which proxy stands between us and a URL: the setting's, the environment's, or none."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import urlsplit

from ._urls import port_of, show

if TYPE_CHECKING:
    from typing import Self

_Address: TypeAlias = IPv4Address | IPv6Address
_Network: TypeAlias = IPv4Network | IPv6Network

_SEPARATORS: Final = re.compile(r"[,\s]+")
_DOTS: Final = re.compile("[.\u3002\uff0e\uff61]")  # those that separate labels in any script (RFC 3490, section 3.1)
_LABEL: Final = re.compile(r"[^\x00-\x20\x7f\"#%&'()*+,/:;<=>?@\[\\\]^`{|}~]+")
_PORTED: Final = re.compile(r"(?P<host>[^:]*|\[[^]]*\])(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class _Entry:
    """Hosts that are reached without a proxy: all of them, those in a network, or those of a domain."""

    name: str = ""
    network: _Network | None = None
    port: int | None = None
    only_below: bool = False

    @classmethod
    def read(cls, text: str) -> Self:
        """Return what *text* says, or raise ValueError."""
        if text == "*":
            return cls()
        if "/" in text and "%" not in text:
            return cls(network=_plain_network(ip_network(text, strict=False)))
        match = _PORTED.fullmatch(text)
        host, port = (match["host"], match["port"]) if match else (text, None)
        number = None if port is None else int(port)
        if number is not None and not 0 < number < 65536:
            raise ValueError("no port")
        if host.startswith("["):
            if ":" not in host or not host.endswith("]"):
                raise ValueError("brackets are for IPv6")
            host = host[1:-1]
        address = _address(host)
        if address is not None:
            return cls(network=ip_network(address), port=number)
        if host.startswith("*."):
            host = host[1:]
        return cls(_name(host.removeprefix(".")), port=number, only_below=host.startswith("."))

    def covers(self, host: str, address: _Address | None, port: int | None) -> bool:
        """Tell whether *host*, or the *address* that it is, and *port* are meant."""
        if self.port is not None and self.port != port:
            return False
        if self.network is not None:
            return address is not None and address in self.network
        if not self.name:
            return True
        if address is not None:
            return False
        return host.endswith(f".{self.name}") or (host == self.name and not self.only_below)

    def __str__(self) -> str:
        if self.network is None:
            host = ("." if self.only_below else "") + (self.name or "*")
        elif self.network.prefixlen < self.network.max_prefixlen:
            host = str(self.network)
        else:
            host = str(self.network.network_address)
            host = f"[{host}]" if self.port is not None and ":" in host else host
        return host if self.port is None else f"{host}:{self.port}"


def no_proxy_entries(given: Iterable[str]) -> tuple[str, ...]:
    """Return the entries of ``no_proxy`` in their normal form, sorted: *given* are several, or one str with commas.

    Raises TypeError and ValueError for what cannot be an entry.
    """
    if isinstance(given, str):
        given = filter(None, _SEPARATORS.split(given))
    elif not isinstance(given, Iterable) or isinstance(given, bytes):
        raise TypeError(f'no_proxy=… takes several names, such as ("localhost", ".corp"), not {type(given).__name__}')
    entries = tuple(given)
    for entry in entries:
        if not isinstance(entry, str):
            raise TypeError(f"no_proxy=… takes names as str, not {type(entry).__name__}")
    return _normal(entries)


def choose_proxy(url: str, proxy: str | None, no_proxy: tuple[str, ...] | None, *, environment: bool) -> str:
    """Return the URL of the proxy for *url*, or "" for none.

    *proxy* and *no_proxy* are settings, None where unset: there the variables of the environment count, if they may.
    """
    if proxy is None and environment:
        from urllib.request import getproxies_environment  # it would double the import of downhaul

        found = getproxies_environment()
        proxy = found.get(urlsplit(url).scheme) or found.get("all") or ""
        if proxy and "://" not in proxy:
            proxy = f"http://{proxy}"
        if no_proxy is None:
            no_proxy = _lenient(found.get("no", ""))
    if not proxy or (no_proxy and _is_direct(url, no_proxy)):
        return ""
    return proxy


def _is_direct(url: str, entries: tuple[str, ...]) -> bool:
    host = urlsplit(url).hostname or ""
    if ":" in host:
        host = host.partition("%")[0]  # a zone is no part of the address
    address = _address(host)
    if address is None:
        try:
            host = _name(host)
        except ValueError:
            return False
    port = port_of(url)
    return any(entry.covers(host, address, port) for entry in _parsed(entries))


@lru_cache(maxsize=64)
def _parsed(entries: tuple[str, ...]) -> tuple[_Entry, ...]:
    return tuple(map(_Entry.read, entries))


@lru_cache(maxsize=8)
def _lenient(variable: str) -> tuple[str, ...]:
    """Return the entries of an environment variable, less those that nobody can read: it was not written for us."""
    found = []
    for text in filter(None, _SEPARATORS.split(variable)):
        try:
            found.append(str(_Entry.read(text)))
        except ValueError:
            continue
    return tuple(found)


@lru_cache(maxsize=64)  # settings are made anew for each download
def _normal(entries: tuple[str, ...]) -> tuple[str, ...]:
    found = set()
    for entry in entries:
        try:
            found.add(str(_Entry.read(entry)))
        except ValueError:
            raise ValueError(
                "no_proxy=… takes names, .suffixes, addresses and networks (10.0.0.0/8), with a port where it matters"
                f" (host:8080, [::1]:8080), and * for all; not {show(entry)!r}"
            ) from None
    return tuple(sorted(found))


def _address(host: str) -> _Address | None:
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            raise ValueError("an address with a zone")
        return address.ipv4_mapped or address
    return address


def _plain_network(network: _Network) -> _Network:
    """Return *network*, as one of IPv4 where its IPv6 only wraps that."""
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    return network if mapped is None or network.prefixlen < 96 else IPv4Network((mapped, network.prefixlen - 96))


def _name(host: str) -> str:
    """Return the name of a host as it is compared: in small ASCII letters (RFC 5890), without the dot of the root."""
    labels = _DOTS.split(unicodedata.normalize("NFKC", host.lower()).lower())
    if len(labels) > 1 and not labels[-1]:
        labels.pop()
    if not all(map(_LABEL.fullmatch, labels)):
        raise ValueError("no name of a host")
    return ".".join(label if label.isascii() else f"xn--{label.encode('punycode').decode('ascii')}" for label in labels)
