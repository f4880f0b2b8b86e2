"""Reading the event log for people."""

from __future__ import annotations

import pytest
from sqlalchemy.engine import make_url

from events.actions import ready_made
from events.catalogue import Event
from events.outbox import Pending
from events.show import Filter, NoLog, after, last, opened
from events.sql import Databases


@pytest.fixture
def databases():
    databases = Databases()
    yield databases
    databases.close()


@pytest.fixture
def url(tmp_path):
    return make_url(f"sqlite:///{tmp_path}/events.db")


def record(databases, url, *events: tuple[int, str, str]) -> None:
    batch = [
        Pending(number, f"i{number}", message, Event(name, float(number), {"host": "mx"}))
        for number, name, message in events
    ]
    databases.ship(ready_made(str(url)), batch)


def test_no_database_is_said_and_none_is_created(url, tmp_path):
    with pytest.raises(NoLog, match="does not exist"), opened(url):
        pass
    assert not (tmp_path / "events.db").exists()
    (tmp_path / "events.db").touch()
    with pytest.raises(NoLog, match="no table event_log"), opened(url):
        pass


def test_the_last_events_oldest_first(databases, url):
    record(databases, url, (1, "tcp:connect", "m1"), (2, "msg:delivery", "m1"), (3, "msg:complete", "m2"))
    with opened(url) as conn:
        assert [line.id for line in last(conn, 2)] == ["i2", "i3"]
        assert last(conn, 0) == ()
        (line,) = last(conn, 9, Filter("msg:*", "m1"))
        assert (line.name, line.at, line.facts["host"]) == ("msg:delivery", 2.0, "mx")
        assert [line.id for line in last(conn, 9, Filter("msg:complete"))] == ["i3"]
        assert last(conn, 9, Filter("msg_complete")) == ()


def test_following_sees_what_arrives_after_opening(databases, url):
    record(databases, url, (1, "tcp:connect", "m1"))
    with opened(url) as conn:
        newest = last(conn, 1)[0].seq
        assert after(conn, newest) == ()
        record(databases, url, (2, "msg:delivery", "m1"), (3, "tcp:close", "m1"))
        assert [line.id for line in after(conn, newest)] == ["i2", "i3"]
        assert [line.id for line in after(conn, newest, Filter("tcp:*"))] == ["i3"]


def test_reading_never_writes(databases, url):
    record(databases, url, (1, "tcp:connect", "m1"))
    with opened(url) as conn, pytest.raises(Exception, match="readonly"):
        conn.exec_driver_sql("DELETE FROM event_log")
