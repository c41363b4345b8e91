"""Hosts that mean this machine, however that is written."""

from __future__ import annotations

import re
import socket
import unicodedata
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import urlsplit


def is_loopback(url: str) -> bool:
    """Tell whether the host of *url* is this machine: a name of it, a loopback address, or none in particular."""
    host = _host(url)
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _address(host)
    return address is not None and (address.is_loopback or address.is_unspecified)


def is_local(url: str) -> bool:
    """Tell whether *url* names this machine, or what is on its own link: only from there that means the same."""
    address = _address(_host(url))
    return is_loopback(url) or (address is not None and address.is_link_local)


def _host(url: str) -> str:
    """Return the host of *url* as a resolver will read it: with plain letters, digits and dots (UTS 46)."""
    host = unicodedata.normalize("NFKC", urlsplit(url).hostname or "").lower()
    return re.sub("[\u3002\uff0e\uff61]", ".", host).rstrip(".")


def _address(host: str) -> IPv4Address | IPv6Address | None:
    """Return the address that *host* is, in whatever form the system reads one: "127.1" and "0x7f000001" too."""
    try:
        if ":" in host:
            address = IPv6Address(host.partition("%")[0])
            return address.ipv4_mapped or address
        return IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None
