"""The bytes of one transfer, and the proof that they are all there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from downhaul import FetchError, ProtocolError, RangeRefused, Truncated

from ._failures import bounded, refused

if TYPE_CHECKING:
    from ._client import Client
    from ._data import DataConnection
    from ._replies import Reply

_ABORTED: Final = frozenset({426, 451})
_FINAL_WAIT: Final = 10.0
_TURN: Final = 1024 * 1024  # bytes that may be taken without waiting before others have their turn


class Body:
    """The bytes of a file, from *offset* on: as blocks of at most *block* bytes, or into the memory of who asks.

    `expected` is how many bytes are to come, or None where the server did not tell; `limit` is after how many of them
    to stop although more would come. `final` is the last reply, where it came with the first.
    """

    def __init__(
        self, client: Client, data: DataConnection, *, offset: int, expected: int | None, limit: int | None,
        final: Reply | None, block: int,
    ) -> None:  # fmt: skip
        self._client = client
        self._data = data
        self._offset = offset
        self._expected = expected
        self._limit = limit
        self._final = final
        self._block = block
        self._memory: memoryview | None = None
        self._received = 0
        self._in_turn = 0
        self._over = False
        self._given_up = False
        self.clean = False
        """Whether the control connection has nothing more to say about this transfer, so that it may be used again."""

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        if self._memory is None:
            # With room for a byte too many, by which it is noticed.
            size = self._block if self._expected is None else min(self._block, self._expected + 1)
            self._memory = memoryview(bytearray(size))
        count = await self.readinto(self._memory)
        if not count:
            raise StopAsyncIteration
        return bytes(self._memory[:count])

    async def readinto(self, view: memoryview) -> int:
        """Put the next bytes into *view*, as many as are there; return how many, 0 once all have come.

        Memory is written to only while somebody waits here, and nothing counts of what is there after a failure.
        """
        if self._over:
            return 0
        if self._given_up:
            raise Truncated(f"{self._count}; they are waited for no more")
        self._given_up = True  # unless it goes well
        if self._limit is not None:
            view = view[: self._limit - self._received]
        count = await self._arrived(view)
        self._received += count
        if not count:
            await self._finish()
        elif self._expected is not None and self._received > self._expected:
            raise self._too_much()
        self._over = not count or self._received == self._limit
        self._given_up = False
        return count

    async def aclose(self) -> None:
        """Stop; what was not read is not waited for."""
        self._given_up = True
        self._data.close()

    @property
    def _complete(self) -> bool:
        return self._received == self._expected

    @property
    def _count(self) -> str:
        came = f"{self._received} bytes came"
        return came if self._expected is None else f"{self._received} of {self._expected} bytes came"

    async def _arrived(self, view: memoryview) -> int:
        failure: FetchError
        try:
            if self._in_turn >= _TURN:
                self._in_turn = 0
                await asyncio.sleep(0)
            while (count := self._data.take(view)) is None:
                self._in_turn = 0
                await bounded(self._data.arrival(), self._patience(), phase="idle", doing="data connection")
        except OSError as reason:
            failure = Truncated(f"the data connection was lost after {self._received} bytes: {reason}")
        except FetchError as error:
            failure = error
        else:
            self._in_turn += count
            return count
        if self._complete:
            return 0  # only the end of the connection is missing
        raise failure

    def _patience(self) -> float | None:
        read = self._client.timeout.read
        return min(read or _FINAL_WAIT, _FINAL_WAIT) if self._complete else read

    async def _finish(self) -> None:
        self._data.close()
        reply, missing = self._final, "no final reply"
        if reply is None:
            wait = min(self._client.timeout.read or _FINAL_WAIT, _FINAL_WAIT)
            try:
                reply = await self._client.final_reply(wait)
            except FetchError as error:
                missing = str(error)
        short = self._expected is not None and self._received < self._expected
        if reply is None:
            if not self._complete:
                raise Truncated(f"{self._count}; {missing}")
            return  # every byte is there, only the control connection is of no use any more
        if not reply.positive:
            refusal = refused(f"transfer ({self._count})", reply, of_file=True)
            if reply.code in _ABORTED or (self._received and (short or reply.code == 550)):
                raise Truncated(str(refusal))
            raise refusal
        if short:
            raise Truncated(f"{self._count}, although the server says: {reply.code} {reply.shown}")
        self.clean = True

    def _too_much(self) -> FetchError:
        if self._offset:
            return RangeRefused(
                f"more than the {self._expected} bytes from offset {self._offset} on came: REST was ignored"
            )
        return ProtocolError(f"more than the {self._expected} bytes of the file came")
