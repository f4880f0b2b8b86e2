"""The wire: pumps a `ClientMachine` over any trio stream, each wait with its deadline (RFC 5321 4.5.3.2).

Outside a transaction a failure raises: Lost, TimedOut (a Lost) or MalformedReply; all are PeerErrors. In
`transact` they become outcomes, and so does content that cannot be read. A deadline is for a whole reply:
single octets do not prolong it. Flights and content are written while replies are read, so that two full
buffers never wait for each other (RFC 2920 3.1) and an early refusal stops the content.

After any failure, and after any cancellation, the machine is BROKEN: no late reply can be taken for another
command's, and neither QUIT nor a dot is sent. Only the final dot's write counts as handing the message over;
`Transaction.dot_handed_over` is called before it begins.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from deliver.errors import Blame, MessageError, PeerError, StorageError
from deliver.message import Content, Recipient
from deliver.net.chunks import ChunkedUpload
from deliver.net.ledger import Ledger
from deliver.outcome import Outcome, Phase
from deliver.settings import Timeouts
from deliver.smtp.client import ClientMachine, Exchange, Lost, State, TimedOut
from deliver.smtp.command import Command, Ehlo, EndOfContent, Helo, Quit, Rset, StartTls
from deliver.smtp.dot import DotStuffer
from deliver.smtp.ehlo import Capabilities
from deliver.smtp.reply import Reply
from deliver.smtp.transaction import AwaitReply, Done, SendChunks, SendCommands, SendContent, Transaction

PIECE = 64 * 1024  # octets of content per write, each with its own deadline
CHUNK = 64 * 1024  # octets read at once
LAST_WORDS = 5.0  # seconds in which a server that does not read any more may still say why
CLOSING = 1.0  # seconds for an orderly end of the stream

Journal = Callable[[tuple[Recipient, ...], Reply], None]

_log = logging.getLogger("outrider.delivery")


class Wire:
    """One connection. Not for use by two tasks at a time; the owner calls `close` or `cut_off` in the end."""

    def __init__(
        self, stream: trio.abc.Stream, timeouts: Timeouts, machine: ClientMachine | None = None
    ) -> None:
        self.stream = stream
        self.timeouts = timeouts
        self.machine = machine or ClientMachine()
        self.ledger = Ledger()
        self.unwritable = False

    @property
    def capabilities(self) -> Capabilities:
        """What the server offers on this side of STARTTLS."""
        return self.machine.capabilities

    @property
    def reusable(self) -> bool:
        """Whether another transaction may use this connection; `transact` sends RSET where it is needed."""
        ready = self.machine.state in (State.READY, State.ENVELOPE, State.CHUNKS)
        return ready and self.machine.synchronised() and not self.unwritable

    async def greeting(self) -> Reply:
        """The server's first words, of whatever code. Raises PeerError."""
        with self._whole():
            self.ledger.flight()
            return (await self._await_exchange()).reply

    async def ehlo(self, name: str) -> Reply:
        """EHLO; a positive reply fills `capabilities`. Raises PeerError."""
        return await self.command(Ehlo(name))

    async def helo(self, name: str) -> Reply:
        """HELO, for a server that refused EHLO with 5yz. Raises PeerError."""
        return await self.command(Helo(name))

    async def starttls(self) -> Reply:
        """STARTTLS; after a 2yz the handshake comes next. Raises PeerError, also for octets behind it."""
        return await self.command(StartTls())

    def starttls_done(self, stream: trio.abc.Stream) -> None:
        """Go on over `stream`, TLS over the old `self.stream`, knowing nothing of the server (RFC 3207 4.2).

        Call it after the handshake was judged; until then `close` says nothing and closes `self.stream`.
        """
        self.machine.start_tls_done()
        self.stream = stream

    async def command(self, command: Command) -> Reply:
        """Send one command and wait for its reply, of whatever code. Raises PeerError."""
        with self._whole():
            self.machine.check_in_step(command.phase)
            self.ledger.flight()
            await self.write(self.machine.send(command), command.phase, self.patience(command.phase))
            return (await self._await_exchange()).reply

    async def transact(
        self, transaction: Transaction, content: Content, on_dot_reply: Journal = lambda who, reply: None
    ) -> tuple[tuple[Recipient, Outcome], ...]:
        """Carry out a transaction and return its outcomes; nothing that the server does raises.

        `on_dot_reply(recipients, reply)` is called as soon as the final 2yz was read, before anything is
        awaited. When cancelled, ask the transaction for its outcomes.
        """
        chunks = ChunkedUpload(
            self, transaction, content, lambda exchange: _fold(transaction, exchange, on_dot_reply)
        )
        try:
            with self._whole():
                if self.machine.state in (State.ENVELOPE, State.CHUNKS):  # left open by an earlier refusal
                    await self.command(Rset())
                while not isinstance(action := transaction.next_action(), Done):
                    if isinstance(action, SendCommands):
                        await self._send_flight(action.commands, transaction, on_dot_reply)
                    elif isinstance(action, SendChunks):
                        self._count(len(action.commands), chunks=True)
                        await chunks.run(action)
                    elif isinstance(action, SendContent):
                        self.ledger.flight()
                        await _Upload(self, transaction, content, on_dot_reply).run()
                    else:
                        assert isinstance(action, AwaitReply)
                        _fold(transaction, await self._await_exchange(), on_dot_reply)
        except PeerError as error:
            transaction.lost(error.happened)
        return transaction.outcomes()

    async def close(self) -> None:
        """Say QUIT where that is possible, wait at most `timeouts.quit` for its reply, and close."""
        goodbye = Quit()
        try:
            if not self.unwritable and self.machine.may_send(goodbye):
                with trio.move_on_after(self.timeouts.quit):
                    await self.command(goodbye)
        except PeerError as error:
            _log.debug("after QUIT: %s", error)
        finally:
            await self.cut_off()

    async def cut_off(self) -> None:
        """Close without a word: what was begun is not brought to an end."""
        orderly = self.machine.state is State.CLOSING and not self.unwritable
        self.machine.break_off()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + (CLOSING if orderly else 0)):
            try:
                await self.stream.aclose()
            except (trio.BrokenResourceError, PeerError) as error:
                _log.debug("while closing: %s", error)

    async def _send_flight(
        self, commands: tuple[Command, ...], transaction: Transaction, on_dot_reply: Journal
    ) -> None:
        """Write commands that need not wait for each other, folding replies that come meanwhile."""
        phase = commands[0].phase
        self.machine.check_in_step(phase)
        self._count(len(commands))
        octets = b"".join(self.machine.send(command) for command in commands)
        if len(commands) == 1:
            await self.write(octets, phase, self.patience(phase))
            return
        failure: PeerError | None = None

        async def write() -> None:
            nonlocal failure
            try:
                await self.write(octets, phase, self.patience(phase))
            except PeerError as error:
                failure = error
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            try:
                for _ in commands:
                    if not transaction.finished:
                        _fold(transaction, await self._await_exchange(), on_dot_reply)
            except PeerError as error:
                failure = error
            nursery.cancel_scope.cancel()  # the writer, if a refusal was faster
        if failure:
            raise failure

    async def _await_exchange(self) -> Exchange:
        """The next exchange within the deadline of its phase."""
        phase = self.machine.awaiting
        assert phase is not None
        patience = min(self.patience(phase), LAST_WORDS) if self.unwritable else self.patience(phase)
        with trio.move_on_after(patience):
            return await self.next_exchange()
        raise TimedOut(phase, patience)

    async def next_exchange(self) -> Exchange:
        """The next exchange, however long it takes. What was read before a cancellation is not lost."""
        while (exchange := self.machine.next_exchange()) is None:
            phase = self.machine.awaiting or Phase.QUIT
            try:
                data = await self.stream.receive_some(CHUNK)
            except trio.BrokenResourceError as error:
                raise Lost(phase, f"the connection broke ({_reason(error)})") from error
            self.machine.receive(bytes(data))
        return exchange

    async def write(self, octets: bytes, phase: Phase, patience: float) -> None:
        """Write within `patience`. A server that does not read any more may still have said why: read on."""
        if self.unwritable:
            return
        with trio.move_on_after(patience) as scope:
            try:
                await self.stream.send_all(octets)
            except trio.BrokenResourceError as error:
                self.unwritable = True
                _log.debug("writing %s: %s", phase.value, _reason(error))
        if scope.cancelled_caught:
            raise TimedOut(phase, patience)

    def patience(self, phase: Phase) -> float:
        """The deadline of a reply; Timeouts has a field for each phase that a wire knows."""
        timeouts = self.timeouts
        return {
            Phase.BANNER: timeouts.banner,
            Phase.EHLO: timeouts.ehlo,
            Phase.STARTTLS: timeouts.ehlo,
            Phase.MAIL: timeouts.mail,
            Phase.RCPT: timeouts.rcpt,
            Phase.DATA: timeouts.data,
            Phase.BODY: timeouts.block,
            Phase.DOT: timeouts.dot,
            Phase.RSET: timeouts.mail,
            Phase.QUIT: timeouts.quit,
        }[phase]

    def _count(self, commands: int, *, chunks: bool = False) -> None:
        """A flight of so many commands, perhaps with content behind them."""
        self.ledger.flight()
        self.ledger.save("PIPELINING", max(0, commands - 1))
        if chunks and commands:
            self.ledger.save("CHUNKING", 2 if commands else 1)  # the waits for DATA and for the content

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Whatever interrupts the block, the session is of no more use."""
        try:
            yield
        except BaseException:
            self.machine.break_off()
            raise


class _Upload:
    """The content and the reply to it: a writer, and beside it the one reader."""

    def __init__(self, wire: Wire, transaction: Transaction, content: Content, on_dot_reply: Journal) -> None:
        self._wire = wire
        self._transaction = transaction
        self._content = content
        self._on_dot_reply = on_dot_reply
        self._reading = trio.CancelScope()
        self._written = trio.Event()
        self._failure: PeerError | None = None

    async def run(self) -> None:
        """Write, read and fold. Raises PeerError; content that fails settles the transaction itself."""
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
            raise TimedOut(phase, LAST_WORDS if self._wire.unwritable else self._wire.patience(phase))

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
            _fold(self._transaction, exchange, self._on_dot_reply)
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
                await self._wire.write(octets, Phase.BODY, self._wire.timeouts.block)
                if self._wire.unwritable:
                    return
                continue
            end = EndOfContent(stuffer.finish())
            if not self._wire.machine.may_send(end):
                return  # a part of an answer is here already: nothing more may be added
            self._transaction.dot_handed_over()
            octets += self._wire.machine.send(end)
            await self._wire.write(octets, Phase.DOT, self._wire.timeouts.block)
            return


def _fold(transaction: Transaction, exchange: Exchange, on_dot_reply: Journal) -> None:
    """Give a reply to the transaction and the journal; no checkpoint may come between reading and this."""
    delivered = transaction.got(exchange)
    if delivered:
        try:
            on_dot_reply(delivered, exchange.reply)
        except Exception:  # the message is delivered whatever the journal says; the outcome is settled later
            _log.exception("the journal of deliveries failed")


def _reason(error: BaseException) -> str:
    """The innermost cause's words; trio's own are empty or about trio."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__
