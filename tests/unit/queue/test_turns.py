"""Turns of deliveries that are not in the queue: they count on its lanes, under its limits, beside its claims."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from deliver.errors import Blame
from deliver.message import Mailbox, Recipient
from deliver.outcome import AttemptResult, Deferred, Outcome
from deliver.queue.lanes import Lanes, Occupancy, Terms
from deliver.queue.throttle import Limit, Rate, Throttle
from deliver.queue.turns import PATIENCE, SOON, Closed, Turn, Turns
from deliver.report.trace import Trace
from tests.unit.queue.values import DEFERRED, DELIVERED

EPOCH = 1_700_000_000.0
NEUTRAL = Deferred("our disk", Blame.LOCAL)


@dataclass
class Clock:
    """The epoch by trio's clock."""

    def now(self) -> float:
        return EPOCH + trio.current_time()


def result(outcome: Outcome = DELIVERED, site: str | None = None) -> AttemptResult:
    return AttemptResult(((Recipient(0, Mailbox("a", "b.test")), outcome),), Trace(), site)


TERMS = Terms(start=2, widest=4, per_domain=4, pause=60)


def made(terms: Terms = TERMS, *limits: Limit, workers: int = 10) -> Turns:
    return Turns(Lanes(terms), Throttle(limits), Occupancy(workers, 0, math.inf), Clock(), trio.Lock())


@asynccontextmanager
async def running(turns: Turns) -> AsyncIterator[trio.Nursery]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.run)
        yield nursery
        nursery.cancel_scope.cancel()


async def take_into(found: list[Turn], turns: Turns, domain: str = "b.test", sender: str = "") -> None:
    found.append(await turns.take(domain, sender))


async def test_no_more_at_a_time_than_the_lane_has_places(autojump_clock: MockClock) -> None:
    turns = made()
    found: list[Turn] = []
    async with running(turns) as nursery:
        for _ in range(4):
            nursery.start_soon(take_into, found, turns)
        await wait_all_tasks_blocked()
        assert len(found) == 2
        turns.end(found[0], result(NEUTRAL))
        await wait_all_tasks_blocked()
        assert len(found) == 3, "one has ended"
        turns.end(found[1], result())
        await wait_all_tasks_blocked()
        assert len(found) == 4
        assert turns.lanes.opens_at("b.test") == -math.inf, "an answer has widened the lane"


async def test_a_domain_of_the_same_site_counts_too(autojump_clock: MockClock) -> None:
    turns = made(Terms(start=1, widest=1, per_domain=5))
    for domain in ("b.test", "c.test"):
        turns.end(await turns.take(domain, ""), result(site="mx.test"))
    found: list[Turn] = []
    async with running(turns) as nursery:
        nursery.start_soon(take_into, found, turns, "b.test")
        nursery.start_soon(take_into, found, turns, "c.test")
        await wait_all_tasks_blocked()
        assert len(found) == 1


async def test_attempts_of_the_queue_count_and_their_end_makes_room(autojump_clock: MockClock) -> None:
    turns = made(Terms(start=1, widest=1))
    queued = turns.begin(7, "b.test", (), EPOCH)
    found: list[Turn] = []
    async with running(turns) as nursery:
        nursery.start_soon(take_into, found, turns)
        await wait_all_tasks_blocked()
        assert not found
        turns.end(queued, result())
        await wait_all_tasks_blocked()
        assert found


async def test_nothing_begins_while_the_queue_counts_its_claims(autojump_clock: MockClock) -> None:
    lock = trio.Lock()
    lanes = Lanes(Terms(start=1, widest=1))
    turns = Turns(lanes, Throttle(), Occupancy(10, 0, math.inf), Clock(), lock)
    found: list[Turn] = []
    async with running(turns) as nursery:
        async with lock:
            nursery.start_soon(take_into, found, turns)
            await wait_all_tasks_blocked()
            assert not found
            turns.begin(7, "b.test", (), EPOCH)  # the place that was claimed meanwhile
        await wait_all_tasks_blocked()
        assert not found


async def test_a_site_that_failed_is_left_alone_and_said_so_at_once(autojump_clock: MockClock) -> None:
    turns = made()
    turns.end(await turns.take("b.test", ""), result(DEFERRED))
    began = trio.current_time()
    with pytest.raises(Closed, match=r"b\.test failed lately and are left alone for another 60 s"):
        await turns.take("b.test", "")
    assert trio.current_time() == began
    await trio.sleep(60 - SOON)
    async with running(turns):
        turn = await turns.take("b.test", "")
        assert trio.current_time() - began == 60, "what ends soon is waited for"
        turns.end(turn, result())
        turns.end(await turns.take("b.test", ""), result())
        assert trio.current_time() - began == 60


async def test_an_end_of_the_pause_by_hand_is_noticed(autojump_clock: MockClock) -> None:
    turns = made(Terms(start=1, widest=1, pause=SOON / 2))
    turns.end(await turns.take("b.test", ""), result(DEFERRED))
    found: list[Turn] = []
    async with running(turns) as nursery:
        nursery.start_soon(take_into, found, turns)
        await wait_all_tasks_blocked()
        assert not found
        turns.lanes.reopen()
        turns.look()
        await wait_all_tasks_blocked()
        assert found


async def test_a_rate_is_kept(autojump_clock: MockClock) -> None:
    turns = made(Terms(), Limit("domain", ("b.test",), Rate.of(60, 60.0, 1)))
    begun: list[float] = []
    async with running(turns):
        for _ in range(4):
            turns.end(await turns.take("b.test", ""), result())
            begun.append(trio.current_time())
    assert [moment - begun[0] for moment in begun] == pytest.approx([0, 1, 2, 3])
    slow = made(Terms(), Limit("domain", ("b.test",), Rate.of(1, 3600.0, 1)))
    slow.end(await slow.take("b.test", ""), result())
    with pytest.raises(Closed, match=r"a limit on mail to b\.test \(queue\.limit\) opens in 3600 s"):
        await slow.take("b.test", "")


async def test_a_sender_who_has_to_wait_holds_up_no_other(autojump_clock: MockClock) -> None:
    turns = made(TERMS, Limit("sender", ("busy@a.test",), at_a_time=1))
    found: list[Turn] = []
    async with running(turns) as nursery:
        for sender in ("busy@a.test", "busy@a.test", "other@a.test"):
            nursery.start_soon(take_into, found, turns, "b.test", sender)
        await wait_all_tasks_blocked()
        assert len(found) == 2


async def test_workers_are_shared_by_all_domains_in_turn(autojump_clock: MockClock) -> None:
    turns = made(workers=1)
    order: list[str] = []

    async def deliver(domain: str) -> None:
        turn = await turns.take(domain, "")
        order.append(domain)
        await trio.sleep(1)
        turns.end(turn, result(NEUTRAL))

    async with running(turns):
        async with trio.open_nursery() as deliveries:
            for domain in ("a.test", "a.test", "a.test", "b.test"):
                deliveries.start_soon(deliver, domain)
                await wait_all_tasks_blocked()
    assert order.index("b.test") < 3, "not behind all of the other domain"
    assert trio.current_time() == 4


async def test_nobody_waits_for_ever_for_a_place(autojump_clock: MockClock) -> None:
    turns = made(Terms(start=1, widest=1))
    await turns.take("b.test", "")
    async with running(turns):
        began = trio.current_time()
        with pytest.raises(Closed, match="as many deliveries to"):
            await turns.take("b.test", "")
        assert trio.current_time() - began == PATIENCE


async def test_who_gives_up_waiting_takes_no_place(autojump_clock: MockClock) -> None:
    turns = made(Terms(start=1, widest=1))
    first = await turns.take("b.test", "")
    async with running(turns):
        with trio.move_on_after(1):
            await turns.take("b.test", "")
        turns.end(first, result())
        with trio.fail_after(1):
            await turns.take("b.test", "")


async def test_a_turn_that_is_given_while_its_taker_is_cancelled_is_given_back(
    autojump_clock: MockClock,
) -> None:
    for _ in range(20):  # which of the two tasks runs first is by chance
        turns = made(Terms(start=1, widest=1), Limit("domain", ("*",), at_a_time=1), workers=1)
        first = await turns.take("b.test", "")
        found: list[Turn] = []
        async with running(turns) as nursery:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as waiter:
                    waiter.start_soon(take_into, found, turns)
                    await wait_all_tasks_blocked()
                    turns.end(first, result(NEUTRAL))
                    await trio.lowlevel.checkpoint()
                    scope.cancel()
            for turn in found:
                turns.end(turn, result(NEUTRAL))
            with trio.fail_after(1):
                await turns.take("b.test", "")
            nursery.cancel_scope.cancel()


async def test_a_bug_costs_those_who_wait_and_not_the_service(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    turns = made(Terms(start=1, widest=1))
    first = await turns.take("b.test", "")
    found: list[Turn] = []
    async with running(turns) as nursery:
        nursery.start_soon(take_into, found, turns)
        await wait_all_tasks_blocked()
        with monkeypatch.context() as broken:
            broken.setattr(Throttle, "opens_at", lambda *_: 1 / 0)
            turns.end(first, result())
            await wait_all_tasks_blocked()
        assert "giving turns failed unexpectedly" in caplog.text
        assert not found
        await trio.sleep(SOON + 1)
        assert found, "it is tried again"
