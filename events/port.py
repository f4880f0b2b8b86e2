"""What events and deliveries ask of each other.

`SqlRunner`: the owner of the database that holds the outbox runs our functions; it decides about threads,
transactions and group commit. `EventGate`: a delivery asks before it does what an action may refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from sqlalchemy import Connection

from events.catalogue import Event
from events.fields import Scalar

T = TypeVar("T")


class SqlRunner(Protocol):
    """Runs synchronous functions on a connection, which is theirs until they return, off the event loop."""

    async def read(self, fn: Callable[[Connection], T]) -> T:
        """Run in a read transaction. Raises what `fn` or the database raises."""
        ...

    async def write(self, fn: Callable[[Connection], T], *, durable: bool = True) -> T:
        """Run in a write transaction; returns after the commit, safe from power failures if `durable`."""
        ...


@dataclass(frozen=True, slots=True)
class Allow:
    """No action objects."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """An action objects; `text` says why: one bounded, printable line."""

    text: str


class EventGate(Protocol):
    """Asked before the fact that an event of the catalogue with `veto` announces."""

    @property
    def open(self) -> bool:
        """Whether nothing is refused as things are, whatever is asked."""
        ...

    async def consult(self, event: Event) -> Allow | Refuse:
        """What the actions say, within their deadlines. Raises nothing."""
        ...

    def watches(self, name: str, fields: Mapping[str, Scalar]) -> bool:
        """Whether an action may want to decide about an event of this name with these fields and more."""
        ...


class OpenGate:
    """The gate of an installation without veto actions."""

    open = True

    async def consult(self, event: Event) -> Allow | Refuse:
        """Allow."""
        return Allow()

    def watches(self, name: str, fields: Mapping[str, Scalar]) -> bool:
        """Nobody does."""
        return False
