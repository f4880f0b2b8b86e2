"""What a wrong clock has left in the queue, once it is right again. See docs/decisions/0045.

A clock that was ahead for a while leaves recipients that are due in years, and reports that are owed then.
What is due later than any wait could be is due now. Synchronous, within the caller's transaction; times are
seconds since the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, select, update

from deliver.queue import hold
from deliver.queue.due import note_due
from deliver.queue.hold import Key
from deliver.queue.schema import State, destination, is_queued, message, recipient

IMPOSSIBLE: Final = 1.5e9  # July 2017, before there was an Outrider: clocks without a battery begin in 1970
TOLERANCE: Final = 600.0  # by which clocks may differ
CHUNK: Final = 500  # recipients in one transaction
FEW: Final = 50  # destinations in one look
REPORTS: Final = 2 * 86400.0  # no report waits for longer


@dataclass(frozen=True, slots=True)
class Misdated:
    """Recipients that are due too late, and messages whose report is."""

    keys: tuple[Key, ...] = ()
    reports: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.keys or self.reports)


def find(conn: Connection, now: float, latest: float, *, everywhere: bool) -> Misdated:
    """A portion of what is due after `latest`; unless `everywhere` only where a domain has nothing else.

    The former reads every queued recipient's date: it is for a start, and when a clock was set back.
    """
    if now < IMPOSSIBLE:
        return Misdated()
    late = select(recipient.c.message_id, recipient.c.ordinal).where(
        is_queued(), recipient.c.next_attempt > latest
    )
    if not everywhere:
        few = select(destination.c.domain).where(destination.c.due > latest).limit(FEW)
        domains = list(conn.execute(few).scalars())
        if not domains:
            return Misdated((), _reports(conn, now))
        late = late.where(recipient.c.domain.in_(domains))
    return Misdated(tuple(Key(*row) for row in conn.execute(late.limit(CHUNK))), _reports(conn, now))


def mend(conn: Connection, found: Misdated, now: float) -> int:
    """Make them due now; returns how many recipients and reports."""
    changed = 0
    rows = hold.with_messages(conn, found.keys, State.QUEUED)
    if rows:
        changed = conn.execute(
            update(recipient)
            .where(hold.is_one_of([Key(row.message_id, row.ordinal) for row in rows]))
            .values(next_attempt=now)
        ).rowcount
    for domain in sorted({row.domain for row in rows}):
        note_due(conn, domain, now)
    if found.reports:
        late = message.c.id.in_(found.reports) & (message.c.report_due > now + REPORTS)
        changed += conn.execute(update(message).where(late).values(report_due=now)).rowcount
    return changed


def _reports(conn: Connection, now: float) -> tuple[str, ...]:
    due = message.c.report_due
    late = select(message.c.id).where(due.is_not(None), due > now + REPORTS).limit(CHUNK)
    return tuple(conn.execute(late).scalars())
