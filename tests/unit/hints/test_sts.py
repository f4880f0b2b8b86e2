"""MTA-STS policies, in memory and in a file: the latest fetch is kept, and counts for as long as it says."""

from __future__ import annotations

import math

import pytest
import trio

from hints.check import MAX_PATTERNS, MAX_POLICY_AGE, MAX_TIME, accept
from hints.memory import MemoryHints
from hints.port import Hints
from hints.prune import STS_AHEAD
from hints.sql import SqlHints
from tests.unit.hints.hintsfile import DOMAIN, WEEK, fail, seen, tell


@pytest.fixture(params=["memory", "sql", "sql, flushed"])
async def hints(request, clock, tmp_path):
    if request.param == "memory":
        made: Hints = MemoryHints(clock=clock)
    else:
        made = SqlHints(f"sqlite:///{tmp_path}/hints.db", clock=clock, max_size=2**20)
    made.eager = "flushed" in request.param  # type: ignore[attr-defined]
    yield made
    await made.aclose()


async def kept(hints, clock, *policies, domain=DOMAIN):
    """What is known after these were noted one after the other, before and after a flush."""
    for one in policies:
        tell(hints, clock, one)
        if hints.eager:
            await hints.flush()
    found = await hints.sts_policy(domain)
    await hints.flush()
    assert await hints.sts_policy(domain) == found
    return found


async def test_a_policy_is_kept_by_domain(hints, clock):
    policy = seen(clock.now)
    assert await hints.sts_policy(DOMAIN) is None
    assert await kept(hints, clock, policy) == policy
    assert await hints.sts_policy(DOMAIN.upper()) == policy
    assert await hints.sts_policy("mail.example.org") is None


async def test_names_are_kept_in_lower_case(hints, clock):
    policy = seen(clock.now, domain="Example.ORG", id="aB1", patterns=("MX.Example.Org", "*.EXAMPLE.net"))
    assert await kept(hints, clock, policy) == seen(clock.now, id="aB1")


async def test_a_later_fetch_takes_the_place(hints, clock):
    old, new = seen(clock.now - 5), seen(clock.now, id="2", mode="none", patterns=(), max_age=86_400)
    assert await kept(hints, clock, old, new) == new


async def test_an_earlier_fetch_that_comes_later_does_not(hints, clock):
    old, new = seen(clock.now - 5), seen(clock.now, id="2")
    assert await kept(hints, clock, new, old) == new
    assert await kept(hints, clock, old) == new


async def test_an_earlier_fetch_does_not_revive_what_a_later_one_ended(hints, clock):
    old, new = seen(clock.now - 5), seen(clock.now, id="2", mode="none", patterns=(), max_age=0)
    await hints.flush()  # what is past its time is deleted once an hour
    assert await kept(hints, clock, new, old) is None


async def test_it_counts_for_max_age_since_it_was_fetched(hints, clock):
    policy = seen(clock.now - 100)
    clock.now += WEEK - 101
    assert await kept(hints, clock, policy) == policy
    clock.now += 1
    assert await hints.sts_policy(DOMAIN) is None


async def test_a_clock_that_was_ahead_keeps_no_policy_out(hints, clock):
    nearly, ahead = seen(clock.now + STS_AHEAD), seen(clock.now + STS_AHEAD + 1)
    assert await kept(hints, clock, nearly, seen(clock.now)) == nearly
    assert await kept(hints, clock, ahead) is None
    assert await kept(hints, clock, seen(clock.now, id="2")) == seen(clock.now, id="2")


@pytest.mark.parametrize(
    "parts",
    [
        {"domain": ""},
        {"domain": "example.org."},
        {"domain": "bücher.example"},
        {"domain": "a\n"},
        {"domain": "a" * 64},
        {"domain": ".".join(["a" * 63] * 4)},
        {"id": ""},
        {"id": "a" * 33},
        {"id": "a-b"},
        {"id": "é"},
        {"mode": "Enforce"},
        {"patterns": ()},
        {"patterns": ("mx.example.org",) * (MAX_PATTERNS + 1)},
        {"patterns": ("*",)},
        {"patterns": ("*.*.example.org",)},
        {"patterns": ("mx.*.example.org",)},
        {"patterns": ("mx.example.org", "")},
        {"max_age": -1},
        {"max_age": MAX_POLICY_AGE + 1},
        {"fetched_at": math.nan},
        {"fetched_at": -1.0},
        {"fetched_at": MAX_TIME},
    ],
)
async def test_a_policy_that_makes_no_sense_is_dropped(hints, clock, parts):
    assert accept(seen(clock.now, **parts)) is None
    assert await kept(hints, clock, seen(clock.now, **parts)) is None


@pytest.mark.parametrize(
    "parts",
    [
        {"mode": "none", "patterns": ()},
        {"mode": "testing"},
        {"id": "Z" * 32},
        {"patterns": tuple(f"mx{number}.example.org" for number in range(MAX_PATTERNS))},
        {"max_age": MAX_POLICY_AGE},
    ],
)
async def test_the_limits_themselves_are_kept(hints, clock, parts):
    policy = seen(clock.now, **parts)
    assert await kept(hints, clock, policy) == policy


@pytest.mark.parametrize("domain", ["", "mx.\udcff", "a b", "*", "a" * 300, "'; DROP TABLE sts_policy --"])
async def test_what_is_no_domain_has_no_policy(hints, domain):
    assert await hints.sts_policy(domain) is None


async def test_asking_can_be_cancelled(hints):
    with trio.CancelScope() as scope:
        scope.cancel()
        await hints.sts_policy(DOMAIN)
        await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught


async def test_other_hints_in_memory_take_no_policys_place(clock):
    hints = MemoryHints(clock=clock, max_entries=2)
    tell(hints, clock, seen(clock.now))
    for number in range(9):
        fail(hints, clock, f"192.0.2.{number}")
    assert await hints.sts_policy(DOMAIN) == seen(clock.now)
