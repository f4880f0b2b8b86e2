"""Turns of the shards at limits that are too small to divide, as the supervisor leads them.

See `deliver.queue.share`: first every worker gives up what it has and tells what is still in use beyond its
next part, then the turn begins without that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from deliver.slot import Slot

TURN: Final = 10.0  # seconds that a place which is too small to divide belongs to the same shard


class Rotation:
    """`due` is when the next turn begins; infinity while none is needed, or one is being given up."""

    def __init__(
        self, slots: Sequence[Slot], parts: int, needed: Callable[[], bool], now: Callable[[], float]
    ) -> None:
        """`parts` shards take turns while `needed` by the settings of the moment."""
        self.number = 0
        self.due = math.inf
        self._slots = slots
        self._parts = parts
        self._needed = needed
        self._now = now
        self._awaited: set[int] = set()  # workers that still have to give up their turn
        self._marks: set[str] = set()

    @property
    def changing(self) -> bool:
        """Whether somebody still has to give up the turn before."""
        return bool(self._awaited)

    def arrange(self) -> None:
        """The settings may have changed, or we have just begun."""
        if self._needed() and not self._awaited:
            self.due = min(self.due, self._now() + TURN)

    def begin(self) -> None:
        """All give up what is too small to divide; when they have, the next turn begins."""
        self.due = math.inf
        self.number = (self.number + 1) % self._parts
        self._marks = set()
        self._awaited = {slot.number for slot in self._slots if slot.ready}
        for number in tuple(self._awaited):
            self._slots[number].tell("give up", {"turn": self.number})
        self._go_on()

    def gave_up(self, worker: int, marks: Iterable[str] = ()) -> None:
        """A worker has given up its turn, or has ended; `marks` of what it still uses."""
        self._marks.update(marks)
        if worker in self._awaited:
            self._awaited.discard(worker)
            self._go_on()

    def _go_on(self) -> None:
        if self._awaited or self.due < math.inf or not self._needed():
            return
        about = {"turn": self.number, "without": sorted(self._marks)}
        for slot in self._slots:
            if slot.ready:
                slot.tell("turn", about)
        self.due = self._now() + TURN
