"""Shards find an owner, exactly one at a time."""

from __future__ import annotations

from hypothesis import given, strategies as st

from deliver.roster import FIRST_PAUSE, LONGEST_PAUSE, SETTLED, handing, owner, pause


def test_everybody_up_has_its_own_shard_and_the_extra_ones_are_spread() -> None:
    found = handing(range(5), 2, {0, 1}, {}, ())
    assert found.opens == ((0, 0), (1, 1), (2, 0), (3, 1), (4, 0))
    assert found.closes == ()


def test_the_shard_of_one_that_is_down_goes_to_the_next_in_the_ring() -> None:
    held = {0: 0, 1: 1}
    assert handing(range(3), 3, {0, 1}, held, ()).opens == ((2, 0),)
    assert handing(range(3), 3, {1}, {1: 1}, ()).opens == ((0, 1), (2, 1))


def test_who_comes_back_gets_it_when_the_other_has_closed_it() -> None:
    found = handing(range(2), 2, {0, 1}, {0: 0, 1: 0}, ())
    assert (found.opens, found.closes) == ((), ((1, 0),))
    waiting = handing(range(2), 2, {0, 1}, {0: 0, 1: 0}, {1})
    assert (waiting.opens, waiting.closes) == ((), ())
    assert handing(range(2), 2, {0, 1}, {0: 0}, ()).opens == ((1, 1),)


def test_nobody_up() -> None:
    assert owner(1, 2, ()) is None
    assert handing(range(2), 2, (), {}, ()).opens == ()


@given(
    shards=st.integers(1, 12),
    workers=st.integers(1, 6),
    ups=st.lists(st.frozensets(st.integers(0, 5)), min_size=1, max_size=10),
)
def test_it_comes_to_rest_with_every_shard_at_its_owner(
    shards: int, workers: int, ups: list[frozenset[int]]
) -> None:
    held: dict[int, int] = {}
    for each in ups:
        up = {number for number in each if number < workers}
        held = {shard: worker for shard, worker in held.items() if worker in up}
        for _ in range(2):
            found = handing(range(shards), workers, up, held, ())
            for shard, worker in found.closes:
                assert held.pop(shard) == worker
            for shard, worker in found.opens:
                assert shard not in held
                held[shard] = worker
        assert handing(range(shards), workers, up, held, ()) == handing((), workers, up, held, ())
        assert held.keys() == (set(range(shards)) if up else set())


def test_the_pause_grows_only_for_short_lives() -> None:
    assert pause(SETTLED, 7) == 0.0
    assert pause(1.0, 0) == 0.0
    assert [pause(1.0, failures) for failures in (1, 2, 3)] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pause(1.0, 1000) == LONGEST_PAUSE
