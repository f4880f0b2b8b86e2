"""Running actions on real SQLite files: batches, refusals, repetition, trouble."""

from __future__ import annotations

import json
import sqlite3
import stat
from contextlib import closing

import pytest
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.schema import CreateTable

from events.actions import parse_action, ready_made
from events.catalogue import Event
from events.log import event_log
from events.outbox import Pending
from events.sql import Databases, Unavailable


@pytest.fixture
def databases():
    databases = Databases()
    yield databases
    databases.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "target.db"


def rows(path, sql):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def run(path, sql):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(sql)
        connection.commit()


def pending(number: int, message: str | None = "m1", **fields) -> Pending:
    return Pending(number, f"id{number}", message, Event("msg:delivery", 1000.5 + number, fields))


def test_the_ready_made_table_is_created_private_and_filled(databases, path):
    action = ready_made(f"sqlite:///{path}")
    batch = [
        pending(1, local_part="u", domain="example.org", smtp_code=250, event_data="ok"),
        pending(2, None),
    ]
    assert databases.ship(action, batch).done == tuple(batch)
    found = rows(
        path, "SELECT id, name, message_id, local_part, domain, smtp_code, event_data, time FROM event_log"
    )
    assert found == [
        ("id1", "msg:delivery", "m1", "u", "example.org", 250, "ok", "1970-01-01T00:16:41.500Z"),
        ("id2", "msg:delivery", None, None, None, None, None, "1970-01-01T00:16:42.500Z"),
    ]
    assert json.loads(rows(path, "SELECT fields FROM event_log")[0][0])["local_part"] == "u"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert rows(path, "PRAGMA journal_mode") == [("wal",)]


def test_a_batch_that_comes_again_is_recorded_once(databases, path):
    action = ready_made(f"sqlite:///{path}")
    databases.ship(action, [pending(1), pending(2)])
    databases.ship(action, [pending(2), pending(3)])
    assert rows(path, "SELECT id FROM event_log ORDER BY seq") == [("id1",), ("id2",), ("id3",)]


def test_own_sql_gets_bound_values(databases, path):
    run(path, "CREATE TABLE t (host TEXT, port INTEGER)")
    action = parse_action("a", ["msg:*"], f"sqlite:///{path}", "INSERT INTO t VALUES (:host, :host_port)")
    databases.ship(action, [pending(1, host="x'); DROP TABLE t; --", host_port=25)])
    assert rows(path, "SELECT * FROM t") == [("x'); DROP TABLE t; --", 25)]


def test_statements_that_return_rows_are_allowed(databases, path):
    action = parse_action("a", ["msg:*"], f"sqlite:///{path}", "SELECT :host")
    assert len(databases.ship(action, [pending(1), pending(2)]).done) == 2


def test_a_refused_event_holds_back_its_message_and_nobody_else(databases, path):
    run(path, "CREATE TABLE t (host TEXT NOT NULL)")
    action = parse_action("a", ["msg:*"], f"sqlite:///{path}", "INSERT INTO t VALUES (:host)")
    batch = [
        pending(1, "m1", host="a"),
        pending(2, "m1"),
        pending(3, "m1", host="b"),
        pending(4, "m2", host="c"),
    ]
    shipment = databases.ship(action, batch)
    assert [one.seq for one in shipment.done] == [1, 4]
    assert [(one.pending.seq, one.held) for one in shipment.refused] == [(2, False), (3, True)]
    assert "NOT NULL" in shipment.refused[0].error
    assert rows(path, "SELECT host FROM t ORDER BY host") == [("a",), ("c",)]


def test_a_missing_table_is_trouble_of_the_database_not_of_the_event(databases, path):
    action = parse_action("a", ["msg:*"], f"sqlite:///{path}", "INSERT INTO t VALUES (:host)")
    with pytest.raises(Unavailable, match="no such table"):
        databases.ship(action, [pending(1)])
    run(path, "CREATE TABLE t (host TEXT)")
    assert databases.ship(action, [pending(1)]).refused == ()


def test_a_missing_directory_is_trouble(databases, tmp_path):
    action = ready_made(f"sqlite:///{tmp_path}/none/x.db")
    with pytest.raises(Unavailable):
        databases.ship(action, [pending(1)])
    (tmp_path / "none").mkdir()
    assert len(databases.ship(action, [pending(1)]).done) == 1


def test_an_unreachable_server_is_trouble_and_its_text_holds_no_parameters(databases, path):
    path.write_bytes(b"this is not a database, but long enough to be looked at" * 20)
    action = ready_made(f"sqlite:///{path}")
    with pytest.raises(Unavailable) as caught:
        databases.ship(action, [pending(1, event_data="private")])
    assert "private" not in str(caught.value)


def test_the_ready_made_table_fits_other_databases():
    on_mysql = str(CreateTable(event_log).compile(dialect=mysql.dialect()))
    assert "at DOUBLE NOT NULL" in on_mysql  # FLOAT would round the time to minutes
    assert "fields MEDIUMTEXT NOT NULL" in on_mysql
    assert "seq BIGINT NOT NULL AUTO_INCREMENT" in on_mysql
    on_postgresql = str(CreateTable(event_log).compile(dialect=postgresql.dialect()))
    assert "at DOUBLE PRECISION NOT NULL" in on_postgresql
    assert "seq BIGSERIAL NOT NULL" in on_postgresql
