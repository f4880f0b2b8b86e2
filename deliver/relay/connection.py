"""One client of the relay: drives `deliver.smtp.server` between its stream and the intake.

A 250 after the content is written only when the intake has made the message durable. A failing disk or
database gives 451 and the client keeps its mail; a lost connection before the end of the content leaves
nothing behind. Silent and slow clients are given up (RFC 5321 4.5.3.2.7). `run` returns in every case but
cancellation: what was not foreseen is logged.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import trio

from deliver.errors import MessageError, OutriderError
from deliver.message import Envelope, MessageId, Recipient
from deliver.net.clock import Clock
from deliver.relay.access import Network, refusal
from deliver.relay.intake import Intake, Origin, Sink
from deliver.relay.received import HopCounter, received_header
from deliver.relay.route import Reject, choose
from deliver.report.log import say
from deliver.settings import Route
from deliver.smtp.action import (
    AbandonContent,
    BeginContent,
    Close,
    ConsiderRecipient,
    ConsiderSender,
    ContentChunk,
    EndContent,
    Question,
    Send,
)
from deliver.smtp.reply import Reply
from deliver.smtp.server import ServerMachine

READ_SIZE = 64 * 1024  # octets
LINGERING_READS = 64  # pieces read and thrown away before we close for good
CONTENT_DEADLINE = 2 * 3600.0  # seconds for the content of one message, however slowly it drips
ABANDON_DEADLINE = 10.0  # seconds to remove what was written
COMMIT_DEADLINE = 60.0  # seconds; shorter than the 10 minutes that clients wait (RFC 5321 4.5.3.2.6)
CLOSING = 2.0  # seconds for a last reply to be read

log = logging.getLogger("outrider.relay")


class _ConnectionLost(Exception):
    """The stream failed, or the client does not read; the text is for the log."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for every client: see `deliver.settings.Relay`. `idle_timeout` in seconds."""

    hostname: str
    networks: tuple[Network, ...]
    max_hops: int
    idle_timeout: float
    routes: tuple[Route, ...] = ()


@dataclass(slots=True)
class Incoming:
    """The message whose content is being received."""

    origin: Origin
    sink: Sink
    header_size: int
    hops: HopCounter


class Connection:
    """Serves one client until one of the sides has had enough."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        client: str,
        machine: ServerMachine,
        terms: Terms,
        intake: Intake,
        clock: Clock,
        new_id: Callable[[], MessageId],
    ) -> None:
        """`client` is the IP address of the other side, in the form of `access.client_address`."""
        self._stream = stream
        self._client = client
        self._machine = machine
        self._terms = terms
        self._intake = intake
        self._clock = clock
        self._new_id = new_id
        self._unsent = bytearray()
        self._incoming: Incoming | None = None
        self._waiting: trio.CancelScope | None = None
        self._stopping = False
        self._progress_at = 0.0
        self._content_since = 0.0
        self._accepted = 0

    def stop(self) -> None:
        """Say 421 and close as soon as no content is being received (RFC 5321 3.8)."""
        self._stopping = True
        if self._waiting is not None and not self._machine.in_content:
            self._waiting.cancel()

    async def run(self) -> None:
        """Serve the client, close the stream, log one line."""
        why = "the relay is stopping"
        self._progress_at = began = trio.current_time()
        try:
            why = await self._converse()
        except _ConnectionLost as error:
            why = str(error)
        except Exception:
            why = "an unexpected error"
            log.exception("serving %s failed unexpectedly", self._client)
        finally:
            await self._finish(why, trio.current_time() - began)

    async def _finish(self, why: str, seconds: float) -> None:
        """Leave nothing behind, whatever happened."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + ABANDON_DEADLINE):
            try:
                await self._abandon(why)
            except Exception:
                log.exception("abandoning a message of %s failed unexpectedly", self._client)
            await trio.aclose_forcefully(self._stream)
        say(
            log, logging.INFO, "connection closed",
            client=self._client, helo=self._machine.helo, accepted=self._accepted,
            seconds=round(seconds, 3), why=why,
        )  # fmt: skip

    async def _converse(self) -> str:
        """Perform actions until Close; why the connection ended."""
        while True:
            action = self._machine.next_action()
            if action is None:
                await self._flush()
                await self._read()
                continue
            self._progress_at = trio.current_time()
            match action:
                case Send(data=data):
                    self._unsent += data
                case ContentChunk(data=data):
                    await self._keep(data)
                case AbandonContent(why=why):
                    await self._abandon(why)
                case Close(why=why):
                    await self._flush()
                    await self._linger()
                    return why
                case _:
                    await self._answer(action)

    # The stream

    async def _read(self) -> None:
        if self._stopping and not self._machine.in_content:
            self._machine.close(Reply(421, ("4.3.2 The relay is stopping",)), "the relay is stopping")
            return
        with trio.CancelScope(deadline=self._patience()) as scope:
            self._waiting = scope
            try:
                data = await self._stream.receive_some(READ_SIZE)
            except trio.BrokenResourceError:
                raise _ConnectionLost("the connection was lost") from None
        self._waiting = None
        if not scope.cancelled_caught:
            self._machine.receive(bytes(data))
        elif not self._stopping or self._machine.in_content:
            self._machine.close(Reply(421, ("4.4.2 Timeout, closing connection",)), "the client was silent")

    def _patience(self) -> float:
        """Until when the client may keep us waiting: a command must be complete, content must flow."""
        if not self._machine.in_content:
            return self._progress_at + self._terms.idle_timeout
        return min(trio.current_time() + self._terms.idle_timeout, self._content_since + CONTENT_DEADLINE)

    async def _flush(self) -> None:
        if self._unsent:
            data = bytes(self._unsent)
            self._unsent.clear()
            with trio.move_on_after(self._terms.idle_timeout) as scope:
                try:
                    await self._stream.send_all(data)
                except trio.BrokenResourceError:
                    raise _ConnectionLost("the connection was lost") from None
            if scope.cancelled_caught:
                raise _ConnectionLost("the client does not read our replies")

    async def _linger(self) -> None:
        """Let the client read our last words: octets left unread would reset the connection before that."""
        if not isinstance(self._stream, trio.abc.HalfCloseableStream):
            return
        with trio.move_on_after(CLOSING), contextlib.suppress(trio.BrokenResourceError):
            await self._stream.send_eof()
            for _ in range(LINGERING_READS):
                if not await self._stream.receive_some(READ_SIZE):
                    break

    # Questions

    async def _answer(self, question: Question) -> None:
        match question:
            case ConsiderSender(size=size):
                await self._consider_space(size or 0)
            case ConsiderRecipient():
                denied = self._denied() or self._unroutable(question)
                if denied is None:
                    self._machine.accept()
                else:
                    self._machine.refuse(denied)
            case BeginContent():
                await self._begin(question)
            case EndContent():
                await self._commit(question)

    def _denied(self) -> Reply | None:
        return refusal(self._client, self._terms.networks)

    @property
    def _protocol(self) -> str:
        return "ESMTP" if self._machine.extended else "SMTP"

    def _unroutable(self, question: ConsiderRecipient) -> Reply | None:
        """A route that rejects is told here, where the sender still hears it, and not by a bounce."""
        route = choose(self._terms.routes, question.mailbox.domain)
        return Reply(550, (f"5.7.1 {route.why}",)) if isinstance(route, Reject) else None

    async def _consider_space(self, size: int) -> None:
        try:
            space = await self._intake.check_space(size)
        except OutriderError as error:
            say(log, logging.WARNING, "mail refused", client=self._client, why=error)
            self._machine.refuse(apology(error))
            return
        if space:
            self._machine.accept()
        else:
            say(log, logging.WARNING, "mail refused: no space", client=self._client, size=size)
            self._machine.refuse(Reply(452, ("4.3.1 Not enough space, try again later",)))

    async def _begin(self, question: BeginContent) -> None:
        origin = Origin(
            self._new_id(),
            self._client,
            self._machine.helo,
            self._protocol,
            self._clock.now(),
        )
        header = received_header(
            helo=origin.helo,
            client=origin.client,
            hostname=self._terms.hostname,
            protocol=origin.protocol,
            message_id=origin.message_id,
            recipients=question.recipients,
            now=origin.received_at,
        )
        try:
            sink = await self._intake.begin(origin)
            self._incoming = Incoming(origin, sink, len(header), HopCounter())
            await sink.write(header)
        except OutriderError as error:
            await self._abandon(str(error))
            self._machine.refuse(apology(error))
            return
        self._content_since = trio.current_time()
        self._machine.accept()

    async def _keep(self, data: bytes) -> None:
        incoming = self._incoming
        if incoming is None:
            return
        incoming.hops.feed(data)
        if incoming.hops.hops > self._terms.max_hops:
            await self._abandon("routing loop")
            self._machine.refuse_content(Reply(554, ("5.4.6 Too many hops, this message loops",)))
            return
        try:
            await incoming.sink.write(data)
        except OutriderError as error:
            await self._abandon(str(error))
            self._machine.refuse_content(apology(error))

    async def _commit(self, question: EndContent) -> None:
        """The message becomes ours, or it does not; nothing in between is told to the client.

        The shield keeps a shutdown from cutting between the commit and the 250, which would make the client
        send a second copy. After an unknown end of the commit nothing is abandoned: it may have succeeded.
        """
        await self._flush()  # a client that is gone by now keeps its mail
        incoming, self._incoming = self._incoming, None
        assert incoming is not None, "the content was abandoned"
        envelope = envelope_of(incoming, question)
        with trio.CancelScope(shield=True) as shield:
            shield.deadline = trio.current_time() + COMMIT_DEADLINE
            try:
                await incoming.sink.commit(envelope)
            except OutriderError as error:
                self._refused(incoming, str(error))
                self._machine.refuse(apology(error))
                return
            shield.deadline = math.inf  # from here on the client is told 250, within CLOSING seconds
            self._accepted += 1
            self._tell(envelope)
            self._machine.accept(Reply(250, (f"2.0.0 Ok: queued as {envelope.id}",)))
            await self._send_accepted()
        if shield.cancelled_caught:
            self._refused(incoming, "the queue did not answer in time; the message may be in it")
            self._machine.refuse(Reply(451, ("4.3.0 The queue is too slow, try again later",)))

    async def _send_accepted(self) -> None:
        action = self._machine.next_action()
        assert isinstance(action, Send)
        self._unsent += action.data
        with trio.move_on_after(CLOSING) as scope:
            await self._flush()
        if scope.cancelled_caught:  # an unknown part was sent: the replies are out of step
            raise _ConnectionLost("the client does not read our replies")

    async def _abandon(self, why: str) -> None:
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            self._refused(incoming, why)
            with trio.CancelScope(shield=True, deadline=trio.current_time() + COMMIT_DEADLINE):
                await incoming.sink.abandon()

    # The log

    def _refused(self, incoming: Incoming, why: str) -> None:
        say(
            log, logging.WARNING, "message not accepted",
            id=incoming.origin.message_id, client=self._client, why=why,
        )  # fmt: skip

    def _tell(self, envelope: Envelope) -> None:
        say(
            log, logging.INFO, "message accepted",
            id=envelope.id, sender=f"<{envelope.reverse_path}>", recipients=len(envelope.recipients),
            size=envelope.size, client=self._client, helo=self._machine.helo,
        )  # fmt: skip


def envelope_of(incoming: Incoming, question: EndContent) -> Envelope:
    """The envelope of a message whose content has ended."""
    recipients = tuple(
        Recipient(n, rcpt.mailbox, rcpt.notify, rcpt.original) for n, rcpt in enumerate(question.rcpts)
    )
    size = incoming.header_size + question.size
    return Envelope(
        incoming.origin.message_id,
        question.sender,
        recipients,
        size,
        question.eight_bit,
        incoming.origin.received_at,
        smtputf8=question.mail.smtputf8,
        ret=question.mail.ret,
        envid=question.mail.envid,
    )


def apology(error: OutriderError) -> Reply:
    """What a client learns of an error of ours: whether to try again, not which file or disk it was."""
    if isinstance(error, MessageError):
        return Reply(554, (f"5.6.0 The message cannot be accepted: {error.happened}",))
    return Reply(451, ("4.3.0 The message cannot be queued now, try again later",))
