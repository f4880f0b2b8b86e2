"""Appends events to a file, one JSON object per line: the sink of those who have no database.

A batch is written with one write and synced before it is acknowledged. A crash between the two repeats the
batch: `id` tells. The file is opened for each batch, so that logrotate may rename it. A line that a crash
left unfinished is ended first.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from events.actions import facts
from events.outbox import Pending

NEWLINE = 10


def append(path: Path, batch: Sequence[Pending]) -> None:
    """Write the batch durably; a new file has mode 0600. Raises OSError."""
    text = "".join(f"{line(one)}\n" for one in batch).encode()
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        if _unfinished(descriptor):
            text = b"\n" + text
        left = memoryview(text)
        while left:
            left = left[file.write(left) :]
        os.fsync(descriptor)


def _unfinished(descriptor: int) -> bool:
    status = os.fstat(descriptor)
    size = status.st_size
    # a pipe or a device has no end to look at
    return stat.S_ISREG(status.st_mode) and size > 0 and os.pread(descriptor, 1, size - 1)[0] != NEWLINE


def line(one: Pending) -> str:
    """One event as JSON without a line break: id, name, time, at, fields."""
    known = {"id": one.id, "name": one.event.name, "time": one.event.time, "at": one.event.at}
    fields = {name: value for name, value in facts(one).items() if name not in _TOLD}
    return json.dumps({**known, "fields": fields}, ensure_ascii=True, separators=(",", ":"))


_TOLD = ("event_id", "event_name", "event_time", "event_at")
