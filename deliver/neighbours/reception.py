"""Where the letters of other workers arrive: what they say becomes durable here, then they get a receipt."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from typing import Final

import trio

from deliver.errors import StorageError
from deliver.neighbours.letters import BadFrame, Fate, Frames, Letter, Receipt, encoded
from deliver.neighbours.street import is_ours
from deliver.net.prompt import PromptStream
from deliver.queue.content import InlineContent
from deliver.queue.intake import QueueIntake

HERE: Final = Receipt(0, Fate.TAKEN)
LONG: Final = 0.3  # seconds

_log = logging.getLogger("outrider.service")


class Reception:
    """Serves the other workers."""

    def __init__(self, intake: Callable[[], QueueIntake], now: Callable[[], float] = time.monotonic) -> None:
        """`intake()` is where it becomes durable by today's settings."""
        self._intake = intake
        self._now = now

    async def serve(self, listening: socket.socket) -> None:
        """Until cancelled; closes the socket in this process."""
        async with trio.SocketListener(trio.socket.from_stdlib_socket(listening)) as listener:
            await trio.serve_listeners(self._accepted, [listener])

    async def _accepted(self, stream: trio.SocketStream) -> None:
        prompt = PromptStream.instead_of(stream)
        if is_ours(prompt.socket):
            await self.handle(prompt)
        else:
            _log.warning("another user wants to hand over mail: turned away")
            prompt.close()

    async def handle(self, stream: PromptStream) -> None:
        """One of them, until it ends the connection, which is closed."""
        receipts = _Receipts(stream)
        frames = Frames(Letter)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receipts.write)
                nursery.start_soon(receipts.watch)
                receipts.add(HERE)
                while octets := await stream.receive_some():
                    for letter in frames.feed(octets):
                        nursery.start_soon(self._answer, letter, receipts)
                nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, BadFrame) as errors:
            _log.debug("another worker's connection ended: %s", errors.exceptions)
        finally:
            stream.close()

    async def _take(self, letter: Letter) -> bool:
        """Make it durable; False: nothing was begun. Raises StorageError when it may be durable or not."""
        intake = self._intake()
        try:
            if self._now() > letter.until or not await intake.check_space(letter.envelope.size):
                return False
        except StorageError:
            return False
        await intake.take(letter.envelope, letter.origin, InlineContent(letter.content), letter.company)
        return True

    async def _answer(self, letter: Letter, receipts: _Receipts) -> None:
        fate, why = Fate.FAILED, "it failed unexpectedly"
        receipts.begin(letter.number)
        try:
            with trio.CancelScope(shield=True):  # what has begun ends, and is told as far as possible
                fate, why = (Fate.TAKEN if await self._take(letter) else Fate.REFUSED), ""
        except StorageError as error:
            why = str(error)
        except Exception:
            _log.exception("%s: taking it from another worker failed unexpectedly", letter.envelope.id)
        receipts.add(Receipt(letter.number, fate, why))


class _Receipts:
    """Those that wait to be written."""

    def __init__(self, stream: PromptStream) -> None:
        self._stream = stream
        self._unsent = bytearray()
        self._something = trio.Event()
        self._begun: dict[int, float] = {}

    def begin(self, number: int) -> None:
        """There will be one for the letter of that number."""
        self._begun[number] = trio.current_time()

    async def watch(self) -> None:
        """Say of those that take long that they have begun; until cancelled."""
        told: set[int] = set()
        while True:
            await trio.sleep(LONG)
            told &= self._begun.keys()
            long_ago = trio.current_time() - LONG
            for number in [each for each, at in self._begun.items() if at <= long_ago and each not in told]:
                told.add(number)
                self._say(Receipt(number, Fate.BEGUN))

    def add(self, receipt: Receipt) -> None:
        """The last word on a letter."""
        self._begun.pop(receipt.number, None)
        self._say(receipt)

    def _say(self, receipt: Receipt) -> None:
        """It leaves with the others of this turn of the loop."""
        self._unsent += encoded(receipt)
        self._something.set()

    async def write(self) -> None:
        """Until cancelled. Raises BrokenResourceError."""
        while True:
            while not self._unsent:
                self._something = trio.Event()
                await self._something.wait()
            octets, self._unsent = self._unsent, bytearray()
            await self._stream.send_all(octets)
