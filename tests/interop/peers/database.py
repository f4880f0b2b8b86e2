"""A database server that a test can kill and start again; its data stays."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.interop.peers.process import Process, ServerFailed

NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")  # neither server runs as root
_TRIES = 20


@dataclass(slots=True)
class Database:
    """A running server with an empty database. `url` is SQLAlchemy's, without a password."""

    url: str
    process: Process
    begin: Callable[[], Process]

    def kill(self) -> None:
        """End it as a power failure would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.child.pid, signal.SIGKILL)
        self.process.child.wait(10)

    def start(self) -> None:
        """Start it again on the same port, with the data that survived. Raises ServerFailed."""
        for _ in range(_TRIES):
            try:
                self.process = self.begin()
                return
            except ServerFailed:  # what the kill left behind needs a moment to notice
                time.sleep(0.2)
        self.process = self.begin()

    def log(self) -> str:
        """Its output since it was last started."""
        return self.process.log()
