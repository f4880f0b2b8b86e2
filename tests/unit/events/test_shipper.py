"""The shipper: at least once, in order, never stopped by one database that is down."""

from __future__ import annotations

import dataclasses
import logging
import threading

import pytest
import trio
import trio.testing
from sqlalchemy import func, select

from events import outbox, undelivered
from events.actions import EventAction, parse_action
from events.catalogue import Event
from events.shipper import (
    BATCH,
    BATCH_SECONDS,
    FIRST_BATCH,
    LEAST_BATCH,
    SHARED_POLL,
    Drained,
    Shipper,
    next_size,
)
from events.sql import Refusal, Shipment, Unavailable


class FakeDatabases:
    """Stands for the other databases: notes what arrives, refuses as told."""

    def __init__(self) -> None:
        self.arrived: list[tuple[str, str]] = []
        self.batches: list[int] = []
        self.open = threading.Event()
        self.open.set()
        self.down: set[str] = set()
        self.refuses: set[str] = set()
        self.calls = 0
        self.reached = 0
        self.changed = threading.Event()
        self.closed = False

    def ship(self, action, batch):
        self.calls += 1
        assert self.open.wait(10)
        if action.name in self.down:
            raise Unavailable("down")
        self.batches.append(len(batch))
        refused = [one for one in batch if one.event.fields["event_data"] in self.refuses]
        done = tuple(one for one in batch if one not in refused)
        self.arrived += [(action.name, str(one.event.fields["event_data"])) for one in done]
        return Shipment(done, tuple(Refusal(one, "no") for one in refused))

    def reach(self, action):
        self.reached += 1
        if action.name in self.down:
            raise Unavailable("down")

    def close(self):
        self.closed = True


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def action(name: str) -> EventAction:
    return parse_action(name, ["*"], "sqlite:///unused.db", "SELECT 1")


@pytest.fixture
def databases():
    return FakeDatabases()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def shipper(runner, databases, clock):
    return Shipper(runner, [action("a"), action("b")], clock=clock, databases=databases)


async def put(runner, *texts: str, message: str | None = None, to: tuple[str, ...] = ("a", "b")) -> None:
    events = [Event("msg:delivery", 1.0, {"event_data": text}) for text in texts]
    await runner.write(lambda conn: outbox.append(conn, message, events, wanted=lambda name: to))


async def left(runner) -> int:
    return await runner.read(
        lambda conn: conn.execute(select(func.count()).select_from(outbox.event_pending)).scalar_one()
    )


async def test_everything_is_told_to_everybody_in_order(runner, shipper, databases):
    await put(runner, "1", "2", "3")
    assert await shipper.ship_once() == Drained(told=6)
    assert databases.arrived == [(name, text) for name in "ab" for text in "123"]
    assert await left(runner) == 0
    assert await shipper.ship_once() == Drained()


async def test_more_than_one_batch_is_shipped_and_they_grow_while_that_is_quick(runner, databases, clock):
    shipper = Shipper(runner, [action("a")], clock=clock, databases=databases)
    many = 2 * BATCH + FIRST_BATCH
    await put(runner, *(str(number) for number in range(many)))
    assert (await shipper.ship_once()).told == many
    assert databases.batches == [50, 100, 200, 400, 100]


@pytest.mark.parametrize(("ready_made", "batches"), [(False, [50, 10]), (True, [BATCH, BATCH])])
async def test_only_statements_for_each_event_come_in_smaller_batches_where_they_are_slow(
    runner, databases, clock, monkeypatch, ready_made, batches
):
    """The ready-made table takes many in one statement, whose time depends little on their number."""
    monkeypatch.setattr("events.shipper.BATCH_SECONDS", 0.0)
    slow = action("a")
    if ready_made:
        slow = dataclasses.replace(slow, statements=())
    shipper = Shipper(runner, [slow], clock=clock, databases=databases)
    await put(runner, *(str(number) for number in range(2 * BATCH)), to=("a",))
    await shipper.ship_once()
    assert databases.batches[:2] == batches


def test_a_batch_is_what_the_database_takes_in_a_second():
    assert next_size(50, 50, 0.1) == 100
    assert next_size(50, 50, 0.6) == 50
    assert next_size(50, 7, 0.1) == 50, "few say little"
    assert next_size(50, 7, 1.0) == 50
    assert next_size(400, 400, 8.0) == 50
    assert next_size(400, 400, 60.0) == next_size(400, 1, 3600.0) == LEAST_BATCH, "else time has its own cost"
    assert next_size(400, 400, 0.0) == BATCH


async def test_the_end_waits_for_what_is_under_way_and_tells_the_rest_once(runner, databases, clock):
    shipper = Shipper(runner, [action("a")], clock=clock, databases=databases)
    await put(runner, "1", to=("a",))
    databases.open.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shipper.run)
        while not databases.calls:  # noqa: ASYNC110 (a worker thread counts)
            await trio.sleep(0.01)
        await put(runner, "2", to=("a",))
        async with trio.open_nursery() as end:
            end.start_soon(shipper.finish, 10)
            await trio.testing.wait_all_tasks_blocked()
            databases.open.set()
        nursery.cancel_scope.cancel()
    assert databases.arrived == [("a", "1"), ("a", "2")]
    assert await left(runner) == 0


async def test_at_the_end_no_batch_begins_that_may_not_end_in_time(runner, databases, clock):
    shipper = Shipper(runner, [action("a")], clock=clock, databases=databases)
    databases.open.clear()
    await put(runner, *(str(number) for number in range(FIRST_BATCH + 1)), to=("a",))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shipper.run)
        while not databases.calls:  # noqa: ASYNC110 (a worker thread counts)
            await trio.sleep(0.01)
        async with trio.open_nursery() as end:
            end.start_soon(shipper.finish, BATCH_SECONDS)
            await trio.testing.wait_all_tasks_blocked()
            databases.open.set()
        nursery.cancel_scope.cancel()
    assert databases.batches == [FIRST_BATCH]
    assert await left(runner) == 1


async def test_the_end_asks_a_database_in_trouble_once_more_and_waits_for_none(runner, databases, clock):
    shipper = Shipper(runner, [action("a"), action("b")], clock=clock, databases=databases)
    databases.down = {"a", "b"}
    await put(runner, "1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shipper.run)
        while databases.calls < 2:  # noqa: ASYNC110 (a worker thread counts)
            await trio.sleep(0.01)
        databases.down = {"b"}
        with trio.fail_after(1):
            await shipper.finish(60)
        nursery.cancel_scope.cancel()
    assert databases.arrived == [("a", "1")]
    assert databases.reached == 2


async def test_the_end_does_not_wait_for_a_database_that_hangs(runner, databases, clock):
    shipper = Shipper(runner, [action("a")], clock=clock, databases=databases)
    databases.open.clear()
    await put(runner, "1", to=("a",))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shipper.run)
        while not databases.calls:  # noqa: ASYNC110 (a worker thread counts)
            await trio.sleep(0.01)
        with trio.fail_after(5):
            await shipper.finish(0.01)
        nursery.cancel_scope.cancel()
    databases.open.set()
    assert await left(runner) == 1


@pytest.mark.parametrize("shared", [False, True])
async def test_one_of_several_looks_again_soon_for_what_another_may_leave(runner, databases, clock, shared):
    shipper = Shipper(runner, [action("a")], clock=clock, databases=databases, shared=shared)
    await shipper.ship_once()
    (pump,) = shipper._pumps
    await pump._until_due(clock.now)
    assert (await pump._until_due(clock.now) == SHARED_POLL) is shared


async def test_a_database_that_is_down_holds_up_nobody_else(runner, shipper, databases, caplog):
    databases.down = {"a"}
    await put(runner, "1")
    assert await shipper.ship_once() == Drained(told=1, unavailable=("a",))
    assert databases.arrived == [("b", "1")]
    assert await left(runner) == 1
    await shipper.ship_once()
    assert len([one for one in caplog.records if "cannot tell" in one.message]) == 1
    databases.down = set()
    assert await shipper.ship_once() == Drained(told=1)
    assert await left(runner) == 0


async def test_a_refused_event_is_tried_later_and_dead_in_the_end(runner, shipper, databases, clock, caplog):
    databases.refuses = {"1"}
    await put(runner, "1", "2", message="m1")
    assert (await shipper.ship_once()).refused == 2
    assert await shipper.ship_once() == Drained()  # not due yet
    for _ in range(outbox.MAX_TRIES):
        clock.now += outbox.LAST_RETRY
        await shipper.ship_once()
    waiting = await runner.read(undelivered.waiting)
    assert [(one.action, one.pending, one.dead) for one in waiting] == [("a", 0, 1), ("b", 0, 1)]
    assert any("for good" in one.message for one in caplog.records)


async def test_an_outbox_in_trouble_is_reported_not_raised(runner, shipper, caplog):
    runner.broken = OSError("disk gone")
    assert (await shipper.ship_once()).unavailable == ("a", "b")
    assert "disk gone" in caplog.text


async def test_acknowledgement_that_fails_means_told_twice_not_lost(runner, shipper, databases, monkeypatch):
    await put(runner, "1")
    real = runner.write

    async def broken(fn):
        raise OSError("full")

    monkeypatch.setattr(runner, "write", broken)
    await shipper.ship_once()
    monkeypatch.setattr(runner, "write", real)
    await shipper.ship_once()
    assert databases.arrived == [("a", "1"), ("b", "1"), ("a", "1"), ("b", "1")]
    assert await left(runner) == 0


async def test_run_ships_what_is_there_and_what_a_poke_announces(runner, shipper, databases):
    await put(runner, "1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shipper.run)
        await until_empty(runner)
        await put(runner, "2")
        shipper.poke()
        await until_empty(runner)
        nursery.cancel_scope.cancel()
    assert sorted(databases.arrived) == [("a", "1"), ("a", "2"), ("b", "1"), ("b", "2")]


async def test_run_goes_on_after_trouble_with_pauses(runner, databases, clock, mock_clock, caplog):
    mock_clock.rate = 1000.0  # not autojump: worker threads would count as idle
    caplog.set_level(logging.INFO)
    databases.down = {"a"}
    shipper = Shipper(runner, [action("a")], clock=clock, databases=databases)
    await put(runner, "1")
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shipper.run)
        while databases.calls + databases.reached < 3:
            shipper.poke()
            await trio.sleep(1)
        databases.down = set()
        while "tells its events again" not in caplog.text:  # noqa: ASYNC110 (a log has no event)
            await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began >= 2 + 4
    assert databases.arrived == [("a", "1")]


async def test_prune_drops_what_waits_for_actions_that_are_gone(runner, databases, clock):
    await put(runner, "1")
    databases.down = {"a"}
    shipper = Shipper(runner, [action("a")], clock=clock, databases=databases)
    await shipper.prune()
    assert await left(runner) == 1


async def test_aclose_closes_the_databases(shipper, databases):
    await shipper.aclose()
    assert databases.closed


async def until_empty(runner) -> None:
    with trio.fail_after(10):
        while await left(runner):  # noqa: ASYNC110 (a database, and a worker thread that fills it)
            await trio.sleep(0.01)


async def test_nothing_is_read_for_a_database_that_is_still_down(runner, databases, clock):
    shipper = Shipper(runner, [action("a")], clock=clock, databases=databases)
    await runner.write(lambda conn: outbox.append(conn, "m", [EVENT], wanted=lambda event: ("a",)))
    databases.down.add("a")
    assert (await shipper.ship_once()).unavailable == ("a",)
    assert (databases.calls, databases.reached) == (1, 0)
    runner.broken = RuntimeError("the outbox was read")
    assert (await shipper.ship_once()).unavailable == ("a",)
    assert (databases.calls, databases.reached) == (1, 1), "asked whether it is there, before anything else"
    runner.broken = None
    databases.down.clear()
    assert (await shipper.ship_once()).told == 1


EVENT = Event("msg:delivery", 1.0, {"event_data": "x"})


async def test_run_tries_a_refused_event_again_without_a_poke(runner, databases, clock, mock_clock):
    mock_clock.rate = 10.0  # not autojump: worker threads would count as idle
    databases.refuses = {"x"}
    shipper = Shipper(runner, [action("a")], clock=clock, databases=databases)
    await runner.write(lambda conn: outbox.append(conn, "m", [EVENT], wanted=lambda event: ("a",)))
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shipper.run)
        while not databases.calls:  # noqa: ASYNC110 (a worker thread counts)
            await trio.sleep(0.1)
        databases.refuses = set()
        while not databases.arrived:
            clock.now += 0.1  # the refusal may not be on record yet
            await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began < 30, "not only at the next look around"


async def test_what_fell_due_since_the_last_look_is_looked_at_at_once(runner, databases, clock):
    databases.refuses = {"x"}
    shipper = Shipper(runner, [action("a")], clock=clock, databases=databases)
    await runner.write(lambda conn: outbox.append(conn, "m", [EVENT], wanted=lambda event: ("a",)))
    await shipper.ship_once()
    (pump,) = shipper._pumps
    looked = clock.now
    clock.now += outbox.FIRST_RETRY
    assert await pump._until_due(looked) == 0.1
