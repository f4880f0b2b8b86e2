"""Happy Eyeballs on a simulated clock."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

from deliver.net.race import interleave, race

DELAY = 0.25


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        ((), ()),
        (("192.0.2.1",), ("192.0.2.1",)),
        (
            ("2001:db8::1", "2001:db8::2", "2001:db8::3", "192.0.2.1"),
            ("2001:db8::1", "192.0.2.1", "2001:db8::2", "2001:db8::3"),
        ),
        (("192.0.2.1", "192.0.2.2", "2001:db8::1"), ("192.0.2.1", "2001:db8::1", "192.0.2.2")),
    ],
)
def test_families_take_turns(addresses: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert interleave(addresses) == expected


class Track:
    """Racers that connect or fail after a time; what began when, and what was cancelled."""

    def __init__(self) -> None:
        self.began: dict[int, float] = {}
        self.cancelled: list[int] = []

    def racer(self, place: int, seconds: float, connects: bool) -> Callable[[], Awaitable[bool]]:
        async def run() -> bool:
            self.began[place] = trio.current_time() - self.start
            try:
                await trio.sleep(seconds)
            except trio.Cancelled:
                self.cancelled.append(place)
                raise
            return connects

        return run

    async def race(self, *racers: tuple[float, bool]) -> tuple[int | None, float]:
        self.start = trio.current_time()
        made = [self.racer(place, *racer) for place, racer in enumerate(racers)]
        won = await race(made, DELAY)
        return won, trio.current_time() - self.start


CASES = [
    # racers as (seconds, connects): winner, seconds, when each began
    ([(0.1, True), (0.0, True)], 0, 0.1, [0.0]),
    ([(30, False), (0.1, True)], 1, 0.35, [0.0, 0.25]),
    ([(0.3, True), (0.2, True)], 0, 0.3, [0.0, 0.25]),
    ([(0.05, False), (0.1, True)], 1, 0.15, [0.0, 0.05]),
    ([(0.05, False), (0.05, False)], None, 0.1, [0.0, 0.05]),
    ([(30, False), (30, False), (1, True)], 2, 1.5, [0.0, 0.25, 0.5]),
    ([(1, True)], 0, 1, [0.0]),
    ([], None, 0, []),
]


@pytest.mark.parametrize(("racers", "winner", "seconds", "began"), CASES)
async def test_a_race(
    racers: list[tuple[float, bool]],
    winner: int | None,
    seconds: float,
    began: list[float],
    autojump_clock: trio.testing.MockClock,
) -> None:
    track = Track()
    won, took = await track.race(*racers)
    assert won == winner
    assert took == pytest.approx(seconds)
    assert list(track.began.values()) == pytest.approx(began)
    assert won not in track.cancelled


async def test_a_cancelled_race_cancels_all(autojump_clock: trio.testing.MockClock) -> None:
    track = Track()
    with trio.move_on_after(1):
        await track.race((30, True), (30, True))
    assert sorted(track.cancelled) == [0, 1]


async def test_two_that_connect_in_the_same_moment_have_one_winner(
    autojump_clock: trio.testing.MockClock,
) -> None:
    for _ in range(20):  # trio schedules in random order
        won, _ = await Track().race((0.5, True), (0.25, True))
        assert won in (0, 1)
