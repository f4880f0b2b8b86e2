"""The tables of one queue shard, and the numbered migrations that bring a file to them.

    message      one row per accepted message; `content` or `spool_name` until it is complete
    recipient    one row per recipient: state, when it is due, what happened last
    destination  one row per recipient domain: a lower bound of when it is due, and when it was last served
    attempt      one row per attempt: lease, end, what came of it, and its trace
    freeze       rules of the administrator: what they match is held instead of claimed
    report       which notifications went to which sender, and when
    counter      `changes` grows whenever a tool changed something: the relay looks at it
    taken        recipients that came from a spool directory: none is taken twice (see deliver.spool.ledger)
    outbox       the event tables of `events.outbox`, so that events commit with the facts that they report

A recipient is QUEUED, LEASED to an open attempt, HELD until somebody or a date releases it, or in one of the
terminal states DELIVERED and FAILED. `owed`: what the sender is still to be told about it; while something is
owed, `message.report_due` says by when, and the message is not complete.
Invariant: while a recipient of a domain is QUEUED, its destination row has `due` at or before its next
attempt (`claim` looks for due domains there; a missing row would strand mail).

Times are seconds since the epoch. The version is SQLite's user_version; PostgreSQL has the table
`queue_version`, and content in `content_chunk` instead of spool files (see `deliver.queue.chunks`). Tables of
a newer version are refused and left as they are: they hold mail.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import sqlalchemy
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    insert,
    select,
    text,
)

from deliver.errors import StorageError
from deliver.queue.layout import (
    IS_OPEN,
    IS_QUEUED,
    OPEN_STATES as OPEN_STATES,
    VERSION as VERSION,
    State as State,
)
from events import outbox

# SQLite counts only INTEGER PRIMARY KEY by itself, and its integers have 64 bits anyway.
LONG: Final = BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData()

message = Table(
    "message",
    metadata,
    Column("id", Text, primary_key=True),
    Column("sender_local_part", Text),  # both NULL: the null reverse path
    Column("sender_domain", Text),
    Column("size", LONG, nullable=False),
    Column("eight_bit", Boolean, nullable=False),
    Column("smtputf8", Boolean, nullable=False, server_default="0"),
    Column("ret", Text),
    Column("envid", Text),
    Column("authenticated", Text),
    Column("requires_tls", Boolean, nullable=False, server_default="0"),
    Column("received_at", Float, nullable=False),
    Column("content", LargeBinary),
    Column("spool_name", Text),
    Column("completed_at", Float),
    Column("report_due", Float),  # NULL: the sender is owed nothing
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
    Column("attempt_id", LONG),  # while LEASED
    Column("last_outcome", Text),  # JSON, see deliver.queue.codec
    Column("finished_at", Float),
    Column("owed", Text),  # see deliver.queue.owed
    Column("warned", Integer, nullable=False, server_default="0"),  # delay warnings that were due so far
    Column("held_reason", Text),  # these three while HELD
    Column("held_until", Float),  # NULL: until somebody releases it
    Column("freeze_id", Integer),  # the rule that holds it
)


def is_queued(of: sqlalchemy.FromClause = recipient) -> ColumnElement[bool]:
    """The recipient is QUEUED, in the words of its indexes."""
    return _is_in(State.QUEUED, of)


def is_leased() -> ColumnElement[bool]:
    """The same for LEASED."""
    return _is_in(State.LEASED, recipient)


def _is_in(state: State, of: sqlalchemy.FromClause) -> ColumnElement[bool]:
    return of.c.state == sqlalchemy.literal_column(f"'{state}'")


destination = Table(
    "destination",
    metadata,
    Column("domain", Text, primary_key=True),
    Column("due", Float),  # NULL: no recipient is queued
    Column("served_at", Float, nullable=False),
    Column("last_sender", Text, nullable=False, server_default=""),  # whose turn it was
    Index("destination_due", "due", "domain"),
    Index("destination_turn", "served_at", "due", "domain"),
)

attempt = Table(
    "attempt",
    metadata,
    Column("id", LONG, primary_key=True),
    Column("message_id", ForeignKey("message.id", ondelete="CASCADE"), nullable=False),
    Column("domain", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("lease_until", Float, nullable=False),
    Column("ended_at", Float),
    Column("result", Text),
    Column("outcomes", Text),  # JSON: [[ordinal, outcome], …]
    Column("trace", Text),  # JSON: the findings
    Column("node", Text),  # who makes it, where several share a database
    Index("attempt_message", "message_id"),
    sqlite_autoincrement=True,  # an id is never used again: the journal refers to it
)

# Indexes of some rows: table, name, columns, which rows. For PostgreSQL they are made by their text: to name
# it in an Index loads its whole dialect, also where nobody has such a database.
_OF_SOME: Final = (
    (message, "message_report_due", ("report_due",), "report_due IS NOT NULL"),
    (message, "message_completed", ("completed_at",), "completed_at IS NOT NULL"),
    (message, "message_by_age", ("received_at",), "completed_at IS NULL"),
    (message, "message_by_size", ("size",), "completed_at IS NULL"),
    (recipient, "recipient_due", ("state", "domain", "next_attempt"), " OR ".join(IS_OPEN)),
    (recipient, "recipient_turn", ("state", "domain", "sender", "next_attempt"), IS_QUEUED),
    (recipient, "recipient_held", ("held_until",), "held_until IS NOT NULL"),
    (recipient, "recipient_frozen", ("freeze_id",), "freeze_id IS NOT NULL"),
    (attempt, "attempt_open", ("lease_until",), "ended_at IS NULL"),
)
for _table, _name, _columns, _which in _OF_SOME:
    Index(_name, *(_table.c[_column] for _column in _columns), sqlite_where=text(_which)).ddl_if("sqlite")

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
    Column("value", LONG, nullable=False),
)

taken = Table(
    "taken",
    metadata,
    Column("spool_id", Text, primary_key=True),
    Column("digest", LargeBinary, primary_key=True),  # of the sender and the content
    Column("recipient", Text, primary_key=True),
    Column("message_id", Text, nullable=False),  # as which it is, or was, in the queue
    Column("at", Float, nullable=False),
    Index("taken_at", "at"),
)

# In PostgreSQL only. No foreign key: chunks are written while the message arrives, before its row.
shared = MetaData()

queue_version = Table("queue_version", shared, Column("version", Integer, nullable=False))

content_chunk = Table(
    "content_chunk",
    shared,
    Column("message_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),  # from 0
    Column("data", LargeBinary, nullable=False),
    Column("written_at", Float, nullable=False),
    Index("content_chunk_written", "written_at"),
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


def _create_taken(connection: sqlalchemy.Connection) -> None:
    octets = "BYTEA" if connection.dialect.name == "postgresql" else "BLOB"
    connection.exec_driver_sql(
        f"CREATE TABLE taken (spool_id TEXT NOT NULL, digest {octets} NOT NULL, recipient TEXT NOT NULL, "
        "message_id TEXT NOT NULL, at FLOAT NOT NULL, PRIMARY KEY (spool_id, digest, recipient))"
    )
    connection.exec_driver_sql("CREATE INDEX taken_at ON taken (at)")


def _widen_size(connection: sqlalchemy.Connection) -> None:
    if connection.dialect.name == "postgresql":  # the integers of SQLite are wide enough
        connection.exec_driver_sql("ALTER TABLE message ALTER COLUMN size TYPE BIGINT")


def _index_what_is_put_off(connection: sqlalchemy.Connection) -> None:
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("DROP INDEX IF EXISTS event_pending_message")
        connection.exec_driver_sql(
            "CREATE INDEX event_pending_message ON event_pending (action, message_id, seq) "
            "WHERE not_before > 0"
        )


def _all_of(
    *steps: Callable[[sqlalchemy.Connection], None],
) -> Callable[[sqlalchemy.Connection], None]:
    """One step made of several."""

    def step(connection: sqlalchemy.Connection) -> None:
        for each in steps:
            each(connection)

    return step


# Append only: entry n brings version n + 1 to n + 2. A new file gets the tables above at once. From
# FIRST_SHARED on each must do on PostgreSQL too.
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
    _add_columns(("attempt", "node TEXT")),
    _create_taken,
    _statements(
        "DROP INDEX IF EXISTS message_completed",
        "CREATE INDEX message_completed ON message (completed_at) WHERE completed_at IS NOT NULL",
        "CREATE INDEX message_by_age ON message (received_at) WHERE completed_at IS NULL",
        "CREATE INDEX message_by_size ON message (size) WHERE completed_at IS NULL",
    ),
    _all_of(
        _widen_size,
        _statements(
            "DROP INDEX IF EXISTS destination_due",
            "CREATE INDEX destination_due ON destination (due, domain)",
            "DROP INDEX IF EXISTS recipient_held",
            "CREATE INDEX recipient_held ON recipient (held_until) WHERE held_until IS NOT NULL",
            "DROP INDEX IF EXISTS recipient_frozen",
            "CREATE INDEX recipient_frozen ON recipient (freeze_id) WHERE freeze_id IS NOT NULL",
        ),
    ),
    _all_of(
        _index_what_is_put_off,
        _statements(
            "DROP INDEX IF EXISTS recipient_leased",
            "DROP INDEX IF EXISTS attempt_open",
            "CREATE INDEX attempt_open ON attempt (lease_until) WHERE ended_at IS NULL",
            "DROP INDEX IF EXISTS recipient_due",
            "CREATE INDEX recipient_due ON recipient (state, domain, next_attempt) "
            "WHERE state = 'queued' OR state = 'leased' OR state = 'held'",
            "DROP INDEX IF EXISTS recipient_turn",
            "CREATE INDEX recipient_turn ON recipient (state, domain, sender, next_attempt) "
            "WHERE state = 'queued'",
        ),
    ),
    _add_columns(("message", "requires_tls BOOLEAN NOT NULL DEFAULT FALSE")),
)
assert len(MIGRATIONS) + 1 == VERSION, "a new migration makes a new version"
FIRST_SHARED: Final = 5  # with which PostgreSQL began
_MIGRATING: Final = 0x6F757471  # of PostgreSQL's advisory locks: one process migrates at a time


def migrate(connection: sqlalchemy.Connection) -> None:
    """Bring the tables to this version, in the caller's transaction. Raises StorageError for a newer one."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(sqlalchemy.func.pg_advisory_xact_lock(_MIGRATING)))
    version = version_of(connection)
    if version > VERSION:
        raise StorageError(
            "opening the queue",
            f"it was written by a newer version (schema {version}, this version knows {VERSION})",
            "start the newer version again; the queue was left as it is",
        )
    if version == 0:
        metadata.create_all(connection)
        outbox.metadata.create_all(connection)
        if connection.dialect.name == "postgresql":
            _create_shared(connection)
    else:
        for step in MIGRATIONS[version - 1 :]:
            step(connection)
    if version < VERSION:
        _note_version(connection)


def version_of(connection: sqlalchemy.Connection) -> int:
    """The version of the tables, 0 where there are none."""
    if connection.dialect.name == "sqlite":
        return int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
    if not sqlalchemy.inspect(connection).has_table(queue_version.name):
        return 0
    return int(connection.execute(select(queue_version.c.version)).scalar_one())


def _create_shared(connection: sqlalchemy.Connection) -> None:
    shared.create_all(connection)
    for table, name, columns, which in _OF_SOME:
        listed = ", ".join(columns)
        connection.exec_driver_sql(f"CREATE INDEX {name} ON {table.name} ({listed}) WHERE {which}")
    # mail is hardly compressible, and parts of what is not compressed can be read
    connection.execute(text("ALTER TABLE content_chunk ALTER COLUMN data SET STORAGE EXTERNAL"))
    connection.execute(insert(queue_version).values(version=0))


def _note_version(connection: sqlalchemy.Connection) -> None:
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(f"PRAGMA user_version={VERSION}")
    else:
        connection.execute(sqlalchemy.update(queue_version).values(version=VERSION))
