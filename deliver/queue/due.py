"""The table of destinations: which recipient domains have something due, so that `claim` need not search.

Invariant: `due` of a domain is at or before the next attempt of each of its queued recipients. Every change
of a queued recipient goes along with one of these functions, in the same transaction.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, ScalarSelect, case, func, or_, select, update
from sqlalchemy.dialects import sqlite

from deliver.queue.schema import State, destination, recipient


def next_due(conn: Connection, *, full: Iterable[str] = ()) -> float | None:
    """When the next recipient is due, domains in `full` left out; None when none is queued."""
    query = select(func.min(destination.c.due)).where(destination.c.due.is_not(None))
    excluded = tuple(full)
    if excluded:
        query = query.where(destination.c.domain.not_in(excluded))
    due = conn.execute(query).scalar_one_or_none()
    return None if due is None else float(due)


def note_due(conn: Connection, domain: str, due: float) -> None:
    """A recipient of the domain was queued for `due`: lower the bound that `claim` goes by."""
    row = sqlite.insert(destination).values(domain=domain, due=due, served_at=0.0)
    later = or_(destination.c.due.is_(None), destination.c.due > row.excluded.due)
    conn.execute(
        row.on_conflict_do_update(
            index_elements=[destination.c.domain],
            set_={"due": case((later, row.excluded.due), else_=destination.c.due)},
        )
    )


def note_due_again(conn: Connection, domain: str) -> None:
    """Set the bound of the domain to the earliest next attempt of its queued recipients, exactly."""
    conn.execute(update(destination).where(destination.c.domain == domain).values(due=_earliest(domain)))


def due_domains(conn: Connection, now: float, full: list[str], limit: int) -> list[str]:
    """Domains with something due, those in `full` left out, the one that was served longest ago first."""
    query = (
        select(destination.c.domain)
        .where(destination.c.due <= now, destination.c.domain.not_in(full))
        .order_by(destination.c.served_at, destination.c.due)
        .limit(limit)
    )
    return list(conn.execute(query).scalars())


def note_served(conn: Connection, domain: str, now: float) -> None:
    """The domain had its turn; it goes to the end of the line, with its bound set exactly."""
    conn.execute(
        update(destination).where(destination.c.domain == domain).values(due=_earliest(domain), served_at=now)
    )


def _earliest(domain: str) -> ScalarSelect[float | None]:
    return (
        select(func.min(recipient.c.next_attempt))
        .where(recipient.c.state == State.QUEUED.value, recipient.c.domain == domain)
        .scalar_subquery()
    )
