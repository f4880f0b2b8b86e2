"""Whether what the loop's thread does to a file waits for the disk so much that it belongs in another.

Waiting is what passes beyond the thread's CPU time. What it waits for a processor that others have is left
out (`deliver.runqueue`): a busy machine is no slow disk. What it waits for the interpreter, which another
thread has, cannot be told apart; so what counts is the share of the time, unless a wait is long.
"""

from __future__ import annotations

import math
import time
from typing import Final

from deliver.runqueue import RunQueue

LONG: Final = 0.1  # seconds that are too long for the loop at any time
SHARE: Final = 0.1  # of the time may be spent waiting,
WAITED: Final = 0.25  # and these seconds beyond that
SLOW_FOR: Final = 10.0  # seconds for which the disk is then taken to be slow


class DiskWatch:
    """For the thread that makes it: `begin` and `end` enclose each turn; `now` by any one clock."""

    def __init__(self) -> None:
        self.run_queue = RunQueue()
        self._began = self._worked = self._queued = 0.0
        self._waited = 0.0  # seconds beyond SHARE
        self._looked = -math.inf
        self._slow_until = -math.inf

    def is_slow(self, now: float) -> bool:
        """Whether another thread should see to it."""
        return now < self._slow_until

    def begin(self) -> None:
        """A turn begins."""
        self._began, self._worked = time.perf_counter(), time.thread_time()
        self._queued = self.run_queue.waited()

    def end(self, now: float) -> None:
        """It has ended."""
        took = time.perf_counter() - self._began - (self.run_queue.waited() - self._queued)
        waited = took - (time.thread_time() - self._worked)
        self._waited = max(0.0, self._waited - SHARE * (now - self._looked)) + max(0.0, waited)
        self._looked = now
        if took > LONG or self._waited > WAITED:
            self._slow_until = now + SLOW_FOR
            self._waited, self._looked = WAITED / 2, self._slow_until  # it has to prove itself then

    def close(self) -> None:
        """Nothing is watched any more."""
        self.run_queue.close()
