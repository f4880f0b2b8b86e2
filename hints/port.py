"""What the delivery side may ask of hints, and tell them. Never an error, never a wait beyond 50 ms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hints.records import EhloAnswer, Note

PATIENCE = 0.05  # seconds; a hint that is not there by then is a missing hint


@dataclass(frozen=True, slots=True)
class AddressView:
    """What is remembered about one address of a host, at the moment of asking."""

    address: str
    failures: int = 0  # since the last success
    last_error: str | None = None
    last_failure: float | None = None  # seconds since the epoch
    last_success: float | None = None
    ehlo: tuple[EhloAnswer, ...] = ()


class Hints(Protocol):
    """Advice, learnt and given."""

    async def look(self, host: str, addresses: Sequence[str], port: int) -> tuple[AddressView, ...]:
        """One view per address, in the given order; empty where nothing is known in time."""
        ...

    def note(self, note: Note, *, source: str, reason: str, now: float) -> None:
        """Remember; buffered, returns at once, never raises. `source`: who learned it, such as "relay"."""
        ...

    async def flush(self) -> None:
        """Write what is buffered. Failures are logged once, not raised."""
        ...

    async def aclose(self) -> None:
        """Flush and close."""
        ...
