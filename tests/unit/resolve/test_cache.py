from __future__ import annotations

import pytest
import trio
import trio.testing

from deliver.resolve.answer import Answer, Bogus, NoData, Query, RecordType, Unreachable
from deliver.resolve.cache import CachingResolver

QUERY = Query("example", RecordType.MX)


class Upstream:
    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[Query] = []
        self.gate: trio.Event | None = None

    async def lookup(self, query: Query) -> Answer:
        self.asked.append(query)
        if self.gate is not None:
            await self.gate.wait()
        return self.answers.pop(0)


def caching(upstream: Upstream, **changes: float) -> CachingResolver:
    return CachingResolver(
        upstream,
        now=trio.current_time,
        entries=int(changes.get("entries", 100)),
        max_ttl=changes.get("max_ttl", 3600),
        least=changes.get("least", 0),
    )


async def test_an_answer_lives_as_long_as_its_ttl(autojump_clock: trio.testing.MockClock) -> None:
    upstream = Upstream(NoData(True, ttl=10), NoData(False, ttl=10))
    resolver = caching(upstream)
    assert await resolver.lookup(QUERY) == NoData(True, ttl=10)
    await trio.sleep(9)
    assert await resolver.lookup(QUERY) == NoData(True, ttl=10)
    await trio.sleep(2)
    assert await resolver.lookup(QUERY) == NoData(False, ttl=10)


async def test_a_ttl_is_capped(autojump_clock: trio.testing.MockClock) -> None:
    upstream = Upstream(NoData(True, ttl=10**9), NoData(False, ttl=10))
    resolver = caching(upstream, max_ttl=60)
    await resolver.lookup(QUERY)
    await trio.sleep(61)
    assert await resolver.lookup(QUERY) == NoData(False, ttl=10)


@pytest.mark.parametrize("failure", [Bogus("x"), Unreachable("x")])
async def test_failures_are_never_kept(failure: Answer) -> None:
    resolver = caching(Upstream(failure, NoData(True, ttl=10)))
    assert await resolver.lookup(QUERY) == failure
    assert await resolver.lookup(QUERY) == NoData(True, ttl=10)


@pytest.mark.parametrize("first", [Bogus("x"), Unreachable("x"), NoData(True, ttl=0), NoData(True, ttl=1)])
async def test_a_single_delivery_is_told_the_same_again(
    first: Answer, autojump_clock: trio.testing.MockClock
) -> None:
    resolver = caching(Upstream(first, NoData(True, ttl=10)), least=5)
    assert await resolver.lookup(QUERY) == first
    await trio.sleep(4)
    assert await resolver.lookup(QUERY) == first
    await trio.sleep(2)
    assert await resolver.lookup(QUERY) == NoData(True, ttl=10)


async def test_identical_lookups_in_flight_are_merged() -> None:
    upstream = Upstream(NoData(True, ttl=10))
    upstream.gate = trio.Event()
    resolver = caching(upstream)
    answers: list[Answer] = []

    async def ask() -> None:
        answers.append(await resolver.lookup(QUERY))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        upstream.gate.set()
    assert answers == [NoData(True, ttl=10)] * 5
    assert len(upstream.asked) == 1


async def test_a_cancelled_leader_leaves_the_question_to_the_next() -> None:
    upstream = Upstream(NoData(True, ttl=10))
    upstream.gate = trio.Event()
    resolver = caching(upstream)
    leader = trio.CancelScope()
    answers: list[Answer] = []

    async def lead() -> None:
        with leader:
            await resolver.lookup(QUERY)

    async def follow() -> None:
        answers.append(await resolver.lookup(QUERY))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lead)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(follow)
        await trio.testing.wait_all_tasks_blocked()
        leader.cancel()
        await trio.testing.wait_all_tasks_blocked()
        upstream.gate.set()
    assert answers == [NoData(True, ttl=10)]
    assert len(upstream.asked) == 2


async def test_the_cache_is_bounded() -> None:
    queries = [Query(f"d{number}.example", RecordType.MX) for number in range(4)]
    upstream = Upstream(*[NoData(True, ttl=10)] * 5)
    resolver = caching(upstream, entries=3)
    for query in queries:
        await resolver.lookup(query)
    await resolver.lookup(queries[0])
    assert upstream.asked.count(queries[0]) == 2
    await resolver.lookup(queries[3])
    assert upstream.asked.count(queries[3]) == 1
