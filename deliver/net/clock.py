"""The wall clock, derived from trio's clock so that both move together in a simulation."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol

import trio

RESYNC = 60.0  # seconds


class Clock(Protocol):
    """Seconds since the epoch, from inside a trio run."""

    def now(self) -> float:
        """The current time."""
        ...


class WallClock:
    """Anchored once to the system's clock (or to `epoch`), then advanced by trio's clock.

    Under trio's MockClock five days pass in no time. `resync` follows a stepped system clock.
    """

    def __init__(self, epoch: float | None = None) -> None:
        self._epoch = epoch
        self._offset = 0.0
        self._steady: trio.abc.Clock | None = None  # trio's, of this run

    def now(self) -> float:
        """Seconds since the epoch."""
        if self._steady is None:
            self.resync()
            assert self._steady is not None
        return self._offset + self._steady.current_time()

    def resync(self) -> None:
        """Anchor again: to the system's clock, or to the given epoch."""
        epoch = datetime.now(UTC).timestamp() if self._epoch is None else self._epoch
        self._steady = trio.lowlevel.current_clock()
        self._offset = epoch - self._steady.current_time()

    async def follow_system(self) -> None:
        """Anchor again now and then, until cancelled: signatures and schedules go by a clock that is set."""
        while True:
            await trio.sleep(RESYNC)
            self.resync()
