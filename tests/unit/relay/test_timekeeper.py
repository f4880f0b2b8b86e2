"""One clock for many: who is late is told so at its time, and nobody is left without an end."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from deliver.relay.connection import COMMIT_DEADLINE
from deliver.relay.timekeeper import Timekeeper
from deliver.settings import Duration, Relay
from tests.doorstep import OPENED, Memory, connect, listener


@dataclass(eq=False)
class Waiting:
    """Waits until `due`."""

    keeper: Timekeeper
    due: float = math.inf
    ended: list[float] = field(default_factory=list)
    alone: bool = False

    def __post_init__(self) -> None:
        self.keeper.add(self)

    def wait(self, seconds: float) -> None:
        self.due = trio.current_time() + seconds
        self.keeper.expect(self.due)

    def time_is_up(self) -> None:
        self.due = math.inf
        self.ended.append(trio.current_time())

    def keep_own_time(self) -> None:
        self.alone = True


async def test_each_one_has_its_own_time(autojump_clock: MockClock) -> None:
    keeper = Timekeeper()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        slow, quick, moving, gone = (Waiting(keeper) for _ in range(4))
        slow.wait(300)  # before it runs
        await nursery.start(keeper.run)
        for one in (moving, gone):
            one.wait(50)
        quick.wait(20)
        await trio.sleep(40)
        moving.wait(100)
        keeper.discard(gone)
        await trio.sleep(400)
        nursery.cancel_scope.cancel()
    assert [each - began for each in slow.ended] == [300]
    assert [each - began for each in quick.ended] == [20]
    assert [each - began for each in moving.ended] == [140]
    assert gone.ended == []


async def test_who_is_watched_at_the_end_keeps_its_own_time(autojump_clock: MockClock) -> None:
    keeper = Timekeeper()
    async with trio.open_nursery() as nursery:
        one = Waiting(keeper)
        await nursery.start(keeper.run)
        assert keeper.running
        nursery.cancel_scope.cancel()
    assert one.alone
    assert (keeper.running, keeper.left) == (False, True)


async def test_many_times_close_together_are_looked_at_together(autojump_clock: MockClock) -> None:
    keeper = Timekeeper()
    async with trio.open_nursery() as nursery:
        await nursery.start(keeper.run)
        many = [Waiting(keeper) for _ in range(100)]
        for number, one in enumerate(many):
            one.wait(10 + number / 1000)
        await trio.sleep(11)
        nursery.cancel_scope.cancel()
    assert all(one.ended for one in many)
    assert len({one.ended[0] for one in many}) <= 3


async def test_the_clients_of_a_listener_share_its_clock(autojump_clock: MockClock) -> None:
    server = listener(Memory(), Relay(networks=("127.0.0.0/8",), idle_timeout=Duration(30)))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, [])
        began = trio.current_time()
        silent, lively = [await connect(nursery, server) for _ in range(2)]
        for _ in range(3):
            await trio.sleep(20)
            await lively.send("NOOP\r\n")
            assert (await lively.reply())[:3] == "250"
        assert (await silent.reply())[:3] == "421"
        await lively.send("QUIT\r\n")
        assert (await lively.reply())[:3] == "221"
        server.stop(10)
    assert trio.current_time() - began < 90


@pytest.mark.parametrize("forced", [False, True])
async def test_a_commit_has_its_end_also_when_the_listener_ends(
    autojump_clock: MockClock, forced: bool
) -> None:
    async def hook(step: str) -> None:
        if step == "commit":
            await trio.sleep_forever()

    server = listener(Memory(hook))
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, [])
        client = await connect(server._nursery or nursery, server)
        await client.send(OPENED + "x\r\n.\r\n")
        assert await client.replies(4) == [250, 250, 250, 354]
        await wait_all_tasks_blocked()
        server.stop(0 if forced else 1000)
    assert (
        COMMIT_DEADLINE <= trio.current_time() - began < COMMIT_DEADLINE + 5
    )  # a client may read our last words
