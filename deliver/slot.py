"""One worker's place, as the supervisor sees it: its process, its line, and what it was told last."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from deliver import channel
from deliver.channel import Closed, Frame
from deliver.report.log import say
from deliver.report.metrics import Snapshot

_log = logging.getLogger("outrider.service")


@dataclass(slots=True)
class Slot:
    """`failures`: short lives in a row; `heard`: when it was alive last, infinity before its first word.

    Times in seconds of the supervisor's clock; `counts` as the worker has told them last.
    """

    number: int
    pid: int | None = None
    line: socket.socket | None = None
    started: float = 0.0
    heard: float = math.inf
    restart_at: float = 0.0
    failures: int = 0
    ready: bool = False
    counts: Snapshot = field(default_factory=dict)

    def begin(self, pid: int, line: socket.socket, now: float) -> None:
        """A process has been started in this place."""
        self.pid, self.line, self.started = pid, line, now
        self.ready, self.heard = False, math.inf

    def end(self) -> None:
        """Its process is gone."""
        if self.line is not None:
            self.line.close()
        self.pid, self.line, self.ready, self.counts, self.heard = None, None, False, {}, math.inf

    def kill(self, why: str) -> None:
        """End a process that does not do what it should."""
        if self.pid is not None:
            say(_log, logging.CRITICAL, f"{why}, it is killed", worker=self.number)
            self.heard = math.inf
            os.kill(self.pid, signal.SIGKILL)

    def tell(self, word: str, about: dict[str, Any], files: tuple[int, ...] = ()) -> None:
        """A worker that does not read for so long that its line is full is given up."""
        if self.line is None:
            return
        try:
            channel.send(self.line, word, about, files)
        except Closed:
            return  # its end is noticed
        except BlockingIOError:
            self.kill("worker does not listen")

    def frames(self) -> Iterator[Frame]:
        """What has come from it; its line is closed when the other end is."""
        while self.line is not None:
            try:
                frame = channel.receive(self.line)
            except BlockingIOError:
                return
            except Closed:
                self.line.close()
                self.line = None
                return
            yield frame
