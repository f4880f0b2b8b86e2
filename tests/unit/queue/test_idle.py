"""When a run that ends by itself may end: nothing under way, nothing due, and nothing just being claimed."""

from __future__ import annotations

import pytest
import trio

from tests.unit.queue.test_runner import House


@pytest.fixture
async def house(tmp_path):
    built = House(tmp_path)
    for name in ("m1", "m2"):
        await built.accept(name, "x@example.org")
    yield built
    built.journal.close()


async def test_what_is_claimed_while_the_database_is_asked_is_under_way(autojump_clock, house, monkeypatch):
    """Of the second message nothing is due then: its lane is not open."""
    read = house.sql.read

    async def claims_meanwhile(fn):
        begun, _ = await house.runner._claim_and_look(None)
        assert begun
        return await read(fn)

    monkeypatch.setattr(house.sql, "read", claims_meanwhile)
    assert not await house.runner.idle()


async def test_a_claim_that_is_being_made_is_waited_for(autojump_clock, house):
    await house.runner._claim_and_look(None)
    house.runner._running.clear()
    async with house.runner._claiming:
        assert not await house.runner.idle()


async def test_it_is_idle_when_all_is_delivered(autojump_clock, house):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.runner.run)
        assert not await house.runner.idle()
        with trio.fail_after(60):
            while not await house.runner.idle():  # noqa: ASYNC110 (nobody tells: it lies in the database)
                await trio.sleep(0.1)
        house.runner.stop()
    assert [name for name, _, _ in house.calls] == ["m1", "m2"]
