"""A row that cannot be read: its message is held and says why, and nobody else waits for it."""

from __future__ import annotations

import logging

import pytest
import sqlalchemy

from deliver.queue import browse, changes, export, freeze, hold, recovery, reports
from deliver.queue.reading import looking
from deliver.queue.selection import Selection
from deliver.queue.shard import open_shard
from tests.unit.queue.test_runner import House
from tests.unit.queue.values import DELIVERED, NOW, Recorder, accept, claim, proof, rows, states

UNREADABLE = "its record in the queue cannot be read"
HELD = [
    "notify = 'X'",
    "original_type = 'rfc822'",
    "attempts = 'many'",
    "local_part = CAST(x'ff61' AS TEXT)",
]
HINTS = ["last_outcome = '{'", "last_outcome = '[]'", """last_outcome = '{"contact": 7}'"""]


def damage(conn, what, table="recipient", key="message_id"):
    conn.execute(sqlalchemy.text(f"UPDATE {table} SET {what} WHERE {key} = 'm1'"))


@pytest.mark.parametrize("what", HELD + HINTS)
async def test_the_others_are_delivered(autojump_clock, tmp_path, caplog, what):
    house = House(tmp_path)
    house.attempt = house.outcome(DELIVERED)
    await house.accept("m1", "a@example.org")
    await house.accept("m2", "b@example.org")
    await house.sql.write(lambda conn: damage(conn, what))
    with caplog.at_level(logging.ERROR):
        await house.run_for(100)
    house.journal.close()
    assert "m2" in [call[0] for call in house.calls]
    (one,) = await house.sql.read(
        lambda conn: conn.execute(
            sqlalchemy.text("SELECT state, held_reason FROM recipient WHERE message_id = 'm1'")
        ).all()
    )
    if what in HINTS:  # that is only where the attempt before failed
        assert one.state == "delivered"
        return
    assert one.state == "held"
    assert one.held_reason.startswith(UNREADABLE)
    assert "msg:hold" in house.recorder.names()
    assert UNREADABLE in caplog.text


async def test_a_message_without_its_row_is_held(autojump_clock, tmp_path):
    house = House(tmp_path)
    await house.accept("m1", "a@example.org")
    await house.accept("m2", "b@example.org")

    with house.sql._database._writer.connect() as conn:
        conn.connection.driver_connection.execute("PRAGMA foreign_keys = OFF")
        with conn.begin():
            conn.exec_driver_sql("DELETE FROM message WHERE id = 'm1'")
    await house.run_for(10)
    house.journal.close()
    assert await house.states() == {"a@example.org": "held", "b@example.org": "delivered"}


@pytest.mark.parametrize(
    ("what", "table", "key"),
    [
        ("local_part = CAST(x'ff61' AS TEXT)", "recipient", "message_id"),
        ("sender_domain = CAST(x'ff61' AS TEXT)", "message", "id"),
    ],
)
@pytest.mark.parametrize("early", [True, False])
def test_a_frozen_domain_is_held_all_the_same(conn, what, table, key, early):
    recorder = Recorder()
    for name in ("m0", "m1", "m2"):
        accept(conn, name)
    accept(conn, "other", "c@example.net")
    damage(conn, what, table, key)
    rule = freeze.add(conn, freeze.Kind.DOMAIN, "example.org", reason="no mail", until=None, now=NOW)
    if early:  # by the tool that made the rule
        assert changes.freeze_now(conn, rule, NOW, recorder) == 3
        assert changes.freeze_now(conn, rule, NOW, recorder) == 0
        assert recorder.names() == ["msg:hold"] * 3
    assert [each.envelope.id for each in claim(conn)] == ["other"]
    query = "SELECT message_id, held_reason FROM recipient WHERE state = 'held'"
    held = dict(tuple(row) for row in conn.execute(sqlalchemy.text(query)))
    assert set(held) == {"m0", "m1", "m2"}
    assert (held["m0"], held["m2"]) == ("no mail", "no mail")
    assert held["m1"].startswith(UNREADABLE)
    assert changes.thaw(conn, [rule.id], NOW, recorder) == 2
    assert [each.envelope.id for each in claim(conn)] == ["m0", "m2"]


def test_a_delivery_that_the_journal_proves_is_recorded_all_the_same(conn):
    accept(conn, "m1")
    (claimed,) = claim(conn)
    damage(conn, "notify = 'X'")
    assert recovery.recover(conn, NOW, [proof(claimed, 0)], Recorder()).delivered == 1
    assert states(conn) == {"b@example.org": "delivered"}


def test_an_administrator_can_bounce_and_export_it(conn):
    accept(conn, "m1")
    damage(conn, "notify = 'X'")
    damage(conn, "ret = 'SOME'", "message", "id")
    assert claim(conn) == ()
    exported = export.exported(conn, "m1")
    assert [str(each.mailbox) for each in exported.envelope.recipients] == ["b@example.org"]
    changes.bounce(conn, [hold.Key("m1", 0)], NOW, reason="damaged", append=Recorder())
    assert states(conn) == {"b@example.org": "failed"}
    assert len(reports.due_reports(conn, NOW, 5)) == 1


def test_released_it_is_held_again(conn):
    accept(conn, "m1")
    damage(conn, "original_type = 'rfc822'")
    assert claim(conn) == ()
    changes.release(conn, [hold.Key("m1", 0)], NOW, append=Recorder())
    assert claim(conn) == ()
    assert rows(conn)[0].state == "held"


UNDECODABLE = [
    ("local_part = CAST(x'ff61' AS TEXT)", "recipient", "message_id"),
    ("sender_domain = CAST(x'ff61' AS TEXT)", "message", "id"),
    ("domain = x'61'", "recipient", "message_id"),  # which is found only when its destination is noted
]


@pytest.mark.parametrize(("what", "table", "key"), UNDECODABLE)
def test_the_others_are_released_when_the_date_comes(conn, caplog, what, table, key):
    names = ("m0", "m1", "m2")
    for name in names:
        accept(conn, name)
    keys = [hold.Key(name, 0) for name in names]
    changes.hold_back(conn, keys, NOW, reason="holidays", until=NOW + 5, append=Recorder())
    damage(conn, what, table, key)
    recorder = Recorder()
    assert changes.release_due(conn, NOW + 5, append=recorder) == 2
    assert changes.release_due(conn, NOW + 5, append=recorder) == 0
    assert sorted(recorder.names()) == ["msg:hold", "msg:release", "msg:release"]
    query = "SELECT held_reason, held_until FROM recipient WHERE state = 'held'"
    ((reason, until),) = conn.execute(sqlalchemy.text(query)).all()
    assert reason.startswith(UNREADABLE)
    assert until is None
    assert changes.next_release(conn) is None
    assert "m1: stays held" in caplog.text
    assert [each.envelope.id for each in claim(conn, now=NOW + 5)] == ["m0", "m2"]


@pytest.mark.parametrize(("what", "table", "key"), UNDECODABLE)
def test_an_administrator_releases_the_others(conn, what, table, key):
    names = ("m0", "m1", "m2")
    for name in names:
        accept(conn, name)
    keys = [hold.Key(name, 0) for name in names]
    changes.hold_back(conn, keys, NOW, reason="holidays", until=None, append=Recorder())
    damage(conn, what, table, key)
    assert changes.release(conn, keys, NOW, append=Recorder()).changed == 2
    assert [each.envelope.id for each in claim(conn)] == ["m0", "m2"]


def test_others_of_its_message_are_held_as_before(conn):
    accept(conn, "m1", "a@example.org", "b@example.org")
    changes.hold_back(conn, [hold.Key("m1", 0)], NOW, reason="holidays", until=NOW + 5, append=Recorder())
    conn.execute(sqlalchemy.text("UPDATE recipient SET notify = 'X' WHERE ordinal = 1"))
    assert claim(conn) == ()
    assert [row.held_reason == "holidays" for row in rows(conn)] == [True, False]
    assert changes.release_due(conn, NOW + 5, append=Recorder()) == 1


async def test_it_is_shown_with_its_reason(tmp_path):
    async with open_shard(tmp_path, 0, NOW) as shard:
        await shard.sql.write(lambda conn: accept(conn, "m1"))
        await shard.sql.write(lambda conn: damage(conn, HELD[-1]))
        assert await shard.sql.write(claim) == ()
        with looking(tmp_path / "shard-0.db") as reader:
            shown = browse.show(reader, "m1")
            (listed,) = browse.waiting(reader, Selection(), now=NOW)
    assert shown.recipients[0].held_reason.startswith(UNREADABLE)
    assert listed.recipient == "\ufffda@example.org"
