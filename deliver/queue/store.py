"""The transactions of the queue. Synchronous, on the caller's connection, `now` given.

    accept   the message, its recipients and the event: after COMMIT the mail is ours
    claim    due recipients are leased: see `deliver.queue.claiming`
    settle   outcomes, next attempts, what the sender is owed, the events and the end of the message, all or
             nothing

A recipient ends in exactly one terminal state: every change asks for the state that it leaves. An attempt
whose lease was taken over changes nothing any more, except that a delivery is a fact and is always recorded.

Nothing here begins or commits: see `deliver.sqlrun`. Raises what the database raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from msgspec import Struct
from sqlalchemy import Connection, bindparam, case, delete, exists, insert, or_, select, update

from deliver.dsn import notify_text
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.outcome import Deferred, Delivered, Failed, Outcome
from deliver.queue import chunks, codec, due
from deliver.queue.chunks import ChunkedContent
from deliver.queue.claiming import Claim as Claim, sender_key
from deliver.queue.content import InlineContent, SpoolContent, StoredContent
from deliver.queue.hold import is_in
from deliver.queue.locking import lock_messages
from deliver.queue.owed import owed
from deliver.queue.schedule import Settlement
from deliver.queue.schema import OPEN_STATES, State, attempt, message, recipient
from deliver.queue.statement import Statement
from events import outbox
from events.catalogue import Event, Scalar

Append = Callable[[Connection, str | None, Iterable[Event]], None]


class Settled(Struct, frozen=True):
    """What a settlement did. `removable`: spool files that no row refers to any more.

    `stale`: recipients that another attempt had taken over, so that nothing was changed.
    """

    completed: bool
    removable: tuple[str, ...]
    stale: tuple[Recipient, ...]


def accept(
    conn: Connection,
    envelope: Envelope,
    content: StoredContent,
    events: Iterable[Event],
    now: float,
    append: Append = outbox.append,
) -> None:
    """Take a message into the queue; every recipient is due at once. Raises ValueError without recipients,
    StorageError without its content.
    """
    demand_recipients(envelope)
    if isinstance(content, ChunkedContent):
        chunks.demand(conn, envelope.id, content.size)
    ACCEPT_MESSAGE.change(conn, **message_row(envelope, content))
    ACCEPT_RECIPIENT.change_each(conn, recipient_rows(envelope, now))
    due.note_due_each(conn, dict.fromkeys((each.mailbox.domain for each in envelope.recipients), now))
    append(conn, envelope.id, events)


def demand_recipients(envelope: Envelope) -> None:
    """Raises ValueError where there are none: nobody would ever settle the message."""
    if not envelope.recipients:
        raise ValueError(f"message {envelope.id} has no recipients")


def message_row(envelope: Envelope, content: StoredContent) -> dict[str, object]:
    """The columns of an accepted message."""
    sender = envelope.sender
    return {
        "id": envelope.id,
        "sender_local_part": sender.local_part if sender else None,
        "sender_domain": sender.domain if sender else None,
        "size": envelope.size,
        "eight_bit": envelope.eight_bit,
        "received_at": envelope.received_at,
        "smtputf8": envelope.smtputf8,
        "ret": envelope.ret,
        "envid": envelope.envid,
        "authenticated": envelope.authenticated,
        "requires_tls": envelope.requires_tls,
        "content": content.data if isinstance(content, InlineContent) else None,
        "spool_name": content.name if isinstance(content, SpoolContent) else None,
    }


def recipient_rows(envelope: Envelope, now: float) -> list[dict[str, object]]:
    """The columns of its recipients, all of them due."""
    turn = sender_key(envelope)
    return [
        {
            "message_id": envelope.id,
            "ordinal": each.ordinal,
            "local_part": each.mailbox.local_part,
            "domain": each.mailbox.domain,
            "sender": turn,
            "notify": None if each.notify is None else notify_text(each.notify),
            "original_type": each.original.kind if each.original else None,
            "original_address": each.original.address if each.original else None,
            "state": State.QUEUED.value,
            "next_attempt": now,
            "attempts": 0,
            "in_doubt": 0,
        }
        for each in envelope.recipients
    ]


def content_of(conn: Connection, message_id: MessageId) -> bytes | None:
    """The content in the row, None when it is not there."""
    data = _CONTENT.scalar(conn, of=message_id)
    return None if data is None else bytes(data)


def settle(
    conn: Connection,
    claim: Claim,
    settlements: tuple[Settlement, ...],
    *,
    events: Iterable[Event],
    now: float,
    trace: str = "[]",
    gather: float = 0.0,
    append: Append = outbox.append,
) -> Settled:
    """Record how an attempt ended; `trace` is JSON. What the sender is owed waits `gather` seconds for more.

    Events are appended in this order: those given, msg:complete.
    """
    lock_messages(conn, (claim.envelope.id,))
    recorded = [each for each in settlements if _record(conn, claim, each, now)]
    outcomes = tuple((each.recipient.ordinal, each.outcome) for each in settlements)
    _end_attempt(conn, claim.attempt_id, outcomes, now, trace)
    if len(recorded) < len(claim.recipients):
        _RELEASE.change(conn, of=claim.envelope.id, by=claim.attempt_id)
    if len(recorded) < len(claim.recipients) or any(
        isinstance(each.outcome, Deferred) for each in recorded
    ):  # else nobody is queued whom the bound does not know
        due.note_due_again(conn, claim.domain)
    append(conn, claim.envelope.id, events)
    if any(_may_owe(each, claim.envelope.sender) for each in recorded):
        note_owed(conn, claim.envelope.id, now + gather)
    removable = complete(conn, claim.envelope.id, now, append)
    taken_over = tuple(each.recipient for each in settlements if each not in recorded)
    return Settled(
        completed=removable is not None,
        removable=removable or (),
        stale=taken_over,
    )


def note_owed(conn: Connection, message_id: str, due: float) -> None:
    """If the sender is owed something about the message, it is told by `due` at the latest."""
    owes = exists().where(recipient.c.message_id == message_id, recipient.c.owed.is_not(None))
    later = or_(message.c.report_due.is_(None), message.c.report_due > due)
    conn.execute(update(message).where(message.c.id == message_id, later, owes).values(report_due=due))


def complete(conn: Connection, message_id: MessageId, now: float, append: Append) -> tuple[str, ...] | None:
    """End the message if no recipient is open: drop its content, append msg:complete.

    Returns None while it is open (or was complete before), else the spool files to remove after COMMIT. A
    message whose sender is owed something stays, and the report is due at once: nothing more will come.
    """
    done = complete_all(conn, (message_id,), now, append)
    return done.get(message_id)


def complete_all(
    conn: Connection, message_ids: Sequence[str], now: float, append: Append
) -> dict[str, tuple[str, ...]]:
    """`complete` for many: the spool files to remove, by the id of each message that has ended."""
    lock_messages(conn, message_ids)
    ended = [row for each in message_ids for row in _ENDED.all(conn, of=each)]
    for row in ended:
        if row.owes:
            note_owed(conn, row.id, now)
    over = [row for row in ended if not row.owes]
    if not over:
        return {}
    chunks.drop(conn, [row.id for row in over])
    for row in over:
        _COMPLETE.change(conn, of=row.id, now=now)
    for row in over:
        append(conn, row.id, [completion(row.id, codec.sender_of(row), row.size, now)])
    return {row.id: (row.spool_name,) if row.spool_name else () for row in over}


def completion(message_id: str, sender: Mailbox | None, size: int, now: float) -> Event:
    """The msg:complete of a message."""
    fields: dict[str, Scalar] = {
        "message_id": message_id,
        "sender_address": str(sender) if sender else "",
        "message_size": size,
    }
    return Event("msg:complete", now, fields)


def forget(conn: Connection, *, before: float, limit: int = 500) -> int:
    """Delete messages that were completed before that moment, with their history; returns how many."""
    old = (
        select(message.c.id)
        .where(message.c.completed_at < before)
        .order_by(message.c.completed_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return conn.execute(delete(message).where(message.c.id.in_(old))).rowcount


def _record(conn: Connection, claim: Claim, settlement: Settlement, now: float) -> bool:
    """Write one recipient's outcome; whether it was still this attempt's to write."""
    outcome = settlement.outcome
    if isinstance(outcome, Delivered):
        return _record_delivery(conn, claim, settlement, outcome, now)
    allowed = [recipient.c.state == State.LEASED.value, recipient.c.attempt_id == claim.attempt_id]
    changed = conn.execute(
        update(recipient)
        .where(
            recipient.c.message_id == claim.envelope.id,
            recipient.c.ordinal == settlement.recipient.ordinal,
            *allowed,
        )
        .values(**_new_state(settlement, claim.envelope.sender, now))
    )
    return changed.rowcount == 1


def _record_delivery(
    conn: Connection, claim: Claim, settlement: Settlement, outcome: Delivered, now: float
) -> bool:
    """A fact, whoever has the lease."""
    tell = owed(outcome, settlement.recipient, claim.envelope.sender)
    values = delivered_row(claim, settlement, codec.outcome_json(outcome), now)
    return DELIVERED.change(conn, **values | {"tell": tell}) == 1


def delivered_row(claim: Claim, settlement: Settlement, said: str, now: float) -> dict[str, object]:
    """The values of DELIVERED for one whose sender is owed nothing; `said` is the outcome as JSON."""
    return {
        "of": claim.envelope.id,
        "number": settlement.recipient.ordinal,
        "said": said,
        "now": now,
        "tell": None,
    }


def _may_owe(settlement: Settlement, sender: Mailbox | None) -> bool:
    if isinstance(settlement.outcome, Deferred) and not settlement.warnings:
        return False
    return owed(settlement.outcome, settlement.recipient, sender) is not None


def _new_state(settlement: Settlement, sender: Mailbox | None, now: float) -> dict[str, object]:
    """Of a recipient who did not get it."""
    outcome: Outcome = settlement.outcome
    values: dict[str, object] = {"attempt_id": None, "last_outcome": codec.outcome_json(outcome)}
    tell = owed(outcome, settlement.recipient, sender)
    match outcome:
        case Failed():
            values |= {"state": State.FAILED.value, "finished_at": now, "owed": tell}
        case Deferred():
            assert settlement.next_attempt is not None, "a deferred recipient has a next attempt"
            values |= {"state": State.QUEUED.value, "next_attempt": settlement.next_attempt}
            values["waited"] = settlement.waited
            if outcome.in_doubt:
                values["in_doubt"] = recipient.c.in_doubt + 1
            if tell is not None and settlement.warnings:
                behind = recipient.c.warned < settlement.warnings
                values["owed"] = case((behind, tell.value), else_=recipient.c.owed)
                values["warned"] = case((behind, settlement.warnings), else_=recipient.c.warned)
    return values


def _end_attempt(
    conn: Connection, attempt_id: int, outcomes: tuple[tuple[int, Outcome], ...], now: float, trace: str
) -> None:
    END_ATTEMPT.change(
        conn,
        of=attempt_id,
        now=now,
        word=codec.result_word(outcomes),
        said=codec.outcomes_json(outcomes),
        found=trace,
    )


_OPEN: Final = or_(*(recipient.c.state == state.value for state in OPEN_STATES))
_OF_MESSAGE: Final = message.c.id == bindparam("of")
ACCEPT_MESSAGE: Final = Statement(
    insert(message),
    tuple(each.name for each in message.c if each.name not in ("completed_at", "report_due")),
)
ACCEPT_RECIPIENT: Final = Statement(
    insert(recipient),
    (
        *("message_id", "ordinal", "local_part", "domain", "sender", "notify", "original_type"),
        *("original_address", "state", "next_attempt", "attempts", "in_doubt"),
    ),
)
_CONTENT: Final = Statement(select(message.c.content).where(_OF_MESSAGE))
_ENDED: Final = Statement(
    select(
        message.c.id,
        message.c.spool_name,
        message.c.size,
        message.c.sender_local_part,
        message.c.sender_domain,
        exists().where(recipient.c.message_id == message.c.id, recipient.c.owed.is_not(None)).label("owes"),
    ).where(
        _OF_MESSAGE,
        message.c.completed_at.is_(None),
        ~exists().where(recipient.c.message_id == message.c.id, _OPEN),
    )
)
_COMPLETE: Final = Statement(
    update(message)
    .where(_OF_MESSAGE)
    .values(completed_at=bindparam("now"), content=None, spool_name=None, report_due=None)
)
DELIVERED: Final = Statement(
    update(recipient)
    .where(recipient.c.message_id == bindparam("of"), recipient.c.ordinal == bindparam("number"), _OPEN)
    .values(
        attempt_id=None,
        last_outcome=bindparam("said"),
        state=State.DELIVERED.value,
        finished_at=bindparam("now"),
        owed=bindparam("tell"),
    )
)
END_ATTEMPT: Final = Statement(
    update(attempt)
    .where(attempt.c.id == bindparam("of"))
    .values(
        ended_at=bindparam("now"),
        result=bindparam("word"),
        outcomes=bindparam("said"),
        trace=bindparam("found"),
    )
)
# Whom the settlement left out is queued again: nobody may stay leased to an attempt that has ended.
_RELEASE: Final = Statement(
    update(recipient)
    .where(
        recipient.c.message_id == bindparam("of"),
        is_in(State.LEASED),
        recipient.c.attempt_id == bindparam("by"),
    )
    .values(state=State.QUEUED.value, attempt_id=None)
)
