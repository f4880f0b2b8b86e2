"""Events that have not arrived: what waits for each action, and what was given up.

All functions are synchronous, take the caller's connection and neither begin nor commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, select, update

from events.outbox import event_outbox, event_pending

PENDING_FOR = 30 * 86400.0  # seconds after which an event that could not be told is dead
DEAD_FOR = 90 * 86400.0  # seconds after which a dead event is forgotten


@dataclass(frozen=True, slots=True)
class Waiting:
    """How much waits for one action; `oldest` in seconds since the epoch."""

    action: str
    pending: int
    dead: int
    oldest: float | None
    last_error: str | None


@dataclass(frozen=True, slots=True)
class Dead:
    """An event that an action's database refused for good, or that waited too long; `at` epoch seconds."""

    action: str
    id: str
    message_id: str | None
    name: str
    at: float
    tries: int
    last_error: str | None


def revive(conn: Connection, action: str) -> int:
    """Try the dead events of an action again. Returns how many."""
    return conn.execute(
        update(event_pending)
        .where(event_pending.c.action == action, event_pending.c.dead == 1)
        .values(dead=0, tries=0, not_before=0.0)
    ).rowcount


def dead(conn: Connection, action: str | None = None) -> tuple[Dead, ...]:
    """The events that were given up, of one action or of all, oldest first."""
    query = (
        select(event_pending, event_outbox.c.id, event_outbox.c.name, event_outbox.c.at)
        .join(event_outbox, event_outbox.c.seq == event_pending.c.seq)
        .where(event_pending.c.dead == 1)
        .order_by(event_pending.c.action, event_pending.c.seq)
    )
    if action is not None:
        query = query.where(event_pending.c.action == action)
    return tuple(
        Dead(row.action, row.id, row.message_id, row.name, row.at, row.tries, row.last_error)
        for row in conn.execute(query)
    )


def prune(conn: Connection, *, now: float, actions: Sequence[str]) -> int:
    """Drop what waits for actions that no longer exist, give up on the overdue, forget the long dead.

    Returns the number of events that became dead. `actions` are the names of those that exist.
    """
    conn.execute(delete(event_pending).where(event_pending.c.action.not_in(actions)))
    dead_since = select(event_outbox.c.seq).where(event_outbox.c.at < now - DEAD_FOR)
    conn.execute(delete(event_pending).where(event_pending.c.dead == 1, event_pending.c.seq.in_(dead_since)))
    overdue = select(event_outbox.c.seq).where(event_outbox.c.at < now - PENDING_FOR)
    given_up = conn.execute(
        update(event_pending)
        .where(event_pending.c.dead == 0, event_pending.c.seq.in_(overdue))
        .values(dead=1)
    ).rowcount
    waits = select(event_pending.c.seq).where(event_pending.c.seq == event_outbox.c.seq).exists()
    conn.execute(delete(event_outbox).where(~waits))
    return given_up


def waiting(conn: Connection) -> tuple[Waiting, ...]:
    """What waits for each action, by name."""
    query = (
        select(
            event_pending.c.action,
            func.sum(1 - event_pending.c.dead),
            func.sum(event_pending.c.dead),
            func.min(event_outbox.c.at),
            func.max(event_pending.c.last_error),
        )
        .join(event_outbox, event_outbox.c.seq == event_pending.c.seq)
        .group_by(event_pending.c.action)
        .order_by(event_pending.c.action)
    )
    return tuple(Waiting(*row) for row in conn.execute(query))
