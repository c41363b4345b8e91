"""SRV records from the real dnsmasq: where they point, by priority, and what happens where they lead nowhere."""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest
from tests.acceptance.use_cases import importer
from tests.servers.dnsmasq import Dnsmasq, Srv, dnsmasq
from tests.servers.nginx import Nginx, nginx

from downhaul import (
    Batch,
    ConnectError,
    Context,
    Download,
    FileWriter,
    NameResolutionError,
    NotFound,
    PreparationError,
    Result,
)
from downhaul.plugins import SrvMirrors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME: Final = "_http._tcp.dl.example.org"
PREFIX: Final = "http://dl.example.org/pub/"
FILES: Final = 20
TTL: Final = ("--local-ttl=300",)
FORMS: Final = [
    pytest.param("sync", marks=importer(10, "sync")), pytest.param("asyncio", marks=importer(10, "asyncio")),
]  # fmt: skip


@dataclass
class World:
    """Two servers with the same files, of which `second` has one more; a port where nobody listens; a directory."""

    first: Nginx
    second: Nginx
    dead: int
    digests: dict[str, str]
    target: Path

    def fetch(self, form: str, dns: Dnsmasq | str, prefix: str = PREFIX) -> list[Result]:
        """Return the results of all files below *prefix*, in one context."""
        nameserver = dns if isinstance(dns, str) else dns.nameserver
        plugin = SrvMirrors(prefix, nameserver=nameserver)

        async def work() -> list[Result]:
            async with (
                Context(plugins=[plugin], retries=0) as context,
                Batch(self.jobs(prefix), context=context, concurrency=5) as batch,
            ):
                return [plan.result() async for plan in batch()]

        if form == "asyncio":
            results = asyncio.run(work())
        else:
            with (
                Context(plugins=[plugin], retries=0) as context,
                Batch(self.jobs(prefix), context=context, concurrency=5) as batch,
            ):
                results = [plan.result() for plan in batch()]
        assert {path.name for path in self.target.iterdir()} == set(self.digests)
        return results

    def jobs(self, prefix: str) -> Iterator[Download]:
        """Yield the downloads, each with its digest."""
        for name, digest in self.digests.items():
            yield Download(prefix + name, FileWriter(self.target / name), digests={"sha256": digest}, attachment=name)

    def port(self, url: str) -> int:
        """Return the port in *url*, which is at localhost, below the path of the prefix."""
        start, _, rest = url.removeprefix("http://localhost:").partition("/")
        assert rest.startswith("pub/")
        return int(start)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Run the two servers."""
    root, chance, digests = tmp_path_factory.mktemp("served"), random.Random(9), {}
    for number in range(FILES):
        name, content = f"file-{number}", chance.randbytes(chance.choice([1, 1000, 100_000]))
        digests[name] = hashlib.sha256(content).hexdigest()
        for server in ("first", "second"):
            (root / server / "pub").mkdir(parents=True, exist_ok=True)
            if (server, number) != ("first", 0):
                (root / server / "pub" / name).write_bytes(content)
    with nginx(root / "first") as first, nginx(root / "second") as second, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        yield World(first, second, nobody.getsockname()[1], digests, root)


@pytest.fixture
def world(servers: World, tmp_path: Path) -> World:
    """Give the servers, and an empty directory to download to."""
    (tmp_path / "target").mkdir()
    return World(servers.first, servers.second, servers.dead, servers.digests, tmp_path / "target")


@pytest.mark.parametrize("form", FORMS)
def test_by_priority(form, world) -> None:
    """Everything comes from the host of the least priority; the other one is asked for what that has not."""
    records = [Srv(NAME, "localhost", world.second.port, 20), Srv(NAME, "localhost", world.first.port, 10)]
    with dnsmasq(*records, options=TTL) as dns:
        for result in world.fetch(form, dns):
            failed = [(world.port(each.source), type(each.error)) for each in result.history]
            if result.attachment == "file-0":
                assert failed == [(world.first.port, NotFound)]
                assert world.port(result.source) == world.second.port
            else:
                assert failed == []
                assert world.port(result.source) == world.first.port
        assert dns.asked() == [("SRV", NAME)]


@pytest.mark.parametrize("form", FORMS)
def test_the_next_one_when_one_is_dead(form, world) -> None:
    """Where nobody listens at the first host, the second one has everything."""
    records = [Srv(NAME, "localhost", world.dead, 1), Srv(NAME, "localhost", world.second.port, 2)]
    with dnsmasq(*records, options=TTL) as dns:
        results = world.fetch(form, dns)
    assert {world.port(result.source) for result in results} == {world.second.port}
    failures = [each for result in results for each in result.history]
    assert failures
    assert {(world.port(each.source), type(each.error)) for each in failures} == {(world.dead, ConnectError)}


def test_many_records(world) -> None:
    """An answer too long for a datagram comes over TCP: the one that works is among the last of forty."""
    records = [Srv(NAME, f"host-{number}-of-a-long-name.invalid", 80, 9) for number in range(40)]
    with dnsmasq(*records, Srv(NAME, "localhost", world.second.port, 1), options=TTL) as dns:
        assert {world.port(result.source) for result in world.fetch("sync", dns)} == {world.second.port}


@pytest.mark.parametrize("form", FORMS)
def test_without_records_the_host_itself_is_asked(form, world) -> None:
    """Where the DNS has no such name, the prefix is what it would be without the plugin."""
    with dnsmasq(Srv(NAME, "localhost", world.dead)) as dns:
        for result in world.fetch(form, dns, world.second.url("/pub/")):
            assert result.source == result.url
            assert result.history == ()
        assert dns.asked()[0] == ("SRV", "_http._tcp.127.0.0.1")


def test_a_service_that_is_decidedly_not_there(world) -> None:
    """A record whose target is the root says so (RFC 2782, page 4): nobody is asked."""
    with dnsmasq(options=(f"--srv-host={NAME}", *TTL)) as dns, pytest.raises(PreparationError) as caught:
        world.fetch("sync", dns)
    assert NAME in str(caught.value)


@pytest.mark.parametrize("form", FORMS)
def test_records_that_are_good_for_no_time(form, world) -> None:
    """Records may be good for the moment only: everything comes, and no file asks for them more than once."""
    with dnsmasq(Srv(NAME, "localhost", world.second.port)) as dns:
        results = world.fetch(form, dns)
        assert {world.port(result.source) for result in results} == {world.second.port}
        assert 1 <= len(dns.asked()) <= FILES


@pytest.mark.parametrize("form", FORMS)
def test_a_nameserver_that_refuses(form, world) -> None:
    """A nameserver that will not say is not one that says there is nothing: the host itself is not asked instead."""
    with (
        dnsmasq(options=("--server=/dl.example.org/#",)) as dns,
        pytest.raises(NameResolutionError) as caught,
    ):
        world.fetch(form, dns)
    assert NAME in str(caught.value)
    assert caught.value.transient
    assert list(world.target.iterdir()) == []
