"""Connections to a hints file, and what their errors mean.

SQLite or the system says                     it becomes
--------------------------------------------  -----------
corrupt, not a database, no such table        Damaged: the file is to be replaced
locked, full, read-only, no such directory    Unavailable: try again later
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError

from hints.check import lenient_text

MIN_PAGES = 64
WRITE_BUSY_MS = 2000
WAL_PAUSE = 0.01  # seconds

# SQLITE_ERROR: our statements are fixed, so that it means missing tables or columns.
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


class Unavailable(Exception):
    """The file cannot be used now; the text says why."""


class Busy(Unavailable):
    """Another connection is writing; what was asked may be asked again at once."""


class Damaged(Exception):
    """The file is no database, or its tables are not what its version says."""


def _enter_wal(connection: sqlite3.Connection, busy_ms: int) -> None:
    """The first process turns WAL on; SQLite's busy timeout does not hold for those beside it."""
    patience = time.monotonic() + busy_ms / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= patience:
                raise
            time.sleep(WAL_PAUSE)


def connect(path: Path, busy_ms: int, max_size: int) -> sqlite3.Connection:
    """A connection of its own, for one thread at a time."""
    connection = sqlite3.connect(path, check_same_thread=False)
    try:
        _configure(connection, busy_ms, max_size)
    except BaseException:
        connection.close()
        raise
    return connection


def _configure(connection: sqlite3.Connection, busy_ms: int, max_size: int) -> None:
    connection.isolation_level = None  # else the driver decides when transactions begin
    connection.text_factory = lenient_text
    connection.execute(f"PRAGMA busy_timeout={busy_ms}")
    _enter_wal(connection, busy_ms)
    connection.execute("PRAGMA synchronous=NORMAL")
    (page,) = connection.execute("PRAGMA page_size").fetchone()
    connection.execute(f"PRAGMA max_page_count={max(MIN_PAGES, max_size // page)}")
    connection.execute("PRAGMA journal_size_limit=1048576")


def make_engine(path: Path, begin: str, busy_ms: int, max_size: int) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}", hide_parameters=True, connect_args={"check_same_thread": False}
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        _configure(connection, busy_ms, max_size)

    @event.listens_for(engine, "begin")
    def start(conn: Connection) -> None:
        conn.exec_driver_sql(begin)

    return engine


@contextmanager
def translated() -> Iterator[None]:
    """Errors of SQLite and of the file system as Damaged or Unavailable."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        origin = error.orig if isinstance(error, DBAPIError) else error
        text = str(origin)
        if code_of(origin) in _DAMAGED:
            raise Damaged(text) from error
        raise (Busy if code_of(origin) == sqlite3.SQLITE_BUSY else Unavailable)(text) from error
    except UnicodeDecodeError as error:  # of a message that names something in a damaged schema
        raise Damaged("names in it are no text") from error
    except OSError as error:
        raise Unavailable(f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")) from error


@contextmanager
def translated_damage() -> Iterator[None]:
    """As `translated`, where damage has been dealt with once already."""
    try:
        with translated():
            yield
    except Damaged as damage:
        raise Unavailable(f"damaged again: {damage}") from damage


def code_of(error: object) -> int:
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
