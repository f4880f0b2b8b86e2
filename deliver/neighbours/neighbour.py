"""Another worker, as this one sees it: letters go there, receipts come back.

    not connected, or behind with reading          the message stays here
    refused, or the connection ends before         the message stays here
      the word that it has begun
    no such word for WORD seconds                  the message stays here: it has to begin within BEGIN, and
                                                   to say so before
    failed, or the connection ends after that      nobody knows: the client is to come again

Numbers of letters are never used twice, and a new connection begins with nothing unsaid.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Final

import trio

from deliver.errors import StorageError
from deliver.message import Envelope
from deliver.neighbours.letters import BadFrame, Fate, Frames, Letter, Receipt, encoded
from deliver.net.prompt import PromptStream
from deliver.relay.intake import Origin

AGAIN: Final = 1.0  # seconds between two tries to connect
GREETING: Final = 10.0  # seconds for the other one to be at home
BEGIN: Final = 1.0  # seconds until the other one must begin
WORD: Final = 2.0  # seconds without a word, and it stands still
LOOK: Final = 0.5  # seconds between two looks who waits for so long
MOST_BEHIND: Final = 4 * 1024 * 1024  # octets that the other one has not read

_log = logging.getLogger("outrider.service")

Connect = Callable[[], Awaitable[PromptStream]]


class _Awaited:
    """A letter `since` then without a receipt."""

    __slots__ = ("arrived", "begun", "late", "receipt", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.arrived = trio.Event()
        self.begun = self.late = False
        self.receipt: Receipt | None = None

    def is_late(self, now: float) -> bool:
        """Whether it has had to wait too long for the word that it has begun."""
        return not self.begun and self.since <= now - WORD

    def is_taken(self, by: str) -> bool:
        """Whether it is durable there, once it has `arrived`; False: it is not, and will not be.

        Raises StorageError when nobody knows.
        """
        if self.late or (self.receipt is None and not self.begun):
            return False
        if self.receipt is None or self.receipt.fate is Fate.FAILED:
            why = self.receipt.why if self.receipt else "its connection ended"
            raise StorageError(f"handing a message to {by}", why, "the client sends it again")
        return self.receipt.fate is Fate.TAKEN


class Neighbour:
    """Worker `number`; `run` must be running. `connect` raises OSError."""

    def __init__(self, number: int, connect: Connect, now: Callable[[], float] = time.monotonic) -> None:
        self.number = number
        self._connect = connect
        self._now = now
        self._numbers = count(1)
        self.home = False
        self._awaited: dict[int, _Awaited] = {}
        self._unsent = bytearray()
        self._something = trio.Event()

    async def hand(self, envelope: Envelope, origin: Origin, content: bytes, *, company: bool) -> bool:
        """Whether the other one has made it durable; False: it has not, and will not.

        Raises StorageError when nobody knows.
        """
        if not self.home or len(self._unsent) > MOST_BEHIND:
            return False
        number = next(self._numbers)
        now = self._now()
        self._unsent += encoded(Letter(number, now + BEGIN, envelope, origin, content, company))
        awaited = self._awaited[number] = _Awaited(now)
        self._something.set()
        try:
            await awaited.arrived.wait()
        finally:
            self._awaited.pop(number, None)
        return awaited.is_taken(f"worker {self.number}")

    async def run(self) -> None:
        """Connected as far as possible; until cancelled."""
        while True:
            heard_all = False
            try:
                heard_all = await self._converse(await self._connect())
            except* (OSError, trio.BrokenResourceError, trio.TooSlowError, BadFrame) as errors:
                _log.debug("worker %d is not at home: %s", self.number, errors.exceptions)
            finally:
                self._part(heard_all)
            await trio.sleep(AGAIN)

    async def _converse(self, stream: PromptStream) -> bool:
        """Until the connection ends and everything that came has been read: True.

        Raises BrokenResourceError, TooSlowError, BadFrame.
        """
        frames = Frames(Receipt)
        try:
            with trio.fail_after(GREETING):
                if not self._heard(await stream.receive_some(), frames):
                    return True
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, stream)
                nursery.start_soon(self._watch, stream)
                with contextlib.suppress(trio.BrokenResourceError):  # an end like any other
                    while self._heard(await stream.receive_some(), frames):
                        pass
                nursery.cancel_scope.cancel()
            return True
        finally:
            stream.close()

    def _heard(self, octets: bytes, frames: Frames[Receipt]) -> bool:
        """Take receipts; False at the end of the connection. Raises BadFrame."""
        self.home = bool(octets)
        for receipt in frames.feed(octets):
            if receipt.fate is Fate.BEGUN:
                self._begun(receipt.number)
            elif (awaited := self._awaited.pop(receipt.number, None)) is not None:
                awaited.receipt = receipt
                awaited.arrived.set()
        return self.home

    def _begun(self, last: int) -> None:
        """So it is with all letters up to that one."""
        for number, awaited in self._awaited.items():  # in their order
            if number > last:
                break
            awaited.begun = True

    async def _write(self, stream: PromptStream) -> None:
        """Everything of one turn of the loop together; where that fails the reader finds the end, too."""
        with contextlib.suppress(trio.BrokenResourceError):
            while True:
                while not self._unsent:
                    self._something = trio.Event()
                    await self._something.wait()
                octets, self._unsent = self._unsent, bytearray()
                await stream.send_all(octets)

    async def _watch(self, stream: PromptStream) -> None:
        """Who waits for a word for too long waits no more; until cancelled."""
        while True:
            await trio.sleep(LOOK)
            now = self._now()  # before the look at what has arrived
            if not self._awaited or stream.arrived():  # it was we who did not listen
                continue
            late = [each for each in self._awaited.values() if each.is_late(now)]
            if late:
                self.home = False  # until it says something
                _log.warning("worker %d stands still: its mail stays here", self.number)
            for awaited in late:
                awaited.late = True
                awaited.arrived.set()

    def _part(self, heard_all: bool) -> None:
        """Nobody will say what became of what has begun; if all was heard, the rest never will."""
        self.home = False
        self._unsent.clear()  # what stays here must not arrive there, too
        awaited, self._awaited = self._awaited, {}
        for each in awaited.values():
            each.begun = each.begun or not heard_all
            each.arrived.set()
