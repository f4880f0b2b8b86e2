"""What an attempt is taken to have found out."""

from __future__ import annotations

from deliver.message import Mailbox, Recipient
from deliver.outcome import AttemptResult, Contact, Deferred, Delivered
from deliver.queue.conclusion import conclude, interrupted, without_content
from deliver.report.trace import Trace
from deliver.smtp.reply import Reply
from tests.unit.queue.values import DEFERRED, DELIVERED, FAILED, IN_DOUBT

A, B = (Recipient(i, Mailbox(name, "example.org")) for i, name in enumerate("ab"))
OK = Delivered(Reply(250, ("proof",)), Contact("mx", "192.0.2.1", 25), dsn_passed=True)


def test_the_result_counts():
    result = AttemptResult(((B, FAILED), (A, DELIVERED)), Trace())
    assert conclude((A, B), result, {}).outcomes == ((A, DELIVERED), (B, FAILED))


def test_a_recipient_without_a_result_is_deferred():
    (_, (who, outcome)) = conclude((A, B), AttemptResult(((A, DELIVERED),), Trace()), {}).outcomes
    assert who == B
    assert isinstance(outcome, Deferred)
    assert not outcome.in_doubt


def test_a_stranger_in_the_result_is_left_out():
    assert conclude((A,), AttemptResult(((A, FAILED), (B, FAILED)), Trace()), {}).outcomes == ((A, FAILED),)


def test_a_journalled_reply_is_proof_whatever_the_result_says():
    result = AttemptResult(((A, IN_DOUBT), (B, FAILED)), Trace())
    assert conclude((A, B), result, {0: OK, 1: OK}).outcomes == ((A, OK), (B, OK))


def test_a_reported_delivery_keeps_its_own_details():
    assert conclude((A,), AttemptResult(((A, DELIVERED),), Trace()), {0: OK}).outcomes == ((A, DELIVERED),)


def test_an_interrupted_attempt_is_in_doubt_if_it_had_started():
    for started in (True, False):
        result = interrupted((A, B), started=started)
        assert [outcome.in_doubt for _, outcome in result.outcomes] == [started, started]
        assert result.trace.findings


def test_unreadable_content_is_held_not_failed():
    assert [type(outcome) for _, outcome in without_content((A,)).outcomes] == [Deferred]
    assert DEFERRED.in_doubt is False
