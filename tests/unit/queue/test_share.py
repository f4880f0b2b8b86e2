"""Parts of limits add up to the limit at every moment."""

from __future__ import annotations

import math

from hypothesis import given, strategies as st

from deliver.queue.lanes import Feedback, Lanes, Terms
from deliver.queue.share import WHOLE, Share, mark
from deliver.queue.throttle import Limit, Rate, Subject, Throttle

shards = st.integers(1, 16)
limits = st.integers(1, 100)


@given(parts=shards, limit=limits, turn=st.integers(0, 15))
def test_the_parts_of_a_turn_add_up_to_the_limit(parts: int, limit: int, turn: int) -> None:
    each = [Share(part, parts, turn % parts).places(limit, "k") for part in range(parts)]
    assert sum(each) == limit
    assert max(each) - min(each) <= 1


@given(parts=shards, limit=limits, part=st.integers(0, 15))
def test_everybody_has_a_place_at_some_turn(parts: int, limit: int, part: int) -> None:
    shares = [Share(part % parts, parts, turn) for turn in range(parts)]
    assert any(share.places(limit, "k") for share in shares)


def test_between_turns_only_what_everybody_has_a_part_of_goes_on() -> None:
    share = Share(0, 3, 0).between()
    assert share.places(1, "k") == share.places(2, "k") == 0
    assert share.places(4, "k") == 2


def test_what_another_one_still_uses_is_nobodys_in_this_turn() -> None:
    share = Share(0, 2).between().at(0, frozenset({mark("busy")}))
    assert share.places(1, "busy") == 0
    assert share.places(1, "free") == 1
    assert share.places(2, "busy") == 1


@given(
    st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=60),
    st.integers(1, 2),
)
def test_over_any_story_no_more_run_than_the_limit_allows(story: list[tuple[int, bool]], limit: int) -> None:
    """Three shards begin, end and take turns as they like, by the protocol of the supervisor."""
    lanes = [Lanes(Terms(start=5, widest=limit, per_domain=limit)) for _ in range(3)]
    for part, one in enumerate(lanes):
        one.share = Share(part, 3, 0)
    running: list[list[str]] = [[], [], []]
    turn = 0
    for shard, turns in story:
        if turns:
            turn = (turn + 1) % 3
            marks = {mark(key) for one in lanes for key in one.beyond(one.share.at(turn))}
            for one in lanes:
                one.share = one.share.between().at(turn, frozenset(marks))
        elif lanes[shard].opens_at("a.example") == -math.inf:
            running[shard].append(lanes[shard].begin("a.example"))
        elif running[shard]:
            site = running[shard].pop()
            lanes[shard].end("a.example", site, Feedback.NEUTRAL, None, started=0.0, now=1.0)
        assert sum(len(each) for each in running) <= limit


def test_the_administrators_limit_is_shared_out_too() -> None:
    limit = Limit("all", at_a_time=1)
    throttle = Throttle((limit,))
    subject = Subject("a.example", "a.example")
    throttle.share = Share(0, 2, 1)
    assert throttle.opens_at(subject) == math.inf
    throttle.share = throttle.share.at(0)
    assert throttle.opens_at(subject) == -math.inf
    throttle.hold(throttle.take(subject, 0.0))
    assert list(throttle.beyond(throttle.share.at(1))) == ["all  "]
    assert list(throttle.beyond(throttle.share)) == []


@given(parts=shards)
def test_rates_add_up(parts: int) -> None:
    rate = Rate.of(3600, 3600.0, 60)
    throttle = Throttle((Limit("all", rate=rate),))
    throttle.share = Share(0, parts)
    subject = Subject("a.example", "a.example")
    begun, now = 0, 0.0
    while now < 600.0:
        if throttle.opens_at(subject) <= now:
            throttle.take(subject, now)
            begun += 1
        else:
            now = throttle.opens_at(subject)
    assert begun * parts <= 600 + max(60, parts) + parts


def test_one_shard_has_everything() -> None:
    assert WHOLE.places(7, "k") == 7
    assert WHOLE.portion(7) == 7
