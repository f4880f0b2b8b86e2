"""The system's clock jumps while mail waits or is on its way: nothing is stuck, too early or sent twice."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager

import pytest
import trio
from msgspec import structs

from deliver.outcome import AttemptResult
from deliver.quantity import Duration
from deliver.queue import store
from deliver.queue.content import InlineContent
from deliver.queue.lanes import Feedback
from deliver.report.trace import Trace
from deliver.sections.waiting import Limit
from tests.unit.queue.test_runner import SETTINGS, House
from tests.unit.queue.values import CONTENT, DEFERRED, DELIVERED, NOW, envelope, rows, states

HOUR = 3600.0


@pytest.fixture
async def house(tmp_path):
    built = House(tmp_path)
    yield built
    built.journal.close()


def jump(house: House, seconds: float) -> None:
    """As the service does when it sees that the system's clock was set."""
    house.clock.now()
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
        jump(house, -600)
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


YEAR: float = 365 * 86400.0


@contextmanager
def logged(text):
    """An event that is set when a line with `text` is logged."""
    told = threading.Event()

    class Listener(logging.Handler):
        def emit(self, record):
            if text in record.getMessage():
                told.set()

    listener, logger = Listener(), logging.getLogger("outrider")
    logger.addHandler(listener)
    try:
        yield told
    finally:
        logger.removeHandler(listener)


async def test_what_a_clock_that_was_years_ahead_put_off_is_tried_when_it_is_right_again(
    autojump_clock, house
):
    jump(house, 10 * YEAR)
    house.attempt = house.outcome(DEFERRED)
    await house.sql.write(lambda conn: accept_at(conn, "m1", house.clock.now()))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.runner.run)
        await trio.sleep(10)
        jump(house, -10 * YEAR)
        house.attempt = house.outcome(DELIVERED)
        with logged("1 recipients and reports were due impossibly late") as told:
            await trio.sleep(60)
            assert await trio.to_thread.run_sync(told.wait, 20)  # the database's threads know no other clock
        await trio.sleep(60)
        house.runner.stop()
    assert [call[0] for call in house.calls] == ["m1", "m1"]


async def test_so_it_is_by_a_start_after_the_correction_beside_mail_that_is_due(autojump_clock, house):
    later = NOW + 10 * YEAR
    await house.sql.write(lambda conn: accept_at(conn, "m1", later))
    await house.sql.write(lambda conn: accept_at(conn, "m2", NOW))
    await house.run_for(5)
    assert sorted(call[0] for call in house.calls) == ["m1", "m2"]


async def test_what_was_accepted_in_the_future_expires_by_its_attempts(autojump_clock, house):
    house.attempt = house.outcome(DEFERRED)
    later = NOW + 10 * YEAR
    await house.sql.write(lambda conn: accept_at(conn, "m1", later))
    await house.run_for(7000)
    assert set((await house.sql.read(states)).values()) == {"queued"}
    await house.sql.write(lambda conn: None)
    house.runner._stopping = False
    await house.run_for(1000)
    assert set((await house.sql.read(states)).values()) == {"failed"}


@pytest.mark.parametrize("accepted", [30.0, NOW - 10 * YEAR])
async def test_no_mail_comes_back_after_one_attempt_because_the_clock_jumped_forward(
    autojump_clock, house, accepted
):
    """By a clock without a battery it was accepted in 1970, or when the machine was built."""
    house.attempt = house.outcome(DEFERRED)
    await house.sql.write(lambda conn: accept_at(conn, "m1", accepted))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.runner.run)
        await trio.sleep(30)
        assert len(house.calls) == 1
        assert set((await house.sql.read(states)).values()) == {"queued"}
        await trio.sleep(7300)
        assert len(house.calls) >= 2
        assert set((await house.sql.read(states)).values()) == {"failed"}, "it does expire"
        house.runner.stop()


async def test_a_jump_during_an_attempt_leaves_one_more(autojump_clock, house):
    async def attempt(claim, content, journal):
        await trio.sleep(30)
        return AttemptResult(((claim.recipients[0], DEFERRED),), Trace())

    house.attempt = attempt
    await house.accept("m1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.runner.run)
        await trio.sleep(10)
        jump(house, 10 * YEAR)
        await trio.sleep(40)
        assert await house.states() == {"b@example.org": "queued"}
        await trio.sleep(400)
        assert await house.states() == {"b@example.org": "failed"}
        house.runner.stop()
    assert len(house.calls) == 2


async def test_while_the_clock_is_impossible_nothing_expires(autojump_clock, house):
    jump(house, -NOW)
    house.attempt = house.outcome(DEFERRED)
    await house.sql.write(lambda conn: accept_at(conn, "m1", house.clock.now()))
    await house.run_for(20_000)
    assert len(house.calls) > 20
    assert set((await house.sql.read(states)).values()) == {"queued"}


async def test_pauses_and_limits_of_a_clock_that_was_ahead_end_with_it(autojump_clock, tmp_path):
    limited = structs.replace(SETTINGS, limit=(Limit(of="domain", match=(), messages=1, per=Duration(60)),))
    house = House(tmp_path, limited)
    jump(house, 10 * YEAR)
    await house.sql.write(lambda conn: accept_at(conn, "m1", house.clock.now()))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.runner.run)
        await trio.sleep(10)
        house.runner.lanes.end(
            "c@other.example", house.runner.lanes.begin("c@other.example"), Feedback.UNREACHABLE, None,
            started=house.clock.now(), now=house.clock.now(),
        )  # fmt: skip
        jump(house, -10 * YEAR)
        await house.sql.write(lambda conn: accept_at(conn, "m2", house.clock.now()))
        await trio.sleep(70)
        house.runner.stop()
    house.journal.close()
    assert [call[0] for call in house.calls] == ["m1", "m2"]
    assert house.runner.lanes.opens_at("c@other.example") <= house.clock.now()


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
