"""The log lines of one turn of the event loop are written together, before it waits for what comes next."""

from __future__ import annotations

from threading import get_ident

import trio

from deliver.report.log import current


class LinesByTurn(trio.abc.Instrument):
    """To be given to `trio.run`; see `deliver.report.log`."""

    def before_run(self) -> None:
        """The lines of this thread wait from now on."""
        if (lines := current()) is not None:
            lines.gather(get_ident())

    def before_io_wait(self, timeout: float) -> None:
        """A turn is over."""
        if (lines := current()) is not None:
            lines.flush()

    def after_run(self) -> None:
        """Nothing waits any more."""
        if (lines := current()) is not None:
            lines.gather(None)
