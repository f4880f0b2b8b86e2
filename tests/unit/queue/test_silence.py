"""Attempts that fall silent, under a simulated clock."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from deliver.queue.silence import Silence
from tests.unit.queue.values import accept, claim


@pytest.fixture
def one(conn):
    accept(conn, "m1")
    return claim(conn)[0]


def ended(scope: trio.CancelScope) -> bool:
    return scope.cancel_called


async def test_each_has_its_own_time_and_only_silence_ends_it(one, autojump_clock, caplog):
    silence, steps = Silence(), 0
    quiet, slow, busy = (trio.CancelScope() for _ in range(3))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(silence.run)
        await trio.sleep(1000)  # nothing to watch yet
        silence.begin(one, 40, lambda: 0, quiet)
        silence.begin(replace(one, attempt_id=2), 400, lambda: 0, slow)
        silence.begin(replace(one, attempt_id=3), 40, lambda: steps, busy)
        for _ in range(20):
            steps += 1
            await trio.sleep(9)
        assert (ended(quiet), ended(slow), ended(busy)) == (True, False, False)
        await trio.sleep(400)
        assert (ended(slow), ended(busy)) == (True, True)
        nursery.cancel_scope.cancel()
    assert caplog.text.count("did nothing for 40 s, longer than any timeout allows: it is ended") == 2


async def test_it_is_not_ended_before_its_time(one, autojump_clock):
    silence, scope = Silence(), trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(silence.run)
        silence.begin(one, 40, lambda: 0, scope)
        await trio.sleep(39.9)
        assert not ended(scope)
        await trio.sleep(30)
        assert ended(scope)
        nursery.cancel_scope.cancel()


async def test_one_that_has_ended_is_left_alone(one, autojump_clock):
    silence, scope = Silence(), trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(silence.run)
        silence.begin(one, 40, lambda: 0, scope)
        await trio.sleep(20)
        silence.end(one)
        await trio.sleep(1000)
        assert not ended(scope)
        nursery.cancel_scope.cancel()
