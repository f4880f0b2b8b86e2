"""Retry rules: which one is meant, and how long it makes a recipient wait."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, strategies as st

from deliver.errors import Blame, Fault
from deliver.message import Mailbox, Recipient
from deliver.outcome import Contact, Deferred, Failed, Phase
from deliver.queue.retry import LONGEST_WAIT, Rule, Step, choose, error_words, known
from deliver.queue.schedule import Plan, settle_as
from deliver.queue.terms import plan_of
from deliver.settings import Duration, Queue, RetryRule, RetryStep
from deliver.smtp.reply import Reply
from tests.unit.queue.values import DEFERRED, IN_DOUBT, NOW

HOUR, DAY = 3600.0, 86400.0
EXIM = (Step(2 * HOUR, 900.0), Step(16 * HOUR, HOUR, "geometric", 1.5), Step(4 * DAY, 6 * HOUR))
REFUSED = Deferred("refused", Blame.HOST, Phase.CONNECT, contact=Contact("mx.slow.test", "192.0.2.1", 25))
FULL = Deferred("full", Blame.RECIPIENT, Phase.RCPT, Reply(452, ("4.2.2 full",)))


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (REFUSED, {"connect"}),
        (replace(REFUSED, fault=Fault.REFUSED), {"connect", "refused"}),
        (replace(REFUSED, fault=Fault.TIMEOUT), {"connect", "timeout"}),
        (Deferred("x", Blame.HOST, Phase.BANNER, fault=Fault.TIMEOUT), {"greeting", "timeout"}),
        (Deferred("x", Blame.HOST, Phase.RCPT, fault=Fault.TIMEOUT), {"lost", "timeout"}),
        (
            Deferred("x", Blame.HOST, Phase.DOT, in_doubt=True, fault=Fault.TIMEOUT),
            {"lost", "in-doubt", "timeout"},
        ),
        (FULL, {"rcpt", "rcpt-452"}),
        (Deferred("x", Blame.MESSAGE, Phase.MAIL, Reply(451, ("x",))), {"mail", "mail-451"}),
        (Deferred("x", Blame.MESSAGE, Phase.DOT, Reply(451, ("x",))), {"data", "data-451"}),
        (Deferred("x", Blame.HOST, Phase.DOT, in_doubt=True), {"lost", "in-doubt"}),
        (Deferred("x", Blame.HOST, Phase.EHLO), {"greeting"}),
        (Deferred("x", Blame.POLICY, Phase.TLS), {"tls"}),
        (Deferred("x", Blame.POLICY), {"tls"}),
        (Deferred("x", Blame.HOST, Phase.AUTH), {"auth"}),
        (Deferred("x", Blame.DESTINATION), {"dns"}),
        (Deferred("x", Blame.LOCAL), {"local"}),
    ],
)
def test_error_words(outcome: Deferred, words: set[str]) -> None:
    assert error_words(outcome) == words
    assert all(known(word) for word in words)


@pytest.mark.parametrize("word", ["rcpt-45x", "rcpt-4xx", "mail-452", "data", "in-doubt"])
def test_known_words(word: str) -> None:
    assert known(word)


@pytest.mark.parametrize("word", ["", "quota", "rcpt-5", "rcpt-55x", "dns-452", "rcpt-45x ", "RCPT"])
def test_unknown_words(word: str) -> None:
    assert not known(word)


@pytest.mark.parametrize(
    ("rule", "meant"),
    [
        (Rule(EXIM), True),
        (Rule(EXIM, errors=("refused",)), False),
        (Rule(EXIM, domains=("*.example.org",)), False),
        (Rule(EXIM, domains=("example.org",)), True),
        (Rule(EXIM, hosts=("*.slow.test",)), True),
        (Rule(EXIM, hosts=("mx.other.test",)), False),
        (Rule(EXIM, senders=("*@news.test",)), True),
        (Rule(EXIM, senders=("",)), False),
        (Rule(EXIM, errors=("dns", "connect")), True),
        (Rule(EXIM, errors=("dns",)), False),
        (Rule(EXIM, domains=("example.org",), errors=("dns",)), False),
    ],
)
def test_all_that_a_rule_names_must_match(rule: Rule, meant: bool) -> None:
    assert rule.concerns("example.org", "A@News.test", REFUSED) is meant


@pytest.mark.parametrize(
    ("pattern", "meant"), [("rcpt-45x", True), ("rcpt-4xx", True), ("rcpt-451", False), ("mail-4xx", False)]
)
def test_codes_with_digits_left_open(pattern: str, meant: bool) -> None:
    assert Rule(EXIM, errors=(pattern,)).concerns("example.org", "", FULL) is meant


def test_a_rule_for_a_host_needs_a_host() -> None:
    assert not Rule(EXIM, hosts=("*",)).concerns("example.org", "", DEFERRED)


def test_the_first_rule_counts() -> None:
    first, second = Rule(EXIM, domains=("*",)), Rule((), domains=("*",))
    assert choose((first, second), "example.org", "", FULL) is first
    assert choose((), "example.org", "", FULL) is None


def test_the_classic_list_of_exim() -> None:
    """F,2h,15m; G,16h,1h,1.5; F,4d,6h"""
    rule, age, previous, gaps = Rule(EXIM), 0.0, 0.0, []
    while age < rule.expire:
        previous = rule.gap(age, previous, Random(1))
        gaps.append(previous)
        age += previous
    assert gaps[:10] == [900.0] * 9 + [HOUR]
    assert gaps[10:15] == [HOUR * 1.5**n for n in range(1, 6)]
    assert set(gaps[15:]) == {6 * HOUR}


@given(st.floats(0, 1e7), st.floats(1, 1e6), st.floats(1, 100), st.randoms(use_true_random=False))
def test_random_geometric_lies_between_half_and_all_of_the_growth(previous, wait, factor, rng) -> None:
    grown = Step(1e9, wait, "geometric", factor).gap(previous, rng)
    drawn = Step(1e9, wait, "random-geometric", factor).gap(previous, rng)
    assert wait <= grown <= max(wait, LONGEST_WAIT)
    assert wait + 0.499 * (grown - wait) <= drawn <= grown + 1e-6


def settled(outcome: Deferred, plan: Plan, age: float = 0.0, waited: float = 0.0):
    return settle_as(
        Recipient(0, Mailbox("b", "example.org")), outcome, plan, number=1, received_at=NOW - age, now=NOW,
        rng=Random(1), sender="a@news.test", waited=waited,
    )  # fmt: skip


def test_a_settlement_follows_its_rule_and_goes_on_from_the_wait_before() -> None:
    plan = Plan((60.0,), 5 * DAY, rules=(Rule(EXIM, errors=("connect",)),))
    found = settled(REFUSED, plan, age=3 * HOUR, waited=HOUR)
    assert found.waited == 1.5 * HOUR
    assert NOW + 1.5 * HOUR <= found.next_attempt <= NOW + 1.5 * HOUR * 1.1
    assert settled(FULL, plan, age=3 * HOUR, waited=HOUR).waited == 60.0


def test_a_rule_decides_when_mail_goes_back() -> None:
    plan = Plan(
        (60.0,), 5 * DAY, rules=(Rule((Step(HOUR, 60.0),), errors=("rcpt-452",)), Rule((), errors=("mail",)))
    )
    assert isinstance(settled(FULL, plan, age=HOUR - 1).outcome, Deferred)
    assert isinstance(settled(FULL, plan, age=HOUR).outcome, Failed)
    refused = Deferred("x", Blame.MESSAGE, Phase.MAIL, Reply(450, ("x",)))
    assert isinstance(settled(refused, plan).outcome, Failed), "no steps: no second attempt"


def test_doubt_waits_at_least_as_long() -> None:
    plan = Plan((60.0,), 5 * DAY, rules=(Rule((Step(DAY, 60.0, "geometric", 2.0),)),))
    assert settled(IN_DOUBT, plan, waited=120.0).waited == 480.0


def test_settings_become_rules() -> None:
    step = RetryStep(until=Duration(DAY), wait=Duration(60), kind="geometric", factor=2.0)
    plan = plan_of(Queue(retry_rule=(RetryRule(steps=(step,), senders=("*@News.test",)),)))
    assert plan.rules == (Rule((Step(DAY, 60.0, "geometric", 2.0),), senders=("*@news.test",)),)
