"""A queue file of an older version becomes one of this version, with its mail."""

import sqlalchemy

from deliver.queue import recovery, schema
from events import outbox

FIRST = (  # the tables of version 1, as they were shipped
    """CREATE TABLE message (id TEXT NOT NULL PRIMARY KEY, sender_local_part TEXT, sender_domain TEXT,
       size INTEGER NOT NULL, eight_bit BOOLEAN NOT NULL, received_at FLOAT NOT NULL, content BLOB,
       spool_name TEXT, completed_at FLOAT)""",
    """CREATE TABLE recipient (message_id TEXT NOT NULL REFERENCES message (id) ON DELETE CASCADE,
       ordinal INTEGER NOT NULL, local_part TEXT NOT NULL, domain TEXT NOT NULL, state TEXT NOT NULL,
       attempts INTEGER NOT NULL, in_doubt INTEGER NOT NULL, next_attempt FLOAT NOT NULL,
       attempt_id INTEGER, last_outcome TEXT, finished_at FLOAT, PRIMARY KEY (message_id, ordinal))""",
    """CREATE TABLE destination (domain TEXT NOT NULL PRIMARY KEY, due FLOAT, served_at FLOAT NOT NULL)""",
    """CREATE TABLE attempt (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, message_id TEXT NOT NULL,
       domain TEXT NOT NULL, number INTEGER NOT NULL, started_at FLOAT NOT NULL, lease_until FLOAT NOT NULL,
       ended_at FLOAT, result TEXT, outcomes TEXT, trace TEXT)""",
    "INSERT INTO message VALUES ('m1', NULL, NULL, 3, 0, 1.0, x'610d0a', NULL, NULL)",
    "INSERT INTO recipient VALUES ('m1', 0, 'a', 'b.test', 'queued', 0, 0, 1.0, NULL, NULL, NULL)",
    "PRAGMA user_version=1",
)


LONG_AGO = (  # indexes that are others now
    "CREATE INDEX attempt_open ON attempt (ended_at, lease_until)",
    "CREATE INDEX recipient_due ON recipient (state, domain, next_attempt)",
    "CREATE INDEX recipient_leased ON recipient (attempt_id)",
    "DROP INDEX event_pending_message",
    "CREATE INDEX event_pending_message ON event_pending (action, message_id, seq)",
)


def columns(connection: sqlalchemy.Connection) -> dict[str, set[str]]:
    seen = sqlalchemy.inspect(connection)
    return {table: {each["name"] for each in seen.get_columns(table)} for table in schema.metadata.tables}


def indexes(connection: sqlalchemy.Connection) -> set[str]:
    """Their definitions, blanks and quotes aside."""
    found = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE type = 'index' AND sql NOT NULL")
    return {" ".join(sql.split()) for (sql,) in found}


def test_an_older_file_gets_what_a_new_file_has_and_keeps_its_mail() -> None:
    with sqlalchemy.create_engine("sqlite://").connect() as fresh:
        schema.migrate(fresh)
        expected, indexed = columns(fresh), indexes(fresh)
    with sqlalchemy.create_engine("sqlite://").connect() as old:
        for statement in FIRST:
            old.exec_driver_sql(statement)
        outbox.metadata.create_all(old)
        for statement in LONG_AGO:
            old.exec_driver_sql(statement)
        schema.migrate(old)
        assert columns(old) == expected
        recent = (
            *("message_by", "destination_due", "recipient_held", "recipient_frozen"),
            *("event_pending_message", "attempt_open", "recipient_due", "recipient_turn"),
        )
        assert {each for each in indexed if any(name in each for name in recent)} <= indexes(old)
        assert not any("recipient_leased" in each for each in indexes(old))
        row = old.execute(sqlalchemy.select(schema.message)).one()
        assert (row.id, row.content, row.smtputf8, row.envid) == ("m1", b"a\r\n", False, None)
        assert row.requires_tls is False
        assert old.execute(sqlalchemy.select(schema.recipient.c.notify)).scalar_one() is None
        assert old.exec_driver_sql("PRAGMA user_version").scalar_one() == schema.VERSION


def test_expired_leases_are_found_by_their_index() -> None:
    with sqlalchemy.create_engine("sqlite://").connect() as conn:
        schema.migrate(conn)
        expired = sqlalchemy.select(schema.attempt.c.id).where(*recovery._expired(1.0, None, 0.0, ()))
        query = expired.compile(conn, compile_kwargs={"literal_binds": True})
        (plan,) = conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}")
    assert plan[3] == "SEARCH attempt USING INDEX attempt_open (lease_until<?)"
