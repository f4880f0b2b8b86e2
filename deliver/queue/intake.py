"""The queue's side of the SMTP listener: mail becomes rows, and only then is it answered with 250."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio
from msgspec import Struct

from deliver.errors import StorageError
from deliver.message import Envelope
from deliver.queue.content import StoredContent, Writer
from deliver.queue.joint import Accept
from deliver.queue.shard import Shard, free_octets
from deliver.queue.store import Append
from deliver.relay.intake import Origin
from deliver.sqlrun import FEW
from events.catalogue import Event

OUR_HEADER = 4096  # octets; Received comes on top of what the client may send
NO_LIMIT = 1 << 62
COMPANY = 0.05  # seconds
FRESH = 1.0  # seconds for which a look at the disk counts; each costs a hop to a thread


# Whether another worker has made the message durable; False: it stays here. Raises StorageError where nobody
# knows. The last argument: whether others arrive beside it.
Lead = Callable[[Envelope, Origin, StoredContent, bool], Awaitable[bool]]


def uncounted(domains: int) -> None:
    """For who does not count messages."""


@dataclass(slots=True)
class Traffic:
    """How many messages have begun so far, and how many of them are not complete."""

    begun: int = 0
    arriving: int = 0

    def begin(self) -> int:
        """One begins; returns its number."""
        self.begun += 1
        self.arriving += 1
        return self.begun

    def end(self, number: int) -> bool:
        """It is complete, or given up; whether others arrived meanwhile."""
        self.arriving -= 1
        return self.arriving > 0 or self.begun > number


@dataclass(slots=True)
class Space:
    """Octets that were free when the disk was `looked` at, less those of what has begun since."""

    free: int = 0
    looked: float = -math.inf  # by trio's clock


@dataclass(frozen=True, slots=True)
class QueueIntake:
    """The `Intake` port over one shard. `accepted` is called after each commit, to wake the runner.

    `min_free` octets of disk stay free: below that no message may begin, nor while `room` says no or
    the shard stands still. `traffic` tells whether clients send side by side. Sizes in octets, `max_size`
    0 is no limit. `count` is told the domains of every message; `lead` may find another worker for it.
    """

    shard: Shard
    append: Append
    accepted: Callable[[], None]
    inline_limit: int
    max_size: int
    min_free: int
    room: Callable[[], bool] = lambda: True
    traffic: Traffic = field(default_factory=Traffic)
    space: Space = field(default_factory=Space)
    count: Callable[[int], None] = uncounted
    lead: Lead | None = None

    async def check_space(self, size: int) -> bool:
        """Whether the disk and what else must grow with it have room. Raises StorageError."""
        if self.shard.latch.fault is not None or not self.room():
            return False
        space, now = self.space, trio.current_time()
        if now - space.looked > FRESH or space.free - size < self.min_free:
            space.free = await trio.to_thread.run_sync(free_octets, self.shard.spool.parent)
            space.looked = now
        if space.free - size < self.min_free:
            return False
        space.free -= max(size, self.inline_limit)
        return True

    async def begin(self, origin: Origin) -> QueueSink:
        """A place for the content of one message."""
        limit = self.max_size + OUR_HEADER if self.max_size else NO_LIMIT
        writer = self.shard.writer(origin.message_id, inline_limit=self.inline_limit, max_size=limit)
        return QueueSink(self, origin, writer, self.traffic.begin())

    async def take(self, envelope: Envelope, origin: Origin, content: StoredContent, company: bool) -> None:
        """One durable transaction: message, recipients, msg:accept. Raises StorageError.

        In `company` of other messages it waits a moment for them, so that they share an fsync.
        """
        await self.shard.sql.write(
            Accept(envelope, content, (accept_event(envelope, origin),), envelope.received_at, self.append),
            patience=COMPANY if company else 0.0,
            brief=len(envelope.recipients) <= FEW,
        )
        self.count(len({recipient.mailbox.domain for recipient in envelope.recipients}))
        self.accepted()


class QueueSink(Struct, frozen=True):
    """The `Sink` of one message."""

    intake: QueueIntake
    origin: Origin
    writer: Writer
    number: int

    async def write(self, chunk: bytes) -> None:
        """Append content. Raises StorageError, MessageError."""
        try:
            await self.writer.write(chunk)
        except StorageError as error:
            self.intake.shard.latch.note(error)
            raise

    async def commit(self, envelope: Envelope) -> None:
        """It is durable, here or at another worker. Raises StorageError."""
        company = self.intake.traffic.end(self.number)
        lead = self.intake.lead
        try:
            content = await self._finish()
            if lead is None or not await lead(envelope, self.origin, content, company):
                await self.intake.take(envelope, self.origin, content, company)
        except BaseException:
            await self.writer.abandon()
            raise

    async def _finish(self) -> StoredContent:
        try:
            return await self.writer.finish()
        except StorageError as error:
            self.intake.shard.latch.note(error)
            raise

    async def abandon(self) -> None:
        """Forget what was written."""
        self.intake.traffic.end(self.number)
        await self.writer.abandon()


def accept_event(envelope: Envelope, origin: Origin) -> Event:
    """The msg:accept of a message that becomes ours."""
    return Event(
        "msg:accept",
        envelope.received_at,
        {
            "event_data": ", ".join(str(recipient.mailbox) for recipient in envelope.recipients),
            "message_id": envelope.id,
            "sender_address": envelope.reverse_path,
            "message_size": envelope.size,
            "recipients_count": len(envelope.recipients),
            "sender_host_address": origin.client,
            "sender_helo_name": origin.helo,
            "received_protocol": origin.protocol,
            "authenticated_id": origin.authenticated or None,
            "proxy_local_address": origin.proxy or None,
        },
    )
