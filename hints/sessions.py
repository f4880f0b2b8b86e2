"""Sealed TLS sessions in their table: kept, claimed, dropped. Synchronous; the transaction is the caller's.

A session of TLS 1.3 leaves the table in the statement that returns it, so that no two processes ever get it;
one of TLS 1.2 stays until it expires or is replaced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, update
from sqlalchemy.dialects.sqlite import Insert, insert

from hints.check import MAX_REASON, MAX_SEALED, MAX_SOURCE, clean, is_origin, is_session
from hints.memory import MAX_TICKETS
from hints.records import SessionKey, TlsSession
from hints.seal import Sealer
from hints.tables import tls_session

__all__ = ["MAX_TICKETS", "Changes", "drop", "has_ticket", "opened", "reusable", "row_of", "store", "take"]

_KEY = tuple(field.name for field in fields(SessionKey))
_COLUMNS = tuple(tls_session.c.keys())

# Written out: to build such statements for every session costs far more than SQLite does.
_IS = " AND ".join(f"{name} = ?" for name in _KEY)
_CURRENT = f"{_IS} AND expires > ? AND saved_at <= ?"
_ALL = ", ".join(_COLUMNS)
_FORGET = f"DELETE FROM tls_session WHERE {_IS} AND saved_at <= ?"  # noqa: S608  # nothing of anybody's is in it
_CLEAR = f"DELETE FROM tls_session WHERE {_IS} AND ticket != ?"  # noqa: S608
_CLEAR_REUSABLE = f"{_CLEAR} AND version = 'TLSv1.2'"
_CROP = (
    f"DELETE FROM tls_session WHERE {_IS} AND rowid IN (SELECT rowid FROM tls_session WHERE {_IS} "  # noqa: S608
    "ORDER BY saved_at DESC, rowid DESC LIMIT -1 OFFSET ?)"
)
_REUSABLE_OF = f"SELECT {_ALL} FROM tls_session WHERE {_CURRENT} AND version = 'TLSv1.2'"  # noqa: S608
_ANY = f"SELECT 1 FROM tls_session WHERE {_CURRENT} LIMIT 1"  # noqa: S608
_TAKE = (
    f"DELETE FROM tls_session WHERE rowid IN (SELECT rowid FROM tls_session WHERE {_CURRENT} "  # noqa: S608
    f"ORDER BY saved_at DESC LIMIT 1) RETURNING {_ALL}"
)


@dataclass(frozen=True, slots=True)
class Changes:
    """What one transaction does: first `forgotten` (key, up to when), then `kept` (rows of `row_of`)."""

    forgotten: Sequence[tuple[SessionKey, float]] = ()
    kept: Sequence[Mapping[str, Any]] = ()


def row_of(session: TlsSession, sealer: Sealer, *, source: str, reason: str) -> dict[str, Any]:
    """The row of an accepted session."""
    return dict(zip(_KEY, astuple(session.key), strict=True)) | {
        "ticket": sealer.ticket(session),
        "version": session.version,
        "saved_at": session.saved_at,
        "sealed": sealer.seal(session),
        "source": clean(source, MAX_SOURCE),
        "reason": clean(reason, MAX_REASON),
        "first_seen": session.saved_at,
        "last_seen": session.saved_at,
        "expires": session.expires,
        "use_count": 0,
    }


def store(conn: Connection, changes: Changes) -> None:
    """Write; of TLS 1.2 in place of the others, of TLS 1.3 beside the newest few.

    Each statement runs once for all: the sessions of a key are of one kind (`hints.memory.added`).
    """
    _each(conn, _FORGET, [(*astuple(key), until) for key, until in changes.forgotten])
    keys = [astuple(_key_of(row)) for row in changes.kept]
    kept = list(zip(keys, changes.kept, strict=True))
    for others, reusable in ((_CLEAR, True), (_CLEAR_REUSABLE, False)):
        of_kind = [(*key, row["ticket"]) for key, row in kept if (row["ticket"] == "reusable") is reusable]
        _each(conn, others, of_kind)
    if kept:
        conn.execute(_put(), changes.kept)
    _each(conn, _CROP, [(*key, *key, MAX_TICKETS) for key in keys])


def _each(conn: Connection, statement: str, rows: list[tuple[Any, ...]]) -> None:
    if rows:
        conn.exec_driver_sql(statement, rows)


@cache
def _put() -> Insert:
    """Insert a row, or put it in the place of the one that is there."""
    statement = insert(tls_session)
    changed = {
        column.name: statement.excluded[column.name] for column in tls_session.c if not column.primary_key
    }
    return statement.on_conflict_do_update(index_elements=list(tls_session.primary_key), set_=changed)


def reusable(conn: Connection, key: SessionKey, now: float) -> Mapping[str, Any] | None:
    """The row of the TLS 1.2 session of this key."""
    return _row(conn.exec_driver_sql(_REUSABLE_OF, (*astuple(key), now, now)).first())


def has_ticket(conn: Connection, key: SessionKey, now: float) -> bool:
    """Whether there is a row to take: costs no write lock."""
    return conn.exec_driver_sql(_ANY, (*astuple(key), now, now)).first() is not None


def take(conn: Connection, key: SessionKey, now: float) -> Mapping[str, Any] | None:
    """Delete and return the newest row of this key."""
    return _row(conn.exec_driver_sql(_TAKE, (*astuple(key), now, now)).first())


def _row(found: Sequence[Any] | None) -> Mapping[str, Any] | None:
    return None if found is None else dict(zip(_COLUMNS, found, strict=True))


def drop(conn: Connection, row: Mapping[str, Any]) -> None:
    """Delete one row that is not believed, unless it was replaced meanwhile."""
    same = (tls_session.c.ticket == row["ticket"], tls_session.c.sealed == row["sealed"])
    conn.execute(delete(tls_session).where(*_of(_key_of(row)), *same))


def count_use(conn: Connection, row: Mapping[str, Any]) -> None:
    """One more use of a session that serves several times."""
    counted = update(tls_session).values(use_count=tls_session.c.use_count + 1)
    conn.execute(counted.where(*_of(_key_of(row)), tls_session.c.ticket == row["ticket"]))


def opened(row: Mapping[str, Any], sealer: Sealer) -> TlsSession | None:
    """The session in a row; None for one that is hostile, damaged or sealed with another key."""
    if not (is_origin(row) and is_session(row)):
        return None
    if not isinstance(row["sealed"], bytes) or len(row["sealed"]) > MAX_SEALED:
        return None
    return sealer.unseal(
        row["sealed"],
        _key_of(row),
        row["ticket"],
        row["version"],
        float(row["saved_at"]),
        float(row["expires"]),
    )


def _key_of(row: Mapping[str, Any]) -> SessionKey:
    return SessionKey(**{name: row[name] for name in _KEY})


def _of(key: SessionKey) -> list[ColumnElement[bool]]:
    return [tls_session.c[name] == value for name, value in zip(_KEY, astuple(key), strict=True)]
