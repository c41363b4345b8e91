"""Relaying takes little memory, however large the file is and however late the client reads it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from benchmarks import relay

if TYPE_CHECKING:
    from collections.abc import Iterator

SMALL = 128 * 1024**2  # bytes: would not fit, if all of them were kept
STILL = 0.2  # seconds without work, after which a relay waits for its client
PATIENCE = 60.0  # seconds


@pytest.fixture(scope="module")
def large() -> Iterator[relay.Origin]:
    """Run a server that has a file of 1 GiB."""
    with relay.origin(relay.SIZE) as origin:
        yield origin


def wait_until_still(course: relay.Course) -> None:
    """Wait until the relay does nothing any more."""
    begin = since = time.monotonic()
    used = course.processor_time()
    while time.monotonic() - since < STILL:
        assert since - begin < PATIENCE
        time.sleep(0.02)
        if course.processor_time() != used:
            used, since = course.processor_time(), time.monotonic()


def peak(case: str, origin: relay.Origin) -> float:
    """Relay the file to a client that reads at once, and to one that is late; return the most ever resident, in MB."""
    with relay.relay(case, origin) as course:
        course.turn(origin.size)
        with course.asking(relay.FILE) as response:
            wait_until_still(course)
            assert relay.drain(response) == origin.size
        return course.peak() / 1e6


@pytest.mark.large
@pytest.mark.parametrize("case", relay.CASES)
def test_a_large_file(case: str, large: relay.Origin) -> None:
    """Relays of 1 GiB keep their process under 100 MB, with and without a digest that is validated."""
    assert peak(case, large) < relay.PEAK


def test_a_small_file() -> None:
    """Relays of 128 MiB, by the server and the client of the benchmark, keep their process under 100 MB."""
    with relay.origin(SMALL) as origin:
        assert peak("asgi" + relay.SHA256, origin) < relay.PEAK
