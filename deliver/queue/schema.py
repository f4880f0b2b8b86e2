"""The tables of one queue shard, and the numbered migrations that bring a file to them.

    message      one row per accepted message; `content` or `spool_name` until it is complete
    recipient    one row per recipient: state, when it is due, what happened last
    destination  one row per recipient domain: a lower bound of when it is due, and when it was last served
    attempt      one row per attempt: lease, end, what came of it, and its trace
    outbox       the event tables of `events.outbox`, so that events commit with the facts that they report

A recipient is QUEUED, LEASED to an open attempt, or in one of the terminal states DELIVERED and FAILED.
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
    DELIVERED = "delivered"
    FAILED = "failed"


OPEN_STATES: Final = (State.QUEUED, State.LEASED)

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
    Index("message_completed", "completed_at"),
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
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("in_doubt", Integer, nullable=False, default=0),  # attempts after which the server may hold it
    Column("next_attempt", Float, nullable=False),
    Column("attempt_id", Integer),  # while LEASED
    Column("last_outcome", Text),  # JSON, see deliver.queue.codec
    Column("finished_at", Float),
    Index("recipient_due", "state", "domain", "next_attempt"),
    Index("recipient_leased", "attempt_id"),
)

destination = Table(
    "destination",
    metadata,
    Column("domain", Text, primary_key=True),
    Column("due", Float),  # NULL: no recipient is queued
    Column("served_at", Float, nullable=False),
    Index("destination_due", "due"),
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


def _add_columns(*added: tuple[str, str]) -> Callable[[sqlalchemy.Connection], None]:
    """A step that adds columns: (table, definition)."""

    def step(connection: sqlalchemy.Connection) -> None:
        for name, definition in added:
            connection.exec_driver_sql(f"ALTER TABLE {name} ADD COLUMN {definition}")

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
