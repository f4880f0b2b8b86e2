"""Holding recipients: nothing is tried until somebody releases them, or a date does. They do not expire.

Synchronous, within the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    TextClause,
    and_,
    func,
    or_,
    select,
    text,
    tuple_,
    update,
)

from deliver.queue import codec
from deliver.queue.layout import Key as Key
from deliver.queue.schema import State, message, recipient
from deliver.queue.selection import Condition
from events.catalogue import Event, Scalar

MAX_REASON: Final = 500  # characters

Append = Callable[[Connection, str | None, Iterable[Event]], None]


def is_one_of(keys: Sequence[Key]) -> ColumnElement[bool]:
    """The rows of `recipient` with these keys. The messages are named too: for pairs SQLite uses no index."""
    pairs = [(key.message_id, key.ordinal) for key in keys]
    return and_(
        recipient.c.message_id.in_(dict.fromkeys(key.message_id for key in keys)),
        tuple_(recipient.c.message_id, recipient.c.ordinal).in_(pairs),
    )


def is_in(*states: State) -> ColumnElement[bool]:
    """Rows in one of the states, found by something else: no index on the state, as most may be in it."""
    return or_(*(func.coalesce(recipient.c.state, "") == state.value for state in states))


def clause(condition: Condition) -> TextClause:
    """The condition for a statement of SQLAlchemy."""
    return text(condition.sql).bindparams(**condition.values)


def hold(
    conn: Connection,
    keys: Sequence[Key],
    *,
    reason: str,
    until: float | None,
    now: float,
    append: Append,
    freeze_id: int | None = None,
    wait: bool = True,
) -> int:
    """Hold those that are queued; returns how many. msg:hold is appended once per message.

    Without `wait` not those that others have locked. Raises for rows that cannot be read (see
    `deliver.queue.unreadable`), before it changes anything.
    """
    rows = with_messages(conn, keys, State.QUEUED, wait=wait)
    if not rows:
        return 0
    told = events("msg:hold", rows, reason, now)
    conn.execute(
        update(recipient)
        .where(is_one_of([Key(row.message_id, row.ordinal) for row in rows]))
        .values(state=State.HELD.value, held_reason=reason, held_until=until, freeze_id=freeze_id)
    )
    for message_id, event in told:
        append(conn, message_id, [event])
    return len(rows)


def set_aside(
    conn: Connection,
    message_id: str,
    which: ColumnElement[bool],
    reason: str,
    now: float,
    append: Append,
    *,
    state: State = State.QUEUED,
) -> int:
    """Hold those of the message's recipients in this state, without reading their rows; how many.

    HELD ones are from now on held for this reason, by no rule and without an end.
    """
    changed = conn.execute(
        update(recipient)
        .where(
            recipient.c.message_id == message_id,
            which,
            is_in(state),
        )
        .values(state=State.HELD.value, held_reason=reason[:MAX_REASON], held_until=None, freeze_id=None)
    ).rowcount
    told: dict[str, Scalar] = {"event_data": reason[:MAX_REASON], "message_id": message_id}
    append(conn, message_id, [Event("msg:hold", now, {**told, "recipients_count": changed})])
    return changed


def with_messages(conn: Connection, keys: Sequence[Key], *states: State, wait: bool = True) -> list[Row[Any]]:
    """Those of the recipients that are in one of the states, with their message's sender, size and times."""
    if not keys:
        return []
    query = (
        select(
            recipient,
            message.c.sender_local_part,
            message.c.sender_domain,
            message.c.size,
            message.c.received_at,
            message.c.spool_name,
        )
        .join(message, message.c.id == recipient.c.message_id)
        .where(is_one_of(keys), is_in(*states))
        .order_by(recipient.c.message_id, recipient.c.ordinal)
    )
    return list(conn.execute(locked(query, wait=wait)))


def locked(query: Select[Any], *, wait: bool = True) -> Select[Any]:
    """The query of recipients with their messages, both locked: see `deliver.queue.locking`."""
    return query.with_for_update(of=[message, recipient], key_share=True, skip_locked=not wait)


def events(name: str, rows: Iterable[Row[Any]], reason: str, now: float) -> list[tuple[str, Event]]:
    """One per message, with its id: `event_data` says why, `recipients_count` counts its recipients.

    Raises for rows that cannot be read.
    """
    by_message: dict[str, list[Row[Any]]] = {}
    for row in rows:
        by_message.setdefault(row.message_id, []).append(row)
    told: list[tuple[str, Event]] = []
    for message_id, of_message in by_message.items():
        sender = codec.sender_of(of_message[0])
        event = Event(
            name,
            now,
            {
                "event_data": reason,
                "message_id": message_id,
                "sender_address": str(sender) if sender else "",
                "message_size": of_message[0].size,
                "recipients_count": len(of_message),
            },
        )
        told.append((message_id, event))
    return told
