"""Telling senders: what is owed about a message becomes one report in the queue. See docs/decisions/0011.

Synchronous, within the caller's transaction: the report is accepted, what it tells is no longer owed, and the
message may be complete, all or nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, func, insert, select, update

from deliver.errors import Blame
from deliver.message import Envelope, MessageId
from deliver.outcome import Deferred
from deliver.queue import codec
from deliver.queue.locking import lock_messages
from deliver.queue.notice import Compose, NewMessage
from deliver.queue.owed import Owed
from deliver.queue.schema import OPEN_STATES, attempt, message, recipient, report as report_table
from deliver.queue.store import Append, accept, complete
from deliver.relay.statusfields import Entry
from events import outbox
from events.catalogue import Event, Scalar

HOUR: Final = 3600.0
_OPEN: Final = frozenset(state.value for state in OPEN_STATES)


@dataclass(frozen=True, slots=True)
class DueReport:
    """A message whose sender is owed something; the content is in the row unless `spool_name` is given."""

    envelope: Envelope
    spool_name: str | None


@dataclass(frozen=True, slots=True)
class Reported:
    """What came of it: the report, None if nobody is told; or `postponed` until then (epoch seconds).

    `removable`: spool files to remove after COMMIT; `completed`: the message reported on is over.
    """

    notice: Envelope | None = None
    action: str | None = None
    postponed: float | None = None
    completed: bool = False
    removable: tuple[str, ...] = ()


def next_report(conn: Connection) -> float | None:
    """When the next report is due; None when nobody is owed anything."""
    due = conn.execute(
        select(func.min(message.c.report_due)).where(message.c.report_due.is_not(None))
    ).scalar_one_or_none()
    return None if due is None else float(due)


def due_reports(conn: Connection, now: float, limit: int) -> tuple[DueReport, ...]:
    """Messages whose reports are due, the most urgent first."""
    rows = conn.execute(
        select(message)
        .where(message.c.report_due.is_not(None), message.c.report_due <= now)
        .order_by(message.c.report_due)
        .limit(limit)
    )
    return tuple(DueReport(codec.envelope_of(row, ()), row.spool_name) for row in rows)


def write(
    conn: Connection,
    message_id: MessageId,
    compose: Compose,
    *,
    now: float,
    expire: float,
    per_sender: int,
    append: Append = outbox.append,
) -> Reported:
    """Tell the sender what is owed about the message; `per_sender` reports an hour, 0 is no limit.

    `expire` (seconds after the acceptance) is the end of the attempts. What is above the limit is postponed
    until there is room; more of the same message is then told with it.
    """
    lock_messages(conn, (message_id,))
    row = conn.execute(
        select(message).where(message.c.id == message_id, message.c.report_due.is_not(None))
    ).one_or_none()
    if row is None:
        return Reported()
    envelope = codec.envelope_of(row, ())
    owing = conn.execute(
        select(recipient)
        .where(recipient.c.message_id == message_id, recipient.c.owed.is_not(None))
        .order_by(recipient.c.ordinal)
    ).all()
    tried = _last_tried(conn, message_id) if owing else {}
    entries = tuple(
        _entry(each, tried.get(each.domain, now), envelope.received_at + expire)
        for each in owing
        if not _outdated(each)
    )
    if entries and (later := room_at(conn, envelope.reverse_path, now, per_sender)) > now:
        postpone(conn, message_id, later)
        return Reported(postponed=later)
    notice = compose(envelope, entries) if entries else None
    conn.execute(update(recipient).where(recipient.c.message_id == message_id).values(owed=None))
    conn.execute(update(message).where(message.c.id == message_id).values(report_due=None))
    action = None
    if notice is not None:
        action = next(word.value for word in Owed if word.value in {entry.action for entry in entries})
        _enqueue(conn, envelope, entries, notice, action, now, append)
    removable = complete(conn, message_id, now, append)
    return Reported(
        notice=notice.envelope if notice else None,
        action=action,
        completed=removable is not None,
        removable=removable or (),
    )


def postpone(conn: Connection, message_id: MessageId, until: float) -> None:
    """Tell the sender later what is owed."""
    conn.execute(
        update(message)
        .where(message.c.id == message_id, message.c.report_due.is_not(None))
        .values(report_due=until)
    )


def room_at(conn: Connection, address: str, now: float, per_sender: int) -> float:
    """When the sender may get another report: `now`, or when one of the last hour's is an hour old."""
    if not per_sender:
        return now
    times = conn.execute(
        select(report_table.c.at)
        .where(report_table.c.address == address, report_table.c.at > now - HOUR)
        .order_by(report_table.c.at.desc())
        .limit(per_sender)
    ).scalars()
    latest = list(times)
    return latest[-1] + HOUR if len(latest) >= per_sender else now


def _enqueue(
    conn: Connection,
    envelope: Envelope,
    entries: tuple[Entry, ...],
    notice: NewMessage,
    action: str,
    now: float,
    append: Append,
) -> None:
    accept(conn, notice.envelope, notice.content, (), now, append)
    conn.execute(
        insert(report_table).values(
            bounce_id=notice.envelope.id, message_id=envelope.id, address=envelope.reverse_path, at=now
        )
    )
    fields: dict[str, Scalar] = {
        "message_id": envelope.id,
        "sender_address": envelope.reverse_path,
        "message_size": envelope.size,
        "event_data": ",".join(str(entry.recipient.mailbox) for entry in entries),
        "recipients_count": len(entries),
        "reason": action,
        "bounce_id": notice.envelope.id,
    }
    append(conn, envelope.id, [Event("msg:bounce", now, fields)])


def _last_tried(conn: Connection, message_id: str) -> dict[str, float]:
    """When the last attempt at each domain ended, or began."""
    moment = func.max(func.coalesce(attempt.c.ended_at, attempt.c.started_at))
    rows = conn.execute(
        select(attempt.c.domain, moment).where(attempt.c.message_id == message_id).group_by(attempt.c.domain)
    )
    return {row[0]: float(row[1]) for row in rows}


def _entry(row: Row[Any], tried: float, retry_until: float) -> Entry:
    outcome = codec.outcome_of(_loaded(row.last_outcome))
    unknown = Deferred("the reason is not on record", Blame.LOCAL)
    return Entry(
        codec.known_of(row),
        row.owed,
        outcome or unknown,
        last_attempt=tried,
        retry_until=retry_until if row.owed == Owed.DELAYED.value else None,
    )


def _outdated(row: Row[Any]) -> bool:
    """A delay that is over, one way or the other, is not told any more."""
    return row.owed == Owed.DELAYED.value and row.state not in _OPEN


def _loaded(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return None
