"""One message delivered in this process, without a queue: the pipeline behind `outrider send`.

With a queue id, settled recipients are remembered (see `deliver.settled`) and skipped when the caller comes
again. Events go through an outbox in the state directory (`outbox.db`), so that a database that is down loses
none: the next run ships them. SIGTERM, SIGHUP and SIGINT end the delivery in good order: what is known is put
down, the rest is deferred.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import SystemRandom
from typing import BinaryIO

import trio

from deliver.direct import Direct, Limit, Result
from deliver.errors import MessageError, StorageError
from deliver.message import Envelope, Mailbox, Recipient
from deliver.net.clock import WallClock
from deliver.outbox import demand_room, event_actions, event_gate, ship
from deliver.queue.content import InlineContent
from deliver.records import Records, prepare
from deliver.relay.identity import MessageIds
from deliver.relay.received import hop_count
from deliver.service import build_agent, open_hints
from deliver.settings import Settings
from deliver.settled import Digest, Job
from deliver.smtp.dot import MessageText
from deliver.sqlrun import InlineRunner
from events.actions import matcher
from events.backlog import Backlog
from events.shipper import Shipper

CHUNK = 64 * 1024
ATTEMPTS = 20  # at a time

_log = logging.getLogger("outrider.events")


def deliver_now(
    settings: Settings,
    sender: Mailbox | None,
    boxes: tuple[Mailbox, ...],
    source: BinaryIO,
    queue_id: str = "",
) -> tuple[Result, ...]:
    """Deliver the text from `source` and return one result per recipient, in the order given.

    Raises MessageError for a message that nobody could send, ConfigurationError for unusable settings,
    StorageError, with nothing sent, while too many events wait, and when `queue_id` is given and what was
    settled before cannot be read.
    """
    text = read_message(source, settings.relay.max_message_size)
    if hop_count(bytes(text.content.data)) > settings.relay.max_hops:
        raise MessageError(
            "taking the message",
            f"it has more than {settings.relay.max_hops} Received headers: mail is looping (5.4.6)",
            "find the loop; relay.max_hops is the limit",
        )
    return trio.run(_deliver, settings, sender, boxes, text, queue_id)


@dataclass(frozen=True, slots=True)
class Text:
    """A message as read: its content, and whether it needs 8BITMIME."""

    content: InlineContent
    eight_bit: bool


def read_message(source: BinaryIO, max_size: int) -> Text:
    """Read text with LF or CRLF line ends up to `max_size` octets. Raises MessageError."""
    text = MessageText()
    pieces: list[bytes] = []
    while chunk := source.read(CHUNK):
        pieces.append(text.feed(chunk))
        if text.size > max_size:
            raise MessageError(
                "reading the message",
                f"it has more than {max_size} octets",
                "relay.max_message_size is the limit",
            )
    pieces.append(text.finish())
    return Text(InlineContent(b"".join(pieces)), text.eight_bit)


async def _deliver(
    settings: Settings, sender: Mailbox | None, boxes: tuple[Mailbox, ...], text: Text, queue_id: str
) -> tuple[Result, ...]:
    clock, rng = WallClock(), SystemRandom()
    recipients = tuple(Recipient(ordinal, box) for ordinal, box in enumerate(boxes))
    envelope = Envelope(
        MessageIds(clock.now, rng)(), sender, recipients, text.content.size, text.eight_bit, clock.now()
    )
    job = _job(queue_id, envelope, text)
    async with _records(settings, clock, needed=job is not None) as records:
        hints = open_hints(settings, clock)
        gate = event_gate(settings)
        agent = build_agent(settings, hints=hints, clock=clock, rng=rng, learner="send", gate=gate)
        direct = Direct(agent, records, trio.CapacityLimiter(ATTEMPTS))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_end_when_told, direct)
                await nursery.start(direct.run)
                results = await direct.deliver(envelope, text.content, job, Limit())
                direct.stop()
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await gate.aclose()
                await hints.aclose()
    return results


def _job(queue_id: str, envelope: Envelope, text: Text) -> Job | None:
    if not queue_id:
        return None
    digest = Digest()
    digest.feed(text.content.data)
    return Job(queue_id, digest.value(envelope.reverse_path))


async def _end_when_told(direct: Direct) -> None:
    """A signal ends the delivery, and the caller learns what is known."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP, signal.SIGINT) as signals:
        async for _ in signals:
            direct.interrupt()


@asynccontextmanager
async def _records(settings: Settings, clock: WallClock, *, needed: bool) -> AsyncIterator[Records | None]:
    """Where events and outcomes are put down; at the end the events are shipped.

    Raises StorageError while too many events wait, and for a file that cannot be used if it is `needed`;
    otherwise the events of this run are shipped from memory only.
    """
    actions = event_actions(settings)
    if not actions and not needed:
        yield None
        return
    backlog = Backlog(settings.events.backlog, matcher(actions))
    try:
        records = await Records.open(settings, backlog.append, clock)
    except StorageError as error:
        if needed:
            raise
        _log.warning("%s; the events of this delivery are not kept, only shipped once", error)
        records = Records(settings, InlineRunner(None, prepare), backlog.append, clock)
    shipper = Shipper(records.sql, actions, clock=clock.now)
    try:
        await demand_room(records.sql, backlog, shipper)
        yield records
        backlog.tell_dropped()
        await ship(shipper)
    finally:
        with trio.CancelScope(shield=True):
            await shipper.aclose()
            await records.aclose()
