"""The attempt after one that failed begins elsewhere: at another host, in another family, at another address."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from deliver.addresses import Tries, elsewhere_first, targets_at
from deliver.attempt import Attempt
from deliver.level import Level
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.net.clock import WallClock
from deliver.outcome import Delivered, Place
from deliver.queue.content import InlineContent
from deliver.resolve.answer import AddressRecord, Answer, Found, MxRecord, NoData, Query, RecordType
from deliver.resolve.mx import MxTarget
from deliver.settings import Route, Settings, Tls
from hints.memory import MemoryHints
from hints.records import Reachability
from tests.unit.test_reach import BODY, Net, Way, agent

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
    agent: Any = SimpleNamespace(hints=hints, clock=clock, own_sockets=frozenset(), is_local=lambda _: False)
    plan: Any = SimpleNamespace(host="mx.example.org", addresses=(V6, OTHER_V6, V4, OTHER_V4), secure=False)
    last = None if tried is None else Place("mx.example.org", tried)
    found: Any = SimpleNamespace(port=25, login=None, ways=None)
    chosen = await targets_at(agent, "example.org", found, plan, Tries(2, last))
    return [target.address for target in chosen.targets]


def test_the_host_that_failed_is_the_last_of_its_preference() -> None:
    targets = tuple(MxTarget(host, number) for host, number in (("a", 10), ("b", 10), ("c", 10), ("d", 20)))
    assert elsewhere_first(targets, None) == targets
    names = [target.host for target in elsewhere_first(targets, Place("a", V4))]
    assert names == ["b", "c", "a", "d"], "never behind a host of another preference"
    assert [target.host for target in elsewhere_first(targets, Place("d", V4))] == ["a", "b", "c", "d"]


class Hosts(Net):
    """Two hosts with one address each."""

    def __init__(self, nursery: trio.Nursery, preferences: tuple[int, int]) -> None:
        super().__init__(nursery, {V4: Way(), OTHER_V4: Way()})
        self._preferences = preferences

    async def lookup(self, query: Query) -> Answer:
        await trio.lowlevel.checkpoint()
        if query.type is RecordType.MX:
            first, second = self._preferences
            return Found((MxRecord(first, "a.x.test"), MxRecord(second, "b.x.test")), False, 60)
        if query.type is RecordType.A:
            return Found((AddressRecord(V4 if query.name.startswith("a.") else OTHER_V4),), False, 60)
        return NoData(False)


async def first_dialled(
    seed: int, *, preferences: tuple[int, int] = (10, 10), route: tuple[Route, ...] = ()
) -> str:
    """Where the attempt begins whose predecessor failed at the first host."""
    async with trio.open_nursery() as nursery:
        net, clock = Hosts(nursery, preferences), WallClock(1_700_000_000.0)
        settings = Settings(tls=Tls(level=Level.NONE), route=route)
        ours = replace(
            agent(net, MemoryHints(clock=clock.now), clock), rng=Random(seed), settings=settings, resolver=net
        )
        who = (Recipient(0, Mailbox("a", "x.test")),)
        envelope = Envelope(MessageId("m"), None, who, len(BODY), False, clock.now())
        last = Place("a.x.test", V4)
        story = Attempt(ours, envelope, who, InlineContent(BODY), number=2, tried=last)
        await story.run()
        ((_, outcome),) = story.result().outcomes
        assert isinstance(outcome, Delivered)
        nursery.cancel_scope.cancel()
    return net.dialled[0][0]


async def test_another_host_of_the_same_preference_is_next(autojump_clock: Any) -> None:
    assert {await first_dialled(seed) for seed in range(10)} == {OTHER_V4}


async def test_a_better_preference_stays_first(autojump_clock: Any) -> None:
    assert await first_dialled(1, preferences=(10, 20)) == V4


async def test_the_hosts_of_a_route_stay_in_its_order(autojump_clock: Any) -> None:
    route = Route(domains=("*",), via="smarthost", hosts=("a.x.test", "b.x.test"))
    assert await first_dialled(1, route=(route,)) == V4
