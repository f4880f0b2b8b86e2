"""Limits: rates hold in every span of time, whatever is asked when."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, strategies as st

from deliver.queue.admission import Permits
from deliver.queue.lanes import Lanes, Terms
from deliver.queue.throttle import MAX_BUCKETS, Limit, Rate, Throttle

TEN_A_MINUTE = Limit("domain", rate=Rate.of(10, 60.0, 1))


def test_tokens_come_back_evenly() -> None:
    throttle = Throttle((TEN_A_MINUTE,))
    one = throttle.subject("a.test", "a.test")
    assert throttle.opens_at(one) == -math.inf
    throttle.take(one, 100.0)
    assert throttle.opens_at(one) == pytest.approx(106.0)
    assert throttle.opens_at(throttle.subject("b.test", "b.test")) == -math.inf


@pytest.mark.parametrize(
    ("messages", "per", "burst", "kept"),
    [(100, 3600, None, 1.67), (6000, 3600, None, 100), (3, 3600, 2, 2), (5, 10, None, 5)],
)
def test_without_a_burst_what_falls_into_a_minute_may_go_at_once(messages, per, burst, kept) -> None:
    assert Rate.of(messages, per, burst).burst == pytest.approx(kept, abs=0.01)


@given(
    st.integers(1, 50),
    st.integers(1, 5),
    st.lists(st.floats(0, 30, allow_nan=False), min_size=1, max_size=200),
)
def test_no_span_has_more_than_the_rate_and_the_burst(messages: int, burst: int, waits: list[float]) -> None:
    throttle = Throttle((Limit("all", rate=Rate.of(messages, 60.0, burst)),))
    subject = throttle.subject("a.test", "a.test")
    now, taken = 0.0, []
    for wait in waits:
        now += wait
        if throttle.opens_at(subject) <= now:
            throttle.take(subject, now)
            taken.append(now)
    for first, last in itertools.combinations(range(len(taken)), 2):
        allowed = burst + (taken[last] - taken[first]) * messages / 60.0
        assert last - first + 1 <= allowed + 1e-6


@given(st.lists(st.floats(-1000, 1000, allow_nan=False), max_size=50))
def test_a_clock_that_jumps_neither_gives_nor_blocks_for_good(jumps: list[float]) -> None:
    throttle = Throttle((TEN_A_MINUTE,))
    subject = throttle.subject("a.test", "a.test")
    now = 10_000.0
    for jump in jumps:
        now += jump
        if throttle.opens_at(subject) <= now:
            throttle.take(subject, now)
    assert throttle.opens_at(subject) <= max(now, 10_000.0 + 50 * 1000) + 6


@pytest.mark.parametrize(
    ("limit", "held"),
    [
        (Limit("domain", ("a.test",)), True),
        (Limit("domain", ("*.test",)), True),
        (Limit("domain", ("b.test",)), False),
        (Limit("site", ("MX1.provider.test",)), True),
        (Limit("site", ("*.provider.test",)), True),
        (Limit("site", ("provider.test",)), False),
        (Limit("sender", ("*@news.test",)), True),
        (Limit("sender", ("x@other.test",)), False),
        (Limit("source", ("192.0.2.1",)), True),
        (Limit("source", ("192.0.2.9",)), False),
        (Limit("all"), True),
    ],
)
def test_whom_a_limit_is_for(limit: Limit, held: bool) -> None:
    limit = Limit(limit.of, limit.match, Rate.of(1, 60.0, 1))
    throttle = Throttle((limit,), lambda domain: ("192.0.2.1", "2001:db8::1"))
    subject = throttle.subject("a.test", "mx1.provider.test, mx2.provider.test dane", "x@news.test")
    throttle.take(subject, 0.0)
    assert (throttle.opens_at(subject) > 0) is held


def test_attempts_at_a_time() -> None:
    throttle = Throttle((Limit("sender", at_a_time=2),))
    subject = throttle.subject("a.test", "a.test", "x@news.test")
    held = [throttle.take(subject, 0.0) for _ in range(2)]
    assert throttle.opens_at(subject) == -math.inf, "claimed is not begun"
    for each in held:
        throttle.hold(each)
    assert throttle.opens_at(subject) == math.inf
    assert throttle.opens_at(throttle.subject("a.test", "a.test", "y@news.test")) == -math.inf
    throttle.release(held[0])
    assert throttle.opens_at(subject) == -math.inf


def test_one_claim_counts_what_it_has_taken_itself() -> None:
    throttle = Throttle((Limit("all", at_a_time=2),))
    permits = Permits(Lanes(Terms()), throttle, 0.0)
    for domain in ("a.test", "b.test"):
        assert permits.opens_at(domain) == -math.inf
        permits.took(domain, "")
    assert permits.opens_at("c.test") == math.inf
    assert len(permits.held) == 2


def test_a_reload_keeps_the_counts_of_limits_that_did_not_change() -> None:
    other = Limit("all", rate=Rate.of(1, 60.0, 1))
    throttle = Throttle((TEN_A_MINUTE, other))
    subject = throttle.subject("a.test", "a.test")
    throttle.take(subject, 0.0)
    throttle.reconfigure((TEN_A_MINUTE,))
    assert throttle.opens_at(subject) == pytest.approx(6.0)
    throttle.reconfigure((Limit("domain", rate=Rate.of(20, 60.0, 1)),))
    assert throttle.opens_at(subject) == -math.inf


def test_buckets_that_say_nothing_are_forgotten() -> None:
    throttle = Throttle((TEN_A_MINUTE,))
    for index in range(MAX_BUCKETS + 1):
        throttle.take(throttle.subject(f"d{index}.test", "x"), float(index))
    assert len(throttle._buckets) < 10
