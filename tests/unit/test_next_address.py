"""The attempt after one that failed begins elsewhere: another family first, then another address."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from deliver.addresses import Tries, targets_of
from deliver.net.clock import WallClock
from hints.memory import MemoryHints
from hints.records import Reachability

V4, OTHER_V4, V6, OTHER_V6 = "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"


@pytest.mark.parametrize(
    ("tried", "expected"),
    [
        (None, [V6, V4, OTHER_V6, OTHER_V4]),
        (V6, [V4, OTHER_V4, OTHER_V6, V6]),
        (V4, [V6, OTHER_V6, OTHER_V4, V4]),
        ("198.51.100.9", [V6, OTHER_V6, V4, OTHER_V4]),
    ],
)
async def test_order_after_a_failure(autojump_clock: Any, tried: str | None, expected: list[str]) -> None:
    clock = WallClock(1000.0)
    hints = MemoryHints(clock=clock.now)
    assert await order(hints, clock, tried) == expected


async def test_an_address_that_was_unreachable_lately_is_last_all_the_same(autojump_clock: Any) -> None:
    clock = WallClock(1000.0)
    hints = MemoryHints(clock=clock.now)
    failure = Reachability("mx.example.org", V4, 25, "no answer")
    hints.note(failure, source="test", reason="test", now=clock.now())
    assert (await order(hints, clock, V6))[-1] == V4


async def order(hints: MemoryHints, clock: WallClock, tried: str | None) -> list[str]:
    agent: Any = SimpleNamespace(hints=hints, clock=clock, own_sockets=frozenset())
    plan: Any = SimpleNamespace(host="mx.example.org", addresses=(V6, OTHER_V6, V4, OTHER_V4), secure=False)
    last = None if tried is None else Place("mx.example.org", tried)
    chosen = await targets_of(agent, "example.org", plan, 25, Tries(2, last), None)
    return [target.address for target in chosen.targets]
