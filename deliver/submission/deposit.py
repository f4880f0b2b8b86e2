"""A message for a relay that cannot be reached goes straight into its queue, if the caller may write there.

That is the relay's own user, and root. The relay finds the message when it starts. The transaction is the
relay's own, and does no harm if it starts just then; what it checks of a client's message is checked here.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from random import SystemRandom

import trio
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from deliver.dsn import Ret, parse_notify
from deliver.errors import MessageError, OutriderError, StorageError, UsageError
from deliver.identity import host_name
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.net.clock import WallClock
from deliver.outbox import event_actions
from deliver.queue import changes, schema, store
from deliver.queue.content import InlineContent
from deliver.queue.intake import accept_event
from deliver.queueing import SHARD
from deliver.relay.identity import MessageIds
from deliver.relay.intake import Origin
from deliver.relay.received import hop_count
from deliver.settings import Settings
from deliver.sqlrun import InlineRunner
from deliver.submission.client import EX_TEMPFAIL, EX_UNAVAILABLE, Message, Refused
from events.actions import matcher
from events.outbox import Outbox


def deposit(settings: Callable[[], Settings], message: Message) -> MessageId:
    """Put it into the queue, durably. Raises Refused; then it is not in the queue."""
    try:
        return trio.run(_deposit, settings(), message)
    except (MessageError, UsageError) as error:
        raise Refused(str(error), EX_UNAVAILABLE) from None
    except (OutriderError, SQLAlchemyError, OSError) as error:
        raise Refused(str(error), EX_TEMPFAIL) from None


async def _deposit(settings: Settings, message: Message) -> MessageId:
    _check(settings, message)
    queue = settings.path(settings.queue.directory)
    clock = WallClock()
    now, message_id = clock.now(), MessageIds(clock.now, SystemRandom())()
    hostname = settings.relay.hostname or host_name(settings.delivery.helo)
    content = received(hostname, message_id, now) + message.content
    if shutil.disk_usage(queue).free - len(content) < settings.queue.min_free_disk:
        raise StorageError("queueing the message", "the disk is nearly full", "free disk space")
    notify = parse_notify(message.notify) if message.notify else None
    boxes = dict.fromkeys(Mailbox.parse(each, utf8=True) for each in message.recipients)
    envelope = Envelope(
        message_id,
        Mailbox.parse(message.sender, utf8=True) if message.sender else None,
        tuple(Recipient(ordinal, box, notify) for ordinal, box in enumerate(boxes)),
        len(content),
        not content.isascii(),
        now,
        message.internationalised,
        Ret(message.ret) if message.ret else None,
        message.envid or None,
    )
    origin = Origin(message_id, "", hostname, "local", now)
    append = Outbox(matcher(event_actions(settings))).append
    sql = InlineRunner(queue / _FILE)
    try:
        await sql.write(partial(_queue, envelope=envelope, content=content, origin=origin, append=append))
    finally:
        await sql.aclose()
    return message_id


def received(hostname: str, message_id: MessageId, now: float) -> bytes:
    """Our Received field (RFC 5321 4.4): no host gave it to us, a user of this one did."""
    date = format_datetime(datetime.fromtimestamp(int(now), UTC))
    said = f"Received: by {hostname} (Outrider, from user {os.getuid()}) id {message_id};\r\n {date}\r\n"
    return said.encode("ascii")


_FILE = Path(f"shard-{SHARD}.db")


def _check(settings: Settings, message: Message) -> None:
    limits = settings.relay
    if len(message.content) > limits.max_message_size:
        raise MessageError("queueing the message", f"it has more than {limits.max_message_size} octets")
    if len(message.recipients) > limits.max_recipients:
        raise StorageError("queueing the message", f"it has more than {limits.max_recipients} recipients")
    if hop_count(message.content) > limits.max_hops:
        raise MessageError("queueing the message", f"it has more than {limits.max_hops} Received headers")


def _queue(
    conn: Connection, *, envelope: Envelope, content: bytes, origin: Origin, append: store.Append
) -> None:
    version = schema.version_of(conn)
    if version != schema.VERSION:
        raise StorageError("queueing the message", f"the queue is of another version ({version})")
    events = (accept_event(envelope, origin),)
    store.accept(conn, envelope, InlineContent(content), events, envelope.received_at, append)
    changes.note_change(conn)
