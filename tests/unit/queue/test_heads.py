"""What is found in one query for many domains is what is found one by one."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import Phase, given, settings, strategies as st
from sqlalchemy import delete, select, text, update

from deliver.queue import claiming, due, freeze, schema
from deliver.queue.admission import Permits
from deliver.queue.heads import heads
from deliver.queue.lanes import Feedback, Lanes, Terms
from deliver.queue.schema import State, attempt, destination, message, recipient
from deliver.queue.throttle import Limit, Rate, Throttle
from deliver.sqlrun import Database
from tests.unit.queue.values import NOW, RETRY, Recorder, accept, claim

DOMAINS = tuple(f"d{number:02}.example" for number in range(10))
SENDERS = ("ann@a.example", "bulk@a.example", "zoe@a.example", None)

mails = st.lists(
    st.tuples(
        st.lists(st.sampled_from(DOMAINS), min_size=1, max_size=4),
        st.sampled_from(SENDERS),
        st.sampled_from([NOW - 7200.0, NOW - 60.0, NOW, NOW, NOW + 30.0, NOW + 60.0, NOW + 90.0]),  # due
        st.sampled_from(["", "", "", "", "notify = 'X'", "local_part = CAST(x'ff61' AS TEXT)"]),
    ),
    max_size=40,
)
limits = st.sampled_from(
    [(), (Limit("sender", ("bulk@*",), Rate.of(1, 60.0, 1)),), (Limit("domain", at_a_time=1),)]
)
rules = st.sampled_from([None, ("sender", "ann@a.example"), ("sender", "<>"), ("domain", "d03.example")])
TERMS = Terms(start=3, per_domain=3)


def fill(conn, queue, rule, last_senders):
    for number, (domains, sender, moment, damage) in enumerate(queue):
        name = f"m{number}"
        boxes = [f"u{index}@{domain}" for index, domain in enumerate(domains)]
        accept(conn, name, *boxes, sender=sender)
        conn.execute(update(recipient).where(recipient.c.message_id == name).values(next_attempt=moment))
        if damage and not (rule and "CAST" in damage):  # what holds it has to read it
            conn.execute(text(f"UPDATE recipient SET {damage} WHERE message_id = '{name}'"))
    for domain, sender in zip(DOMAINS, last_senders, strict=False):
        conn.execute(update(destination).where(destination.c.domain == domain).values(last_sender=sender))
    if rule:
        freeze.add(conn, freeze.Kind(rule[0]), rule[1], reason="because", until=None, now=NOW)


def claimed(queue, rule, limit, last_senders, most):
    """The claims of two calls, and what they left in the tables and in the outbox."""
    database = Database(None)
    database.run_write(schema.migrate)
    events = Recorder()
    lanes = Lanes(TERMS)
    lanes.end("d01.example", lanes.begin("d01.example"), Feedback.GOOD, "site", started=NOW, now=NOW)
    lanes.end("d02.example", lanes.begin("d02.example"), Feedback.GOOD, "site", started=NOW, now=NOW)

    lanes.end("d04.example", lanes.begin("d04.example"), Feedback.UNREACHABLE, None, started=NOW - 9, now=NOW)

    def run(conn):
        fill(conn, queue, rule, last_senders)
        found = []
        for now in (NOW, NOW + 61):
            permits = Permits(lanes, Throttle(limit), now)
            survey = due.Survey()
            claims = claiming.claim(
                conn,
                now=now,
                limit=most,
                lease=99.0,
                retry=RETRY,
                admission=permits,
                append=events,
                survey=survey,
            )
            if survey.whole:
                moment = due.next_after(conn, now, permits.opens_at, survey.opening)
                expected = due.next_due(conn, permits.opens_at)
                assert moment == expected or max(moment or math.inf, expected or math.inf) <= now
            found.append([dataclasses.astuple(each) for each in claims])
            found.append([each.content for each in claims])
        conn.connection.driver_connection.text_factory = lambda octets: octets.decode("utf-8", "replace")
        tables = [
            [tuple(row) for row in conn.execute(select(table).order_by(*table.primary_key.columns))]
            for table in (message, recipient, attempt, destination)
        ]
        return found, tables, events.events

    result = database.run_write(run)
    database.close()
    return result


@settings(max_examples=30, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(
    mails,
    rules,
    limits,
    st.lists(st.sampled_from(["", "bulk@a.example", "zz"]), max_size=10),
    st.integers(1, 30),
)
def test_a_claim_is_the_same_with_and_without_them(queue, rule, limit, last_senders, most):
    together = claimed(queue, rule, limit, last_senders, most)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claiming, "heads", lambda conn, domains, now: {})
        patch.setattr(claiming, "ALONE", "no database")
        one_by_one = claimed(queue, rule, limit, last_senders, most)
    assert together == one_by_one


def test_heads_are_of_the_domains_that_are_asked_for(conn):
    for domain in DOMAINS:
        accept(conn, domain[:3], f"x@{domain}")
    accept(conn, "two", "x@d00.example", "y@d00.example", sender="aa@a.example")
    found = heads(conn, [*DOMAINS[:3], "gone.example"], NOW)
    assert {domain: (row.id, row.others) for domain, row in found.items()} == {
        "d00.example": ("d00", 0),
        "d01.example": ("d01", 0),
        "d02.example": ("d02", 0),
    }
    assert {row.state for row in conn.execute(select(recipient.c.state))} == {State.QUEUED.value}
    assert heads(conn, DOMAINS, NOW - 1) == {}


def test_attempts_that_begin_together_get_ids_that_were_never_used(conn):
    used = set()
    for turn in range(3):
        for number in range(3):
            accept(conn, f"m{turn}{number}", f"x@d{turn}{number}.example")
        found = claim(conn)
        ids = {each.attempt_id for each in found}
        assert {row.id for row in conn.execute(select(attempt.c.id))} == ids
        assert len(ids) == 3
        assert not ids & used
        used |= ids
        conn.execute(delete(attempt))
        conn.execute(delete(message))


def test_attempts_get_new_numbers_also_where_sqlite_has_forgotten_the_last_one() -> None:
    database = Database(None)
    database.run_write(schema.migrate)
    for number in range(4):
        database.run_write(lambda conn, name=f"m{number}", to=DOMAINS[number]: accept(conn, name, f"u@{to}"))
    first = database.run_write(lambda conn: claim(conn, limit=2))
    database.run_write(lambda conn: conn.execute(text("DELETE FROM sqlite_sequence")) and None)
    second = database.run_write(lambda conn: claim(conn, limit=2))
    assert len({each.attempt_id for each in (*first, *second)}) == 4
