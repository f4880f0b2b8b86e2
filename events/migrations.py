"""Numbered migrations of the ready-made tables, on SQLite, PostgreSQL and MariaDB.

`outrider_schema` holds one row per migration that was carried out. Each can be repeated, because MariaDB
commits in the middle of one: it creates only what is not there. A database that a newer Outrider has
migrated is left alone, and its events wait.

A later change gets a number of its own at the end of MIGRATIONS, with ALTER statements for what exists; what
an earlier number creates is then frozen there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, insert, inspect, select, text

from events import log, tables
from events.views import VIEWS

_LOCK = 0x6F757472  # of PostgreSQL's advisory locks: one process migrates at a time

_own = MetaData()

schema = Table(
    "outrider_schema",
    _own,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("what", String(200), nullable=False),
)


class NewerSchema(Exception):
    """The tables belong to a newer Outrider."""


def migrate(conn: Connection) -> int:
    """Bring the tables up to date within the caller's transaction; returns how many migrations were missing.

    Raises NewerSchema, and what the database raises.
    """
    if conn.dialect.name == "postgresql":
        conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    _own.create_all(conn)
    done = set(conn.execute(select(schema.c.version)).scalars())
    if max(done, default=0) > len(MIGRATIONS):
        raise NewerSchema(f"its tables are of version {max(done)}, this Outrider knows {len(MIGRATIONS)}")
    missing = [number for number in range(1, len(MIGRATIONS) + 1) if number not in done]
    for number in missing:
        what, carry_out = MIGRATIONS[number - 1]
        carry_out(conn)
        conn.execute(insert(schema), {"version": number, "what": what})
    return len(missing)


def _create_log(conn: Connection) -> None:
    log.metadata.create_all(conn)


def _create_tables(conn: Connection) -> None:
    tables.metadata.create_all(conn)


def _create_views(conn: Connection) -> None:
    there = set(inspect(conn).get_view_names())
    for view in VIEWS.values():
        if view.table not in there:
            conn.execute(text(f"CREATE VIEW {view.table} AS {view.select}"))


MIGRATIONS: Final[tuple[tuple[str, Callable[[Connection], None]], ...]] = (
    ("event_log", _create_log),
    ("messages, deliveries, attempts, connections, TLS facts", _create_tables),
    ("views", _create_views),
)
