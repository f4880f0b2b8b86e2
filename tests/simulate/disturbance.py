"""What disturbs a delivery in memory: a connection that is cut, a cancellation at any step."""

from __future__ import annotations

from contextlib import suppress
from typing import NoReturn

import trio


class Cut(trio.abc.Stream):
    """A stream that breaks once `octets` of them have passed in either direction (None: never)."""

    def __init__(
        self, inner: trio.abc.HalfCloseableStream, out: int | None = None, into: int | None = None
    ) -> None:
        self._inner = inner
        self._out = out
        self._into = into
        self.sent = 0
        self.received = 0
        self.closed = False

    def light(self, out: int | None, into: int | None) -> None:
        """Break after so many octets more."""
        self._out = None if out is None else self.sent + out
        self._into = None if into is None else self.received + into

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        octets = bytes(data)
        if self._out is not None and self.sent + len(octets) >= self._out:
            passed = octets[: max(0, self._out - self.sent)]
            self.sent += len(passed)
            if passed:
                await self._pass_on(passed)
            await self._break()
        self.sent += len(octets)
        await self._pass_on(octets)

    async def _pass_on(self, octets: bytes) -> None:
        try:
            await self._inner.send_all(octets)
        except trio.ClosedResourceError:  # the other direction was cut meanwhile
            raise trio.BrokenResourceError("cut") from None

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        limit = None if self._into is None else self._into - self.received
        if limit is not None and limit <= 0:
            await self._break()
        data = bytes(await self._inner.receive_some(limit))
        self.received += len(data)
        return data

    async def _break(self) -> NoReturn:
        self._out = self._into = 0
        with suppress(trio.ClosedResourceError):
            await self._inner.send_eof()
        raise trio.BrokenResourceError("cut")

    async def aclose(self) -> None:
        self.closed = True
        await self._inner.aclose()


class CancelAt(trio.abc.Instrument):
    """Cancels the scope before the given step of any task; `steps` counts them."""

    def __init__(self, step: int | None, scope: trio.CancelScope) -> None:
        self._step = step
        self._scope = scope
        self.steps = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1
        if self.steps == self._step:
            self._scope.cancel()
