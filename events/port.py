"""How events reach the database that holds their outbox: the owner of that database runs our functions.

The queue's database belongs to the queue; its runner decides about threads, transactions and group commit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from sqlalchemy import Connection

T = TypeVar("T")


class SqlRunner(Protocol):
    """Runs synchronous functions on a connection, which is theirs until they return, off the event loop."""

    async def read(self, fn: Callable[[Connection], T]) -> T:
        """Run in a read transaction. Raises what `fn` or the database raises."""
        ...

    async def write(self, fn: Callable[[Connection], T]) -> T:
        """Run in a write transaction; returns after the commit."""
        ...
