"""Hosts that mean this machine, however that is written."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import urlsplit


def is_loopback(url: str) -> bool:
    """Tell whether the host of *url* is this machine: a name of it, a loopback address, or none in particular."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _address(host)
    return address is not None and (address.is_loopback or address.is_unspecified)


def is_local(url: str) -> bool:
    """Tell whether *url* names this machine, or what is on its own link: only from there that means the same."""
    address = _address((urlsplit(url).hostname or "").rstrip("."))
    return is_loopback(url) or (address is not None and address.is_link_local)


def _address(host: str) -> IPv4Address | IPv6Address | None:
    """Return the address that *host* is, in whatever form the system reads one: "127.1" and "0x7f000001" too."""
    try:
        if ":" in host:
            address = IPv6Address(host.partition("%")[0])
            return address.ipv4_mapped or address
        return IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None
