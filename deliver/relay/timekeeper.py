"""One clock for all clients of a listener, so that no wait for one of them costs a task or a timer.

Who waits for a client moves `due`, nearly always to a later time: the timekeeper sleeps until the earliest
one that it saw, and then looks at all of them again.
"""

from __future__ import annotations

import math
from typing import Protocol

import trio

PAUSE = 0.1  # seconds between two looks at all clients


class Timed(Protocol):
    """One whose time may be up."""

    due: float  # by trio's clock; infinity: nothing is waited for

    def time_is_up(self) -> None:
        """`due` has passed."""
        ...

    def keep_own_time(self) -> None:
        """Nobody watches any more."""
        ...


class Timekeeper:
    """`run` it once; whom it watches is added and taken out by `add` and `discard`."""

    def __init__(self) -> None:
        self._watched: set[Timed] = set()
        self._alarm = trio.CancelScope()  # in which it sleeps, until:
        self._alarm_at = math.inf
        self.running = False
        self.left = False

    def add(self, client: Timed) -> None:
        """Watch this one too."""
        self._watched.add(client)

    def discard(self, client: Timed) -> None:
        """Watch it no longer."""
        self._watched.discard(client)

    def expect(self, due: float) -> None:
        """Somebody's time is up then: do not sleep longer."""
        if due < self._alarm_at:
            self._alarm.deadline = self._alarm_at = due

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; then those who are watched keep their own time."""
        self.running = True
        task_status.started()
        now = -math.inf
        try:
            while True:
                earliest = min((client.due for client in self._watched), default=math.inf)
                self._alarm_at = max(earliest, now + PAUSE)
                with trio.CancelScope(deadline=self._alarm_at) as self._alarm:
                    await trio.sleep_forever()
                now = trio.current_time()
                for client in self._watched:
                    if client.due <= now:
                        client.time_is_up()
        finally:
            self.running, self.left = False, True
            for client in self._watched:
                client.keep_own_time()
