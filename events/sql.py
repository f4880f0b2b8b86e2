"""Runs event actions on their databases: synchronous, one transaction per batch, any SQLAlchemy URL.

What a failure means:

    database unreachable, locked, full, table or right missing   Unavailable: nothing was done, try all later
    one event refused (constraint, data)                         the others are committed, it is in `refused`
                                                                 and so are the later events of its message

A batch that fails because of one event is repeated one event at a time, each in a savepoint. The caller
gives the calls to worker threads (`events.shipper`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError, StatementError

from events import filing, jsonlines
from events.actions import Action, EventAction, FileAction, facts
from events.migrations import NewerSchema, migrate
from events.outbox import MAX_ERROR, Pending

BUSY_MS = 5000  # a SQLite target may be held by another program for a moment
CONNECT_SECONDS = 10

# What one event can be to blame for; anything else is the database's trouble.
_EVENTS_FAULT = (IntegrityError, DataError)


class Unavailable(Exception):
    """The action's database cannot take events now; the text says why and holds no password."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An event that stays in the outbox. `held`: only because an earlier one of its message was refused."""

    pending: Pending
    error: str
    held: bool = False


@dataclass(frozen=True, slots=True)
class Shipment:
    """What became of a batch."""

    done: tuple[Pending, ...]
    refused: tuple[Refusal, ...] = ()


class Databases:
    """The engines of the actions' databases, made on first use. Thread-safe."""

    def __init__(self) -> None:
        self._engines: dict[URL, Engine] = {}
        self._ready: set[URL] = set()
        self._lock = Lock()

    def ship(self, action: Action, batch: Sequence[Pending]) -> Shipment:
        """Run the action for a batch in one transaction. Raises Unavailable."""
        try:
            if isinstance(action, FileAction):
                jsonlines.append(action.path, batch)
                return Shipment(tuple(batch))
            engine = self._engine(action)
            try:
                with engine.begin() as conn:
                    _run(conn, action, batch, again=False)
                return Shipment(tuple(batch))
            except _EVENTS_FAULT:
                return _one_by_one(engine, action, batch)
        except (SQLAlchemyError, OSError, NewerSchema) as error:
            raise Unavailable(reason(error)) from error

    def reach(self, action: Action) -> None:
        """Connect, and do nothing. Raises Unavailable."""
        if isinstance(action, FileAction):
            return
        try:
            with self._engine(action).connect():
                pass
        except (SQLAlchemyError, OSError, NewerSchema) as error:
            raise Unavailable(reason(error)) from error

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for engine in self._engines.values():
                engine.dispose()
            self._engines.clear()
            self._ready.clear()

    def _engine(self, action: EventAction) -> Engine:
        with self._lock:
            engine = self._engines.get(action.database)
            if engine is None:
                engine = self._engines[action.database] = open_engine(action.database)
            if not action.statements and action.database not in self._ready:
                with engine.begin() as conn:
                    migrate(conn)
                self._ready.add(action.database)
            return engine


def open_engine(url: URL) -> Engine:
    """An engine; SQLite files are created with mode 0600, in WAL mode. Raises OSError."""
    if url.get_backend_name() != "sqlite":
        timeout = {"connect_timeout": CONNECT_SECONDS} if url.get_backend_name() in TIMED else {}
        return create_engine(url, pool_size=1, pool_pre_ping=True, hide_parameters=True, connect_args=timeout)
    if url.database and not url.database.startswith((":memory:", "file:")):
        _create_private(Path(url.database))
    engine = create_engine(url, hide_parameters=True)
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_immediate)
    return engine


TIMED = ("postgresql", "mysql", "mariadb")


def reason(error: Exception) -> str:
    """A database error in one bounded line, without statement and parameters."""
    origin = error.orig if isinstance(error, StatementError) and error.orig is not None else error
    return " ".join(str(origin).split())[:MAX_ERROR] or type(origin).__name__


def _run(conn: Connection, action: EventAction, batch: Sequence[Pending], *, again: bool) -> None:
    """`again`: some of the batch may be there already, of an earlier run whose end nobody heard of."""
    if not action.statements:
        filing.file(conn, batch, again=again)
        return
    for one in batch:  # not executemany: statements that return rows, such as SELECT f(…), are allowed
        known = facts(one)
        for statement in action.statements:
            conn.execute(statement.text, statement.values(known))


def _one_by_one(engine: Engine, action: EventAction, batch: Sequence[Pending]) -> Shipment:
    done: list[Pending] = []
    refused: list[Refusal] = []
    stopped: set[str] = set()
    with engine.begin() as conn:
        for one in batch:
            if one.message_id is not None and one.message_id in stopped:
                refused.append(Refusal(one, "an earlier event of its message waits", held=True))
                continue
            try:
                with conn.begin_nested():
                    _run(conn, action, (one,), again=True)
                done.append(one)
            except _EVENTS_FAULT as error:
                refused.append(Refusal(one, reason(error)))
                if one.message_id is not None:
                    stopped.add(one.message_id)
    return Shipment(tuple(done), tuple(refused))


def _create_private(path: Path) -> None:
    """SQLite gives -wal and -shm the mode of the database file."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # else the driver decides when transactions begin
    connection.execute(f"PRAGMA busy_timeout={BUSY_MS}")
    connection.execute("PRAGMA journal_mode=WAL")


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
