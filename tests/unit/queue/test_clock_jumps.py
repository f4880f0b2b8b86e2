"""The system's clock jumps while mail waits or is on its way: nothing is stuck, too early or sent twice."""

from __future__ import annotations

import pytest
import trio

from deliver.outcome import AttemptResult
from deliver.queue import store
from deliver.queue.content import InlineContent
from deliver.report.trace import Trace
from tests.unit.queue.test_runner import House
from tests.unit.queue.values import CONTENT, DEFERRED, DELIVERED, envelope, rows, states

HOUR = 3600.0


@pytest.fixture
async def house(tmp_path):
    built = House(tmp_path)
    yield built
    built.journal.close()


def jump(house: House, seconds: float) -> None:
    """As the service does when it sees that the system's clock was set."""
    house.clock._offset += seconds
    house.runner.poke()


async def test_forward_during_an_attempt_does_not_begin_another(autojump_clock, house):
    async def attempt(claim, content, journal):
        await trio.sleep(300)
        return AttemptResult(((claim.recipients[0], DELIVERED),), Trace())

    house.attempt = attempt
    await house.accept("m1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.runner.run)
        await trio.sleep(10)
        jump(house, 5 * HOUR)
        await trio.sleep(200)
        assert len(house.calls) == 1
        assert await house.states() == {"b@example.org": "leased"}
        await trio.sleep(200)
        house.runner.stop()
    assert len(house.calls) == 1
    assert await house.states() == {"b@example.org": "delivered"}


async def test_forward_while_waiting_makes_due_what_has_become_due(autojump_clock, house):
    house.attempt = house.outcome(DEFERRED)
    await house.accept("m1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.runner.run)
        await trio.sleep(10)
        assert len(house.calls) == 1
        jump(house, HOUR)
        await trio.sleep(1)
        assert len(house.calls) == 2, "its time has come by the clock that everybody sees"
        house.runner.stop()


async def test_backward_while_waiting_tries_nothing_early_and_new_mail_at_once(autojump_clock, house):
    house.attempt = house.outcome(DEFERRED)
    await house.accept("m1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.runner.run)
        await trio.sleep(10)
        (before,) = await house.sql.read(rows)
        jump(house, -3 * HOUR)
        await trio.sleep(600)
        assert [call[0] for call in house.calls] == ["m1"], "not before its time"
        house.attempt = house.outcome(DELIVERED)
        await house.sql.write(lambda conn: accept_at(conn, "m2", house.clock.now()))
        house.runner.poke()
        await trio.sleep(1)
        assert [call[0] for call in house.calls] == ["m1", "m2"]
        await trio.sleep(before.next_attempt - house.clock.now() + 60)
        assert [call[0] for call in house.calls] == ["m1", "m2", "m1"], "and not forgotten"
        house.runner.stop()
    found = await house.sql.read(states)
    assert set(found.values()) <= {"delivered"}


def accept_at(conn, name, now):
    """Accepted by the clock of the moment, for another domain."""
    store.accept(conn, envelope(name, "c@other.example", at=now), InlineContent(CONTENT), (), now)


async def test_backward_during_an_attempt_is_settled_as_ever(autojump_clock, house):
    async def attempt(claim, content, journal):
        await trio.sleep(30)
        return AttemptResult(((claim.recipients[0], DELIVERED),), Trace())

    house.attempt = attempt
    await house.accept("m1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.runner.run)
        await trio.sleep(10)
        jump(house, -5 * HOUR)
        await trio.sleep(60)
        house.runner.stop()
    assert len(house.calls) == 1
    assert await house.states() == {"b@example.org": "delivered"}
