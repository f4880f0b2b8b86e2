"""The table of destinations: which recipient domains have something due, so that `claim` need not search.

Invariant: `due` of a domain is at or before the next attempt of each of its queued recipients. Every change
of a queued recipient goes along with one of these functions, in the same transaction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Final

from sqlalchemy import Connection, ScalarSelect, case, delete, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from deliver.queue.locking import lock_destination
from deliver.queue.schema import State, destination, recipient

PAGE: Final = 200  # destinations that are looked at in one query

Opening = Callable[[str], float]  # from when on a domain may have one more attempt; inf: that will be said


def always(domain: str) -> float:
    """For callers without limits."""
    return -math.inf


def next_due(conn: Connection, opens_at: Opening = always) -> float | None:
    """When the next recipient is due and its domain open; None when none is queued, or none will open."""
    earliest = math.inf
    for row in _pages(conn, select(destination).where(destination.c.due.is_not(None)), destination.c.due):
        if row.due >= earliest:
            break
        earliest = min(earliest, max(float(row.due), opens_at(row.domain)))
    return None if earliest == math.inf else earliest


def note_due(conn: Connection, domain: str, due: float) -> None:
    """A recipient of the domain was queued for `due`: lower the bound that `claim` goes by."""
    insert = sqlite.insert if conn.dialect.name == "sqlite" else postgresql.insert
    row = insert(destination).values(domain=domain, due=due, served_at=0.0)
    later = or_(destination.c.due.is_(None), destination.c.due > row.excluded.due)
    conn.execute(
        row.on_conflict_do_update(
            index_elements=[destination.c.domain],
            set_={"due": case((later, row.excluded.due), else_=destination.c.due)},
        )
    )


def note_due_again(conn: Connection, domain: str) -> None:
    """Set the bound of the domain to the earliest next attempt of its queued recipients, exactly."""
    lock_destination(conn, domain)
    row = update(destination).where(destination.c.domain == domain).values(due=_earliest(domain))
    if conn.execute(row).rowcount == 0:  # forgotten while its last recipient was under way
        earliest = conn.execute(select(_earliest(domain))).scalar_one()
        if earliest is not None:
            note_due(conn, domain, earliest)


def due_domains(conn: Connection, now: float, opens_at: Opening, limit: int) -> list[tuple[str, str]]:
    """Domains with something due that are open, each with the sender who was served last.

    The one that was served longest ago is first.
    """
    found: list[tuple[str, str]] = []
    earliest = conn.execute(select(func.min(destination.c.due))).scalar_one_or_none()
    if earliest is None or earliest > now:
        return found
    # the function keeps databases from choosing the index on `due`, which would make them sort what it finds
    query = select(destination).where(func.coalesce(destination.c.due, math.inf) <= now)
    for row in _pages(conn, query, destination.c.served_at, destination.c.due):
        if opens_at(row.domain) <= now:
            found.append((row.domain, row.last_sender))
            if len(found) >= limit:
                break
    return found


def due_among(
    conn: Connection, now: float, domains: tuple[str, ...], opens_at: Opening, limit: int
) -> list[tuple[str, str]]:
    """The same of the given domains, in their order."""
    rows = conn.execute(
        select(destination).where(destination.c.due <= now, destination.c.domain.in_(domains))
    ).all()
    due = {row.domain: row.last_sender for row in rows}
    return [(each, due[each]) for each in domains if each in due and opens_at(each) <= now][:limit]


def note_served(conn: Connection, domain: str, now: float, sender: str) -> None:
    """The domain had its turn; it goes to the end of the line, with its bound set exactly.

    The claim that calls this has locked the destination, see `deliver.queue.locking`.
    """
    conn.execute(
        update(destination)
        .where(destination.c.domain == domain)
        .values(due=_earliest(domain), served_at=now, last_sender=sender)
    )


def forget_idle(conn: Connection, before: float) -> int:
    """Delete destinations without queued mail that were not served since; returns how many."""
    idle = destination.c.due.is_(None) & (destination.c.served_at < before)
    return conn.execute(delete(destination).where(idle)).rowcount


def _pages(conn: Connection, query: Any, *order: Any) -> Iterator[Any]:
    """The rows of an ordered query, fetched as they are looked at."""
    offset = 0
    while True:
        rows = conn.execute(query.order_by(*order, destination.c.domain).limit(PAGE).offset(offset)).all()
        yield from rows
        if len(rows) < PAGE:
            return
        offset += PAGE


def _earliest(domain: str) -> ScalarSelect[float | None]:
    return (
        select(func.min(recipient.c.next_attempt))
        .where(recipient.c.state == State.QUEUED.value, recipient.c.domain == domain)
        .scalar_subquery()
    )
