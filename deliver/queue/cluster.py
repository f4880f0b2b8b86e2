"""One of several nodes that share a queue on PostgreSQL.

    in the database           rows, content, the outbox
    cluster-0.journal         in `queue.directory` of this machine: replies read and not yet committed
    cluster-0.lock            held with flock while the process lives
    an advisory lock          of the database, by the node's name: two processes of one name would end each
                              other's attempts

At the start the journal is replayed and the attempts that this node left open are ended; those of the others
are left alone until their leases end (`deliver.queue.recovery`). Leases are times, so a node whose clock
differs too much from the database's is refused.

Tables are changed to a new version only while no node lives: one of an older version would go on without what
is new, such as what the sender of a message demands.
"""

from __future__ import annotations

import logging
import math
import os
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import sqlalchemy
import trio
from sqlalchemy import Connection, func, select, text

from deliver.errors import StorageError, StorageFault
from deliver.pgrun import PostgresDatabase, PostgresRunner, SessionLock
from deliver.queue import browse, chunks, recovery, schema
from deliver.queue.journal import Journal
from deliver.queue.latch import Latch, LatchedSql
from deliver.queue.reading import looking, shard_files
from deliver.queue.shard import Shard, own
from deliver.queue.store import Append
from deliver.report.log import say
from events import outbox

NODES: Final = 0x6F757472  # the space of the advisory locks of nodes
LOOK: Final = 10.0  # seconds between looks at the lock
SWEEP: Final = 3600.0  # seconds between searches for chunks without a message
LINGER: Final = 60.0  # seconds; a session of ours that was cut off may hold the lock for a while
PATIENCE: Final = 20.0  # seconds at the start; the database takes as long to notice that a machine has gone

_ANY_NODE: Final = text(
    "SELECT 1 FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database "
    "WHERE locktype = 'advisory' AND objsubid = 2 AND classid = :space AND granted "
    "AND datname = current_database()"
)

log = logging.getLogger("outrider.queue")


@dataclass(frozen=True, slots=True)
class Membership:
    """How this process takes part.

    `directory` is of this machine, `number` tells its processes apart; `max_skew` in seconds; `now` gives
    seconds since the epoch.
    """

    url: sqlalchemy.URL
    node: str
    directory: Path
    now: Callable[[], float]
    number: int = 0
    connections: int = 8
    max_skew: float = 150.0


class NodeLock:
    """The advisory lock of a node's name, taken again when the session that held it was ended."""

    def __init__(self, database: PostgresDatabase, node: str) -> None:
        self.database = database
        self._node = node
        self._lock: SessionLock | None = None

    def take(self) -> bool:
        """Whether the name is ours (again). Raises StorageError."""
        if self._lock is not None:
            if self._lock.is_held():
                return True
            self.release()
        self._lock = self.database.hold_lock(NODES, _number(self._node))
        return self._lock is not None

    def release(self) -> None:
        """Let go of the name."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()


@dataclass(frozen=True, slots=True)
class Cluster:
    """What an open queue that is shared needs beside the relay."""

    shard: Shard
    membership: Membership
    lock: NodeLock

    async def keep(self) -> None:
        """Hold on to the node's name, watch the clock, sweep old chunks; until cancelled."""
        swept = -math.inf
        ours = trio.current_time()
        while True:
            try:
                ours = await self._look(ours)
                if trio.current_time() - swept >= SWEEP:
                    swept = trio.current_time()
                    await self._sweep()
            except StorageError as error:
                log.warning("%s", error)
            await trio.sleep(LOOK)

    async def _look(self, ours: float) -> float:
        """Returns when the name was ours for the last time, by trio's clock; it was then at `ours`."""
        if not await trio.to_thread.run_sync(self.lock.take):
            if trio.current_time() - ours > LINGER:
                self.shard.latch.note(_taken(self.membership.node))
            return ours
        if await self.shard.sql.read(schema.version_of) > schema.VERSION:
            self.shard.latch.note(_OUTDATED)
        skew = await clock_skew(self.shard, self.membership.now)
        if abs(skew) > self.membership.max_skew:
            say(log, logging.ERROR, "clock differs from the database's", seconds=f"{skew:.1f}", remedy="NTP")
        return trio.current_time()

    async def _sweep(self) -> None:
        await trio.to_thread.run_sync(self.lock.database.forget_marks)
        before = self.membership.now() - chunks.ORPHANED
        while removed := await self.shard.sql.write(lambda conn: chunks.sweep(conn, before)):
            say(log, logging.INFO, "removed content that was never accepted", chunks=removed)


@asynccontextmanager
async def open_cluster(membership: Membership, *, append: Append = outbox.append) -> AsyncIterator[Shard]:
    """Be that node for the duration of the block. Raises StorageError."""
    directory = membership.directory
    descriptor = await trio.to_thread.run_sync(own, directory / f"cluster-{membership.number}.lock")
    try:
        await trio.to_thread.run_sync(_demand_empty, directory)
        sql = await PostgresRunner.open(membership.url, migrate, connections=membership.connections)
        lock = NodeLock(sql.database, membership.node)
        try:
            await _become(lock, membership.node)
            journal = await trio.to_thread.run_sync(
                Journal, directory / f"cluster-{membership.number}.journal"
            )
            try:
                latch = Latch()
                latched = LatchedSql(sql, latch)
                content = chunks.Chunks(latched, membership.now)
                spool = directory / "spool"  # stays empty
                shard = Shard(latched, journal, spool, latch, membership.node, content)
                await _demand_time(shard, membership)
                await _warn_of_server(shard)
                await _rejoin(shard, membership, append)
                yield replace(shard, keep=Cluster(shard, membership, lock).keep)
            finally:
                journal.close()
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(lock.release)
                await sql.aclose()
    finally:
        os.close(descriptor)


def migrate(conn: Connection) -> None:
    """See `deliver.queue.schema.migrate`. Raises StorageError also while nodes of an older version live."""
    version = schema.version_of(conn)
    if 0 < version < schema.VERSION and any_node(conn):
        raise StorageError(
            "opening the queue",
            f"other nodes still use its tables as they were (schema {version}, here it is {schema.VERSION})",
            "stop all nodes, then start this version",
        )
    schema.migrate(conn)


async def clock_skew(shard: Shard, now: Callable[[], float]) -> float:
    """By how many seconds this node's clock is ahead of the database's, as far as the way there lets tell."""
    before = now()
    theirs = await shard.sql.read(
        lambda conn: float(conn.execute(select(func.extract("epoch", func.clock_timestamp()))).scalar_one())
    )
    after = now()
    return max(before - theirs, 0.0) + min(after - theirs, 0.0)


async def _become(lock: NodeLock, node: str) -> None:
    with trio.move_on_after(PATIENCE):
        while not await trio.to_thread.run_sync(lock.take):  # noqa: ASYNC110 (the database has no trio.Event)
            await trio.sleep(0.5)
        return
    raise _taken(node)


async def _demand_time(shard: Shard, membership: Membership) -> None:
    skew = await clock_skew(shard, membership.now)
    if abs(skew) > membership.max_skew:
        raise StorageError(
            f"joining the queue as node {membership.node}",
            f"this machine's clock differs from the database's by {abs(skew):.0f} s, and leases are times",
            "let both follow NTP",
        )


async def _warn_of_server(shard: Shard) -> None:
    """Settings of the server with which a power failure loses mail."""
    for name in ("fsync", "full_page_writes"):
        if await shard.sql.read(partial(_setting, name=name)) == "off":
            log.error("the database server has %s = off: a power failure there loses mail", name)


def _setting(conn: Connection, name: str) -> str:
    return str(conn.execute(select(func.current_setting(name))).scalar_one())


async def _rejoin(shard: Shard, membership: Membership, append: Append) -> None:
    proofs, now = shard.journal.proofs(), membership.now()
    found = await shard.sql.write(lambda conn: recovery.rejoin(conn, now, proofs, membership.node, append))
    shard.journal.clear()
    if found.interrupted:
        log.warning(
            "%d attempts of this node were interrupted; "
            "the journal proves %d deliveries, the others are in doubt",
            found.interrupted,
            found.delivered,
        )


def _demand_empty(directory: Path) -> None:
    """Mail that waits in SQLite here would wait for ever. Raises StorageError."""
    for path in shard_files(directory):
        with looking(path) as reader:
            waiting = browse.counts(reader).messages
        if waiting:
            raise StorageError(
                "using queue.url",
                f"{waiting} messages still wait in {path}",
                "let a relay without queue.url deliver them, or `outrider queue export` and remove them",
            )


def any_node(conn: Connection) -> bool:
    """Whether a node of this queue lives, on whatever machine."""
    return bool(conn.execute(_ANY_NODE, {"space": NODES}).first())


def _number(node: str) -> int:
    """A key of PostgreSQL's advisory locks: 32 bits with a sign."""
    return zlib.crc32(node.encode()) - (1 << 31)


_OUTDATED: Final = StorageFault(
    "sharing the queue",
    "its tables were changed by a newer version",
    "start the newer version here too",
    final=True,
)


def _taken(node: str) -> StorageFault:
    return StorageFault(
        f"being node {node}",
        "another process is that node",
        "give each relay another queue.node",
        final=True,
    )
