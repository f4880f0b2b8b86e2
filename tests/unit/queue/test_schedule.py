"""When a recipient is tried next."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, strategies as st

from deliver.errors import Blame
from deliver.message import Mailbox, Recipient
from deliver.outcome import Deferred, Failed
from deliver.queue import schedule
from deliver.queue.schedule import JITTER, Plan
from tests.unit.queue.values import DEFERRED, DELIVERED, FAILED, IN_DOUBT

PLAN = Plan((60.0, 300.0, 600.0), 86400.0)
WHO = Recipient(0, Mailbox("b", "example.org"))


def settle(outcome, number=1, now=0.0, plan=PLAN, received_at=0.0):
    return schedule.settle_as(
        WHO, outcome, plan, number=number, received_at=received_at, now=now, rng=Random(1)
    )


@pytest.mark.parametrize(("number", "seconds"), [(1, 60), (2, 300), (3, 600), (4, 600), (99, 600)])
def test_the_waits_follow_the_list_and_the_last_one_repeats(number, seconds):
    due = settle(DEFERRED, number, now=1000.0).next_attempt
    assert 1000 + seconds <= due <= 1000 + seconds * (1 + JITTER)


def test_an_attempt_in_doubt_waits_one_step_longer():
    assert settle(IN_DOUBT, 1).next_attempt >= 300


@pytest.mark.parametrize("outcome", [DELIVERED, FAILED])
def test_a_final_outcome_has_no_next_attempt(outcome):
    assert settle(outcome).next_attempt is None
    assert settle(outcome, now=1e9).outcome is outcome


def test_the_last_attempt_is_at_the_expiry():
    assert settle(DEFERRED, 3, now=86399.0).next_attempt == 86400.0


@pytest.mark.parametrize("now", [86400.0, 1e6])
def test_at_the_expiry_a_deferral_becomes_a_failure_with_the_last_reason(now):
    settled = settle(DEFERRED, now=now)
    assert isinstance(settled.outcome, Failed)
    assert str(settled.outcome.enhanced) == "5.4.7"
    assert settled.outcome.why.endswith("the last reason was: try later")
    assert settled.next_attempt is None


def test_the_age_is_told_in_words():
    assert "within 1 day;" in settle(DEFERRED, now=86400.0).outcome.why
    plan = Plan((60.0,), 30.0)
    assert "within 45 seconds" in settle(DEFERRED, now=45.0, plan=plan).outcome.why
    assert "within 2 hours" in settle(DEFERRED, now=7300.0, plan=plan).outcome.why


def test_an_expiry_in_doubt_says_so():
    assert "may have delivered it" in settle(IN_DOUBT, now=1e6).outcome.why


def test_a_list_without_entries_is_refused():
    with pytest.raises(ValueError, match="empty"):
        Plan((), 1.0)


def test_the_pessimistic_attempt_is_one_step_behind():
    assert schedule.pessimistic(1000.0, 1, PLAN.retry) == 1300.0


@given(
    now=st.floats(0, 1e10),
    received_at=st.floats(0, 1e10),
    number=st.integers(0, 1000),
    retry=st.lists(st.floats(0, 1e6), min_size=1, max_size=5),
    expire=st.floats(0, 1e7),
    in_doubt=st.booleans(),
    seed=st.integers(),
)
def test_never_before_now_and_never_after_an_expiry_still_to_come(
    now, received_at, number, retry, expire, in_doubt, seed
):
    outcome = Deferred("x", Blame.HOST, in_doubt=in_doubt)
    settled = schedule.settle_as(
        WHO,
        outcome,
        Plan(tuple(retry), expire),
        number=number,
        received_at=received_at,
        now=now,
        rng=Random(seed),
    )
    if isinstance(settled.outcome, Failed):
        assert now >= received_at + expire
    else:
        assert now <= settled.next_attempt <= received_at + expire
