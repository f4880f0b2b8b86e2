"""The tables of an older version become those of this one, on each database."""

from __future__ import annotations

from sqlalchemy import inspect, select, update

from deliver.queue import schema
from deliver.queue.schema import message, queue_version
from tests.unit.queue.values import accept, claim, envelope

BEFORE_REQUIRETLS = 9


def is_of_version(conn, version):
    if conn.dialect.name == "sqlite":
        conn.exec_driver_sql(f"PRAGMA user_version={version}")
    else:
        conn.execute(update(queue_version).values(version=version))


def test_mail_of_version_9_did_not_ask_for_requiretls(conn):
    made = accept(conn, "m1")
    conn.exec_driver_sql("ALTER TABLE message DROP COLUMN requires_tls")
    is_of_version(conn, BEFORE_REQUIRETLS)
    schema.migrate(conn)
    assert schema.version_of(conn) == schema.VERSION
    assert conn.execute(select(message.c.requires_tls)).scalar_one() is False
    (column,) = (each for each in inspect(conn).get_columns("message") if each["name"] == "requires_tls")
    assert not column["nullable"]
    (claimed,) = claim(conn)
    assert claimed.envelope == made == envelope("m1")
