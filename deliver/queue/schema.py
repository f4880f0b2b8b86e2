"""The tables of one queue shard, and the numbered migrations that bring a file to them.

    message      one row per accepted message; `content` or `spool_name` until it is complete
    recipient    one row per recipient: state, when it is due, what happened last
    destination  one row per recipient domain: a lower bound of when it is due, and when it was last served
    attempt      one row per attempt: lease, end, what came of it, and its trace
    freeze       rules of the administrator: what they match is held instead of claimed
    report       which notifications went to which sender, and when
    counter      `changes` grows whenever a tool changed something: the relay looks at it
    outbox       the event tables of `events.outbox`, so that events commit with the facts that they report

A recipient is QUEUED, LEASED to an open attempt, HELD until somebody or a date releases it, or in one of the
terminal states DELIVERED and FAILED. `owed`: what the sender is still to be told about it; while something is
owed, `message.report_due` says by when, and the message is not complete.
Invariant: while a recipient of a domain is QUEUED, its destination row has `due` at or before its next
attempt (`claim` looks for due domains there; a missing row would strand mail).

Times are seconds since the epoch. The version is SQLite's user_version. A file from a newer version is
refused and left as it is: it holds mail.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Final

import sqlalchemy
from sqlalchemy import Boolean, Column, Float, ForeignKey, Index, Integer, LargeBinary, MetaData, Table, Text

from deliver.errors import StorageError
from events import outbox


class State(StrEnum):
    """Where a recipient stands."""

    QUEUED = "queued"
    LEASED = "leased"
    HELD = "held"
    DELIVERED = "delivered"
    FAILED = "failed"


OPEN_STATES: Final = (State.QUEUED, State.LEASED, State.HELD)

metadata = MetaData()

message = Table(
    "message",
    metadata,
    Column("id", Text, primary_key=True),
    Column("sender_local_part", Text),  # both NULL: the null reverse path
    Column("sender_domain", Text),
    Column("size", Integer, nullable=False),
    Column("eight_bit", Boolean, nullable=False),
    Column("smtputf8", Boolean, nullable=False, server_default="0"),
    Column("ret", Text),
    Column("envid", Text),
    Column("authenticated", Text),
    Column("received_at", Float, nullable=False),
    Column("content", LargeBinary),
    Column("spool_name", Text),
    Column("completed_at", Float),
    Column("report_due", Float),  # NULL: the sender is owed nothing
    Index("message_completed", "completed_at"),
)
Index(
    "message_report_due",
    message.c.report_due,
    sqlite_where=message.c.report_due.is_not(None),
    postgresql_where=message.c.report_due.is_not(None),
)

recipient = Table(
    "recipient",
    metadata,
    Column("message_id", ForeignKey("message.id", ondelete="CASCADE"), primary_key=True),
    Column("ordinal", Integer, primary_key=True),
    Column("local_part", Text, nullable=False),
    Column("domain", Text, nullable=False),
    Column("notify", Text),
    Column("original_type", Text),  # ORCPT
    Column("original_address", Text),
    Column("sender", Text, nullable=False, server_default=""),  # whose turn, see deliver.queue.claiming
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("in_doubt", Integer, nullable=False, default=0),  # attempts after which the server may hold it
    Column("next_attempt", Float, nullable=False),
    Column("waited", Float, nullable=False, server_default="0"),  # the wait decided last, without jitter
    Column("attempt_id", Integer),  # while LEASED
    Column("last_outcome", Text),  # JSON, see deliver.queue.codec
    Column("finished_at", Float),
    Column("owed", Text),  # see deliver.queue.owed
    Column("warned", Integer, nullable=False, server_default="0"),  # delay warnings that were due so far
    Column("held_reason", Text),  # these three while HELD
    Column("held_until", Float),  # NULL: until somebody releases it
    Column("freeze_id", Integer),  # the rule that holds it
    Index("recipient_due", "state", "domain", "next_attempt"),
    Index("recipient_turn", "state", "domain", "sender", "next_attempt"),
    Index("recipient_leased", "attempt_id"),
)

destination = Table(
    "destination",
    metadata,
    Column("domain", Text, primary_key=True),
    Column("due", Float),  # NULL: no recipient is queued
    Column("served_at", Float, nullable=False),
    Column("last_sender", Text, nullable=False, server_default=""),  # whose turn it was
    Index("destination_due", "due"),
    Index("destination_turn", "served_at", "due", "domain"),
)

attempt = Table(
    "attempt",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("message_id", ForeignKey("message.id", ondelete="CASCADE"), nullable=False),
    Column("domain", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("lease_until", Float, nullable=False),
    Column("ended_at", Float),
    Column("result", Text),
    Column("outcomes", Text),  # JSON: [[ordinal, outcome], …]
    Column("trace", Text),  # JSON: the findings
    Index("attempt_message", "message_id"),
    Index("attempt_open", "ended_at", "lease_until"),
    sqlite_autoincrement=True,  # an id is never used again: the journal refers to it
)

freeze = Table(
    "freeze",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", Text, nullable=False),  # see deliver.queue.freeze
    Column("pattern", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("until", Float),
    sqlite_autoincrement=True,  # held recipients refer to it
)

report = Table(
    "report",
    metadata,
    Column("bounce_id", Text, primary_key=True),
    Column("message_id", ForeignKey("message.id", ondelete="CASCADE"), nullable=False),
    Column("address", Text, nullable=False),
    Column("at", Float, nullable=False),
    Index("report_address", "address", "at"),
    Index("report_message", "message_id"),
)

counter = Table(
    "counter",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Integer, nullable=False),
)


def _add_columns(*added: tuple[str, str]) -> Callable[[sqlalchemy.Connection], None]:
    """A step that adds columns: (table, definition)."""

    def step(connection: sqlalchemy.Connection) -> None:
        for name, definition in added:
            connection.exec_driver_sql(f"ALTER TABLE {name} ADD COLUMN {definition}")

    return step


def _statements(*statements: str) -> Callable[[sqlalchemy.Connection], None]:
    """A step made of SQL."""

    def step(connection: sqlalchemy.Connection) -> None:
        for statement in statements:
            connection.exec_driver_sql(statement)

    return step


# Append only: entry n brings version n + 1 to n + 2. A new file gets the tables above at once.
MIGRATIONS: Final[tuple[Callable[[sqlalchemy.Connection], None], ...]] = (
    _add_columns(
        ("message", "smtputf8 BOOLEAN NOT NULL DEFAULT 0"),
        ("message", "ret TEXT"),
        ("message", "envid TEXT"),
        ("message", "authenticated TEXT"),
        ("recipient", "notify TEXT"),
        ("recipient", "original_type TEXT"),
        ("recipient", "original_address TEXT"),
    ),
    _statements(
        "ALTER TABLE message ADD COLUMN report_due FLOAT",
        "CREATE INDEX message_report_due ON message (report_due) WHERE report_due IS NOT NULL",
        "ALTER TABLE recipient ADD COLUMN owed TEXT",
        "ALTER TABLE recipient ADD COLUMN warned INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE recipient ADD COLUMN held_reason TEXT",
        "ALTER TABLE recipient ADD COLUMN held_until FLOAT",
        "ALTER TABLE recipient ADD COLUMN freeze_id INTEGER",
        """CREATE TABLE freeze (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL,
           pattern TEXT NOT NULL, reason TEXT NOT NULL, created_at FLOAT NOT NULL, until FLOAT)""",
        """CREATE TABLE report (bounce_id TEXT NOT NULL PRIMARY KEY,
           message_id TEXT NOT NULL REFERENCES message (id) ON DELETE CASCADE,
           address TEXT NOT NULL, at FLOAT NOT NULL)""",
        "CREATE INDEX report_address ON report (address, at)",
        "CREATE INDEX report_message ON report (message_id)",
        "CREATE TABLE counter (name TEXT NOT NULL PRIMARY KEY, value INTEGER NOT NULL)",
    ),
    _statements(
        "ALTER TABLE recipient ADD COLUMN sender TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE recipient ADD COLUMN waited FLOAT NOT NULL DEFAULT 0",
        "ALTER TABLE destination ADD COLUMN last_sender TEXT NOT NULL DEFAULT ''",
        "CREATE INDEX recipient_turn ON recipient (state, domain, sender, next_attempt)",
        "CREATE INDEX destination_turn ON destination (served_at, due, domain)",
    ),
)
VERSION: Final = len(MIGRATIONS) + 1


def migrate(connection: sqlalchemy.Connection) -> None:
    """Bring the file to this version, in the caller's transaction. Raises StorageError for a newer one."""
    version = int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
    if version > VERSION:
        raise StorageError(
            "opening the queue",
            f"it was written by a newer version (schema {version}, this version knows {VERSION})",
            "start the newer version again; the queue was left as it is",
        )
    if version == 0:
        metadata.create_all(connection)
        outbox.metadata.create_all(connection)
    else:
        for step in MIGRATIONS[version - 1 :]:
            step(connection)
    if version < VERSION:
        connection.exec_driver_sql(f"PRAGMA user_version={VERSION}")
