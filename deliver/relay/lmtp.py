"""LMTP clients: another MTA keeps the queue, we deliver while it waits, one answer per recipient (RFC 2033).

    outcome                                    reply
    -----------------------------------------  ---------------------------------------------------------
    Delivered                                  250, the server's enhanced code and words
    Deferred                                   its 45z if it gave one, else 451
    Failed                                     its 55z if it gave one, else 550
    nothing was begun (our disk, our records)  451 for all

Nothing is queued and no bounce is made: both are the caller's. What it hands over again is recognised by
sender and content, if the first Received field is its own: it names the host that LHLO named, and has an id.
Then the same octets are the same message. Other clients get a message delivered as often as they ask.
"""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import trio

from deliver.direct import Direct, Limit, Result
from deliver.errors import OutriderError
from deliver.message import Envelope, MessageId
from deliver.net.clock import Clock
from deliver.net.prompt import PromptStream
from deliver.outcome import Deferred, Delivered, Outcome
from deliver.relay.acceptance import apology, envelope_of
from deliver.relay.connection import Connection, Terms
from deliver.relay.intake import Intake, Origin
from deliver.relay.listener import Listener
from deliver.relay.security import Client
from deliver.relay.terms import DEFAULT
from deliver.relay.timekeeper import Timekeeper
from deliver.report.log import say
from deliver.settings import Relay, Route
from deliver.settled import Digest, Job
from deliver.smtp.action import EndContent
from deliver.smtp.lmtp import LmtpMachine
from deliver.smtp.reply import Reply
from deliver.transient import TransientContent

LOCAL: Final = "local"  # the client at the other end of a UNIX socket
FIRST_OCTETS: Final = 16 * 1024  # of the content, in which its first Received field is looked for
TURN: Final = 120.0  # seconds that a client waits for our greeting; it gives us 300 (RFC 5321 4.5.3.2.1)
BUSY: Final = "4.7.0 Too many connections, try again later"

_RECEIVED = re.compile(rb"^received[ \t]*:(.*\r\n(?:[ \t].*\r\n)*)", re.IGNORECASE | re.MULTILINE)
_BY = re.compile(rb"\sby\s+([^\s;()]+)", re.IGNORECASE)
_ID = re.compile(rb"\sid\s+[^\s;]+", re.IGNORECASE)

log = logging.getLogger("outrider.relay")


class LmtpIntake:
    """Keeps content only as long as it is being delivered; an `Intake` whose sinks deliver."""

    def __init__(
        self,
        direct: Direct,
        directory: Path,
        *,
        inline_limit: int,
        max_size: int,
        free: Callable[[], int],
        min_free: int,
        room: Callable[[], bool],
    ) -> None:
        """Sizes in octets; `free` are those left on the disk of `directory`, `room` speaks for the rest."""
        self.direct = direct
        self._directory = directory
        self._inline_limit = inline_limit
        self._max_size = max_size
        self._free = free
        self._min_free = min_free
        self._room = room

    async def check_space(self, size: int) -> bool:
        """Whether the disk has room for a large message, and its events have."""
        if not self._room():
            return False
        if size <= self._inline_limit:
            return True
        return await trio.to_thread.run_sync(self._free) - size >= self._min_free

    async def begin(self, origin: Origin) -> LmtpSink:
        """A place for the content of one message."""
        content = TransientContent(self._directory, inline_limit=self._inline_limit, max_size=self._max_size)
        return LmtpSink(self.direct, origin, content)


class LmtpSink:
    """The content of one message; `deliver` instead of `commit`."""

    def __init__(self, direct: Direct, origin: Origin, content: TransientContent) -> None:
        self._direct = direct
        self._origin = origin
        self._content = content
        self._first = bytearray()  # of what the client sent
        self._digest = Digest()
        self._header_written = False

    async def write(self, chunk: bytes) -> None:
        """Append content, our Received header first. Raises StorageError, MessageError."""
        if self._header_written:
            self._digest.feed(chunk)
            self._first += chunk[: FIRST_OCTETS - len(self._first)]
        self._header_written = True
        await self._content.write(chunk)

    async def commit(self, envelope: Envelope) -> None:
        """Not for LMTP: `deliver` says what became of each recipient."""
        raise AssertionError("LMTP delivers")

    async def deliver(self, envelope: Envelope, limit: Limit) -> tuple[Result, ...]:
        """What became of each recipient within the limit. Raises StorageError."""
        await self._content.finish()
        return await self._direct.deliver(envelope, self._content, self._job(envelope), limit)

    async def abandon(self) -> None:
        """Forget the content; its file goes with it."""

    def _job(self, envelope: Envelope) -> Job | None:
        if not is_callers_own(bytes(self._first), self._origin.helo):
            return None
        return Job("", self._digest.value(envelope))


def is_callers_own(content: bytes, helo: str) -> bool:
    """Whether the first Received field was made by the host `helo` for this message, and has an id."""
    header, _, _ = content.partition(b"\r\n\r\n")
    found = _RECEIVED.search(header + b"\r\n")
    if found is None:
        return False
    by = _BY.search(found[1])
    return by is not None and by[1].lower() == helo.lower().encode() and _ID.search(found[1]) is not None


def reply_to(outcome: Outcome) -> Reply:
    """The table above; a 421 or a 552 of a server must not mean the same here."""
    said = outcome.reply
    if isinstance(outcome, Delivered):
        enhanced = outcome.reply.enhanced
        prefix = "" if enhanced else "2.0.0 "
        return Reply(250, (f"{prefix}{' '.join(outcome.reply.lines)}",))
    if isinstance(outcome, Deferred):
        code = said.code if said is not None and 450 <= said.code <= 459 else 451
    else:
        code = said.code if said is not None and 550 <= said.code <= 559 and said.code != 552 else 550
    enhanced = outcome.enhanced
    klass = code // 100
    shown = str(enhanced) if enhanced.klass == klass else f"{klass}.0.0"
    return Reply(code, (f"{shown} {outcome.why}",))


class LmtpConnection(Connection):
    """One LMTP client."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        client: Client,
        machine: LmtpMachine,
        terms: Terms,
        intake: Intake,
        clock: Clock,
        new_id: Callable[[], MessageId],
        deadline: float,
        timekeeper: Timekeeper,
    ) -> None:
        """`deadline` in seconds, from the end of the content to our replies."""
        super().__init__(stream, client, machine, terms, intake, clock, new_id, timekeeper=timekeeper)
        self._lmtp = machine
        self._deadline = deadline

    def _denied(self) -> Reply | None:
        return None if self._client == LOCAL else super()._denied()

    @property
    def _lmtp_door(self) -> bool:
        return True

    async def _commit(self, question: EndContent) -> None:
        """Deliver, then say what became of each recipient."""
        await self._write()  # a client that is gone by now keeps its mail
        incoming, self._incoming = self._incoming, None
        assert incoming is not None, "the content was abandoned"
        assert isinstance(incoming.sink, LmtpSink)
        refused = self._refusals(incoming, question)
        if refused and len(refused) == len(set(question.recipients)):
            self._refused(incoming, "not for its recipients")
            await incoming.sink.abandon()
            self._lmtp.accept_each(refused.__getitem__)
            return
        envelope = envelope_of(incoming, question, refused)
        limit = Limit.within(self._deadline)
        say(
            log, logging.INFO, "message taken",
            id=envelope.id, sender=f"<{envelope.reverse_path}>", recipients=len(envelope.recipients),
            size=envelope.size, client=self._client, helo=self._machine.helo,
        )  # fmt: skip
        self._accepted += 1
        try:
            results = await incoming.sink.deliver(envelope, limit)
        except OutriderError as error:
            self._refused(incoming, str(error))
            self._machine.refuse(apology(error))
            return
        replies = {**refused, **{recipient.mailbox: reply_to(outcome) for recipient, outcome, _ in results}}
        classes = [reply.code // 100 for reply in replies.values()]
        say(
            log, logging.INFO, "message answered", id=envelope.id, client=self._client,
            delivered=classes.count(2), deferred=classes.count(4), failed=classes.count(5),
        )  # fmt: skip
        self._lmtp.accept_each(replies.__getitem__)

    _performers: ClassVar = {**Connection._performers, EndContent: _commit}


@dataclass(frozen=True, slots=True)
class LmtpTerms:
    """What holds for every client; `relay` has this door's `max_connections`. `deadline` in seconds."""

    relay: Relay
    hostname: str
    intake: LmtpIntake
    routes: tuple[Route, ...]
    deadline: float


class LmtpListener(Listener):
    """Serves LMTP clients, as `Listener` does with SMTP ones.

    A client beyond `max_connections` waits for its turn, as many again may. All mail is one destination for a
    calling MTA: one connection turned away would make it stop handing over anything for a while.
    """

    def __init__(self, clock: Clock, new_id: Callable[[], MessageId], terms: LmtpTerms) -> None:
        """Raises ConfigurationError."""
        super().__init__(terms.relay, terms.hostname, terms.intake, clock, new_id, terms.routes)
        self._deadline = terms.deadline
        self._places = trio.CapacityLimiter(self._most)

    def renew(self, terms: LmtpTerms) -> None:
        """Other settings for the clients that come; those that are served go on with theirs.

        Raises ConfigurationError, and nothing has changed.
        """
        self.reconfigure(terms.relay, terms.hostname, terms.intake, terms.routes)
        self._deadline = terms.deadline
        self._places.total_tokens = self._most

    async def handle(
        self,
        stream: trio.abc.Stream,
        client: str,
        *,
        port: int = 0,
        local: tuple[str, int] = ("", 0),
        place: str = DEFAULT,
    ) -> None:
        """Serve one client when there is a place; never raises but for cancellation."""
        waiting = self._places.statistics().tasks_waiting
        with trio.move_on_after(TURN if waiting < self._most else 0) as turn:
            await self._places.acquire()
        if turn.cancelled_caught:
            await self._turn_away(stream, client, BUSY)
            return
        try:
            await super().handle(stream, client, port=port, local=local, place=place)
        finally:
            self._places.release()

    def _connection(self, stream: trio.abc.Stream, client: Client, terms: Terms) -> Connection:
        machine = LmtpMachine(terms.limits, terms.hostname)
        return LmtpConnection(
            stream, client, machine, terms, self._intake, self._clock, self._new_id, self._deadline,
            self._timekeeper,
        )  # fmt: skip

    async def _accepted(self, stream: trio.SocketStream, place: str = DEFAULT) -> None:
        if stream.socket.family == socket.AF_UNIX:
            await self.handle(PromptStream.instead_of(stream), LOCAL, place=place)
        else:
            await super()._accepted(stream, place)
