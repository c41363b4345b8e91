"""SrvMirrors: the hosts that the DNS names for a service (RFC 2782), from a name server of our own."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dns.message
import dns.name
import dns.rcode
import dns.rrset
import pytest
from tests.mem import MemDriver, Reply, context_of

from downhaul import BufferWriter, Download, NameResolutionError, PreparationError
from downhaul.plugins import SrvMirrors
from downhaul.plugins._mirroring.srv import by_weight

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PREFIX = "mem://dl.example.org/pub/"
URL = f"{PREFIX}dir/file"
NAME = "_mem._tcp.dl.example.org."


class NameServer(asyncio.DatagramProtocol):
    """Answers questions for SRV records from `zone`; counts them in `asked`."""

    def __init__(self, zone: dict[str, list[str]], ttl: int) -> None:
        self.zone, self.ttl, self.asked = zone, ttl, []

    def connection_made(self, transport):
        self.transport = transport
        self.address = "{}:{}".format(*transport.get_extra_info("sockname"))

    def datagram_received(self, data, address):
        query = dns.message.from_wire(data)
        name = query.question[0].name.to_text()
        self.asked.append(name)
        answer = dns.message.make_response(query)
        if name not in self.zone:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        elif self.zone[name]:
            answer.answer.append(dns.rrset.from_text(name, self.ttl, "IN", "SRV", *self.zone[name]))
        self.transport.sendto(answer.to_wire(), address)


@asynccontextmanager
async def name_server(*records: str, name: str = NAME, ttl: int = 60) -> AsyncIterator[NameServer]:
    """Run a name server that has *records* for *name*."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(
        lambda: NameServer({name: list(records)}, ttl), local_addr=("127.0.0.1", 0)
    )
    try:
        yield server
    finally:
        transport.close()


async def run(mem: MemDriver, mirrors: SrvMirrors, url: str = URL):
    """Download from the hosts that *mirrors* finds."""
    async with context_of(mem, mirrors, retries=0) as context:
        return await Download(url, BufferWriter(), context=context).run()


async def test_hosts_are_asked_by_priority():
    """The host and port of the record take the place of the prefix's; the path stays."""
    mem = MemDriver()
    mem.site("mem://two.example.net:81/pub/dir/file", Reply(b"bytes"))
    async with name_server("20 0 81 two.example.net.", "10 0 80 one.example.net.") as server:
        result = await run(mem, SrvMirrors(PREFIX, nameserver=server.address))
    assert mem.urls == ["mem://one.example.net:80/pub/dir/file", "mem://two.example.net:81/pub/dir/file"]
    assert result.source == mem.urls[1]
    assert server.asked == [NAME]


async def test_other_downloads_need_no_records():
    """What is not below the prefix is nobody's business."""
    mem = MemDriver()
    mem.site("mem://other/file", Reply(b"bytes"))
    async with name_server("10 0 80 one.example.net.") as server:
        await run(mem, SrvMirrors(PREFIX, nameserver=server.address), "mem://other/file")
    assert server.asked == []


async def test_a_service_of_another_name():
    """*service* names the records."""
    mem = MemDriver()
    mem.site("mem://one.example.net:80/pub/dir/file", Reply(b"bytes"))
    async with name_server("10 0 80 one.example.net.", name="_mirrors._tcp.example.org.") as server:
        await run(mem, SrvMirrors(PREFIX, service="_mirrors._tcp.example.org", nameserver=server.address))
    assert len(mem.log) == 1


@pytest.mark.parametrize("records", [None, []], ids=["no such name", "no such record"])
async def test_without_records_the_host_itself_is_asked(records: list[str] | None):
    """RFC 2782, page 4: where there is no SRV record, the domain itself is the place."""
    mem = MemDriver()
    mem.site(URL, Reply(b"bytes"))
    async with name_server(*(records or ()), name=NAME if records is not None else "other.") as server:
        assert (await run(mem, SrvMirrors(PREFIX, nameserver=server.address))).source == URL
    assert server.asked == [NAME]


async def test_a_service_that_is_decidedly_not_there():
    """A target of "." says so (RFC 2782, page 3): nobody is asked."""
    mem = MemDriver()
    async with name_server("0 0 0 .") as server:
        with pytest.raises(PreparationError, match="decidedly not there"):
            await run(mem, SrvMirrors(PREFIX, nameserver=server.address))
    assert mem.log == []


async def test_a_name_server_that_fails_is_a_failure_that_may_pass():
    """Its failure is told as one of name resolution, and another round may do better."""

    class Refusing(NameServer):
        def datagram_received(self, data, address):
            answer = dns.message.make_response(dns.message.from_wire(data))
            answer.set_rcode(dns.rcode.SERVFAIL)
            self.asked.append("refused")
            self.transport.sendto(answer.to_wire(), address)

    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Refusing({}, 0), local_addr=("127.0.0.1", 0)
    )
    try:
        with pytest.raises(NameResolutionError, match=NAME[:-1]) as caught:
            await run(MemDriver(), SrvMirrors(PREFIX, nameserver=server.address))
    finally:
        transport.close()
    assert caught.value.transient
    assert server.asked


async def test_an_answer_is_good_for_its_time():
    """The name server says for how long: with 0 it is asked for each download, else once."""
    for ttl, times in ((60, 1), (0, 3)):
        mem = MemDriver()
        mem.site("mem://one.example.net:80/pub/dir/file", Reply(b"bytes"))
        async with (
            name_server("10 0 80 one.example.net.", ttl=ttl) as server,
            context_of(mem, SrvMirrors(PREFIX, nameserver=server.address)) as context,
        ):
            for _ in range(3):
                await Download(URL, BufferWriter(), context=context).run()
        assert len(server.asked) == times


async def test_this_machine_is_named_from_here_only():
    """A name server on loopback may name it, one elsewhere may not."""
    mem = MemDriver()
    mem.site("mem://localhost:80/pub/dir/file", Reply(b"bytes"))
    async with name_server("10 0 80 localhost.") as server:
        assert (await run(mem, SrvMirrors(PREFIX, nameserver=server.address))).source.startswith("mem://localhost")


@dataclass
class Record:
    """What of a record counts for the order."""

    priority: int
    weight: int


def test_weights_are_shares():
    """Among those of one priority, each comes first about as often as its weight says; 0 comes last."""
    random.seed(7)
    records = [Record(1, 30), Record(1, 10), Record(1, 0), Record(0, 0)]
    firsts = [by_weight(records)[1].weight for _ in range(2000)]
    assert by_weight(records)[0].priority == 0
    assert 0.70 < firsts.count(30) / 2000 < 0.80
    assert firsts.count(0) == 0


@pytest.mark.parametrize("given", ["127.0.0.1", "127.0.0.1:5353", "::1", "[::1]:5353"])
def test_what_is_a_name_server(given: str):
    """An address of either family, with or without a port."""
    assert SrvMirrors(PREFIX, nameserver=given).nameserver == given


@pytest.mark.parametrize("given", ["", "localhost:53", "nonsense", "127.0.0.1:x", "127.0.0.1:99999", "[::1"])
def test_what_is_no_name_server(given: str):
    """A name would have to be resolved first; refused when the plugin is made."""
    with pytest.raises(ValueError, match="nameserver"):
        SrvMirrors(PREFIX, nameserver=given)


async def test_targets_that_are_no_hosts_are_left_out():
    """What would become more than a host in a URL, and the port 0, are passed over."""
    mem = MemDriver()
    mem.site("mem://one.example.net:80/pub/dir/file", Reply(b"bytes"))
    records = (
        "1 0 80 a/b.example.net.",
        "2 0 80 u\\064h.example.net.",
        "3 0 0 one.example.net.",
        "4 0 80 one.example.net.",
    )
    async with name_server(*records) as server:
        await run(mem, SrvMirrors(PREFIX, nameserver=server.address))
    assert mem.urls == ["mem://one.example.net:80/pub/dir/file"]


async def test_this_machine_is_left_out_where_the_name_server_is_elsewhere(monkeypatch: pytest.MonkeyPatch):
    """A record of another machine that names this one, or its link, is passed over."""

    @dataclass
    class Found(Record):
        host: str

        port = 80

        @property
        def target(self):
            return dns.name.from_text(f"{self.host}.")

    async def resolve(self, name):
        return [
            Found(place, 0, host) for place, host in enumerate(("localhost", "127.0.0.1", "169.254.1.1", "m"))
        ], 60.0

    monkeypatch.setattr(SrvMirrors, "_resolve", resolve)
    mem = MemDriver()
    mem.site("mem://m:80/pub/dir/file", Reply(b"bytes"))
    await run(mem, SrvMirrors(PREFIX, nameserver="192.0.2.1"))
    assert mem.urls == ["mem://m:80/pub/dir/file"]
