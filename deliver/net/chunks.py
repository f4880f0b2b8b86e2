"""Content as BDAT chunks on a wire (RFC 3030): one writer, and beside it the one reader of all replies.

Content that fits into one chunk, and that the socket takes at once, needs neither task.

A refusal stops the next chunk; the one that was announced is written to its end, so that the session lives
on. Content that fails between two chunks ends the transaction without LAST.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import trio

from deliver.errors import Blame, MessageError, PeerError, StorageError
from deliver.message import Content
from deliver.outcome import Phase
from deliver.smtp.chunking import CHUNK, FIRST_CHUNK, LineEnds
from deliver.smtp.client import Exchange, State
from deliver.smtp.command import Bdat, BdatLast, Command
from deliver.smtp.reply import MalformedReply
from deliver.smtp.transaction import SendChunks, Transaction

if TYPE_CHECKING:
    from deliver.net.wire import Wire

AT_ONCE = 8 * 1024  # octets that any socket takes soon: no reader is needed beside the writer
PIECE = 64 * 1024  # octets per write, each with its own deadline
LAST_WORDS = 5.0  # seconds for a server that does not read any more to say why, and for us to finish a chunk


class ChunkedUpload:
    """All chunks of one transaction; `run` once per SendChunks."""

    def __init__(
        self, wire: Wire, transaction: Transaction, content: Content, fold: Callable[[Exchange], None]
    ) -> None:
        self._wire = wire
        self._transaction = transaction
        self._content = content
        self._fold = fold
        self._offset = 0
        self._line_ends = LineEnds()
        # Of a writer with a reader beside it:
        self._reading: trio.CancelScope
        self._turn: trio.Event  # something is due, or everything was written
        self._written: trio.Event
        self._failure: PeerError | None = None

    async def run(self, action: SendChunks) -> None:
        """Write, read and fold until nothing is due. Raises PeerError."""
        if self._content.size - self._offset <= FIRST_CHUNK:
            whole = await self._run_at_once(action.commands)
        else:
            whole = await self._run_side_by_side(partial(self._write_chunks, action))
        machine = self._wire.machine
        if machine.state is not State.CLOSING and not (whole and machine.synchronised()):
            machine.break_off()

    async def _run_at_once(self, commands: tuple[Command, ...]) -> bool:
        """All that is left in one chunk: what the socket takes at once needs no reader beside the writer.

        Whether everything has left.
        """
        wire, transaction = self._wire, self._transaction
        try:
            octets = b"" if wire.unwritable else await self._last_chunk(commands)
        except StorageError as error:
            transaction.lost(str(error), Blame.LOCAL)
        except MessageError as error:
            transaction.unsendable(str(error))
        else:
            patience = wire.pace.patience_with(len(octets))
            rest = await wire.write_now(octets, Phase.DOT, patience)
            if rest is not None and len(rest) > AT_ONCE:
                return await self._run_side_by_side(partial(wire.write_rest, rest, Phase.DOT, patience))
            if rest is not None:
                await wire.write_rest(rest, Phase.DOT, patience)
            while wire.machine.due and not transaction.finished:
                self._take(await wire.await_exchange())
        return not wire.unwritable

    async def _last_chunk(self, commands: tuple[Command, ...]) -> bytes:
        """The commands, and all that is left behind them. Raises StorageError, MessageError, PeerError."""
        machine = self._wire.machine
        octets = await self._next_chunk(FIRST_CHUNK)
        announcement = BdatLast(len(octets))
        machine.check_in_step(Phase.DOT)
        pieces = [machine.send(command) for command in (*commands, announcement)]
        pieces.append(machine.send_octets(octets))
        self._transaction.dot_handed_over()
        return b"".join(pieces)

    async def _run_side_by_side(self, writing: Callable[[], Awaitable[None]]) -> bool:
        """A writer, and beside it the reader; whether everything that was announced has left."""
        self._reading, self._failure = trio.CancelScope(), None
        self._turn, self._written = trio.Event(), trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, writing)
            await self._read()
            nursery.cancel_scope.cancel()
        failure: PeerError | None = self._failure
        if failure is not None and not self._transaction.finished:
            raise failure
        return self._written.is_set() and failure is None and not self._wire.unwritable

    async def _read(self) -> None:
        """Fold replies until nothing is due any more and everything was written."""
        machine = self._wire.machine
        try:
            while not self._transaction.finished:
                if machine.awaiting is not None:
                    await self._read_one()
                elif self._written.is_set():
                    return
                else:
                    self._turn = trio.Event()
                    await self._turn.wait()
        except PeerError as error:
            self._failure = self._failure or error
            return
        if machine.state is not State.CLOSING and not self._written.is_set():
            with trio.move_on_after(LAST_WORDS):  # the rest of the chunk that was announced
                await self._written.wait()

    async def _read_one(self) -> None:
        phase = self._wire.machine.awaiting
        assert phase is not None
        if self._written.is_set() and (came := self._wire.machine.next_exchange()) is not None:
            self._take(came)  # with the one before it: nothing to wait for
            return
        with trio.CancelScope() as self._reading:
            self._set_deadline()
            exchange = await self._wire.next_exchange()
            if answers_content(exchange):
                await self._written.wait()  # the answer counts once the last octets have left
            self._take(exchange)
            return
        if not self._transaction.finished:
            raise self._failure or self._wire.timed_out(phase, self._patience(phase))

    def _take(self, exchange: Exchange) -> None:
        if (self._failure or self._wire.unwritable) and answers_content(exchange):
            raise MalformedReply("an answer to content that had not left")
        if not self._transaction.finished:
            self._fold(exchange)

    def _set_deadline(self) -> None:
        """The clock of a reply starts when everything was written; until then each write has its own."""
        phase = self._wire.machine.awaiting
        if self._written.is_set() and phase is not None:
            self._reading.deadline = trio.current_time() + self._patience(phase)

    def _patience(self, phase: Phase) -> float:
        return LAST_WORDS if self._wire.unwritable else self._wire.patience(phase)

    async def _write(self, writing: Callable[[], Awaitable[None]]) -> None:
        try:
            await writing()
        except StorageError as error:
            self._transaction.lost(str(error), Blame.LOCAL)
            self._reading.cancel()
        except MessageError as error:
            if not self._transaction.finished:
                self._transaction.unsendable(str(error))
            self._reading.cancel()
        except PeerError as error:
            self._failure = error
            self._reading.cancel()
        self._written.set()
        self._set_deadline()
        self._turn.set()

    async def _write_chunks(self, action: SendChunks) -> None:
        commands = action.commands
        while self._transaction.wants_chunks and not self._wire.unwritable:
            octets = await self._next_chunk(FIRST_CHUNK if action.first else CHUNK)
            if not self._transaction.wants_chunks:
                return  # refused while the content was being read
            last = self._offset == self._content.size
            await self._write_chunk(commands, octets, last)
            commands = ()
            if last or action.first:
                return

    async def _write_chunk(self, commands: tuple[Command, ...], octets: bytes, last: bool) -> None:
        machine = self._wire.machine
        announcement = BdatLast(len(octets)) if last else Bdat(len(octets))
        machine.check_in_step(announcement.phase)
        begin = b"".join(machine.send(command) for command in (*commands, announcement))
        rest = memoryview(machine.send_octets(octets))
        self._turn.set()
        piece, rest = begin + rest[:PIECE], rest[PIECE:]  # one write: they leave in one flight
        while True:
            if last and not rest and not self._transaction.finished:
                self._transaction.dot_handed_over()
            await self._wire.write_content(piece, announcement.phase)
            if not rest:
                return
            piece, rest = bytes(rest[:PIECE]), rest[PIECE:]

    async def _next_chunk(self, size: int) -> bytes:
        """The next octets, checked. Raises StorageError, MessageError."""
        pieces: list[bytes] = []
        wanted = min(size, self._content.size - self._offset)
        while wanted:
            piece = await self._content.read(self._offset, wanted)
            if not piece:
                raise StorageError(
                    "reading the content of a message",
                    f"it ends after {self._offset} of {self._content.size} octets",
                    "look for damage in the queue directory",
                )
            self._line_ends.check(piece)
            pieces.append(piece)
            self._offset += len(piece)
            wanted -= len(piece)
        if self._offset == self._content.size:
            missing = self._line_ends.finish()
            if missing or not pieces:
                pieces.append(missing)
        return b"".join(pieces) if len(pieces) > 1 else pieces[0]


def answers_content(exchange: Exchange) -> bool:
    """Whether it says that the server has the message: of content that has not left it says nothing."""
    return exchange.phase is Phase.DOT and (exchange.reply.positive or exchange.reply.intermediate)
