"""Locks of rows, where several transactions run side by side: PostgreSQL. SQLite has one writer instead.

In READ COMMITTED every statement sees what was committed before it. So what is to be decided by reading first
locks the rows that the others must lock too, and then reads, in a statement of its own. To avoid deadlocks
all transactions lock in this order:

    1. messages, by id           before their recipients' states or debts are changed, and before the end of
                                 a message is decided
    2. recipients                a claim skips those that others hold
    3. destinations, by name     before the earliest next attempt of a domain is looked up

A claim waits for nobody. What still meets in a deadlock is carried out again, see `deliver.pgrun`.
Synchronous, within the caller's transaction, which ends the locks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from sqlalchemy import Connection, select

from deliver.queue.schema import destination, message

CHUNK: Final = 500  # parameters of one statement
ALONE: Final = "sqlite"


def lock_messages(conn: Connection, message_ids: Iterable[str]) -> None:
    """Until the end of the transaction nobody else decides about these messages."""
    if conn.dialect.name == ALONE:
        return
    wanted = sorted(set(message_ids))
    for start in range(0, len(wanted), CHUNK):
        rows = select(message.c.id).where(message.c.id.in_(wanted[start : start + CHUNK]))
        # NO KEY UPDATE: a claim's new attempt refers to the message, and must not wait
        conn.execute(rows.order_by(message.c.id).with_for_update(key_share=True)).all()


def lock_destination(conn: Connection, domain: str) -> None:
    """Nobody else changes when mail to the domain is due."""
    if conn.dialect.name != ALONE:
        row = select(destination.c.domain).where(destination.c.domain == domain)
        conn.execute(row.with_for_update(key_share=True)).all()


def free_destinations(conn: Connection, domains: Sequence[str]) -> frozenset[str]:
    """Those of the destinations that nobody else has locked; they are locked now."""
    if conn.dialect.name == ALONE or not domains:
        return frozenset(domains)
    rows = select(destination.c.domain).where(destination.c.domain.in_(domains))
    rows = rows.order_by(destination.c.domain).with_for_update(key_share=True, skip_locked=True)
    return frozenset(conn.execute(rows).scalars())
