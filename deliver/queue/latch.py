"""When the storage fails, the queue stands still: nothing is accepted or claimed, and that is said once.

    fault                                          the latch opens
    ---------------------------------------------  ----------------------------------------------------
    disk full, file or directory not writable      when a durable write succeeds; tried every 5 s
    an I/O error, fsync included; a damaged file   at the next start: what the kernel has of the file in
                                                   memory may differ from the disk (fsync tells only once)

Attempts under way go on to their end. Their replies are in the journal, their settlements are tried again for
a while, and the rest is found out at the next start or when their lease has expired.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

import sqlalchemy
import trio
from sqlalchemy import Connection, delete

from deliver.errors import StorageError, StorageFault
from deliver.queue import due
from deliver.queue.schema import destination
from deliver.sqlrun import Sql

if TYPE_CHECKING:
    from deliver.queue.shard import Shard

T = TypeVar("T")

PROBE: Final = 5.0  # seconds between tries
NOWHERE: Final = ".probe"  # no domain; its row exists only inside the probe's transaction

log = logging.getLogger("outrider.queue")


class Latch:
    """Whether the storage has failed. `fault` is why; it closes by itself and opens by `open` only."""

    def __init__(self) -> None:
        self.fault: StorageFault | None = None

    def note(self, error: StorageError) -> None:
        """An error of the storage: close, if it concerns everything."""
        if not isinstance(error, StorageFault):
            return
        before = self.fault
        if before is None or (error.final and not before.final):
            self.fault = error
            then = "restart when it is repaired" if error.final else "goes on by itself when it is repaired"
            log.critical("the queue stands still, nothing is accepted or delivered: %s; %s", error, then)

    def open(self) -> None:
        """A write has succeeded. Without effect on a final fault."""
        if self.fault is not None and not self.fault.final:
            self.fault = None
            log.warning("the queue goes on: its storage can be written again")


class LatchedSql:
    """`Sql` that closes the latch, and refuses to write while it is closed. `inner` is what really writes."""

    def __init__(self, inner: Sql, latch: Latch) -> None:
        self.inner = inner
        self._latch = latch

    async def read(self, fn: Callable[[sqlalchemy.Connection], T]) -> T:
        """See `Sql.read`; reading goes on while the latch is closed."""
        try:
            return await self.inner.read(fn)
        except StorageError as error:
            self._latch.note(error)
            raise

    async def write(
        self,
        fn: Callable[[sqlalchemy.Connection], T],
        *,
        durable: bool = True,
        patience: float = 0.0,
        brief: bool = False,
    ) -> T:
        """See `Sql.write`."""
        fault = self._latch.fault
        if fault is not None:
            await trio.lowlevel.checkpoint()
            raise StorageError("writing to the queue", f"it stands still ({fault.happened})", fault.remedy)
        try:
            return await self.inner.write(fn, durable=durable, patience=patience, brief=brief)
        except StorageError as error:
            self._latch.note(error)
            raise

    async def aclose(self) -> None:
        """See `Sql.aclose`."""
        await self.inner.aclose()


async def unlatch(shard: Shard, *, mended: Callable[[], None], every: float = PROBE) -> None:
    """While the latch is closed and may open, try whether the database can be written; then call `mended`."""
    assert isinstance(shard.sql, LatchedSql)
    while True:
        await trio.sleep(every)
        fault = shard.latch.fault
        if fault is None or fault.final:
            continue
        try:
            await shard.sql.inner.write(probe)
        except StorageError as error:
            shard.latch.note(error)
        else:
            shard.latch.open()
            mended()


def probe(conn: Connection) -> None:
    """Write something and take it back, within one transaction that has to reach the disk."""
    due.note_due(conn, NOWHERE, 0.0)
    conn.execute(delete(destination).where(destination.c.domain == NOWHERE))
