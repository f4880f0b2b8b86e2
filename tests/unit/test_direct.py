"""Delivery at the doors where something of our own is broken: the caller is answered, the service goes on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from deliver.agent import Agent
from deliver.direct import Direct, Limit
from deliver.outcome import Deferred
from deliver.queue.turns import Closed, Turns
from deliver.settings import Settings
from tests.unit.queue.values import InlineContent, envelope

AGENT = cast(Agent, SimpleNamespace(clock=SimpleNamespace(now=lambda: 0.0), settings=Settings()))


class Broken:
    """Gives turns; their end fails, or there are none."""

    def __init__(self, closed: str = "") -> None:
        self.closed = closed
        self.asked: list[tuple[str, str]] = []

    async def run(self) -> None:
        await trio.sleep_forever()

    async def take(self, domain: str, sender: str, patience: float) -> object:
        self.asked.append((domain, sender))
        if self.closed:
            raise Closed(self.closed)
        return object()

    def end(self, turn: object, result: Any) -> None:
        raise RuntimeError("a bug")


async def deliver(turns: Broken, *recipients: str) -> list[Deferred]:
    direct = Direct(AGENT, None, cast(Turns, turns))
    async with trio.open_nursery() as nursery:
        await nursery.start(direct.run)
        results = await direct.deliver(
            envelope("m1", *recipients), InlineContent(b"x"), None, Limit.within(60)
        )
        direct.stop()
    found = [outcome for _, outcome, _ in results]
    assert all(isinstance(outcome, Deferred) for outcome in found)
    return cast(list[Deferred], found)


async def test_a_bug_in_one_delivery_is_its_deferral(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes = await deliver(Broken(), "a@one.test")
    assert len(outcomes) == 1
    assert "a delivery failed unexpectedly" in caplog.text


async def test_who_has_no_turn_is_deferred_with_the_reason(autojump_clock: MockClock) -> None:
    turns = Broken("left alone for another 60 s")
    outcomes = await deliver(turns, "a@one.test", "b@one.test", "c@two.test")
    assert [outcome.why for outcome in outcomes] == ["left alone for another 60 s"] * 3
    assert {outcome.in_doubt for outcome in outcomes} == {False}
    assert sorted(turns.asked) == [("one.test", "a@sender.example"), ("two.test", "a@sender.example")]
