"""Reading the ready-made table `event_log` for people: the last events, and those that arrive.

Synchronous; opens SQLite files read-only and never creates one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Select, create_engine, inspect, select, text
from sqlalchemy.engine import URL

from events.fields import Scalar
from events.log import event_log
from events.views import View

MAX_ROWS = 10_000

_HIDDEN = ("seq", "fields", "time")


class NoLog(Exception):
    """There is no event log to read (yet); the text says why."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events to show. `name`: an event or a pattern with `*`; None means any."""

    name: str | None = None
    message_id: str | None = None


ANY = Filter()


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the log: `facts` are the columns that are not NULL, `fields` all fields as JSON text."""

    seq: int
    id: str
    at: float
    name: str
    facts: dict[str, Scalar]
    fields: str


@contextmanager
def opened(url: URL, table: str = event_log.name) -> Iterator[Connection]:
    """A connection for reading `table` in `url`. Raises NoLog when there is none, and database errors."""
    if url.get_backend_name() == "sqlite" and url.database:
        path = Path(url.database).absolute()
        if not path.exists():
            raise NoLog(f"{path} does not exist: no event was recorded yet")
        # rw and not ro: a reader of a WAL file has to be able to make its -shm; nothing is ever written
        url = url.set(database=f"file:{path}").update_query_dict({"mode": "rw", "uri": "true"})
    engine = create_engine(url, hide_parameters=True)
    try:
        with engine.connect() as conn:
            if url.get_backend_name() == "sqlite":
                conn.exec_driver_sql("PRAGMA query_only=ON")
            if not inspect(conn).has_table(table):
                raise NoLog(f"there is no table {table}: no event was recorded yet")
            yield conn
    finally:
        engine.dispose()


def last(conn: Connection, count: int, wanted: Filter = ANY) -> tuple[Line, ...]:
    """The last `count` events (at most `MAX_ROWS`), oldest first."""
    query = _filtered(wanted).order_by(event_log.c.seq.desc()).limit(max(0, min(count, MAX_ROWS)))
    return tuple(reversed([_line(row._asdict()) for row in conn.execute(query)]))


def after(conn: Connection, seq: int, wanted: Filter = ANY) -> tuple[Line, ...]:
    """Events that arrived after the one numbered `seq`, oldest first, at most `MAX_ROWS`."""
    query = _filtered(wanted).where(event_log.c.seq > seq).order_by(event_log.c.seq).limit(MAX_ROWS)
    lines = tuple(_line(row._asdict()) for row in conn.execute(query))
    conn.rollback()  # ends the snapshot, so that the next call sees what arrived since
    return lines


def answer(conn: Connection, view: View, count: int) -> tuple[dict[str, Scalar], ...]:
    """The first `count` rows (at most `MAX_ROWS`) of a documented view, in its own order."""
    query = f"SELECT * FROM {view.table} ORDER BY {view.order} LIMIT :count"  # noqa: S608 (ours alone)
    rows = conn.execute(text(query), {"count": max(0, min(count, MAX_ROWS))})
    return tuple(dict(row) for row in rows.mappings())


def _filtered(wanted: Filter) -> Select[Any]:
    query = select(event_log)
    if wanted.name is not None:
        parts = (
            part.replace("/", "//").replace("%", "/%").replace("_", "/_") for part in wanted.name.split("*")
        )
        query = query.where(event_log.c.name.like("%".join(parts), escape="/"))
    if wanted.message_id is not None:
        query = query.where(event_log.c.message_id == wanted.message_id)
    return query


def _line(row: dict[str, Scalar]) -> Line:
    told: dict[str, Scalar] = {
        name: value for name, value in row.items() if value is not None and name not in _HIDDEN
    }
    seq, at = row["seq"], row["at"]
    assert isinstance(seq, int)
    assert isinstance(at, int | float)
    return Line(seq, str(row["id"]), float(at), str(row["name"]), told, str(row["fields"]))
