"""A worker's end of the line to its supervisor, and the orders that come over it or as signals.

When the supervisor is gone the worker stops at once: the next one needs what it has.
"""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import AsyncIterator
from typing import Any

import trio

from deliver import channel
from deliver.channel import Closed, Frame
from deliver.report.log import say

BEAT = 5.0  # seconds between two signs of life

_log = logging.getLogger("outrider.service")


class Line:
    """`orders` are signals: the first one stops, a second one cuts the grace short."""

    def __init__(self, end: socket.socket) -> None:
        """Inside a trio run."""
        self._end = end
        self._send, self.orders = trio.open_memory_channel[int](10)

    async def next(self) -> Frame | None:
        """What comes next; None when the supervisor is gone."""
        while True:
            try:
                return channel.receive(self._end)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._end)
            except Closed:
                return None

    async def tell(self, word: str, about: dict[str, Any]) -> None:
        """Send; when the supervisor is gone, `next` notices."""
        while True:
            try:
                channel.send(self._end, word, about)
                return
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._end)
            except Closed:
                return

    async def home(self, worker: int) -> bool:
        """Wait until our own shard is given to us; False: we are to stop before that."""
        while True:
            frame = await self.next()
            if frame is None or frame.word == "stop":
                return False
            if frame.word == "open" and frame.about["shard"] == worker:
                return True

    async def stop(self) -> None:
        """An order to stop, or to do so at once."""
        await self._send.send(signal.SIGTERM)

    async def abandoned(self, worker: int) -> None:
        """The supervisor is gone."""
        say(_log, logging.ERROR, "the supervisor is gone, worker stops", worker=worker)
        await self.stop()
        await self.stop()

    async def pass_on(self, signals: AsyncIterator[int]) -> None:
        """Signals to this process are orders too; until cancelled."""
        async for _ in signals:
            await self.stop()
