"""The outbox: events wait here, in the database of the fact that they report, until every action has them.

`append` runs inside the caller's own transaction, so an event exists exactly if its fact does. One
`event_outbox` row per event, one `event_pending` row per (event, action) that still has to be told; the
acknowledgement deletes it, and the event goes with its last one. Delivery is at least once, in order per
message; the id of an event stays the same, so that a receiver can tell a repetition.

An event that its action's database refuses for good becomes `dead` after `MAX_TRIES` and stays readable.
All functions are synchronous, take the caller's connection and neither begin nor commit.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    select,
    text,
    update,
)

from events.bulk import Row, execute_each, fetch, insert_rows, run, sqlite_driver
from events.catalogue import Event
from events.identity import NewId, event_id

MAX_TRIES = 10  # refusals of one event by one action before it is dead
FIRST_RETRY = 2.0  # seconds, doubled with each refusal
LAST_RETRY = 600.0
MAX_ERROR = 500  # characters kept of a database's complaint
DEFAULT_ACTION = "event_log"  # the ready-made table, see `events.actions`

_SHIPPING = 0x6F757473  # the space of PostgreSQL's advisory locks, one for each action
_CHUNK = 500  # bound parameters in one statement; SQLite's old limit is 999
# SQLite counts only INTEGER PRIMARY KEY by itself.
_SEQUENCE = BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData()

event_outbox = Table(
    "event_outbox",
    metadata,
    Column("seq", _SEQUENCE, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("message_id", Text),
    Column("name", Text, nullable=False),
    Column("at", Float, nullable=False),
    Column("body", Text, nullable=False),  # Event.encode()
    sqlite_autoincrement=True,  # a number is never used twice, or order within a message could turn round
)

event_pending = Table(
    "event_pending",
    metadata,
    Column("action", Text, primary_key=True),
    Column("seq", _SEQUENCE, ForeignKey("event_outbox.seq"), primary_key=True, autoincrement=False),
    Column("message_id", Text),
    Column("dead", Integer, nullable=False, default=0),
    Column("tries", Integer, nullable=False, default=0),
    Column("not_before", Float, nullable=False, default=0.0),
    Column("last_error", Text),
    Index("event_pending_seq", "seq"),
    # of those that were put off, which are few: `_EVER`
    Index("event_pending_message", "action", "message_id", "seq", sqlite_where=text("not_before > 0")),
)

Append = Callable[[Connection, str | None, Iterable[Event]], None]
AppendEach = Callable[[Connection, Iterable[tuple[str | None, Iterable[Event]]]], None]

# An event of a message, with the names of the actions that want it.
Wanted = tuple[str | None, Event, Sequence[str]]

# Names of the actions that want this event.
Matcher = Callable[[Event], Sequence[str]]


def for_default_table(event: Event) -> tuple[str, ...]:
    """The matcher of an installation without actions of its own: the ready-made table takes everything."""
    return (DEFAULT_ACTION,)


class Pending(NamedTuple):
    """An event that an action has not got yet."""

    seq: int
    id: str
    message_id: str | None
    event: Event
    tries: int = 0


@dataclass(frozen=True, slots=True)
class Appending:
    """An `append` that can also take the events of several messages at once, by `each`."""

    each: AppendEach

    def __call__(self, conn: Connection, message_id: str | None, events: Iterable[Event]) -> None:
        """See `append`."""
        self.each(conn, ((message_id, events),))


def appending(append: Append) -> Appending:
    """Anything that appends, as an Appending."""
    if isinstance(append, Appending):
        return append

    def each(conn: Connection, told: Iterable[tuple[str | None, Iterable[Event]]]) -> None:
        for message_id, events in told:
            append(conn, message_id, events)

    return Appending(each)


@dataclass(frozen=True, slots=True)
class Outbox:
    """`append` with the matcher and the source of ids that the composition root chose."""

    wanted: Matcher = for_default_table
    new_id: NewId = event_id

    def append(self, conn: Connection, message_id: str | None, events: Iterable[Event]) -> None:
        """See `append`."""
        append(conn, message_id, events, wanted=self.wanted, new_id=self.new_id)


def append(
    conn: Connection,
    message_id: str | None,
    events: Iterable[Event],
    *,
    wanted: Matcher = for_default_table,
    new_id: NewId = event_id,
) -> None:
    """Put the events that some action wants into the outbox, in order, within the caller's transaction.

    Raises only what the database raises: an event outside the catalogue must not undo the settling of mail.
    """
    found = [(message_id, event, wanted(event)) for event in events]
    append_for(conn, [each for each in found if each[2]], new_id=new_id)


def append_for(conn: Connection, events: Sequence[Wanted], *, new_id: NewId = event_id) -> None:
    """As `append`, for events of any messages with the names of the actions that want each of them."""
    if not events:
        return
    driver = sqlite_driver(conn)
    if driver is not None:
        _append_to_sqlite(driver, events, new_id)
        return
    rows: list[Row] = []
    pends: list[Row] = []
    for message_id, event, actions in events:
        number = new_id(event)
        row = {"id": number, "message_id": message_id, "name": event.name, "at": event.at}
        rows.append(row | {"body": event.encode()})
        pends += [{"action": action, "of": number} for action in dict.fromkeys(actions)]
    insert_rows(conn, event_outbox, rows)
    run(conn, _PEND, pends)


def _append_to_sqlite(driver: sqlite3.Connection, events: Sequence[Wanted], new_id: NewId) -> None:
    """The one writer's rows get one number after the other, so that the last one tells them all."""
    rows = [
        (new_id(event), message_id, event.name, event.at, event.encode()) for message_id, event, _ in events
    ]
    execute_each(driver, _INSERT_EVENT, rows)
    first = fetch(driver, "SELECT last_insert_rowid()", ())[0][0] - len(rows) + 1
    pends = [
        (action, seq, message_id)
        for seq, (message_id, _, actions) in enumerate(events, first)
        for action in dict.fromkeys(actions)
    ]
    execute_each(driver, _INSERT_PENDING, pends)


_INSERT_EVENT: Final = "INSERT INTO event_outbox (id, message_id, name, at, body) VALUES (?, ?, ?, ?, ?)"
_INSERT_PENDING: Final = (
    "INSERT INTO event_pending (action, seq, message_id, dead, tries, not_before) VALUES (?, ?, ?, 0, 0, 0.0)"
)

# Finding the number by the id costs less than having it returned.
_PEND: Final = insert(event_pending).from_select(
    ["action", "seq", "message_id", "dead", "tries", "not_before"],
    select(
        bindparam("action", type_=Text),
        event_outbox.c.seq,
        event_outbox.c.message_id,
        literal_column("0"),
        literal_column("0"),
        literal_column("0.0"),
    ).where(event_outbox.c.id == bindparam("of", type_=Text)),
    include_defaults=False,
)


def pending(conn: Connection, action: str, limit: int, *, now: float) -> tuple[Pending, ...]:
    """The next events for an action, oldest first; those of a message wait behind one to be retried."""
    put_off = conn.execute(_PUT_OFF, {"of": action, "now": now}).first() is not None
    query = _NEXT_UNHELD if put_off else _NEXT
    rows = conn.execute(query, {"of": action, "now": now, "at_most": limit}).all()
    return tuple(
        Pending(seq, number, message_id, _decoded(name, at, body), tries)
        for seq, number, message_id, name, at, body, tries in rows
    )


_NOW: Final = bindparam("now", type_=Float)
_OF_ACTION: Final = event_pending.c.action == bindparam("of", type_=Text)
# said although it goes without saying: it leads SQLite to the index
_EVER: Final[ColumnElement[int]] = literal_column("0")

_PUT_OFF: Final = (
    select(event_pending.c.seq)
    .where(
        _OF_ACTION,
        event_pending.c.dead == 0,
        # a sum: with the column itself SQLite prepares the query for each moment anew
        event_pending.c.not_before + _EVER > _NOW,
        event_pending.c.not_before > _EVER,
    )
    .limit(1)
)
_NEXT: Final = (
    select(event_outbox, event_pending.c.tries)
    .join(event_pending, event_pending.c.seq == event_outbox.c.seq)
    .where(_OF_ACTION, event_pending.c.dead == 0, event_pending.c.not_before <= _NOW)
    .order_by(event_pending.c.seq)  # of the index that leads to them: nothing is sorted
    .limit(bindparam("at_most", type_=Integer))
)


def _is_held() -> ColumnElement[bool]:
    """An earlier event of the message is put off."""
    earlier = event_pending.alias()
    return (
        select(earlier.c.seq)
        .where(
            earlier.c.action == event_pending.c.action,
            earlier.c.message_id == event_pending.c.message_id,
            earlier.c.seq < event_pending.c.seq,
            earlier.c.dead == 0,
            earlier.c.not_before > _NOW,
            earlier.c.not_before > _EVER,
        )
        .exists()
    )


_NEXT_UNHELD: Final = _NEXT.where(~_is_held())


def claim(conn: Connection, action: str, limit: int, *, now: float, lease: float) -> tuple[Pending, ...]:
    """As `pending`, for one of several shippers: for `lease` seconds the others leave them alone.

    They take turns per action, so that events of one message stay in order; a write transaction of SQLite has
    the whole file anyway.
    """
    if conn.dialect.name == "postgresql":
        conn.execute(select(func.pg_advisory_xact_lock(_SHIPPING, func.hashtext(action))))
    batch = pending(conn, action, limit, now=now)
    _put_off(conn, action, [one.seq for one in batch], now + lease)
    return batch


def unclaim(conn: Connection, action: str, seqs: Sequence[int]) -> None:
    """Leave to others what was claimed and not shipped."""
    _put_off(conn, action, seqs, 0.0)


def _put_off(conn: Connection, action: str, seqs: Sequence[int], until: float) -> None:
    for chunk in _chunks(seqs):
        conn.execute(
            update(event_pending)
            .where(event_pending.c.action == action, event_pending.c.seq.in_(chunk))
            .values(not_before=until)
        )


def acknowledge(conn: Connection, action: str, seqs: Sequence[int]) -> None:
    """The action has these events; they are forgotten when no other action waits for them."""
    if not seqs:
        return
    first, behind = seqs[0], seqs[0] + len(seqs)
    if list(seqs) == list(range(first, behind)):  # as nearly always: one range instead of many numbers
        between = {"by": action, "first": first, "last": behind - 1}
        conn.execute(_ACKNOWLEDGE_RANGE, between)
        conn.execute(_FORGET_RANGE, between)
        return
    for chunk in _chunks(seqs):
        conn.execute(_ACKNOWLEDGE, {"by": action, "seqs": chunk})
        conn.execute(_FORGET_TOLD, {"seqs": chunk})


_BY_ACTION: Final = event_pending.c.action == bindparam("by")
_WAITED_FOR: Final = select(event_pending.c.seq).where(event_pending.c.seq == event_outbox.c.seq).exists()
_ACKNOWLEDGE: Final = delete(event_pending).where(
    _BY_ACTION, event_pending.c.seq.in_(bindparam("seqs", expanding=True))
)
_FORGET_TOLD: Final = delete(event_outbox).where(
    event_outbox.c.seq.in_(bindparam("seqs", expanding=True)), ~_WAITED_FOR
)
_BETWEEN: Final = (bindparam("first", type_=_SEQUENCE), bindparam("last", type_=_SEQUENCE))
_ACKNOWLEDGE_RANGE: Final = delete(event_pending).where(_BY_ACTION, event_pending.c.seq.between(*_BETWEEN))
_FORGET_RANGE: Final = delete(event_outbox).where(event_outbox.c.seq.between(*_BETWEEN), ~_WAITED_FOR)


def refuse(conn: Connection, action: str, seq: int, tries: int, error: str, *, now: float) -> bool:
    """The action's database refused this event for the `tries`th time; retry later, or give up.

    Returns whether it is dead now.
    """
    dead = tries >= MAX_TRIES
    conn.execute(
        update(event_pending)
        .where(event_pending.c.action == action, event_pending.c.seq == seq)
        .values(
            tries=tries,
            dead=int(dead),
            not_before=now + retry_after(tries),
            last_error=error[:MAX_ERROR],
        )
    )
    return dead


def retry_after(tries: int) -> float:
    """Seconds to wait after the `tries`th failure in a row."""
    return float(min(LAST_RETRY, FIRST_RETRY * 2.0 ** min(max(tries - 1, 0), 20)))


def next_due(conn: Connection, action: str, *, now: float) -> float | None:
    """When the first event that was put off may be tried, seconds since the epoch; None: none was put off."""
    due = conn.execute(
        select(func.min(event_pending.c.not_before)).where(
            event_pending.c.action == action,
            event_pending.c.dead == 0,
            event_pending.c.not_before > now,
            event_pending.c.not_before > _EVER,
        )
    ).scalar_one_or_none()
    return None if due is None else float(due)


def _decoded(name: str, at: float, body: str) -> Event:
    try:
        return Event.decode(body)
    except ValueError:  # a damaged row: tell what is left of it, rather than hold up all later events
        return Event(name, at, {"event_data": "the record of this event could not be read"})


def _chunks(seqs: Sequence[int]) -> Iterable[Sequence[int]]:
    for start in range(0, len(seqs), _CHUNK):
        yield seqs[start : start + _CHUNK]
