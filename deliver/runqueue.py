"""How long a thread has waited for a processor: time that passed and was nobody's disk."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

_STATISTICS: Final = Path("/proc/thread-self/schedstat")  # ns on a processor, ns ready without one, turns
_LENGTH: Final = 256  # octets; three numbers need a quarter of it


class RunQueue:
    """The thread that makes it. Where the kernel does not say, nothing was waited."""

    def __init__(self, statistics: Path = _STATISTICS) -> None:
        self._descriptor: int | None = None
        with contextlib.suppress(OSError):
            self._descriptor = os.open(statistics, os.O_RDONLY | os.O_CLOEXEC)

    def waited(self) -> float:
        """Seconds since the thread began in which it was ready to run and others had the processors."""
        if self._descriptor is None:
            return 0.0
        try:
            return int(os.pread(self._descriptor, _LENGTH, 0).split()[1]) / 1e9
        except (OSError, ValueError, IndexError):
            return 0.0

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
