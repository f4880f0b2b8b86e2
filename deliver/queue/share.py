"""What a queue may have of the limits: all of it, or what it can lease beside other workers.

An attempt is claimed in three steps: `places` says whether it is worth looking (cheap, and at worst a moment
old), `reserve` takes what it needs before it is claimed, `begin` and `end` enclose it. `settle` gives back
what was reserved and not used.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from deliver.queue.throttle import Rate


class Share(Protocol):
    """`parts`: how many have one, 1 for nobody else. Keys are words that name what a limit counts."""

    parts: int

    def places(self, limit: int, key: str) -> int:
        """How many of the limit's places there may be for us."""
        ...

    def portion(self, amount: int) -> int:
        """An even part of something that is no promise to others, one at least."""
        ...

    def reserve(self, limit: int, key: str, wanted: int) -> bool:
        """Whether we have `wanted` places now, those in use included."""
        ...

    def begin(self, key: str) -> None:
        """One of the reserved places is in use."""
        ...

    def end(self, key: str) -> None:
        """It is not any more."""
        ...

    def token_at(self, key: str, rate: Rate) -> float:
        """When the bucket of that name has a token: seconds since the epoch."""
        ...

    def reserve_token(self, key: str, rate: Rate, now: float) -> bool:
        """Whether we have one now."""
        ...

    def spend_token(self, key: str) -> None:
        """The reserved one is used."""
        ...

    def settle(self) -> None:
        """Give back what is reserved and not in use."""
        ...

    def close(self) -> None:
        """Give back everything."""
        ...


class Whole:
    """Nobody else has a part: nothing to lease. Buckets are the throttle's own."""

    parts = 1

    def places(self, limit: int, key: str) -> int:
        """All."""
        return limit

    def portion(self, amount: int) -> int:
        """All."""
        return amount

    def reserve(self, limit: int, key: str, wanted: int) -> bool:
        """See `places`: nobody else took any meanwhile."""
        return True

    def begin(self, key: str) -> None:
        """Nobody needs to know."""

    def end(self, key: str) -> None:
        """Nobody needs to know."""

    def token_at(self, key: str, rate: Rate) -> float:
        """Never asked."""
        return -math.inf

    def reserve_token(self, key: str, rate: Rate, now: float) -> bool:
        """Never asked."""
        return True

    def spend_token(self, key: str) -> None:
        """Nobody needs to know."""

    def settle(self) -> None:
        """There is nothing."""

    def close(self) -> None:
        """There is nothing."""


WHOLE: Final = Whole()
