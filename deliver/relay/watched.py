"""What was read from files, read again when one of them changes.

Every use looks at the files (a few system calls): size, times and number of the file. So a file that is
replaced by a rename counts at once, and one that is written in place counts when it is whole: whatever could
not be used is tried again at the next change.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from deliver.errors import ConfigurationError
from deliver.filemark import Mark, mark

log = logging.getLogger("outrider.relay")

Value = TypeVar("Value")


class Watched(Generic[Value]):
    """A value made of files by `make`, which raises ConfigurationError."""

    def __init__(self, paths: Sequence[Path], make: Callable[[], Value]) -> None:
        """Raises ConfigurationError: the first time nothing is there to fall back on."""
        self._paths = tuple(paths)
        self._make = make
        self._marks = self._look()
        self._fault: ConfigurationError | None = None
        self.last_good = make()

    def current(self) -> Value:
        """The value of the files as they are. Raises ConfigurationError, said in the log once."""
        marks = self._look()
        if marks != self._marks:
            self._marks = marks
            self._read()
        if self._fault is not None:
            raise ConfigurationError(self._fault.attempted, self._fault.happened, self._fault.remedy)
        return self.last_good

    def refreshed(self) -> Value:
        """The same, but the last value that could be used where the files now cannot."""
        try:
            return self.current()
        except ConfigurationError:
            return self.last_good

    def renew(self) -> None:
        """Make the value anew although nothing has changed."""
        self._marks = self._look()
        self._read()

    def _read(self) -> None:
        try:
            self.last_good = self._make()
        except ConfigurationError as error:
            self._fault = error
            log.error("%s", error)
        else:
            self._fault = None

    def _look(self) -> tuple[Mark, ...]:
        return tuple(map(mark, self._paths))
