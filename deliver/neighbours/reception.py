"""Where the letters of other workers arrive: what they say becomes durable here, then they get a receipt.

Before anything is begun the other one has a word that it will be: without that word it keeps its mail.
"""

from __future__ import annotations

import contextlib
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
PATIENCE: Final = 40.0  # seconds to begin with the write; the client is answered after 60

_log = logging.getLogger("outrider.service")


class Reception:
    """Serves the other workers. `now` in seconds of the system's monotonic clock."""

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
            _log.debug("another user wants to hand over mail: turned away")
            prompt.close()

    async def handle(self, stream: PromptStream) -> None:
        """One of them, until it ends the connection, which is closed."""
        receipts = _Receipts(stream)
        frames = Frames(Letter)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receipts.write)
                receipts.add(HERE)
                while octets := await stream.receive_some():
                    letters = tuple(frames.feed(octets))
                    if not letters:
                        continue
                    heard = receipts.say_now(Receipt(letters[-1].number, Fate.BEGUN))
                    for letter in letters:
                        if heard and self._now() <= letter.until:
                            nursery.start_soon(self._answer, letter, receipts)
                        else:
                            receipts.add(Receipt(letter.number, Fate.REFUSED))
                nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, BadFrame) as errors:
            _log.debug("another worker's connection ended: %s", errors.exceptions)
        finally:
            receipts.say_last()
            stream.close()

    async def _answer(self, letter: Letter, receipts: _Receipts) -> None:
        fate, why = Fate.FAILED, "it failed unexpectedly"
        try:
            with trio.move_on_after(PATIENCE) as patience:
                fate = Fate.TAKEN if await self._take(letter) else Fate.REFUSED
            if patience.cancelled_caught:
                fate = Fate.REFUSED  # withdrawn: what has begun is not cancelled
        except trio.Cancelled:
            fate = Fate.REFUSED
            raise
        except StorageError as error:
            why = str(error)
        except Exception:
            _log.exception("%s: taking it from another worker failed unexpectedly", letter.envelope.id)
        finally:
            receipts.add(Receipt(letter.number, fate, why if fate is Fate.FAILED else ""))

    async def _take(self, letter: Letter) -> bool:
        """Make it durable; False: nothing was begun. Raises StorageError when it may be durable or not."""
        intake = self._intake()
        try:
            if not await intake.check_space(letter.envelope.size):
                return False
            if self._now() > letter.until + PATIENCE:  # we stood still: the client has had its answer
                return False
        except StorageError:
            return False
        await intake.take(letter.envelope, letter.origin, InlineContent(letter.content), letter.company)
        return True


class _Receipts:
    """Those that wait to be written."""

    def __init__(self, stream: PromptStream) -> None:
        self._stream = stream
        self._unsent = bytearray()
        self._something = trio.Event()
        self._full = False  # the writer waits for room

    def add(self, receipt: Receipt) -> None:
        """It leaves with the others of this turn of the loop."""
        self._unsent += encoded(receipt)
        self._something.set()

    def say_now(self, receipt: Receipt) -> bool:
        """Whether it has left, with all before it. Raises BrokenResourceError."""
        self._unsent += encoded(receipt)
        return not self._full and self._flush()

    def say_last(self) -> None:
        """What has not left, as far as that is possible at once."""
        if not self._full:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                self._flush()

    async def write(self) -> None:
        """Until cancelled. Raises BrokenResourceError."""
        while True:
            if not self._unsent:
                self._something = trio.Event()
                await self._something.wait()
            elif not self._flush():
                self._full = True
                try:
                    await self._stream.wait_send_all_might_not_block()
                finally:
                    self._full = False

    def _flush(self) -> bool:
        del self._unsent[: self._stream.send_now(self._unsent)]
        return not self._unsent
