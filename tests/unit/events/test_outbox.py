"""The outbox: events exist exactly if their fact does, and leave only when every action has them."""

from __future__ import annotations

import os
import sqlite3

import pytest
from sqlalchemy import func, select, update

from events import identity, outbox, undelivered
from events.catalogue import Event


def event(data: str = "x", name: str = "msg:delivery", at: float = 1000.0) -> Event:
    return Event(name, at, {"event_data": data})


def both(name: str) -> tuple[str, ...]:
    return ("one", "two")


def texts(rows) -> list[object]:
    return [row.event.fields["event_data"] for row in rows]


def count(conn) -> int:
    return conn.execute(select(func.count()).select_from(outbox.event_outbox)).scalar_one()


def test_events_belong_to_the_callers_transaction(engine):
    with engine.connect() as conn:
        outbox.append(conn, "m1", [event()])
        conn.rollback()
        assert count(conn) == 0
        outbox.append(conn, "m1", [event()])
        conn.commit()
        assert count(conn) == 1


def test_only_wanted_events_are_kept(engine):
    wanted = {"msg:delivery": ("one",)}
    with engine.begin() as conn:
        outbox.append(
            conn, "m1", [event(), event(name="tcp:close")], wanted=lambda one: wanted.get(one.name, ())
        )
        assert [row.event.name for row in outbox.pending(conn, "one", 10, now=0)] == ["msg:delivery"]
        assert count(conn) == 1


def test_the_bound_outbox_appends_with_its_matcher_and_ids(engine, new_id):
    box = outbox.Outbox(both, new_id)
    with engine.begin() as conn:
        box.append(conn, "m1", [event("a"), event("b")])
        assert [row.id for row in outbox.pending(conn, "two", 10, now=0)] == ["id1", "id2"]


def test_ids_are_unique_by_default(engine):
    with engine.begin() as conn:
        outbox.append(conn, "m1", [event() for _ in range(50)])
        assert len({row.id for row in outbox.pending(conn, "event_log", 100, now=0)}) == 50


def test_a_forked_process_draws_ids_of_its_own():
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, identity.event_id(event()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reading, 100).decode()
    os.close(reading)
    os.close(writing)
    ours = identity.event_id(event())
    assert len(theirs) == len(ours) == 32
    assert abs(int(theirs[12:], 16) - int(ours[12:], 16)) > 10**9


def test_events_of_several_messages_are_appended_at_once_in_order(engine):
    calls = []

    def each(conn, told):
        calls.append(told)

    append = outbox.Appending(each)
    with engine.begin() as conn:
        append(conn, "m1", [event("a")])
        assert outbox.appending(append) is append
        outbox.appending(outbox.append).each(conn, [("m1", [event("a"), event("b")]), (None, [event("c")])])
        found = [
            (row.message_id, row.event.fields["event_data"])
            for row in outbox.pending(conn, "event_log", 9, now=0)
        ]
    assert calls == [(("m1", [event("a")]),)]
    assert found == [("m1", "a"), ("m1", "b"), (None, "c")]


@pytest.mark.parametrize("query", [outbox._NEXT, outbox._NEXT_UNHELD])
def test_nothing_is_sorted_to_find_what_is_next(engine, query):
    query = query.compile(engine)
    values = query.construct_params({"of": "a", "now": 1.0, "at_most": 10})
    with engine.begin() as conn:
        plan = conn.exec_driver_sql(
            f"EXPLAIN QUERY PLAN {query}", tuple(values[name] for name in query.positiontup)
        )
        said = " ".join(row[3] for row in plan)
    assert "SEARCH event_pending USING" in said
    assert "TEMP B-TREE" not in said


@pytest.mark.parametrize("query", [outbox._PUT_OFF, outbox._NEXT])
def test_another_moment_is_no_reason_to_prepare_a_query_again(engine, query):
    asked = []
    with engine.begin() as conn:
        driver = conn.connection.dbapi_connection
        driver.set_authorizer(lambda action, *_: asked.append(action) or sqlite3.SQLITE_OK)
        for now in range(5):
            conn.execute(query, {"of": "a", "now": float(now), "at_most": 10}).all()
            asked.append(None)
        driver.set_authorizer(None)
    first = asked.index(None)
    assert asked[first:] == [None] * 5


def test_pending_is_in_order_and_limited(engine):
    with engine.begin() as conn:
        outbox.append(conn, "m1", [event("a"), event("b")])
        outbox.append(conn, None, [event("c")])
        assert texts(outbox.pending(conn, "event_log", 2, now=0)) == ["a", "b"]
        assert texts(outbox.pending(conn, "event_log", 9, now=0)) == ["a", "b", "c"]


def test_an_event_stays_until_every_action_has_it(engine):
    with engine.begin() as conn:
        outbox.append(conn, "m1", [event()], wanted=both)
        (row,) = outbox.pending(conn, "one", 10, now=0)
        outbox.acknowledge(conn, "one", [row.seq])
        assert outbox.pending(conn, "one", 10, now=0) == ()
        assert len(outbox.pending(conn, "two", 10, now=0)) == 1
        outbox.acknowledge(conn, "two", [row.seq])
        assert count(conn) == 0


def test_many_events_can_be_acknowledged_at_once(engine):
    with engine.begin() as conn:
        outbox.append(conn, None, [event() for _ in range(1200)])
        rows = outbox.pending(conn, "event_log", 5000, now=0)
        outbox.acknowledge(conn, "event_log", [row.seq for row in rows])
        assert count(conn) == 0


@pytest.mark.parametrize("places", [(0, 1, 2), (1, 2), (0, 2), (2, 0), (2, 0, 1), (0, 1, 3), ()])
def test_only_what_is_named_is_acknowledged(engine, places):
    with engine.begin() as conn:
        outbox.append(conn, None, [event(name) for name in "abcd"], wanted=both)
        rows = outbox.pending(conn, "one", 10, now=0)
        named = [rows[place] for place in places]
        outbox.acknowledge(conn, "one", [row.seq for row in named])
        assert outbox.pending(conn, "one", 10, now=0) == tuple(row for row in rows if row not in named)
        assert texts(outbox.pending(conn, "two", 10, now=0)) == ["a", "b", "c", "d"]
        outbox.acknowledge(conn, "two", [row.seq for row in rows])
        assert count(conn) == 4 - len(named)


@pytest.mark.parametrize("query", [outbox._ACKNOWLEDGE_RANGE, outbox._FORGET_RANGE])
def test_what_is_acknowledged_in_one_range_is_found_by_it(engine, query):
    with engine.begin() as conn:
        plan = conn.exec_driver_sql(
            f"EXPLAIN QUERY PLAN {query.compile(engine)}",
            (1, 2, 3)[-len(query.compile(engine).positiontup) :],
        )
        said = " ".join(row[3] for row in plan)
    assert "SCAN" not in said
    assert "seq>? AND seq<?" in said or "rowid>? AND rowid<?" in said


def test_a_refused_event_holds_back_its_message_only(engine):
    with engine.begin() as conn:
        outbox.append(conn, "m1", [event("a"), event("b")])
        outbox.append(conn, "m2", [event("c")])
        outbox.append(conn, None, [event("d")])
        first = outbox.pending(conn, "event_log", 10, now=100)[0]
        assert outbox.refuse(conn, "event_log", first.seq, 1, "no", now=100.0) is False
        assert texts(outbox.pending(conn, "event_log", 10, now=100)) == ["c", "d"]
        due = outbox.next_due(conn, "event_log", now=100)
        assert due == 102.0
        assert texts(outbox.pending(conn, "event_log", 10, now=due)) == ["a", "b", "c", "d"]
        assert outbox.next_due(conn, "event_log", now=due) is None


def test_an_event_that_is_refused_too_often_is_dead_and_can_be_revived(engine):
    with engine.begin() as conn:
        outbox.append(conn, "m1", [event("a"), event("b")])
        first = outbox.pending(conn, "event_log", 10, now=0)[0]
        assert outbox.refuse(conn, "event_log", first.seq, outbox.MAX_TRIES, "no " * 1000, now=0) is True
        assert texts(outbox.pending(conn, "event_log", 10, now=0)) == ["b"]
        (waiting,) = undelivered.waiting(conn)
        assert (waiting.pending, waiting.dead) == (1, 1)
        assert waiting.last_error is not None
        assert len(waiting.last_error) == outbox.MAX_ERROR
        assert undelivered.revive(conn, "event_log") == 1
        revived = outbox.pending(conn, "event_log", 10, now=0)
        assert texts(revived) == ["a", "b"]
        assert revived[0].tries == 0


def test_retries_get_rarer_up_to_a_limit():
    waits = [outbox.retry_after(tries) for tries in range(1, 40)]
    assert waits[:4] == [2, 4, 8, 16]
    assert waits == sorted(waits)
    assert max(waits) == outbox.LAST_RETRY
    assert outbox.retry_after(10**9) == outbox.LAST_RETRY


def test_prune_forgets_actions_that_are_gone_and_gives_up_on_the_overdue(engine):
    now = 1000.0 + undelivered.PENDING_FOR + 1
    with engine.begin() as conn:
        outbox.append(conn, "m1", [event("old")], wanted=both)
        outbox.append(conn, "m2", [event("new", at=now)], wanted=both)
        assert undelivered.prune(conn, now=now, actions=("two",)) == 1
        assert outbox.pending(conn, "one", 10, now=now) == ()
        assert texts(outbox.pending(conn, "two", 10, now=now)) == ["new"]
        assert count(conn) == 2  # the dead one is still there to be seen
        undelivered.prune(conn, now=1000.0 + undelivered.DEAD_FOR + 1, actions=("two",))
        assert [row.event.at for row in outbox.pending(conn, "two", 10, now=now)] == []
        assert count(conn) == 1


def test_a_number_is_never_used_twice(engine):
    with engine.begin() as conn:
        outbox.append(conn, "m1", [event()])
        (first,) = outbox.pending(conn, "event_log", 1, now=0)
        outbox.acknowledge(conn, "event_log", [first.seq])
        outbox.append(conn, "m1", [event()])
        (second,) = outbox.pending(conn, "event_log", 1, now=0)
        assert second.seq > first.seq


def test_a_damaged_row_does_not_hold_up_the_others(engine):
    with engine.begin() as conn:
        outbox.append(conn, None, [event("a"), event("b")])
        conn.execute(update(outbox.event_outbox).where(outbox.event_outbox.c.seq == 1).values(body="{"))
        rows = outbox.pending(conn, "event_log", 10, now=0)
        assert [row.event.name for row in rows] == ["msg:delivery", "msg:delivery"]
        assert "could not be read" in str(rows[0].event.fields["event_data"])


def test_an_event_outside_the_catalogue_does_not_undo_the_transaction(engine):
    with engine.begin() as conn:
        outbox.append(conn, "m1", [Event("no:such", 1.0, {"nonsense": 1})])
        assert count(conn) == 1


@pytest.mark.parametrize("wanted", [lambda name: (), lambda name: ("a", "a")])
def test_matchers_may_name_nobody_or_repeat_themselves(engine, wanted):
    with engine.begin() as conn:
        outbox.append(conn, "m1", [event()], wanted=wanted)
        assert count(conn) == len(set(wanted("msg:delivery")))


def test_what_one_shipper_has_claimed_another_leaves_alone(engine):
    with engine.begin() as conn:
        outbox.append(conn, "m1", [event("a"), event("b"), event("c")], wanted=both)
    with engine.begin() as conn:
        first = outbox.claim(conn, "one", 2, now=0.0, lease=60.0)
        assert texts(first) == ["a", "b"]
    with engine.begin() as conn:
        assert not {"a", "b"} & set(texts(outbox.claim(conn, "one", 2, now=59.0, lease=60.0)))
        assert texts(outbox.claim(conn, "two", 2, now=59.0, lease=60.0)) == ["a", "b"]  # another action
    with engine.begin() as conn:
        outbox.unclaim(conn, "one", [one.seq for one in first])
        assert texts(outbox.claim(conn, "one", 2, now=59.0, lease=60.0)) == ["a", "b"]
    with engine.begin() as conn:
        assert texts(outbox.claim(conn, "one", 2, now=120.0, lease=60.0)) == ["a", "b"], "the lease is over"
