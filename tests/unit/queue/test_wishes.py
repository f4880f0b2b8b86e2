"""Workers that wait for the next message of their site, and the look for all that takes them along."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from deliver.queue.lanes import Feedback
from tests.unit.queue.test_runner import House
from tests.unit.queue.values import NOW

SITES = {"a.example": "one", "b.example": "one", "c.example": "one", "z.example": "two"}


@pytest.fixture
async def house(tmp_path):
    built = House(tmp_path)
    lanes = built.runner.lanes
    for domain, site in SITES.items():
        for _ in range(3):
            lanes.end(domain, lanes.begin(domain), Feedback.GOOD, site, started=NOW, now=NOW)
        await built.accept(domain[0], f"x@{domain}")
    yield built
    built.journal.close()


async def claimed(house, *domains):
    """What each got that asked while a claim was under way: a domain, or None for all."""
    got: dict[int, list[str]] = {}

    async def ask(number, domain):
        begun, _ = await house.runner._claim_and_look(domain)
        got[number] = sorted(each.claim.domain for each in begun)

    async with trio.open_nursery() as nursery, house.runner._claiming:
        for number, domain in enumerate(domains):
            nursery.start_soon(ask, number, domain)
        await trio.testing.wait_all_tasks_blocked()
    return [got[number] for number in range(len(domains))]


async def test_a_look_for_all_serves_those_that_wait_for_their_site(autojump_clock, house):
    one, two, rest = await claimed(house, "a.example", "b.example", None)
    assert (len(one), len(two)) == (1, 1)
    assert sorted(one + two + rest) == sorted(SITES)
    assert "z.example" in rest
    assert house.runner.running == 4


async def test_without_one_each_gets_a_message_of_its_site_its_own_domain_first(autojump_clock, house):
    found = await claimed(house, "b.example", "z.example")
    assert found == [["b.example"], ["z.example"]]
    assert await claimed(house, "z.example", "a.example", "b.example") in (
        [[], ["a.example"], ["c.example"]],
        [[], ["c.example"], ["a.example"]],
    )
    assert await claimed(house, "a.example") == [[]]


async def test_nobody_asks_the_database_for_what_a_look_has_not_left(autojump_clock, house, monkeypatch):
    await claimed(house, None)

    async def never(*_, **__):
        raise AssertionError("nothing is left")

    monkeypatch.setattr(house.sql, "write", never)
    assert await claimed(house, "a.example", "b.example") == [[], []]
