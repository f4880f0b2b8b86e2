"""The transactions of the queue: accept, claim, settle. Synchronous, on the caller's connection, `now` given.

    accept   the message, its recipients and the event: after COMMIT the mail is ours
    claim    due recipients are leased; the attempt, its number and a pessimistic next attempt are on record
             before any network I/O, so that a crash costs one wait and never the mail
    settle   outcomes, next attempts, the bounce, the events and the end of the message, all or nothing

A recipient ends in exactly one terminal state: every change asks for the state that it leaves. An attempt
whose lease was taken over changes nothing any more, except that a delivery is a fact and is always recorded.

Nothing here begins or commits: see `deliver.sqlrun`. Raises what the database raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, exists, insert, select, update

from deliver.dsn import notify_text
from deliver.message import Envelope, MessageId, Recipient
from deliver.outcome import Deferred, Delivered, Failed, Outcome
from deliver.queue import codec, due, schedule
from deliver.queue.content import InlineContent, SpoolContent, StoredContent
from deliver.queue.schedule import Settlement
from deliver.queue.schema import OPEN_STATES, State, attempt, message, recipient
from events import outbox
from events.catalogue import Event, Scalar

MAX_RECIPIENTS: Final = 100  # of one claim; every server takes as many (RFC 5321 4.5.3.1.8)

Append = Callable[[Connection, str | None, Iterable[Event]], None]


@dataclass(frozen=True, slots=True)
class Claim:
    """One message and its due recipients of one domain, leased until `lease_until` (epoch seconds).

    `envelope.recipients` are the recipients of this claim only. `number` counts the attempts from 1.
    The content is in the row unless `spool_name` is given.
    """

    attempt_id: int
    number: int
    envelope: Envelope
    recipients: tuple[Recipient, ...]
    domain: str
    lease_until: float
    spool_name: str | None


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message to enqueue along with a settlement: the bounce."""

    envelope: Envelope
    content: StoredContent


@dataclass(frozen=True, slots=True)
class Settled:
    """What a settlement did. `removable`: spool files that no row refers to any more.

    `stale`: recipients that another attempt had taken over, so that nothing was changed.
    """

    completed: bool
    removable: tuple[str, ...]
    stale: tuple[Recipient, ...]
    bounce: Envelope | None


BounceWriter = Callable[[tuple[tuple[Recipient, Failed], ...]], NewMessage | None]


def no_bounce(failures: tuple[tuple[Recipient, Failed], ...]) -> None:
    """For callers that send no bounces."""


def accept(
    conn: Connection,
    envelope: Envelope,
    content: StoredContent,
    events: Iterable[Event],
    now: float,
    append: Append = outbox.append,
) -> None:
    """Take a message into the queue; every recipient is due at once. Raises ValueError without recipients."""
    if not envelope.recipients:
        raise ValueError(f"message {envelope.id} has no recipients")
    conn.execute(
        insert(message).values(
            id=envelope.id,
            sender_local_part=envelope.sender.local_part if envelope.sender else None,
            sender_domain=envelope.sender.domain if envelope.sender else None,
            size=envelope.size,
            eight_bit=envelope.eight_bit,
            received_at=envelope.received_at,
            smtputf8=envelope.smtputf8,
            ret=envelope.ret,
            envid=envelope.envid,
            authenticated=envelope.authenticated,
            content=content.data if isinstance(content, InlineContent) else None,
            spool_name=content.name if isinstance(content, SpoolContent) else None,
        )
    )
    conn.execute(
        insert(recipient),
        [
            {
                "message_id": envelope.id,
                "ordinal": each.ordinal,
                "local_part": each.mailbox.local_part,
                "domain": each.mailbox.domain,
                "notify": None if each.notify is None else notify_text(each.notify),
                "original_type": each.original.kind if each.original else None,
                "original_address": each.original.address if each.original else None,
                "state": State.QUEUED.value,
                "next_attempt": now,
            }
            for each in envelope.recipients
        ],
    )
    for domain in dict.fromkeys(each.mailbox.domain for each in envelope.recipients):
        due.note_due(conn, domain, now)
    append(conn, envelope.id, events)


def claim(
    conn: Connection,
    *,
    now: float,
    limit: int,
    lease: float,
    retry: tuple[float, ...],
    per_domain: int,
    busy: Mapping[str, int] | None = None,
) -> tuple[Claim, ...]:
    """Lease at most `limit` messages' due recipients for `lease` seconds.

    `busy` counts the attempts that run, by domain; with them a domain gets at most `per_domain`. Domains take
    turns, one message each, the one that was served longest ago first.
    """
    running = dict(busy or {})
    claims: list[Claim] = []
    while len(claims) < limit:
        full = [domain for domain, count in running.items() if count >= per_domain]
        domains = due.due_domains(conn, now, full, limit - len(claims))
        if not domains:
            break
        for domain in domains:
            taken = _claim_one(conn, domain, now, lease, retry)
            due.note_served(conn, domain, now)
            if taken is not None:
                claims.append(taken)
                running[domain] = running.get(domain, 0) + 1
    return tuple(claims)


def content_of(conn: Connection, message_id: MessageId) -> bytes | None:
    """The content in the row, None when it is not there."""
    data = conn.execute(select(message.c.content).where(message.c.id == message_id)).scalar_one_or_none()
    return None if data is None else bytes(data)


def settle(
    conn: Connection,
    claim: Claim,
    settlements: tuple[Settlement, ...],
    *,
    events: Iterable[Event],
    now: float,
    trace: str = "[]",
    bounce: BounceWriter = no_bounce,
    append: Append = outbox.append,
) -> Settled:
    """Record how an attempt ended; `trace` is JSON. `bounce` gets the failures that were recorded.

    Events are appended in this order: those given, msg:bounce, msg:complete.
    """
    recorded = [each for each in settlements if _record(conn, claim, each, now)]
    outcomes = tuple((each.recipient.ordinal, each.outcome) for each in settlements)
    _end_attempt(conn, claim.attempt_id, outcomes, now, trace)
    _release(conn, claim)
    due.note_due_again(conn, claim.domain)
    append(conn, claim.envelope.id, events)
    failures = tuple((each.recipient, each.outcome) for each in recorded if isinstance(each.outcome, Failed))
    notice = bounce(failures) if failures else None
    if notice is not None:
        accept(conn, notice.envelope, notice.content, (), now, append)
        append(conn, claim.envelope.id, [_bounce_event(claim, failures, notice, now)])
    removable = complete(conn, claim.envelope.id, now, append)
    taken_over = tuple(each.recipient for each in settlements if each not in recorded)
    return Settled(
        completed=removable is not None,
        removable=removable or (),
        stale=taken_over,
        bounce=notice.envelope if notice else None,
    )


def complete(conn: Connection, message_id: MessageId, now: float, append: Append) -> tuple[str, ...] | None:
    """End the message if no recipient is open: drop its content, append msg:complete.

    Returns None while it is open (or was complete before), else the spool files to remove after COMMIT.
    """
    still_open = exists().where(
        recipient.c.message_id == message_id, recipient.c.state.in_([state.value for state in OPEN_STATES])
    )
    row = conn.execute(
        select(
            message.c.spool_name, message.c.size, message.c.sender_local_part, message.c.sender_domain
        ).where(message.c.id == message_id, message.c.completed_at.is_(None), ~still_open)
    ).one_or_none()
    if row is None:
        return None
    conn.execute(
        update(message)
        .where(message.c.id == message_id)
        .values(completed_at=now, content=None, spool_name=None)
    )
    sender = codec.sender_of(row)
    fields = {
        "message_id": message_id,
        "sender_address": str(sender) if sender else "",
        "message_size": row.size,
    }
    append(conn, message_id, [Event("msg:complete", now, fields)])
    return (row.spool_name,) if row.spool_name else ()


def forget(conn: Connection, *, before: float, limit: int = 500) -> int:
    """Delete messages that were completed before that moment, with their history; returns how many."""
    old = (
        select(message.c.id)
        .where(message.c.completed_at < before)
        .order_by(message.c.completed_at)
        .limit(limit)
    )
    return conn.execute(delete(message).where(message.c.id.in_(old))).rowcount


def _claim_one(
    conn: Connection, domain: str, now: float, lease: float, retry: tuple[float, ...]
) -> Claim | None:
    is_due = (
        recipient.c.state == State.QUEUED.value,
        recipient.c.domain == domain,
        recipient.c.next_attempt <= now,
    )
    first = conn.execute(
        select(recipient.c.message_id).where(*is_due).order_by(recipient.c.next_attempt).limit(1)
    ).scalar_one_or_none()
    if first is None:
        return None
    rows = conn.execute(
        select(recipient)
        .where(*is_due, recipient.c.message_id == first)
        .order_by(recipient.c.ordinal)
        .limit(MAX_RECIPIENTS)
    ).all()
    mail = conn.execute(select(message).where(message.c.id == first)).one()
    return _lease(conn, mail, rows, domain, now, lease, retry)


def _lease(
    conn: Connection,
    mail: Row[Any],
    rows: Iterable[Row[Any]],
    domain: str,
    now: float,
    lease: float,
    retry: tuple[float, ...],
) -> Claim:
    leased = tuple(rows)
    number = 1 + max(row.attempts for row in leased)
    key = conn.execute(
        insert(attempt).values(
            message_id=mail.id, domain=domain, number=number, started_at=now, lease_until=now + lease
        )
    ).inserted_primary_key
    assert key is not None
    attempt_id = int(key[0])
    conn.execute(
        update(recipient)
        .where(
            recipient.c.message_id == mail.id,
            recipient.c.ordinal.in_([row.ordinal for row in leased]),
            recipient.c.state == State.QUEUED.value,
        )
        .values(
            state=State.LEASED.value,
            attempt_id=attempt_id,
            attempts=number,
            next_attempt=schedule.pessimistic(now, number, retry),
        )
    )
    recipients = tuple(codec.recipient_of(row) for row in leased)
    envelope = codec.envelope_of(mail, recipients)
    return Claim(attempt_id, number, envelope, recipients, domain, now + lease, mail.spool_name)


def _record(conn: Connection, claim: Claim, settlement: Settlement, now: float) -> bool:
    """Write one recipient's outcome; whether it was still this attempt's to write."""
    outcome = settlement.outcome
    allowed = [recipient.c.state == State.LEASED.value, recipient.c.attempt_id == claim.attempt_id]
    if isinstance(outcome, Delivered):
        allowed = [recipient.c.state.in_([state.value for state in OPEN_STATES])]
    changed = conn.execute(
        update(recipient)
        .where(
            recipient.c.message_id == claim.envelope.id,
            recipient.c.ordinal == settlement.recipient.ordinal,
            *allowed,
        )
        .values(**_new_state(settlement, now))
    )
    return changed.rowcount == 1


def _new_state(settlement: Settlement, now: float) -> dict[str, object]:
    outcome: Outcome = settlement.outcome
    values: dict[str, object] = {"attempt_id": None, "last_outcome": codec.outcome_json(outcome)}
    match outcome:
        case Delivered():
            values |= {"state": State.DELIVERED.value, "finished_at": now}
        case Failed():
            values |= {"state": State.FAILED.value, "finished_at": now}
        case Deferred():
            assert settlement.next_attempt is not None, "a deferred recipient has a next attempt"
            values |= {"state": State.QUEUED.value, "next_attempt": settlement.next_attempt}
            if outcome.in_doubt:
                values["in_doubt"] = recipient.c.in_doubt + 1
    return values


def _end_attempt(
    conn: Connection, attempt_id: int, outcomes: tuple[tuple[int, Outcome], ...], now: float, trace: str
) -> None:
    conn.execute(
        update(attempt)
        .where(attempt.c.id == attempt_id)
        .values(
            ended_at=now,
            result=codec.result_word(outcomes),
            outcomes=codec.outcomes_json(outcomes),
            trace=trace,
        )
    )


def _release(conn: Connection, claim: Claim) -> None:
    """Queue again whom the settlement left out: nobody may stay leased to an attempt that has ended."""
    conn.execute(
        update(recipient)
        .where(
            recipient.c.message_id == claim.envelope.id,
            recipient.c.state == State.LEASED.value,
            recipient.c.attempt_id == claim.attempt_id,
        )
        .values(state=State.QUEUED.value, attempt_id=None)
    )


def _bounce_event(
    claim: Claim, failures: tuple[tuple[Recipient, Failed], ...], notice: NewMessage, now: float
) -> Event:
    fields: dict[str, Scalar] = {
        "message_id": claim.envelope.id,
        "sender_address": claim.envelope.reverse_path,
        "attempt": claim.number,
        "event_data": ",".join(str(failed.mailbox) for failed, _ in failures),
        "recipients_count": len(failures),
        "bounce_id": notice.envelope.id,
    }
    return Event("msg:bounce", now, fields)
