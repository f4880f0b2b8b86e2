"""What the rows of a queue mean, for those who read them without SQLAlchemy (see `deliver.queue.schema`)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

VERSION: Final = 10  # of the tables: one more than there are migrations


class State(StrEnum):
    """Where a recipient stands."""

    QUEUED = "queued"
    LEASED = "leased"
    HELD = "held"
    DELIVERED = "delivered"
    FAILED = "failed"


OPEN_STATES: Final = (State.QUEUED, State.LEASED, State.HELD)

# What the indexes of some recipients say: a planner knows them by these words, not by values that come later.
IS_QUEUED: Final = f"state = '{State.QUEUED}'"
IS_OPEN: Final = tuple(f"state = '{each}'" for each in OPEN_STATES)  # one of these


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """One recipient of one message."""

    message_id: str
    ordinal: int
