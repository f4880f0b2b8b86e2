"""The log lines of one turn of the event loop, or of a few, are written together, before it waits."""

from __future__ import annotations

from threading import get_ident
from typing import Final

import trio

from deliver.report.log import current

IN_A_ROW: Final = 16  # turns without waiting, after which what was said is written all the same


class LinesByTurn(trio.abc.Instrument):
    """To be given to `trio.run`; see `deliver.report.log`."""

    def __init__(self) -> None:
        self._turns = 0  # since the last time

    def before_run(self) -> None:
        """The lines of this thread wait from now on."""
        if (lines := current()) is not None:
            lines.gather(get_ident())

    def before_io_wait(self, timeout: float) -> None:
        """A turn is over; without `timeout` the next one follows at once."""
        self._turns += 1
        if timeout or self._turns >= IN_A_ROW:
            self._turns = 0
            if (lines := current()) is not None:
                lines.flush()

    def after_run(self) -> None:
        """Nothing waits any more."""
        if (lines := current()) is not None:
            lines.gather(None)
