"""The wall clock: it moves with trio's, and follows the system's now and then."""

from __future__ import annotations

import pytest
import trio

from deliver.net.clock import RESYNC, WallClock


async def test_it_moves_with_trios_clock(autojump_clock: trio.testing.MockClock) -> None:
    clock = WallClock(1000.0)
    assert clock.now() == 1000.0
    await trio.sleep(5.0)
    assert clock.now() == 1005.0


async def test_a_system_clock_that_is_set_is_followed(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = WallClock(1000.0)
    assert clock.now() == 1000.0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.follow_system)
        await trio.sleep(1.0)
        clock._epoch = 5000.0  # somebody sets it
        assert clock.now() == 1001.0
        await trio.sleep(RESYNC)
        assert clock.now() == 5001.0
        nursery.cancel_scope.cancel()
