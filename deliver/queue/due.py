"""The table of destinations: which recipient domains have something due, so that `claim` need not search.

Invariant: `due` of a domain is at or before the next attempt of each of its queued recipients. Every change
of a queued recipient goes along with one of these functions, in the same transaction.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    ScalarSelect,
    Select,
    Text,
    bindparam,
    case,
    delete,
    func,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import sqlite

from deliver.queue.locking import lock_destination
from deliver.queue.schema import destination, is_queued, recipient
from deliver.queue.statement import Statement

PAGE: Final = 200  # destinations that are looked at in one query, at most
FIRST_PAGE: Final = 25  # of the first one: mostly that is enough; each of the next ones is twice as long
FEW: Final = 20  # of those that are given: mostly one of the first has something

LOOKED_AT: Final = 1000  # destinations that one look of the runner goes through
_FRONT_OF_DUE: Final = (-math.inf, "")
_BEHIND_ALL: Final = chr(0x10FFFF)  # no domain's name is greater
_FRONT_OF_TURN: Final = (-math.inf, -math.inf, "")

Place = tuple[float | str, ...]  # in an ordered query: the values that it is ordered by
Opening = Callable[[str], float]  # from when on a domain may have one more attempt; inf: that will be said


def always(domain: str) -> float:
    """For callers without limits."""
    return -math.inf


@dataclass(slots=True)
class Line:
    """How far the line of due destinations was looked through, where it is too long for one look.

    `behind`: the turn of the destination that was looked at last; None: the next look begins at the front.
    """

    behind: tuple[float, float, str] | None = None


@dataclass(slots=True)
class Survey:
    """What a claim found out about all that is due, so that nobody need look through it again.

    `whole`: it has seen every due destination; `opening` is then when one of them opens that is closed now.
    """

    whole: bool = False
    opening: float = math.inf


def next_due(conn: Connection, opens_at: Opening = always, *, soon: float | None = None) -> float | None:
    """When the next recipient is due and its domain open; None when none is queued, or none will open.

    With `soon` (epoch seconds) no more than LOOKED_AT destinations are looked at, and what is behind them
    might be due by then.
    """
    earliest = math.inf
    for number, row in enumerate(_pages(conn, _BY_DUE, _FRONT_OF_DUE, _place_by_due)):
        if row.due >= earliest:
            break
        if soon is not None and number >= LOOKED_AT:
            return min(earliest, max(float(row.due), soon))
        earliest = min(earliest, max(float(row.due), opens_at(row.domain)))
    return None if earliest == math.inf else earliest


def next_after(conn: Connection, now: float, opens_at: Opening, opening: float) -> float | None:
    """`next_due`, where no destination that is due at `now` opens before `opening`."""
    earliest = opening
    for row in _pages(conn, _BY_DUE, (now, _BEHIND_ALL), _place_by_due):
        if row.due >= earliest:
            break
        earliest = min(earliest, max(float(row.due), opens_at(row.domain)))
    return None if earliest == math.inf else earliest


def first_due(conn: Connection) -> float:
    """No recipient is due before that, whether its domain is open or not; inf when none is queued."""
    earliest = _FIRST_DUE.scalar(conn)
    return math.inf if earliest is None else float(earliest)


def note_due(conn: Connection, domain: str, due: float) -> None:
    """A recipient of the domain was queued for `due`: lower the bound that `claim` goes by."""
    (_NOTE_DUE if conn.dialect.name == "sqlite" else _note_due_postgresql()).change(
        conn, domain=domain, due=due, served_at=0.0
    )


def note_due_each(conn: Connection, dues: Mapping[str, float]) -> None:
    """`note_due` for each domain and its earliest."""
    rows: list[dict[str, object]] = [
        {"domain": domain, "due": dues[domain], "served_at": 0.0} for domain in sorted(dues)
    ]
    (_NOTE_DUE if conn.dialect.name == "sqlite" else _note_due_postgresql()).change_each(conn, rows)


def note_due_again(conn: Connection, domain: str) -> None:
    """Set the bound of the domain to the earliest next attempt of its queued recipients, exactly."""
    lock_destination(conn, domain)
    if _DUE_AGAIN.change(conn, of=domain) == 0:  # forgotten while its last recipient was under way
        earliest = _EARLIEST.scalar(conn, of=domain)
        if earliest is not None:
            note_due(conn, domain, earliest)


def due_domains(
    conn: Connection,
    now: float,
    opens_at: Opening,
    limit: int,
    line: Line | None = None,
    survey: Survey | None = None,
) -> list[tuple[str, str]]:
    """Domains with something due that are open, each with the sender who was served last.

    The one that was served longest ago is first. With `line` no more than LOOKED_AT are looked at, and the
    next call goes on behind them: the line may be long, and all of it be closed. `survey` is filled.
    """
    found: list[tuple[str, str]] = []
    survey = survey or Survey()
    if first_due(conn) > now:
        survey.whole = True
        return found
    at_front = line is None or line.behind is None
    front = _FRONT_OF_TURN if line is None or line.behind is None else line.behind
    for number, row in enumerate(_pages(conn, _IN_TURN, front, _place_in_turn, now=now)):
        opens = opens_at(row.domain)
        if opens <= now:
            found.append((row.domain, row.last_sender))
        elif opens < survey.opening:
            survey.opening = opens
        if len(found) >= limit:
            if line is not None and line.behind is not None:
                line.behind = _place_in_turn(row)
            return found
        if line is not None and number + 1 >= LOOKED_AT:
            line.behind = _place_in_turn(row)
            return found
    survey.whole = at_front
    if line is not None and line.behind is not None:
        line.behind = None
        if not found:  # those at the front were not looked at this time
            return due_domains(conn, now, opens_at, limit, line, survey)
    return found


def due_again(conn: Connection, now: float, domains: Iterable[str]) -> list[tuple[str, str]]:
    """Those of the domains that have something due still, whether open or not, in the order of `due_domains`.

    SQLite only.
    """
    found = _DUE_AGAIN_AMONG.all(conn, domains=json.dumps([*domains]), now=now)
    return [(row.domain, row.last_sender) for row in found]


def due_among(
    conn: Connection, now: float, domains: tuple[str, ...], opens_at: Opening, limit: int
) -> list[tuple[str, str]]:
    """The same of the given domains, in their order."""
    found: list[tuple[str, str]] = []
    if first_due(conn) > now:
        return found
    for start in range(0, len(domains), FEW):
        few = domains[start : start + FEW]
        due = {row.domain: row.last_sender for row in _due_of(conn, few, now)}
        for each in few:
            if each in due and opens_at(each) <= now:
                found.append((each, due[each]))
                if len(found) >= limit:
                    return found
    return found


def note_all_served(conn: Connection, served: Iterable[tuple[str, str]], now: float) -> None:
    """These domains had their turn, with these senders; they go to the end of the line, bounds set exactly.

    The claim that calls this has locked the destinations, see `deliver.queue.locking`.
    """
    _SERVED.change_each(conn, [{"of": domain, "by": sender, "at": now} for domain, sender in served])


def forget_idle(conn: Connection, before: float) -> int:
    """Delete destinations without queued mail that were not served since; returns how many."""
    idle = destination.c.due.is_(None) & (destination.c.served_at < before)
    return conn.execute(delete(destination).where(idle)).rowcount


def _due_of(conn: Connection, few: Sequence[str], now: float) -> list[Any]:
    if conn.dialect.name == "sqlite":
        return _DUE_AMONG.all(conn, domains=json.dumps(few), now=now)
    return list(conn.execute(_due_among_postgresql(), {"domains": list(few), "now": now}))


def _pages(
    conn: Connection, query: Statement, front: Place, place: Callable[[Any], Place], **values: object
) -> Iterator[Any]:
    """The rows of an ordered query behind `front`, fetched as they are looked at."""
    page = min(FIRST_PAGE, PAGE)
    while True:
        behind = {f"behind_{number}": each for number, each in enumerate(front)}
        rows = query.all(conn, page=page, **behind, **values)
        yield from rows
        if len(rows) < page:
            return
        front, page = place(rows[-1]), min(2 * page, PAGE)


def _place_by_due(row: Any) -> Place:
    return (row.due, row.domain)


def _place_in_turn(row: Any) -> tuple[float, float, str]:
    return (row.served_at, row.due, row.domain)


def _earliest() -> ScalarSelect[float | None]:
    return (
        select(func.min(recipient.c.next_attempt))
        .where(is_queued(), recipient.c.domain == bindparam("of"))
        .scalar_subquery()
    )


def _paged(query: Any, *order: ColumnElement[Any]) -> Statement:
    """A page of the query, in the order of these columns, behind a place in it."""
    place = tuple_(*(bindparam(f"behind_{number}", type_=each.type) for number, each in enumerate(order)))
    return Statement(
        query.where(tuple_(*order) > place).order_by(*order).limit(bindparam("page", type_=Integer))
    )


def _note_due(insert: Any) -> Statement:
    row = insert(destination)
    later = or_(destination.c.due.is_(None), destination.c.due > row.excluded.due)
    return Statement(
        row.on_conflict_do_update(
            index_elements=[destination.c.domain],
            set_={"due": case((later, row.excluded.due), else_=destination.c.due)},
        ),
        ("domain", "due", "served_at"),
    )


@cache
def _note_due_postgresql() -> Statement:
    from sqlalchemy.dialects import postgresql  # takes long to load: tools of a shard need not wait for it

    return _note_due(postgresql.insert)


@cache
def _due_among_postgresql() -> Select[Any]:
    from sqlalchemy.dialects import postgresql

    among = bindparam("domains", type_=postgresql.ARRAY(Text))
    return _DUE_NOW.where(destination.c.domain == func.any(among))


_ONE: Final = destination.c.domain == bindparam("of")
_NOTE_DUE: Final = _note_due(sqlite.insert)
_EARLIEST: Final = Statement(select(_earliest()))
_DUE_AGAIN: Final = Statement(update(destination).where(_ONE).values(due=_earliest()))
_SERVED: Final = Statement(
    update(destination)
    .where(_ONE)
    .values(due=_earliest(), served_at=bindparam("at"), last_sender=bindparam("by"))
)
_FIRST_DUE: Final = Statement(select(func.min(destination.c.due)))
_DUE_NOW: Final = select(destination.c.domain, destination.c.last_sender).where(
    destination.c.due <= bindparam("now")
)
_GIVEN: Final = select(func.json_each(bindparam("domains", type_=Text)).table_valued("value").c.value)
_DUE_AMONG: Final = Statement(_DUE_NOW.where(destination.c.domain.in_(_GIVEN)))
_DUE_AGAIN_AMONG: Final = Statement(
    _DUE_NOW.where(destination.c.domain.in_(_GIVEN)).order_by(
        destination.c.served_at, destination.c.due, destination.c.domain
    )
)
_BY_DUE: Final = _paged(
    select(destination).where(destination.c.due.is_not(None)), destination.c.due, destination.c.domain
)
# the function keeps databases from choosing the index on `due`, which would make them sort what it finds
_IN_TURN: Final = _paged(
    select(destination).where(func.coalesce(destination.c.due, math.inf) <= bindparam("now")),
    destination.c.served_at,
    destination.c.due,
    destination.c.domain,
)
