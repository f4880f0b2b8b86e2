"""Content as mail data on a wire (RFC 5321 4.1.1.4): one writer, and beside it the one reader of the reply.

Content so small that any socket takes it soon is written first and answered then. An early refusal stops
the content, and the connection is of no more use then: the server would take what we say next for content.
Content that fails on the way ends the transaction without a dot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from deliver.errors import Blame, MessageError, PeerError, StorageError
from deliver.message import Content
from deliver.net.chunks import AT_ONCE, LAST_WORDS, PIECE, answers_content
from deliver.outcome import Phase
from deliver.smtp.client import Exchange
from deliver.smtp.command import EndOfContent
from deliver.smtp.dot import DotStuffer
from deliver.smtp.reply import MalformedReply
from deliver.smtp.transaction import Transaction

if TYPE_CHECKING:
    from deliver.net.wire import Wire


class MailData:
    """The content and the reply to it: a writer, and beside it the one reader."""

    def __init__(
        self, wire: Wire, transaction: Transaction, content: Content, fold: Callable[[Exchange], None]
    ) -> None:
        self._wire = wire
        self._transaction = transaction
        self._content = content
        self._fold = fold
        # Of a writer with a reader beside it:
        self._reading: trio.CancelScope
        self._written: trio.Event
        self._failure: PeerError | None = None

    async def run(self) -> None:
        """Write, read and fold. Raises PeerError; content that fails settles the transaction itself."""
        if self._content.size <= AT_ONCE:
            await self._run_in_turn()
        else:
            await self._run_side_by_side()

    async def _run_in_turn(self) -> None:
        """Content that any socket takes at once, then the answer; nobody need read meanwhile."""
        wire, transaction = self._wire, self._transaction
        try:
            await self._write_content()
        except StorageError as error:
            transaction.lost(str(error), Blame.LOCAL)
            wire.machine.break_off()
        except MessageError as error:
            transaction.unsendable(str(error))
            wire.machine.break_off()
        while not transaction.finished:
            exchange = await wire.await_exchange()
            if wire.unwritable and answers_content(exchange):
                raise MalformedReply("an answer to content that had not left")
            self._fold(exchange)
        if wire.unwritable:
            wire.machine.break_off()

    async def _run_side_by_side(self) -> None:
        """A writer, and beside it the reader."""
        self._reading, self._written, self._failure = trio.CancelScope(), trio.Event(), None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write)
            await self._read()
            nursery.cancel_scope.cancel()
        if self._transaction.finished:
            if not self._whole_content_left:
                self._wire.machine.break_off()
        elif self._failure:
            raise self._failure
        else:
            phase = self._transaction.phase
            raise self._wire.timed_out(
                phase, LAST_WORDS if self._wire.unwritable else self._wire.patience(phase)
            )

    @property
    def _whole_content_left(self) -> bool:
        return self._written.is_set() and not self._wire.unwritable

    async def _read(self) -> None:
        """One exchange: the answer to the end of the content, or a refusal before it."""
        with self._reading:
            try:
                while await self._read_one():
                    self._reading.deadline = trio.current_time() + self._wire.patience(Phase.DOT)
            except PeerError as error:
                self._failure = self._failure or error

    async def _read_one(self) -> bool:
        """Read and fold a reply; whether more belong to the answer (see `deliver.smtp.prdr`)."""
        exchange = await self._wire.next_exchange()
        if not exchange.reply.transient and not exchange.reply.permanent and not self._written.is_set():
            # Its last octets are still being written; the answer counts once they have left.
            await self._written.wait()
        if not self._transaction.finished:  # the writer may have failed in the same moment
            self._fold(exchange)
        return not self._transaction.finished and (exchange.individual or exchange.reply.intermediate)

    async def _write(self) -> None:
        """Write everything, then start the clock of the final reply."""
        try:
            await self._write_content()
        except StorageError as error:
            self._transaction.lost(str(error), Blame.LOCAL)
            self._reading.cancel()
        except MessageError as error:
            if not self._transaction.finished:  # a refusal may have come in the same moment
                self._transaction.unsendable(str(error))
            self._reading.cancel()
        except PeerError as error:
            self._failure = error
            self._reading.cancel()
        else:
            if self._wire.unwritable:
                self._reading.deadline = trio.current_time() + LAST_WORDS
            else:
                self._written.set()
                self._reading.deadline = trio.current_time() + self._wire.patience(self._transaction.phase)

    async def _write_content(self) -> None:
        """All pieces; the last one holds the end. Stops early where the server has begun to answer."""
        stuffer, size = DotStuffer(), self._content.size
        offset = 0
        while True:
            piece = await self._content.read(offset, min(PIECE, size - offset)) if offset < size else b""
            offset += len(piece)
            if not piece and offset < size:
                raise StorageError(
                    "reading the content of a message",
                    f"it ends after {offset} of {size} octets",
                    "look for damage in the queue directory",
                )
            octets = stuffer.feed(piece)
            if offset < size:
                await self._wire.write_content(octets, Phase.BODY)
                if self._wire.unwritable:
                    return
                continue
            end = EndOfContent(stuffer.finish())
            if size <= AT_ONCE:
                await self._wire.catch_up()  # nobody reads beside us: what came before is no answer to it
            if not self._wire.machine.may_send(end):
                return  # a part of an answer is here already: nothing more may be added
            self._transaction.dot_handed_over()
            octets += self._wire.machine.send(end)
            await self._wire.write_content(octets, Phase.DOT)
            return
