"""A place where a server waits until a test lets it go on: a phase of a delivery that lasts as long as wanted."""

from __future__ import annotations

import threading

import trio


class Gate:
    """Closed until `open` is called, from any thread; `reached` is set when somebody waits at it."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._lock = threading.Lock()
        self._open = False
        self._waiting: list[tuple[trio.lowlevel.TrioToken, trio.Event]] = []

    def open(self) -> None:
        """Let everybody go on, who comes later too."""
        with self._lock:
            self._open = True
            waiting, self._waiting = self._waiting, []
        for token, event in waiting:
            token.run_sync_soon(event.set)

    async def passed(self) -> None:
        """Return once it is open."""
        event = trio.Event()
        with self._lock:
            if not self._open:
                self._waiting.append((trio.lowlevel.current_trio_token(), event))
            else:
                event.set()
        self.reached.set()
        await event.wait()
