"""The bytes of one transfer, and the proof that they are all there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from downhaul import FetchError, ProtocolError, RangeRefused, Truncated

from ._failures import bounded, refused

if TYPE_CHECKING:
    from ._client import Client
    from ._data import DataConnection
    from ._replies import Reply

_ABORTED: Final = frozenset({426, 451})
_FINAL_WAIT: Final = 10.0


class Body:
    """The blocks of a file, from *offset* on.

    `expected` is how many bytes are to come, or None where the server did not tell; `limit` is after how many of them
    to stop although more would come. `final` is the last reply, where it came with the first.
    """

    def __init__(
        self, client: Client, data: DataConnection, *, offset: int, expected: int | None, limit: int | None,
        final: Reply | None,
    ) -> None:  # fmt: skip
        self._client = client
        self._data = data
        self._offset = offset
        self._expected = expected
        self._limit = limit
        self._final = final
        self._received = 0
        self._over = False
        self.clean = False
        """Whether the control connection has nothing more to say about this transfer, so that it may be used again."""

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        if self._over:
            raise StopAsyncIteration
        self._over = True  # unless a block comes
        block = await self._block()
        if not block:
            await self._finish()
            raise StopAsyncIteration
        self._received += len(block)
        if self._limit is not None and self._received >= self._limit:
            return block[: len(block) - (self._received - self._limit)]
        if self._expected is not None and self._received > self._expected:
            raise self._too_much()
        self._over = False
        return block

    async def aclose(self) -> None:
        """Stop; what was not read is not waited for."""
        self._over = True
        await self._data.aclose()

    @property
    def _complete(self) -> bool:
        return self._received == self._expected

    async def _block(self) -> bytes:
        failure: FetchError
        try:
            block = self._data.take()
            if block is None:
                await bounded(self._data.arrival(), self._patience(), phase="idle", doing="data connection")
                block = self._data.take()
        except OSError as reason:
            failure = Truncated(f"the data connection was lost after {self._received} bytes: {reason}")
        except FetchError as error:
            failure = error
        else:
            return block or b""
        if self._complete:
            return b""  # only the end of the connection is missing
        raise failure

    def _patience(self) -> float | None:
        read = self._client.timeout.read
        return min(read or _FINAL_WAIT, _FINAL_WAIT) if self._complete else read

    async def _finish(self) -> None:
        await self._data.aclose()
        reply, missing = self._final, "no final reply"
        if reply is None:
            wait = min(self._client.timeout.read or _FINAL_WAIT, _FINAL_WAIT)
            try:
                reply = await self._client.final_reply(wait)
            except FetchError as error:
                missing = str(error)
        short = self._expected is not None and self._received < self._expected
        count = (
            f"{self._received} bytes came"
            if self._expected is None
            else f"{self._received} of {self._expected} bytes came"
        )
        if reply is None:
            if not self._complete:
                raise Truncated(f"{count}; {missing}")
            return  # every byte is there, only the control connection is of no use any more
        if not reply.positive:
            refusal = refused(f"transfer ({count})", reply, of_file=True)
            if reply.code in _ABORTED or (self._received and (short or reply.code == 550)):
                raise Truncated(str(refusal))
            raise refusal
        if short:
            raise Truncated(f"{count}, although the server says: {reply.code} {reply.shown}")
        self.clean = True

    def _too_much(self) -> FetchError:
        if self._offset:
            return RangeRefused(
                f"more than the {self._expected} bytes from offset {self._offset} on came: REST was ignored"
            )
        return ProtocolError(f"more than the {self._expected} bytes of the file came")
