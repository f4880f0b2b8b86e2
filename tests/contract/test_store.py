"""Accept, claim and settle."""

from __future__ import annotations

import json
import math

import pytest
from msgspec import structs
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from deliver.message import Mailbox, Recipient
from deliver.queue import browse, due, export, recovery, reports, store
from deliver.queue.content import InlineContent, SpoolContent
from deliver.queue.reading import Connected
from deliver.queue.schedule import Settlement
from deliver.queue.schema import attempt, message
from events import outbox
from events.catalogue import Event
from tests.unit.queue.values import (
    CONTENT,
    DEFERRED,
    DELIVERED,
    FAILED,
    IN_DOUBT,
    NOW,
    Recorder,
    accept,
    claim,
    envelope,
    rows,
    states,
)


def settle(conn, claimed, *outcomes, now=NOW + 1, **more):
    settlements = tuple(
        Settlement(recipient, outcome, NOW + 60 if outcome in (DEFERRED, IN_DOUBT) else None)
        for recipient, outcome in zip(claimed.recipients, outcomes, strict=False)
    )
    options = {"events": (), "append": Recorder(), **more}
    return store.settle(conn, claimed, settlements, now=now, **options)


def test_what_was_accepted_is_claimed_as_it_was(conn):
    made = accept(conn, "m1", "b@example.org", '"x y"@example.org')
    (claimed,) = claim(conn)
    assert claimed.envelope == made
    assert (claimed.number, claimed.domain, claimed.lease_until) == (1, "example.org", NOW + 1000)
    assert claimed.spool_name is None
    assert store.content_of(conn, made.id) == CONTENT


def test_the_null_reverse_path_and_literals_survive(conn):
    made = accept(conn, "m1", "b@[IPv6:2001:db8::1]", sender=None)
    (claimed,) = claim(conn)
    assert claimed.envelope == made
    assert claimed.envelope.reverse_path == ""


@pytest.mark.parametrize("requires_tls", [True, False])
@pytest.mark.parametrize("boxes", [("b@example.org",), ("b@example.org", "c@example.org")])
def test_requiretls_is_kept_for_claims_reports_and_exports(conn, boxes, requires_tls):
    made = structs.replace(envelope("m1", *boxes), requires_tls=requires_tls)
    store.accept(conn, made, InlineContent(CONTENT), (), NOW, Recorder())
    (claimed,) = claim(conn)
    assert claimed.envelope == made
    conn.execute(update(message).values(report_due=NOW))
    (told,) = reports.due_reports(conn, NOW, 9)
    assert told.envelope.requires_tls is requires_tls
    found = export.exported(conn, "m1")
    assert found.envelope == made
    assert found.as_dict()["requires_tls"] is requires_tls
    assert browse.show(Connected(conn), "m1").requires_tls is requires_tls


def test_a_message_without_recipients_is_refused(conn):
    empty = envelope("m1")
    with pytest.raises(ValueError, match="no recipients"):
        store.accept(conn, type(empty)(empty.id, None, (), 0, False, NOW), InlineContent(b""), (), NOW)


def test_a_second_message_of_the_same_id_is_refused(conn):
    accept(conn, "m1")
    with pytest.raises(IntegrityError):
        accept(conn, "m1")


def test_a_claim_is_one_message_and_one_domain(conn):
    accept(conn, "m1", "b@example.org", "c@example.net", "d@example.org")
    claims = claim(conn)
    assert {(c.domain, tuple(r.ordinal for r in c.recipients)) for c in claims} == {
        ("example.org", (0, 2)),
        ("example.net", (1,)),
    }
    assert all(c.envelope.recipients == c.recipients for c in claims)


def test_what_is_leased_is_not_claimed_again(conn):
    accept(conn, "m1")
    assert len(claim(conn)) == 1
    assert claim(conn, now=NOW + 10**6) == ()


def test_the_lease_is_on_record_with_a_pessimistic_next_attempt_before_any_network(conn):
    accept(conn, "m1")
    (claimed,) = claim(conn)
    (row,) = rows(conn)
    assert (row.state, row.attempt_id, row.attempts) == ("leased", claimed.attempt_id, 1)
    assert row.next_attempt == NOW + 300
    (tried,) = conn.execute(select(attempt)).all()
    assert (tried.number, tried.lease_until, tried.ended_at) == (1, NOW + 1000, None)


def test_domains_take_turns(conn):
    for index in range(6):
        accept(conn, f"big{index}", "b@big.example")
    accept(conn, "small", "b@small.example")
    domains = [c.domain for c in claim(conn, limit=4)]
    assert domains == ["big.example", "small.example", "big.example", "big.example"]


def test_the_domain_served_longest_ago_is_first(conn):
    for index in range(3):
        accept(conn, f"a{index}", "b@a.example")
        accept(conn, f"b{index}", "b@b.example")
    served = [claim(conn, now=NOW + step, limit=1)[0].domain for step in range(1, 5)]
    assert served in (["a.example", "b.example"] * 2, ["b.example", "a.example"] * 2)


def test_a_domain_gets_no_more_than_its_share_running_attempts_included(conn):
    for index in range(6):
        accept(conn, f"m{index}", "b@big.example")
    assert len(claim(conn, per_domain=3, busy={"big.example": 1})) == 2
    assert claim(conn, per_domain=3, busy={"big.example": 3}) == ()


def test_the_limit_holds(conn):
    for index in range(6):
        accept(conn, f"m{index}", f"b@d{index}.example")
    assert len(claim(conn, limit=4)) == 4
    assert claim(conn, limit=0) == ()


def test_many_recipients_are_claimed_in_portions(conn):
    accept(conn, "m1", *(f"r{index}@example.org" for index in range(150)))
    assert sorted(len(c.recipients) for c in claim(conn)) == [50, 100]


def test_nothing_is_claimed_before_it_is_due(conn):
    accept(conn, "m1")
    (claimed,) = claim(conn)
    settle(conn, claimed, DEFERRED)
    assert claim(conn, now=NOW + 59) == ()
    (again,) = claim(conn, now=NOW + 60)
    assert again.number == 2


def test_next_due(conn):
    assert due.next_due(conn) is None
    accept(conn, "m1")
    assert due.next_due(conn) == NOW
    assert due.next_due(conn, lambda domain: math.inf) is None
    assert due.next_due(conn, lambda domain: NOW + 7) == NOW + 7
    (claimed,) = claim(conn)
    assert due.next_due(conn) is None
    settle(conn, claimed, DEFERRED)
    assert due.next_due(conn) == NOW + 60


def test_settling_records_each_recipient(conn):
    accept(conn, "m1", "b@example.org", "c@example.org", "d@example.org")
    (claimed,) = claim(conn)
    settled = settle(conn, claimed, DELIVERED, DEFERRED, FAILED, trace='[{"code":"x"}]')
    assert states(conn) == {
        "b@example.org": "delivered",
        "c@example.org": "queued",
        "d@example.org": "failed",
    }
    assert not settled.completed
    assert settled.stale == ()
    (tried,) = conn.execute(select(attempt)).all()
    assert (tried.ended_at, tried.result, tried.trace) == (NOW + 1, "mixed", '[{"code":"x"}]')
    assert [outcome["kind"] for _, outcome in json.loads(tried.outcomes)] == [
        "delivered",
        "deferred",
        "failed",
    ]
    assert json.loads(rows(conn)[2].last_outcome)["reply"] == {"code": 550, "lines": ["5.1.1 No such user"]}


def test_doubt_is_counted(conn):
    accept(conn, "m1")
    settle(conn, claim(conn)[0], IN_DOUBT)
    settle(conn, claim(conn, now=NOW + 60)[0], IN_DOUBT)
    settle(conn, claim(conn, now=NOW + 120)[0], DEFERRED)
    assert rows(conn)[0].in_doubt == 2


def test_the_message_is_complete_when_nobody_is_open(conn):
    made = accept(conn, "m1", "b@example.org", "c@example.net")
    first, second = claim(conn)
    recorder = Recorder()
    assert not settle(conn, first, DELIVERED, append=recorder).completed
    assert store.content_of(conn, made.id) == CONTENT
    settled = settle(conn, second, DELIVERED, append=recorder)
    assert settled.completed
    assert store.content_of(conn, made.id) is None
    assert recorder.names() == ["msg:complete"]
    assert recorder.events[0][1].problems() == ()


def test_the_spool_file_is_removable_after_completion_only(conn, tmp_path):
    made = envelope("m1", "b@example.org", "c@example.net")
    store.accept(conn, made, SpoolContent(tmp_path, "m1.eml", 9), (), NOW)
    first, second = claim(conn)
    assert first.spool_name == "m1.eml"
    assert settle(conn, first, DELIVERED).removable == ()
    assert settle(conn, second, DELIVERED).removable == ("m1.eml",)
    assert conn.execute(select(message.c.spool_name)).scalar_one() is None


def test_a_message_whose_sender_is_owed_a_report_is_kept_and_due_for_it(conn):
    accept(conn, "m1", "b@example.org", "c@example.org")
    (claimed,) = claim(conn)
    recorder = Recorder()
    settled = settle(conn, claimed, FAILED, DELIVERED, gather=60.0, append=recorder)
    assert (settled.completed, recorder.names()) == (False, [])
    assert store.content_of(conn, claimed.envelope.id) == CONTENT
    assert [row.owed for row in rows(conn)] == ["failed", None]
    assert conn.execute(select(message.c.report_due)).scalar_one() == NOW + 1  # nothing more will come


def test_a_report_waits_for_more_while_recipients_are_open(conn):
    accept(conn, "m1", "b@example.org", "c@example.org")
    settle(conn, claim(conn)[0], FAILED, DEFERRED, gather=60.0)
    assert conn.execute(select(message.c.report_due)).scalar_one() == NOW + 61


def test_events_are_appended_in_order_and_by_message(conn):
    accept(conn, "m1")
    recorder = Recorder()
    settle(conn, claim(conn)[0], DELIVERED, events=[Event("msg:delivery", NOW)], append=recorder)
    assert recorder.names() == ["msg:delivery", "msg:complete"]
    assert {message_id for message_id, _ in recorder.events} == {"m1"}


def test_events_reach_the_real_outbox(conn):
    accept(conn, "m1")
    settle(conn, claim(conn)[0], DELIVERED, append=outbox.append)
    pending = outbox.pending(conn, outbox.DEFAULT_ACTION, 10, now=NOW)
    assert [each.event.name for each in pending] == ["msg:accept", "msg:complete"]


def requeued(conn, claimed):
    recovery.reclaim(conn, claimed.lease_until + 1, (), Recorder())


def test_a_stale_attempt_changes_nothing(conn):
    accept(conn, "m1", "b@example.org", "c@example.org")
    (old,) = claim(conn)
    requeued(conn, old)
    (new,) = claim(conn, now=old.lease_until + 2)
    recorder = Recorder()
    settled = settle(conn, old, FAILED, DEFERRED, append=recorder)
    assert settled.stale == old.recipients
    assert conn.execute(select(message.c.report_due)).scalar_one() is None
    assert set(states(conn).values()) == {"leased"}
    assert {row.attempt_id for row in rows(conn)} == {new.attempt_id}


def test_a_stale_delivery_is_recorded_all_the_same(conn):
    accept(conn, "m1", "b@example.org", "c@example.org")
    (old,) = claim(conn)
    requeued(conn, old)
    (new,) = claim(conn, now=old.lease_until + 2)
    settle(conn, old, DELIVERED, DEFERRED)
    assert states(conn) == {"b@example.org": "delivered", "c@example.org": "leased"}
    settled = settle(conn, new, DEFERRED, DELIVERED)
    assert states(conn) == {"b@example.org": "delivered", "c@example.org": "delivered"}
    assert settled.completed
    assert settled.stale == (old.recipients[0],)


def test_a_stale_delivery_does_not_undo_a_failure_that_was_bounced(conn):
    accept(conn, "m1")
    (old,) = claim(conn)
    requeued(conn, old)
    (new,) = claim(conn, now=old.lease_until + 2)
    settle(conn, new, FAILED)
    assert settle(conn, old, DELIVERED).stale == old.recipients
    assert states(conn) == {"b@example.org": "failed"}


def test_settling_twice_changes_nothing_the_second_time(conn):
    accept(conn, "m1")
    (claimed,) = claim(conn)
    settle(conn, claimed, DELIVERED)
    recorder = Recorder()
    again = settle(conn, claimed, FAILED, append=recorder)
    assert again.stale == claimed.recipients
    assert (again.completed, recorder.names()) == (False, [])
    assert states(conn) == {"b@example.org": "delivered"}


def test_a_recipient_that_the_settlement_forgot_is_queued_again(conn):
    accept(conn, "m1", "b@example.org", "c@example.org")
    (claimed,) = claim(conn)
    settle(conn, claimed, DELIVERED)
    assert states(conn)["c@example.org"] == "queued"
    assert due.next_due(conn) == NOW + 300


def test_a_settlement_for_a_stranger_is_ignored(conn):
    accept(conn, "m1")
    (claimed,) = claim(conn)
    stranger = Settlement(Recipient(7, Mailbox("x", "example.org")), DELIVERED)
    settled = store.settle(conn, claimed, (stranger,), events=(), now=NOW, append=Recorder())
    assert settled.stale == (stranger.recipient,)


def test_history_is_forgotten_after_completion_only(conn):
    accept(conn, "m1")
    accept(conn, "m2")
    first, _ = claim(conn)
    settle(conn, first, DELIVERED, now=NOW + 5)
    assert store.forget(conn, before=NOW + 5) == 0
    assert store.forget(conn, before=NOW + 6) == 1
    assert len(states(conn)) == 1
    assert conn.execute(select(message.c.id)).scalars().all() != [first.envelope.id]
