"""Limits of time."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest

from downhaul_ftp._clock import Clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Bell:
    """Notes when it is rung."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.began = self.loop.time()
        self.rung: list[float] = []
        self.heard = asyncio.Event()

    def ring(self) -> None:
        self.rung.append(self.loop.time() - self.began)
        self.heard.set()


@pytest.fixture
async def bell() -> Bell:
    """A bell that has not rung."""
    return Bell()


@pytest.fixture
async def clock() -> AsyncIterator[Clock]:
    """A clock, ended with the test."""
    clock = Clock()
    yield clock
    clock.end()


async def test_rings_once(bell: Bell, clock: Clock) -> None:
    """A wait that takes too long is ended once, not before its time."""
    clock.start(0.05, bell.ring)
    await bell.heard.wait()
    await asyncio.sleep(0.1)
    assert len(bell.rung) == 1
    assert 0.049 < bell.rung[0] < 0.5


async def test_silent_after_a_stop(bell: Bell, clock: Clock) -> None:
    """A wait that is over is not ended; nor is one that has no limit."""
    clock.start(0.02, bell.ring)
    clock.stop()
    await asyncio.sleep(0.05)
    clock.start(math.inf, bell.ring)
    await asyncio.sleep(0.05)
    assert not bell.rung


async def test_each_wait_has_its_own_limit(bell: Bell, clock: Clock) -> None:
    """The limit of an earlier wait is none of a later one, be it longer or shorter."""
    clock.start(0.05, bell.ring)
    clock.stop()
    clock.start(0.15, bell.ring)
    await bell.heard.wait()
    assert bell.rung[0] > 0.149
    bell.heard.clear()
    clock.start(60, bell.ring)
    clock.stop()
    clock.start(0.05, bell.ring)
    await asyncio.wait_for(bell.heard.wait(), 10)
    assert len(bell.rung) == 2


async def test_one_timer_for_many_waits(bell: Bell, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that are over at once cost no timer each."""
    call_at = Mock(wraps=bell.loop.call_at)
    monkeypatch.setattr(bell.loop, "call_at", call_at)
    for _ in range(1000):
        clock.start(30, bell.ring)
        clock.stop()
    assert call_at.call_count == 1


async def test_ended(bell: Bell) -> None:
    """After its end a clock holds no timer."""
    clock = Clock()
    clock.start(0.01, bell.ring)
    clock.end()
    await asyncio.sleep(0.03)
    assert not bell.rung
