"""One shard of the queue on disk, owned by one process.

    shard-0.db (-wal, -shm)   the rows
    shard-0.lock              held with flock while the process lives: two owners would deliver twice
    shard-0.journal           replies read and not yet committed, see `deliver.queue.journal`
    spool-0/                  content too large for a row

A fault of the storage latches, see `deliver.queue.latch`. Opening it migrates the tables, replays the
journal, ends the attempts of the process before, and clears the spool of files that no message needs. A shard
that another process owns is refused.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from deliver.errors import StorageError
from deliver.groupcommit import SqlRunner
from deliver.message import Content, MessageId
from deliver.privatefile import create_private_file
from deliver.queue import content, recovery, schema
from deliver.queue.chunks import Chunks
from deliver.queue.content import ContentWriter, SpoolContent, Writer
from deliver.queue.journal import Journal
from deliver.queue.latch import Latch, LatchedSql
from deliver.queue.store import Append, content_of
from deliver.sqlrun import Sql
from events import outbox

log = logging.getLogger("outrider.queue")


@dataclass(frozen=True, slots=True)
class Shard:
    """An open shard: its database, its journal and its spool directory, and whether it stands still.

    `node`: our name, where others share the database; `chunks`: where large content is then, and `keep` runs
    beside the relay until it is cancelled.
    """

    sql: Sql
    journal: Journal
    spool: Path
    latch: Latch = field(default_factory=Latch)
    node: str | None = None
    chunks: Chunks | None = None
    keep: Callable[[], Awaitable[None]] | None = None

    def writer(self, message_id: MessageId, *, inline_limit: int, max_size: int) -> Writer:
        """For the content of a message that is about to be accepted; sizes in octets."""
        if self.chunks is not None:
            return self.chunks.writer(message_id, inline_limit=inline_limit, max_size=max_size)
        return ContentWriter(self.spool, message_id, inline_limit=inline_limit, max_size=max_size)

    async def content(self, message_id: MessageId, spool_name: str | None, size: int) -> Content | None:
        """The content of an accepted message; None when its row has none. Raises StorageError.

        A file or chunk that is gone is noticed here, before any server is bothered.
        """
        stored: Content | None
        if spool_name is not None:
            stored = SpoolContent(self.spool, spool_name, size)
        else:
            data = await self.sql.read(partial(content_of, message_id=message_id))
            if data is not None:
                return content.InlineContent(data)
            stored = None if self.chunks is None else self.chunks.content(message_id, size)
        if stored is not None:
            await stored.read(0, 1)
        return stored


def free_octets(directory: Path) -> int:
    """Free disk space for us where the queue lives. Raises StorageError."""
    try:
        found = os.statvfs(directory)
    except OSError as error:
        raise StorageError(f"looking at {directory}", error.strerror or str(error), "create it") from error
    return found.f_bavail * found.f_frsize


@asynccontextmanager
async def open_shard(
    directory: Path, number: int, now: float, *, append: Append = outbox.append
) -> AsyncIterator[Shard]:
    """Own the shard for the duration of the block. Raises StorageError."""
    lock = await trio.to_thread.run_sync(own, directory / f"shard-{number}.lock")
    try:
        sql = await SqlRunner.open(directory / f"shard-{number}.db", schema.migrate)
        try:
            journal = await trio.to_thread.run_sync(Journal, directory / f"shard-{number}.journal")
            latch = Latch()
            shard = Shard(LatchedSql(sql, latch), journal, directory / f"spool-{number}", latch)
            try:
                await _recover(shard, now, append)
                yield shard
            finally:
                journal.close()
        finally:
            await sql.aclose()
    finally:
        os.close(lock)


async def _recover(shard: Shard, now: float, append: Append) -> None:
    proofs = shard.journal.proofs()
    found = await shard.sql.write(lambda conn: recovery.recover(conn, now, proofs, append))
    shard.journal.clear()
    if found.interrupted:
        log.warning(
            "%d attempts were interrupted; the journal proves %d deliveries, the others are in doubt",
            found.interrupted,
            found.delivered,
        )
    referred = await shard.sql.read(recovery.referred_spool_files)
    left = await trio.to_thread.run_sync(content.unreferred, shard.spool, referred)
    ended = await shard.sql.read(partial(recovery.known_messages, spool_names=left))
    missing = await trio.to_thread.run_sync(content.sweep, shard.spool, referred, ended)
    for name in missing:
        log.error("the content %s is gone; its message is held and bounces at its expiry", shard.spool / name)


def own(path: Path) -> int:
    """Lock this file as long as the descriptor returned is open. Raises StorageError if another has it."""
    create_private_file(path)
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StorageError(
            f"opening the queue in {path.parent}",
            "another process owns it",
            "stop the other outrider relay, or give this one another queue.directory",
        ) from error
    return descriptor
