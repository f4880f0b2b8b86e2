"""Why a hints file is left alone, and for how long; each reason is logged once."""

from __future__ import annotations

import logging
import math
from pathlib import Path

from hints.engine import Unavailable

RETRY = 60.0  # seconds without the file after trouble
MAX_SAID = 100  # different complaints in the log

_log = logging.getLogger("outrider.hints")


class Trouble:
    """What became of the file at `path`, and what that means for mail. Times: seconds since the epoch."""

    def __init__(self, path: Path, meaning: str) -> None:
        self.why = ""  # of the last one
        self._path = path
        self._meaning = meaning
        self._since = -math.inf
        self._said: set[str] = set()

    def meet(self, error: Exception, now: float) -> None:
        """The file cannot be used: it is left alone for a while."""
        self._since = now
        self.why = str(error) if isinstance(error, Unavailable) else repr(error)[:200]
        self.say(f"{self.why}; {self._meaning}")

    def end(self) -> None:
        """The file was used."""
        self._since = -math.inf

    def lasts(self, now: float) -> bool:
        """Whether the file is left alone; no longer than that when the clock was set back."""
        return self._since <= now < self._since + RETRY

    def say(self, text: str) -> None:
        """Log it, the first time."""
        if text not in self._said and len(self._said) < MAX_SAID:
            self._said.add(text)
            _log.warning("hints file %s: %s", self._path, text)
