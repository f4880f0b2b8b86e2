"""One client of the relay: drives `deliver.smtp.server` between its stream and the intake.

A 250 after the content is written only when the intake has made the message durable. A failing disk or
database gives 451 and the client keeps its mail; a lost connection before the end of the content leaves
nothing behind. Silent and slow clients are given up (RFC 5321 4.5.3.2.7). `run` returns in every case but
cancellation: what was not foreseen is logged.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import trio

from deliver.errors import OutriderError, PeerError
from deliver.message import Envelope, Mailbox, MessageId
from deliver.net.clock import Clock
from deliver.relay.acceptance import (
    Incoming as Incoming,
    accept,
    apology as apology,
    envelope_of as envelope_of,
    facts_of,
    header_of,
    incoming_at,
    origin_of,
)
from deliver.relay.access import denial
from deliver.relay.admission import content_refusals, recipient_refusal
from deliver.relay.clientlog import say_accepted, say_closed, say_detail, say_not_accepted
from deliver.relay.clientstream import CLOSING, ClientStream, ConnectionLost
from deliver.relay.exchange import LoginExchange
from deliver.relay.intake import Intake
from deliver.relay.introduction import has_spoken
from deliver.relay.limits import Allowance, ClientLimits
from deliver.relay.security import Client, NoSecurity, Security
from deliver.relay.terms import Terms as Terms
from deliver.relay.timekeeper import Timekeeper
from deliver.report.log import say
from deliver.smtp.action import (
    AbandonContent,
    AbandonExchange,
    Action,
    AuthExchange,
    BeginContent,
    Close,
    ConsiderRecipient,
    ConsiderSender,
    ContentChunk,
    EndContent,
    Handshake,
    StartTls,
)
from deliver.smtp.reply import Reply
from deliver.smtp.request import Verb
from deliver.smtp.server import ServerMachine

CONTENT_DEADLINE = 2 * 3600.0  # seconds for the content of one message, however slowly it drips
ABANDON_DEADLINE = 10.0  # seconds to remove what was written
COMMIT_DEADLINE = 60.0  # seconds; shorter than the 10 minutes that clients wait (RFC 5321 4.5.3.2.6)

EARLY = Reply(554, ("5.5.0 You spoke before the greeting",))
UNREAD = "the client does not read our replies"

log = logging.getLogger("outrider.relay")


class Connection:
    """Serves one client until one of the sides has had enough."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        client: Client,
        machine: ServerMachine,
        terms: Terms,
        intake: Intake,
        clock: Clock,
        new_id: Callable[[], MessageId],
        security: Security | None = None,
        limits: ClientLimits | None = None,
        timekeeper: Timekeeper | None = None,
    ) -> None:
        """`client.address` is in the form of `access.client_address`."""
        shared = timekeeper if timekeeper is not None and timekeeper.running else None
        self._line = ClientStream(stream, terms.idle_timeout, self._tell_detail, shared or Timekeeper())
        self._who = client
        self._machine = machine
        self._terms = terms
        self._intake = intake
        self._clock = clock
        self._new_id = new_id
        self._security = security or NoSecurity()
        self._limits = limits or ClientLimits(Allowance(), trio.current_time)
        self._login = LoginExchange(self._security, machine)
        self._judged: tuple[Client, Reply | None] | None = None
        self._incoming: Incoming | None = None
        self._stopping = False
        self._progressing = True  # since we last waited for the client
        self._progress_at = 0.0
        self._content_since: float | None = None
        self._accepted = 0

    @property
    def _client(self) -> str:
        return self._who.address

    def stop(self) -> None:
        """Say 421 and close as soon as no content is being received (RFC 5321 3.8)."""
        self._stopping = True
        if not self._machine.in_content:
            self._line.interrupt()

    async def run(self) -> None:
        """Serve the client, close the stream, log one line."""
        timekeeper = self._line.timekeeper
        timekeeper.add(self._line)
        try:
            if timekeeper.running:
                await self._serve()
                return
            async with trio.open_nursery() as beside:
                beside.start_soon(timekeeper.run)
                await self._serve()
                beside.cancel_scope.cancel()
        finally:
            timekeeper.discard(self._line)

    async def _serve(self) -> None:
        why = "the relay is stopping"
        began = trio.current_time()
        try:
            if self._terms.tls_on_connect:
                await self._secure()
            elif not self._terms.pipeconnect and has_spoken(self._line.stream):
                self._machine.turn_away(EARLY, "the client spoke before the greeting")
            why = await self._converse()
        except ConnectionLost as error:
            why = str(error)
        except Exception:
            why = "an unexpected error"
            log.exception("serving %s failed unexpectedly", self._client)
        finally:
            await self._finish(why, trio.current_time() - began)

    async def _finish(self, why: str, seconds: float) -> None:
        """Leave nothing behind, whatever happened."""
        if self._login.under_way or self._incoming is not None:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + ABANDON_DEADLINE):
                try:
                    self._login.give_up()
                    await self._abandon(why)
                except Exception:
                    log.exception("abandoning a message of %s failed unexpectedly", self._client)
        await self._line.close()
        say_closed(self._who, self._machine.helo, accepted=self._accepted, seconds=seconds, why=why)

    async def _converse(self) -> str:
        """Perform actions until Close; why the connection ended."""
        while True:
            with self._line.clocked():
                return await self._perform()
            self._waited_in_vain()

    def _waited_in_vain(self) -> None:
        if self._line.outlasted:
            return  # not for the client
        if not self._line.reading:
            raise ConnectionLost(UNREAD)
        if not self._stopping or self._machine.in_content:
            self._machine.close(Reply(421, ("4.4.2 Timeout, closing connection",)), "the client was silent")

    async def _perform(self) -> str:
        machine, performers = self._machine, self._performers
        while True:
            action = machine.next_action()
            if action is None:
                await self._write()
                await self._read()
                continue
            self._progressing = True
            if isinstance(action, Close):
                await self._write()
                await self._line.linger(
                    action.why,
                    secured=self._who.secured is not None,
                    said_quit=action.why == Verb.QUIT.value,
                )
                return action.why
            await performers[type(action)](self, action)

    # The stream

    async def _write(self) -> None:
        """What the machine has to say. Raises ConnectionLost."""
        output = self._machine.take_output()
        if output:
            self._progressing = True
            await self._line.write(output)

    async def _read(self) -> None:
        if self._stopping and not self._machine.in_content:
            self._machine.close(Reply(421, ("4.3.2 The relay is stopping",)), "the relay is stopping")
        else:
            self._machine.receive(await self._line.read(self._patience()))

    def _patience(self) -> float:
        """Until when the client may keep us waiting: a command must be complete, content must flow."""
        now = trio.current_time()
        if self._progressing:
            self._progress_at, self._progressing = now, False
        if not self._machine.in_content:
            return self._progress_at + self._terms.idle_timeout
        if self._content_since is None:
            self._content_since = now
        return min(now + self._terms.idle_timeout, self._content_since + CONTENT_DEADLINE)

    async def _handshake(self, handshake: Handshake) -> None:
        await self._write()
        await self._secure()

    async def _secure(self) -> None:
        """TLS from here on; what was said before counts no more."""
        try:
            secured = await self._security.secure(self._line.stream, self._who)
        except PeerError as error:
            raise ConnectionLost(f"TLS failed: {error.happened}") from None
        self._line.stream = secured.stream
        self._who = replace(self._who, secured=secured, authenticated=None)
        mechanisms = self._security.mechanisms(self._who)
        self._machine.tls_started(self._terms.offer(tls=True, mechanisms=mechanisms))

    # Questions

    async def _start_tls(self, question: StartTls) -> None:
        self._machine.accept()

    async def _log_in(self, question: AuthExchange) -> None:
        await self._write()  # what follows may take its time
        self._who = await self._login.answer(question, self._who)

    async def _abandon_login(self, action: AbandonExchange) -> None:
        self._login.give_up()

    async def _consider_sender(self, question: ConsiderSender) -> None:
        if self._limits.message(self._who.address):
            await self._consider_space(question.mail.size or 0)
        else:
            self._slow_down("messages")

    async def _consider_recipient(self, question: ConsiderRecipient) -> None:
        refused = self._denied() or recipient_refusal(question, self._terms)
        if refused is not None:
            self._machine.refuse(refused)
        elif self._limits.recipient(self._who.address):
            self._machine.accept()
        else:
            self._slow_down("recipients")

    def _slow_down(self, what: str) -> None:
        say(log, logging.WARNING, f"too many {what} a minute", client=self._client)
        self._machine.refuse(Reply(450, (f"4.7.0 Too many {what} from your address, try again in a minute",)))

    def _denied(self) -> Reply | None:
        if self._judged is None or self._judged[0] is not self._who:  # the same until more is known of it
            judged = denial(self._who, self._terms.networks, self._terms.certificate_names)
            self._judged = (self._who, judged)
        return self._judged[1]

    @property
    def _lmtp_door(self) -> bool:
        return False

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
        origin = origin_of(
            self._new_id(), self._who, self._machine, self._clock.now(),
            lmtp=self._lmtp_door, utf8=question.mail.smtputf8,
        )  # fmt: skip
        header = header_of(origin, question, self._who, self._terms.hostname)
        try:
            sink = await self._intake.begin(origin)
            self._incoming = incoming_at(sink, origin, len(header), self._terms)
            await sink.write(header)
        except OutriderError as error:
            await self._abandon(str(error))
            self._machine.refuse(apology(error))
            return
        self._content_since = None  # until we wait for it
        self._machine.accept()

    async def _keep(self, chunk: ContentChunk) -> None:
        incoming, data = self._incoming, chunk.data
        if incoming is None:
            return
        incoming.hops.feed(data)
        if incoming.hops.hops > self._terms.max_hops:
            await self._abandon("routing loop")
            self._machine.refuse_content(Reply(554, ("5.4.6 Too many hops, this message loops",)))
            return
        try:
            await incoming.write(data)
        except OutriderError as error:
            await self._abandon(str(error))
            self._machine.refuse_content(apology(error))

    async def _commit(self, question: EndContent) -> None:
        """The message becomes ours, or it does not; nothing in between is told to the client.

        The shield keeps a shutdown from cutting between the commit and the 250, which would make the client
        send a second copy. After an unknown end of the commit nothing is abandoned: it may have succeeded.
        """
        await self._write()  # a client that is gone by now keeps its mail
        incoming = self._incoming
        assert incoming is not None, "the content was abandoned"
        over = self._refusals(incoming, question)
        if over and (not question.individually or len(over) == len(question.rcpts)):
            refused = next(iter(over.values()))
            await self._abandon(f"not for a recipient: {refused.lines[0]}")
            self._machine.refuse(refused)
            return
        try:
            await incoming.complete()
        except OutriderError as error:
            await self._abandon(str(error))
            self._machine.refuse(apology(error))
            return
        await trio.lowlevel.checkpoint_if_cancelled()  # protected is only what has time left to begin with
        self._incoming = None
        envelope = envelope_of(incoming, question, over)
        committed = answered = False
        self._line.protect(trio.current_time() + COMMIT_DEADLINE)
        try:
            await incoming.sink.commit(envelope)
            committed = True  # in time or not: what was begun by the deadline is not taken back
        except OutriderError as error:
            self._refused(incoming, str(error))
            self._machine.refuse(apology(error))
            answered = True
        finally:
            self._line.expose()
            if self._line.outlasted and not (committed or answered):
                self._refused(incoming, "the queue did not answer in time; the message may be in it")
                self._machine.refuse(Reply(451, ("4.3.0 The queue is too slow, try again later",)))
        if committed:
            accept(self._machine, question, envelope, over)
            await self._tell_accepted(envelope)
        if self._line.outlasted:
            await trio.lowlevel.checkpoint_if_cancelled()  # this block has ended; another one goes on

    def _refusals(self, incoming: Incoming, question: EndContent) -> Mapping[Mailbox, Reply]:
        if not self._terms.recipient_limits:
            return {}
        return content_refusals(question.recipients, facts_of(incoming, question), self._terms)

    async def _tell_accepted(self, envelope: Envelope) -> None:
        """It is ours and the client is told so, whatever ends meanwhile."""
        self._accepted += 1
        say_accepted(self._who, self._machine.helo, envelope)
        if self._line.write_now(self._machine.take_output()):
            return
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSING) as shield:
            await self._line.write_rest()
        if shield.cancelled_caught:  # an unknown part was sent: the replies are out of step
            raise ConnectionLost(UNREAD)

    async def _abandon_content(self, action: AbandonContent) -> None:
        await self._abandon(action.why)

    async def _abandon(self, why: str) -> None:
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            self._refused(incoming, why)
            with trio.CancelScope(shield=True, deadline=trio.current_time() + COMMIT_DEADLINE):
                await incoming.sink.abandon()

    def _refused(self, incoming: Incoming, why: str) -> None:
        say_not_accepted(self._who, incoming.origin.message_id, why)

    def _tell_detail(self, what: str) -> None:
        if self._terms.protocol_detail:  # somebody wants to know of unusual ends
            say_detail(self._who, self._machine.helo, what)

    _performers: ClassVar[Mapping[type[Action], Callable[[Any, Any], Awaitable[None]]]] = {
        ContentChunk: _keep,
        AbandonContent: _abandon_content,
        Handshake: _handshake,
        AbandonExchange: _abandon_login,
        StartTls: _start_tls,
        AuthExchange: _log_in,
        ConsiderSender: _consider_sender,
        ConsiderRecipient: _consider_recipient,
        BeginContent: _begin,
        EndContent: _commit,
    }
