"""Idle connections: known to the context, and closed where others need the room."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager

from hypothesis import given
from hypothesis import strategies as st
from tests.mem import MemDriver, Reply, slot

from downhaul import BufferWriter, Context, Driver, IdleConnections
from downhaul._governor import Governor


class Socket:
    """A connection that knows whether it is open."""

    def __init__(self) -> None:
        self.is_open = True

    async def close(self) -> None:
        self.is_open = False


@given(
    total=st.integers(1, 5),
    per_origin=st.integers(1, 4),
    steps=st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 9)), max_size=60),
)
async def test_open_connections_stay_within_the_limits(total, per_origin, steps) -> None:
    """Busy and idle together are never more than the limits, and one is closed only where it stands in the way."""
    governor = Governor(total, per_origin)
    idle = IdleConnections(governor)
    waiting: list[tuple[str, Socket, object]] = []
    async with AsyncExitStack() as everything:
        busy: list[tuple[str, Socket, AsyncExitStack]] = []
        for origin, starts, choice in steps:
            if starts and governor.used < total and governor.used_by(origin) < per_origin:
                held = await everything.enter_async_context(AsyncExitStack())
                await held.enter_async_context(slot(governor, origin))
                before = Counter(where for where, socket, _ in waiting if socket.is_open)
                again = next((each for each in waiting if each[0] == origin and each[1].is_open and choice % 2), None)
                if again is not None:
                    waiting.remove(again)
                    again[2]()
                    again[2]()  # more calls do nothing
                    socket = again[1]
                else:
                    full = governor.used + before.total() > total or (
                        governor.used_by(origin) + before[origin] > per_origin
                    )
                    await idle.make_room(origin)
                    closed = before.total() - sum(socket.is_open for _, socket, _ in waiting)
                    assert (closed > 0) == full
                    socket = Socket()
                busy.append((origin, socket, held))
            elif busy:
                origin, socket, held = busy.pop(choice % len(busy))
                waiting.append((origin, socket, idle.add(origin, socket.close)))
                await held.aclose()
            opened = Counter(where for where, socket, _ in (*waiting, *busy) if socket.is_open)
            assert opened.total() <= total
            assert max(opened.values(), default=0) <= per_origin
        assert len(idle) == sum(socket.is_open for _, socket, _ in waiting)


async def test_the_one_that_is_idle_longest_goes_first() -> None:
    """Room for another origin is made by closing the oldest; room at a full origin, by closing its own oldest."""
    idle, sockets = IdleConnections(Governor(3, 2)), [Socket() for _ in range(3)]
    governor = idle._governor
    assert governor is not None
    for origin, socket in zip("aba", sockets, strict=True):
        idle.add(origin, socket.close)
    async with slot(governor, "c"):
        await idle.make_room("c")
        assert [socket.is_open for socket in sockets] == [False, True, True]
    async with slot(governor, "a"), slot(governor, "a"):
        await idle.make_room("a")
        assert [socket.is_open for socket in sockets] == [False, True, False]


async def test_without_a_context_there_is_no_limit() -> None:
    """A driver that is used by itself has idle connections without limits of its own."""
    first, second = MemDriver(), MemDriver()
    assert first.idle is first.idle is not second.idle
    for _ in range(1000):
        first.idle.add("a", Socket().close)
    await first.idle.make_room("a")
    assert (len(first.idle), len(second.idle)) == (1000, 0)


async def test_drivers_of_one_context_share_the_limit() -> None:
    """What one driver keeps idle is closed where another one needs the room."""
    opened: set[Socket] = set()
    peak = 0

    class Keeper(MemDriver):
        @asynccontextmanager
        async def open(self, request, settings):
            nonlocal peak
            await self.idle.make_room(request.origin)
            opened.add(socket := Socket())
            peak = max(peak, sum(each.is_open for each in opened))
            async with super().open(request, settings) as payload:
                yield payload
            self.idle.add(request.origin, socket.close)

    class Other(Keeper):
        pass

    drivers: dict[str, Driver | str] = {"mem": Keeper(), "rem": Other()}
    async with Context(drivers=drivers, connections=3) as context:
        for number in range(12):
            scheme = "mem" if number % 2 else "rem"
            url = f"{scheme}://one/file"
            drivers[scheme].site(url, Reply(b"x"))  # type: ignore[union-attr]
            await context.download(url, BufferWriter()).run()
    assert peak == 3
