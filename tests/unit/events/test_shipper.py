"""The shipper: at least once, in order, never stopped by one database that is down."""

from __future__ import annotations

import logging
import threading

import pytest
import trio
from sqlalchemy import func, select

from events import outbox, undelivered
from events.actions import EventAction, parse_action
from events.catalogue import Event
from events.shipper import BATCH, Drained, Shipper
from events.sql import Refusal, Shipment, Unavailable


class FakeDatabases:
    """Stands for the other databases: notes what arrives, refuses as told."""

    def __init__(self) -> None:
        self.arrived: list[tuple[str, str]] = []
        self.down: set[str] = set()
        self.refuses: set[str] = set()
        self.calls = 0
        self.reached = 0
        self.changed = threading.Event()
        self.closed = False

    def ship(self, action, batch):
        self.calls += 1
        if action.name in self.down:
            raise Unavailable("down")
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


async def put(runner, *texts: str, message: str | None = None) -> None:
    events = [Event("msg:delivery", 1.0, {"event_data": text}) for text in texts]
    await runner.write(lambda conn: outbox.append(conn, message, events, wanted=lambda name: ("a", "b")))


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


async def test_more_than_one_batch_is_shipped(runner, shipper, databases):
    await put(runner, *(str(number) for number in range(BATCH + 5)))
    assert (await shipper.ship_once()).told == 2 * (BATCH + 5)
    assert databases.calls == 4


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
