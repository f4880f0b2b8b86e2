"""Ids of events: unique, and neighbours in every index if they are of one time."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count
from typing import Final

from events.catalogue import Event

NewId = Callable[[Event], str]


def event_id(event: Event) -> str:
    """32 hexadecimal digits: milliseconds, then chance; ids of one time are neighbours in every index.

    The 80 bits of chance are drawn once per process and counted up from there.
    """
    return f"{int(event.at * 1000):012x}{next(_numbers) & _LAST_NUMBER:020x}"


_LAST_NUMBER: Final = (1 << 80) - 1
_numbers = count()


def _draw() -> None:
    global _numbers
    _numbers = count(int.from_bytes(os.urandom(10)))


_draw()
os.register_at_fork(after_in_child=_draw)
