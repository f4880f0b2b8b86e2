"""Lanes: windows, pauses, sites, and who makes room."""

from __future__ import annotations

import math

import pytest

from deliver.errors import Blame
from deliver.message import Mailbox, Recipient
from deliver.outcome import AttemptResult, Deferred, Failed, Outcome, Phase
from deliver.queue.lanes import MAX_SITES, Feedback, Lane, Lanes, Occupancy, Terms, after, feedback
from deliver.report.trace import Trace
from deliver.smtp.reply import Reply
from tests.unit.queue.values import DEFERRED, DELIVERED, FAILED, IN_DOUBT

TERMS = Terms(start=2, widest=8, per_domain=5, pause=60, longest_pause=300, slow_after=5)
GOOD, PUSHBACK, UNREACHABLE = Feedback.GOOD, Feedback.PUSHBACK, Feedback.UNREACHABLE


def result(*outcomes: Outcome) -> AttemptResult:
    found = tuple((Recipient(i, Mailbox("a", "b.test")), each) for i, each in enumerate(outcomes))
    return AttemptResult(found, Trace())


def answered(code: int, phase: Phase, blame: Blame = Blame.RECIPIENT) -> Deferred:
    return Deferred("said so", blame, phase, Reply(code, ("x",)))


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [
        ((DELIVERED,), GOOD),
        ((FAILED,), Feedback.NEUTRAL if FAILED.reply is None else GOOD),
        ((answered(450, Phase.RCPT),), GOOD),
        ((answered(450, Phase.MAIL, Blame.MESSAGE),), PUSHBACK),
        ((answered(421, Phase.RCPT, Blame.HOST),), PUSHBACK),
        ((DELIVERED, answered(421, Phase.RCPT, Blame.HOST)), PUSHBACK),
        ((IN_DOUBT,), PUSHBACK),
        ((Deferred("gone", Blame.HOST, Phase.BODY),), PUSHBACK),
        ((DEFERRED,), UNREACHABLE),
        ((Deferred("refused", Blame.HOST, Phase.CONNECT),), UNREACHABLE),
        ((answered(450, Phase.BANNER, Blame.HOST),), UNREACHABLE),
        ((Deferred("SERVFAIL", Blame.DESTINATION),), UNREACHABLE),
        ((Deferred("our disk", Blame.LOCAL),), Feedback.NEUTRAL),
        ((Deferred("no TLSA", Blame.POLICY),), Feedback.NEUTRAL),
        ((Failed("null MX", Blame.DESTINATION),), Feedback.NEUTRAL),
        ((DEFERRED, DELIVERED), GOOD),
    ],
)
def test_what_an_attempt_says_about_its_site(outcomes: tuple[Outcome, ...], said: Feedback) -> None:
    assert feedback(result(*outcomes)) is said


def test_slow_start_doubles_each_round_up_to_the_limit() -> None:
    lane, windows = Lane(2.0), []
    for now in range(8):
        lane = after(lane, GOOD, TERMS, started=now, now=now)
        windows.append(lane.window)
    assert windows == [3, 4, 5, 6, 7, 8, 8, 8]


def test_after_a_pushback_half_is_left_and_grows_by_one_a_round() -> None:
    lane = after(Lane(8.0), PUSHBACK, TERMS, started=0, now=1)
    assert (lane.window, lane.opens_at(0)) == (4.0, -math.inf)
    for now in range(4):
        lane = after(lane, GOOD, TERMS, started=now, now=now)
    assert 4.9 < lane.window < 5.0


def test_an_unreachable_site_is_paused_twice_as_long_each_time() -> None:
    lane, now, pauses = Lane(8.0), 0.0, []
    for _ in range(5):
        lane = after(lane, UNREACHABLE, TERMS, started=now, now=now)
        pauses.append(lane.paused_until - now)
        now = lane.paused_until
    assert pauses == [60, 120, 240, 300, 300]
    assert lane.window == 1.0
    assert lane.opens_at(0) == now
    healed = after(lane, GOOD, TERMS, started=now, now=now)
    assert (healed.failures, healed.opens_at(0)) == (0, -math.inf)


def test_a_pause_ends_when_the_message_that_failed_is_due_again() -> None:
    assert after(Lane(2.0), UNREACHABLE, TERMS, started=0, now=10, again=25).paused_until == 25


def test_siblings_of_the_attempt_that_began_a_pause_do_not_lengthen_it() -> None:
    first = after(Lane(2.0), UNREACHABLE, TERMS, started=0, now=30)
    second = after(first, UNREACHABLE, TERMS, started=1, now=31)
    assert (second.failures, second.paused_until) == (1, first.paused_until)
    assert after(second, GOOD, TERMS, started=2, now=32).opens_at(0) == -math.inf


def test_the_last_attempt_at_a_time_that_is_pushed_back_begins_a_pause() -> None:
    lane = Lane(1.5, growing=False)
    assert after(lane, PUSHBACK, TERMS, started=0, now=10).paused_until == 70


def test_a_site_may_push_back_once_before_it_is_left_alone() -> None:
    first = after(Lane(1.0), PUSHBACK, TERMS, started=0, now=10)
    assert (first.window, first.paused_until) == (1.0, -math.inf)
    assert after(first, PUSHBACK, TERMS, started=11, now=20).paused_until == 80


def run(lanes: Lanes, domain: str, said: Feedback, site: str | None, now: float = 0.0) -> None:
    lanes.end(domain, lanes.begin(domain), said, site, started=now, now=now)


def test_domains_of_one_site_share_its_window() -> None:
    lanes = Lanes(TERMS)
    for domain in ("a.test", "b.test"):
        run(lanes, domain, Feedback.NEUTRAL, "mx.test")
    lanes.begin("a.test")
    assert lanes.opens_at("b.test") == -math.inf
    lanes.begin("b.test")
    assert lanes.opens_at("a.test") == lanes.opens_at("b.test") == math.inf
    assert lanes.opens_at("c.test") == -math.inf
    assert set(lanes.domains("b.test")) == {"a.test", "b.test"}
    assert lanes.domains("b.test")[0] == "b.test"


def test_what_is_claimed_and_not_begun_counts() -> None:
    lanes = Lanes(TERMS)
    assert lanes.opens_at("a.test", taken=1, taken_site=1) == -math.inf
    assert lanes.opens_at("a.test", taken=2, taken_site=2) == math.inf


def test_a_domain_has_its_own_limit_within_a_wide_site() -> None:
    lanes = Lanes(TERMS)
    for _ in range(8):
        run(lanes, "a.test", GOOD, "mx.test")
    for _ in range(5):
        lanes.begin("a.test")
    assert lanes.opens_at("a.test") == math.inf
    run(lanes, "b.test", Feedback.NEUTRAL, "mx.test")
    assert lanes.opens_at("b.test") == -math.inf


def test_a_domain_that_moves_to_another_site_leaves_the_old_one() -> None:
    lanes = Lanes(TERMS)
    run(lanes, "a.test", UNREACHABLE, "old.test")
    run(lanes, "b.test", Feedback.NEUTRAL, "old.test")
    assert lanes.opens_at("b.test") == 60
    run(lanes, "a.test", GOOD, "new.test", now=100)
    assert lanes.site("a.test") == "new.test"
    assert lanes.opens_at("a.test") == -math.inf
    assert lanes.domains("b.test") == ("b.test",)


def test_reopening_ends_pauses() -> None:
    lanes = Lanes(TERMS)
    run(lanes, "a.test", UNREACHABLE, "mx.test")
    run(lanes, "b.test", UNREACHABLE, None)
    lanes.reopen(["a.test"])
    assert (lanes.opens_at("a.test"), lanes.opens_at("b.test")) == (-math.inf, 60)
    lanes.reopen()
    assert lanes.opens_at("b.test") == -math.inf


def test_only_so_many_sites_are_remembered_and_none_that_is_at_work() -> None:
    lanes = Lanes(TERMS)
    site = lanes.begin("busy.test")
    for index in range(MAX_SITES + 50):
        run(lanes, f"d{index}.test", GOOD, f"mx{index}.test")
    assert len(lanes) <= MAX_SITES + 1
    lanes.end("busy.test", site, GOOD, None, started=0, now=1)


def test_a_lane_whose_attempts_take_long_is_slow() -> None:
    lanes = Lanes(TERMS)
    lanes.end("a.test", lanes.begin("a.test"), GOOD, None, started=0, now=30)
    assert lanes.slow("a.test")
    for now in range(40, 60):
        lanes.end("a.test", lanes.begin("a.test"), GOOD, None, started=now, now=now + 0.1)
    assert not lanes.slow("a.test")


def test_attempts_that_turn_slow_make_room_as_long_as_there_is_any() -> None:
    occupancy = Occupancy(workers=3, slow_workers=2, slow_after=5)
    for attempt in range(3):
        occupancy.begin(attempt, now=attempt, slow=False)
    assert (occupancy.free(4.9), occupancy.next_change()) == (0, 5)
    assert (occupancy.free(6.5), occupancy.next_change()) == (2, math.inf)
    assert occupancy.free(100) == 2, "the third one finds no room among the slow"
    occupancy.end(0)
    assert occupancy.free(100) == 3


def test_an_attempt_on_a_slow_lane_takes_no_worker_from_others() -> None:
    occupancy = Occupancy(workers=1, slow_workers=1, slow_after=5)
    occupancy.begin(1, now=0, slow=True)
    assert occupancy.free(0) == 1
    occupancy.begin(2, now=0, slow=True)
    assert occupancy.free(0) == 0
