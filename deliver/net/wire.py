"""The wire: pumps a `ClientMachine` over any trio stream, each wait with its deadline (RFC 5321 4.5.3.2).

Outside a transaction a failure raises: Lost, TimedOut (a Lost) or MalformedReply; all are PeerErrors. In
`transact` they become outcomes, and so does content that cannot be read. A deadline is for a whole reply:
single octets do not prolong it. Flights and content are written while replies are read, so that two full
buffers never wait for each other (RFC 2920 3.1) and an early refusal stops the content; what the socket takes
at once has left before anybody could wait, and is only followed by reading.

After any failure, and after any cancellation, the machine is BROKEN: no late reply can be taken for another
command's, and neither QUIT nor a dot is sent. Only the final dot's write counts as handing the message over;
`Transaction.dot_handed_over` is called before it begins.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType

import trio

from deliver.errors import PeerError
from deliver.message import Content, Recipient
from deliver.net.arrived import has_arrived
from deliver.net.chunks import LAST_WORDS, ChunkedUpload
from deliver.net.folding import Folding, Journal as Journal
from deliver.net.ledger import EARLY, Ledger
from deliver.net.maildata import MailData
from deliver.net.pace import MIN_RATE, Pace
from deliver.net.prompt import PromptStream
from deliver.net.tlsstream import TlsStream
from deliver.outcome import Outcome, Phase
from deliver.settings import Timeouts
from deliver.smtp.client import ClientMachine, Exchange, Lost, State, TimedOut
from deliver.smtp.command import Command, Ehlo, Helo, LocalMisuse, Quit, Rset, StartTls
from deliver.smtp.ehlo import Capabilities
from deliver.smtp.pipeconnect import EarlyHello
from deliver.smtp.reply import Reply
from deliver.smtp.transaction import AwaitReply, Done, SendChunks, SendCommands, SendContent, Transaction

CHUNK = 64 * 1024  # octets read at once
GLANCE = 0.001  # seconds
FEW = 1024  # octets of a flight that every socket takes at once: no reader is needed beside the writer
NOW = 16 * 1024  # octets of a write that is tried at once: one after the other they must not starve the rest
CLOSING = 1.0  # seconds for an orderly end of the stream

REUSABLE = frozenset({State.READY, State.ENVELOPE, State.CHUNKS})

Fold = Callable[[Exchange], None]

_log = logging.getLogger("outrider.delivery")


class Wire:
    """One connection. Not for use by two tasks at a time; the owner calls `close` or `cut_off` in the end."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        timeouts: Timeouts,
        machine: ClientMachine | None = None,
        *,
        min_rate: int = MIN_RATE,
    ) -> None:
        self.stream = stream
        self.machine = machine or ClientMachine()
        self.ledger = Ledger()
        self.unwritable = False
        self.pace = Pace(timeouts, min_rate)  # that of the next message may be another one
        self._whole = _Whole(self.machine)

    @property
    def timeouts(self) -> Timeouts:
        """The deadlines."""
        return self.pace.timeouts

    @property
    def capabilities(self) -> Capabilities:
        """What the server offers on this side of STARTTLS."""
        return self.machine.capabilities

    @property
    def reusable(self) -> bool:
        """Whether another transaction may use this connection; `transact` sends RSET where it is needed."""
        machine = self.machine
        return machine.state in REUSABLE and machine.synchronised() and not self.unwritable

    @property
    def needs_reset(self) -> bool:
        """Whether an earlier refusal left a transaction open, so that the next one must begin with RSET."""
        return self.machine.state in (State.ENVELOPE, State.CHUNKS) and self.machine.due == 0

    async def talk_early(self, presumed: Capabilities, *commands: Command) -> None:
        """EHLO, and what may follow it by what the server said on an earlier connection, before the greeting.

        `greeting`, `ehlo` and `starttls` then read the replies. Raises PeerError.
        """
        with self._whole:
            self.machine.presume(presumed)
            self.ledger.flight()
            self.ledger.save(EARLY, len(commands))
            octets = b"".join(self.machine.send(command) for command in commands)
            await self.write(octets, Phase.EHLO)

    async def greeting(self) -> Reply:
        """The server's first words, of whatever code. Raises PeerError."""
        with self._whole:
            if self.machine.due == 1:
                self.ledger.flight()
            return (await self.await_exchange()).reply

    async def ehlo(self, name: str) -> Reply:
        """EHLO, if it was not sent early; a positive reply fills `capabilities`. Raises PeerError."""
        return await self._command_or_reply(Ehlo(name))

    async def helo(self, name: str) -> Reply:
        """HELO, for a server that refused EHLO with 5yz. Raises PeerError."""
        return await self.command(Helo(name))

    async def starttls(self) -> Reply:
        """STARTTLS, if it was not sent early; after a 2yz the handshake comes next.

        Raises PeerError, also for octets behind the reply.
        """
        return await self._command_or_reply(StartTls())

    def starttls_done(self, stream: trio.abc.Stream) -> None:
        """Go on over `stream`, TLS over the old `self.stream`, knowing nothing of the server (RFC 3207 4.2).

        Call it after the handshake was judged; until then `close` says nothing and closes `self.stream`.
        """
        self.machine.start_tls_done()
        self.stream = stream

    async def command(self, command: Command) -> Reply:
        """Send one command and wait for its reply, of whatever code. Raises PeerError."""
        with self._whole:
            self.machine.check_in_step(command.phase)
            self.ledger.flight()
            await self.write(self.machine.send(command), command.phase)
            return (await self.await_exchange()).reply

    async def transact(
        self,
        transaction: Transaction,
        content: Content,
        on_dot_reply: Journal = lambda who, outcome: None,
        early: EarlyHello | None = None,
    ) -> tuple[tuple[Recipient, Outcome], ...]:
        """Carry out a transaction and return its outcomes; nothing that the server does raises.

        `on_dot_reply(recipients, delivered)` is called as soon as the final 2yz was read, before anything is
        awaited. When cancelled, ask the transaction for its outcomes. With `early` EHLO leaves in front of
        the transaction, whose first commands do not wait for its answer.
        """
        fold = Folding(transaction, on_dot_reply, early)
        self.pace.begin(content.size)
        try:
            with self._whole:
                hello = None
                if early is not None:
                    hello = early.command
                    self.machine.presume(early.presumed)
                    self.ledger.save(EARLY, 1 + self.machine.due)  # the wait for EHLO, and for a greeting
                elif self.needs_reset and not transaction.resets:
                    await self.command(Rset())
                await self._carry_out(transaction, content, fold, hello)
        except PeerError as error:
            transaction.lost(error.happened, fault=error.fault)
        return transaction.outcomes()

    async def _carry_out(
        self, transaction: Transaction, content: Content, fold: Fold, hello: Ehlo | None
    ) -> None:
        """Do what the transaction asks for until it is done; `hello` leaves in front. Raises PeerError."""
        chunks: ChunkedUpload | None = None
        while not isinstance(action := transaction.next_action(), Done):
            if isinstance(action, SendChunks):
                self.ledger.group(len(action.commands), chunks=True)
                chunks = chunks or ChunkedUpload(self, transaction, content, fold)
                await chunks.run(
                    action if hello is None else SendChunks((hello, *action.commands), action.first)
                )
                hello = None
            elif isinstance(action, SendCommands):
                self.ledger.group(len(action.commands))
                commands = action.commands if hello is None else (hello, *action.commands)
                await self._send_flight(commands, transaction, fold)
                hello = None
            elif isinstance(action, SendContent):
                self.ledger.flight()
                await MailData(self, transaction, content, fold).run()
            else:
                assert isinstance(action, AwaitReply)
                fold(await self.await_exchange())

    def glance(self) -> bool:
        """Take what has come already. False: it is not certain that nothing has, `overhear` for a moment."""
        stream = self.stream
        if type(stream) is PromptStream:
            return not stream.arrived()
        if isinstance(stream, TlsStream):
            try:
                octets = stream.at_hand()
            except trio.BrokenResourceError as error:
                _log.debug("while idle: %s", _reason(error))
                self.machine.break_off()
                return True
            if octets is not None:
                self.machine.receive(octets)
                return True
            stream = stream.transport
        return isinstance(stream, PromptStream | trio.SocketStream) and not has_arrived(stream)

    async def catch_up(self) -> None:
        """What has come by now is known; where that cannot be seen, listen for a moment."""
        if not self.glance():
            with trio.move_on_after(GLANCE):
                await self.overhear()

    async def overhear(self) -> None:
        """Wait, between transactions, until the server says something or hangs up; not `reusable` after that.

        May be cancelled without loss.
        """
        try:
            self.machine.receive(bytes(await self.stream.receive_some(CHUNK)))
        except trio.BrokenResourceError as error:
            _log.debug("while idle: %s", _reason(error))
            self.machine.break_off()

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

    async def _command_or_reply(self, command: Command) -> Reply:
        """The reply to a command, which is sent unless it left early."""
        if self.machine.due == 0:
            return await self.command(command)
        with self._whole:
            exchange = await self.await_exchange()
            if type(exchange.command) is not type(command):
                raise LocalMisuse(f"{exchange.command} was answered, not {command}")
            return exchange.reply

    async def _send_flight(self, commands: tuple[Command, ...], transaction: Transaction, fold: Fold) -> None:
        """Write commands that need not wait for each other, folding replies that come meanwhile."""
        phase = commands[0].phase
        self.machine.check_in_step(phase)
        octets = b"".join(self.machine.send(command) for command in commands)
        due = self.machine.due
        if len(commands) == 1 or len(octets) <= FEW:
            await self.write(octets, phase)
            for _ in range(due if len(commands) > 1 else 0):
                if not transaction.finished:
                    fold(await self.await_exchange())
            return
        failure: PeerError | None = None

        async def write() -> None:
            nonlocal failure
            try:
                await self.write(octets, phase)
            except PeerError as error:
                failure = error
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            try:
                for _ in range(due):
                    if not transaction.finished:
                        fold(await self.await_exchange())
            except PeerError as error:
                failure = error
            nursery.cancel_scope.cancel()  # the writer, if a refusal was faster
        if failure:
            raise failure

    async def await_exchange(self) -> Exchange:
        """The next exchange within the deadline of its phase. Raises PeerError."""
        if (came := self.machine.next_exchange()) is not None:
            return came  # with the one before it: nothing to wait for
        phase = self.machine.awaiting
        assert phase is not None
        deadline = self.pace.deadline(phase)
        if self.unwritable:
            deadline = min(deadline, trio.current_time() + LAST_WORDS)
        with trio.CancelScope(deadline=deadline):
            return await self._read_exchange()
        raise self.timed_out(phase, LAST_WORDS if self.unwritable else None)

    async def next_exchange(self) -> Exchange:
        """The next exchange, however long it takes. What was read before a cancellation is not lost."""
        return self.machine.next_exchange() or await self._read_exchange()

    async def _read_exchange(self) -> Exchange:
        machine = self.machine
        while True:
            try:
                data = await self.stream.receive_some(CHUNK)
            except trio.BrokenResourceError as error:
                phase = machine.awaiting or Phase.QUIT
                raise Lost(phase, f"the connection broke ({_reason(error)})") from error
            machine.receive(bytes(data))
            if (exchange := machine.next_exchange()) is not None:
                return exchange

    async def write(self, octets: bytes, phase: Phase, patience: float | None = None) -> None:
        """Write within `patience`, else that of the phase. Raises TimedOut.

        A server that does not read any more may still have said why: read on.
        """
        if self.unwritable:
            return
        rest = await self.write_now(octets, phase, patience) if len(octets) <= NOW else octets
        if rest is not None:
            await self.write_rest(rest, phase, patience)

    async def write_now(self, octets: bytes, phase: Phase, patience: float | None = None) -> bytes | None:
        """Write what leaves without waiting; what is left for `write_rest`, None if there is nothing.

        Raises TimedOut where no time is left.
        """
        if self.unwritable:
            return None
        await trio.lowlevel.checkpoint_if_cancelled()
        if patience is not None and patience <= 0:
            raise self.timed_out(phase, patience)
        stream = self.stream
        try:
            if type(stream) is PromptStream:
                sent = stream.send_now(octets)
                return octets[sent:] if sent < len(octets) else None
            return stream.send_now(octets) if type(stream) is TlsStream else octets
        except trio.BrokenResourceError as error:
            self._not_read_any_more(phase, error)
            return None

    async def write_rest(self, rest: bytes, phase: Phase, patience: float | None = None) -> None:
        """Write what `write_now` has left, b"" where only TLS has some octets of its own. Raises TimedOut."""
        patience = self.patience(phase) if patience is None else patience
        with trio.move_on_after(patience):
            try:
                if rest or not isinstance(self.stream, TlsStream):
                    await self.stream.send_all(rest)
                else:
                    await self.stream.flush()
            except trio.BrokenResourceError as error:
                self._not_read_any_more(phase, error)
            return
        raise self.timed_out(phase, patience)

    def _not_read_any_more(self, phase: Phase, error: trio.BrokenResourceError) -> None:
        self.unwritable = True
        _log.debug("writing %s: %s", phase.value, _reason(error))

    def patience(self, phase: Phase) -> float:
        """The deadline of a reply in seconds from now, see `deliver.net.pace`."""
        return self.pace.patience(phase)

    async def write_content(self, octets: bytes, phase: Phase) -> None:
        """Write a piece of content as fast as it must go at least. Raises TimedOut, as `write` does."""
        await self.write(octets, phase, self.pace.patience_with(len(octets)))

    def timed_out(self, phase: Phase, patience: float | None = None) -> TimedOut:
        """The error for a wait of `patience` seconds, else that of the phase, that was in vain."""
        patience = self.pace.own(phase) if patience is None else patience
        return TimedOut(phase, patience, self.pace.why(phase))


class _Whole:
    """Whatever interrupts the block, the session is of no more use."""

    __slots__ = ("_machine",)

    def __init__(self, machine: ClientMachine) -> None:
        self._machine = machine

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if kind is not None:
            self._machine.break_off()


def _reason(error: BaseException) -> str:
    """The innermost cause's words; trio's own are empty or about trio."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__
