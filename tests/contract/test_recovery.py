"""After a crash or an expired lease, on every database."""

from __future__ import annotations

import pytest
from msgspec import structs
from sqlalchemy import select

from deliver.dsn import Notify
from deliver.message import MessageId
from deliver.queue import due, recovery, store
from deliver.queue.content import InlineContent, SpoolContent
from deliver.queue.journal import Proof
from deliver.queue.schema import attempt
from deliver.smtp.reply import Reply
from tests.unit.queue.values import NOW, Recorder, accept, claim, envelope, proof, rows, states

OK = Reply(250, ("2.0.0 queued",))


def test_an_interrupted_attempt_is_in_doubt_and_due_at_its_pessimistic_next_attempt(conn):
    accept(conn, "m1")
    claim(conn)
    found = recovery.recover(conn, NOW + 10, (), Recorder())
    assert (found.interrupted, found.delivered) == (1, 0)
    (row,) = rows(conn)
    assert (row.state, row.in_doubt, row.attempts, row.next_attempt) == ("queued", 1, 1, NOW + 300)
    assert '"in_doubt":true' in row.last_outcome
    assert due.next_due(conn) == NOW + 300
    assert conn.execute(select(attempt.c.result)).scalar_one() == "interrupted"
    assert claim(conn, now=NOW + 300)[0].number == 2


def test_what_the_journal_proves_is_delivered_with_its_event(conn):
    accept(conn, "m1", "b@example.org", "c@example.org")
    (claimed,) = claim(conn)
    recorder = Recorder()
    found = recovery.recover(conn, NOW + 10, [proof(claimed, 0)], recorder)
    assert (found.interrupted, found.delivered) == (1, 1)
    assert states(conn) == {"b@example.org": "delivered", "c@example.org": "queued"}
    assert recorder.names() == ["msg:delivery"]
    assert recorder.events[0][1].problems() == ()
    assert recorder.events[0][1].fields["event_data"] == "250 2.0.0 queued"


@pytest.mark.parametrize(("passed", "owed"), [(True, None), (False, "relayed"), (None, None)])
def test_success_is_reported_after_a_crash_only_where_the_next_server_does_not(conn, passed, owed):
    wanting = envelope("m1")
    success = frozenset({Notify.SUCCESS})
    wanting = structs.replace(wanting, recipients=(structs.replace(wanting.recipients[0], notify=success),))
    store.accept(conn, wanting, InlineContent(b"x"), (), NOW)
    (claimed,) = claim(conn)
    recorder = Recorder()
    recovery.recover(conn, NOW + 10, [structs.replace(proof(claimed, 0), dsn_passed=passed)], recorder)
    (row,) = rows(conn)
    assert (row.state, row.owed) == ("delivered", owed)
    assert ("msg:complete" in recorder.names()) is (owed is None), "kept until the sender is told"


def test_a_message_that_the_journal_finishes_is_complete_and_its_file_removable(conn, tmp_path):
    store.accept(conn, envelope("m1"), SpoolContent(tmp_path, "m1.eml", 9), (), NOW)
    (claimed,) = claim(conn)
    recorder = Recorder()
    found = recovery.recover(conn, NOW + 10, [proof(claimed, 0)], recorder)
    assert found.removable == ("m1.eml",)
    assert recorder.names() == ["msg:delivery", "msg:complete"]


def test_a_proof_counts_although_the_claim_was_lost_with_the_power(conn):
    """Claims are committed without fsync: after a power loss the recipient may be queued again."""
    accept(conn, "m1")
    lost = Proof(77, MessageId("m1"), (0,), OK)
    recovery.recover(conn, NOW, [lost], Recorder())
    assert states(conn) == {"b@example.org": "delivered"}
    assert due.next_due(conn) is None


def test_replaying_twice_changes_nothing(conn):
    accept(conn, "m1")
    (claimed,) = claim(conn)
    recovery.recover(conn, NOW, [proof(claimed, 0)], Recorder())
    recorder = Recorder()
    again = recovery.recover(conn, NOW, [proof(claimed, 0)], recorder)
    assert (again.interrupted, again.delivered, recorder.names()) == (0, 0, [])


def test_a_proof_of_an_unknown_message_is_ignored(conn):
    recorder = Recorder()
    recovery.recover(conn, NOW, [Proof(1, MessageId("none"), (0,), OK)], recorder)
    assert recorder.names() == []


def test_only_expired_leases_are_reclaimed(conn):
    accept(conn, "m1")
    accept(conn, "m2")
    (early,) = claim(conn, limit=1)
    (late,) = claim(conn, now=NOW + 500, limit=1)
    assert not recovery.any_expired(conn, early.lease_until)
    assert recovery.any_expired(conn, early.lease_until + 1)
    found = recovery.reclaim(conn, early.lease_until + 1, (), Recorder())
    assert found.interrupted == 1
    assert {row.message_id: row.state for row in rows(conn)} == {
        early.envelope.id: "queued",
        late.envelope.id: "leased",
    }


def test_reclaiming_uses_the_proofs_of_expired_attempts_only(conn):
    accept(conn, "m1")
    accept(conn, "m2")
    (early,) = claim(conn, limit=1)
    (late,) = claim(conn, now=NOW + 500, limit=1)
    recovery.reclaim(conn, early.lease_until + 1, [proof(early, 0), proof(late, 0)], Recorder())
    assert {row.message_id: row.state for row in rows(conn)} == {
        early.envelope.id: "delivered",
        late.envelope.id: "leased",
    }
