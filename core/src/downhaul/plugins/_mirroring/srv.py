"""Mirrors from the DNS: SRV records (RFC 2782)."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from downhaul import NameResolutionError, PluginError, PreparationError
from downhaul.plugins._mirror import Mirror, allowed, directory

from .mirror_list import as_prefix
from .mirrors import Mirrors

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from downhaul import Transfer

_SECONDS: Final = 5.0
_HOST: Final = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_LONGEST: Final = 3600.0  # seconds; a record that promises more is asked for again nevertheless


@dataclass(frozen=True, repr=False)
class SrvMirrors(Mirrors):
    """Asks the hosts that the DNS names for a service, by priority and weight, for what is below a prefix.

    *replaces* is the prefix, such as ``https://dl.example.org/pub/``; in each URL below it, the hosts take the place of
    its host and port. *service* is the name of the records, by default that of the prefix's scheme and host,
    ``_https._tcp.dl.example.org``. Where there are no records, the host itself is asked. *nameserver*, an address,
    ``192.0.2.1`` or ``[2001:db8::1]:5353``, is asked in place of those of the system.

    An answer is good for as long as the DNS says, an hour at most. A certificate must be for the host that is named,
    not for that of the prefix. Needs ``pip install 'downhaul[srv]'``.
    """

    replaces: str
    service: str | None = None
    nameserver: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "replaces", as_prefix(self.replaces, "SrvMirrors"))
        if self.nameserver is not None:
            self._server()

    async def sources(self, transfer: Transfer) -> Sequence[Mirror]:
        """Return the hosts that the DNS names, if the download is below the prefix."""
        if not transfer.url.startswith(self.replaces):
            return ()
        mirrors, _ = await transfer.context.once(self, "mirrors", self._load, ttl=lambda found: found[1])
        return mirrors

    def locate(self, mirror: Mirror, transfer: Transfer) -> str:
        """Return the URL at the host, with the rest of the download's URL behind it."""
        return mirror.url + transfer.url.removeprefix(self.replaces)

    def _server(self) -> tuple[str, int]:
        """Return address and port of the name server that was given; raise ValueError for what is none."""
        given = self.nameserver or ""
        try:
            parts = urlsplit(f"//[{given}]" if given.count(":") > 1 and "[" not in given else f"//{given}")
            return str(ip_address(parts.hostname or "")), parts.port or 53
        except ValueError:
            told = f"192.0.2.1, 192.0.2.1:5353 or [2001:db8::1]:5353; not {given!r}"
            raise ValueError(f"SrvMirrors(nameserver=…) is an address, such as {told}") from None

    async def _load(self) -> tuple[Sequence[Mirror], float]:
        """Return the mirrors, and for how many seconds they are good."""
        scheme, host, path = (parts := urlsplit(self.replaces)).scheme, parts.hostname or "", parts.path
        name = self.service or f"_{scheme}._tcp.{host}"
        records, seconds = await self._resolve(name)
        if [record.target.to_text() for record in records] == ["."]:
            raise PreparationError(f"the DNS says of {name} that the service is decidedly not there")
        mirrors = [
            Mirror(directory(f"{scheme}://{target}:{record.port}{path}"), record.priority + 1)
            for record in by_weight(records)
            if _HOST.fullmatch(target := record.target.to_text(omit_final_dot=True)) and record.port
        ]
        return allowed(mirrors, f"dns://{self.nameserver or ''}"), min(seconds, _LONGEST)

    async def _resolve(self, name: str) -> tuple[Sequence[Any], float]:
        try:
            import dns.asyncresolver
            import dns.exception
            import dns.resolver
        except ImportError:
            raise PluginError("SrvMirrors needs dnspython: pip install 'downhaul[srv]'") from None
        resolver = dns.asyncresolver.Resolver(configure=self.nameserver is None)
        if self.nameserver is not None:
            host, port = self._server()
            resolver.nameservers, resolver.port = [host], port
        failure: NameResolutionError
        try:
            answer = await resolver.resolve(name, "SRV", lifetime=_SECONDS)
            return list(answer), float(answer.rrset.ttl if answer.rrset is not None else 0)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return (), _SECONDS
        except (dns.exception.DNSException, OSError) as reason:
            failure = NameResolutionError(f"the SRV records of {name} cannot be had: {reason}")
            failure.transient = True
        raise failure


def by_weight(records: Iterable[Any]) -> list[Any]:
    """Return SRV *records* by priority, those of one priority in an order drawn by weight (RFC 2782, page 4)."""

    def drawn(record: Any) -> float:
        # The smallest of exponential times comes first with a chance in proportion to its rate.
        return random.expovariate(record.weight) if record.weight else float("inf")

    return sorted(records, key=lambda record: (record.priority, drawn(record)))
