"""Content in the database, in pieces: for a queue that several nodes share (PostgreSQL).

A message larger than the inline limit is written while it arrives, CHUNK octets at a time, each in a
transaction of its own; `accept` then counts them. Chunks without a message are left over from a client or a
node that went away: `sweep` removes them when they are old. Neither way is the whole message in memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio
from sqlalchemy import ColumnElement, Connection, delete, func, insert, select

from deliver.errors import StorageError
from deliver.message import MessageId
from deliver.queue.content import ContentTooLarge, InlineContent
from deliver.queue.schema import content_chunk, message
from deliver.sqlrun import Sql

CHUNK: Final = 256 * 1024  # octets of each but the last; rows depend on it, so it never changes
ORPHANED: Final = 2 * 86400.0  # seconds; an older chunk whose message was not accepted is removed
SWEPT_AT_ONCE: Final = 200


Now = Callable[[], float]


@dataclass(frozen=True, slots=True)
class ChunkedContent:
    """Content of `size` octets in chunks."""

    sql: Sql
    message_id: MessageId
    size: int

    async def read(self, offset: int, length: int) -> bytes:
        """See `deliver.message.Content`. Raises StorageError, also when a part is missing."""
        wanted = max(0, min(length, self.size - offset))
        if not wanted:
            await trio.lowlevel.checkpoint()
            return b""
        data = await self.sql.read(partial(read, message_id=self.message_id, offset=offset, length=wanted))
        if len(data) != wanted:
            raise _incomplete(self.message_id)
        return data


@dataclass(frozen=True, slots=True)
class Chunks:
    """The place for content in the database of `sql`; `now` gives seconds since the epoch."""

    sql: Sql
    now: Now

    def writer(self, message_id: MessageId, *, inline_limit: int, max_size: int) -> ChunkWriter:
        """For the content of a message that is about to be accepted; sizes in octets."""
        return ChunkWriter(self.sql, self.now, message_id, inline_limit=inline_limit, max_size=max_size)

    def content(self, message_id: MessageId, size: int) -> ChunkedContent:
        """The content of an accepted message that is not in its row."""
        return ChunkedContent(self.sql, message_id, size)


class ChunkWriter:
    """Takes the content of one message as it arrives; finish it or abandon it."""

    def __init__(
        self, sql: Sql, now: Now, message_id: MessageId, *, inline_limit: int, max_size: int
    ) -> None:
        """`inline_limit` and `max_size` in octets. Nothing is written before the inline limit is passed."""
        self._sql = sql
        self._now = now
        self._message_id = message_id
        self._inline_limit = inline_limit
        self._max_size = max_size
        self._buffer = bytearray()
        self._written = 0  # chunks
        self.size = 0

    async def write(self, chunk: bytes) -> None:
        """Append. Raises ContentTooLarge or StorageError, both after removing what was written."""
        if self.size + len(chunk) > self._max_size:
            await self.abandon()
            raise ContentTooLarge(
                "taking a message", f"it is larger than {self._max_size} octets", "send a smaller message"
            )
        self.size += len(chunk)
        self._buffer += chunk
        while len(self._buffer) >= CHUNK and self.size > self._inline_limit:
            await self._spill(CHUNK)

    async def finish(self) -> InlineContent | ChunkedContent:
        """Put the rest into the database, as far as it is not meant for the row. Raises StorageError."""
        if not self._written and self.size <= self._inline_limit:
            return InlineContent(bytes(self._buffer))
        if self._buffer:
            await self._spill(len(self._buffer))
        return ChunkedContent(self._sql, self._message_id, self.size)

    async def abandon(self) -> None:
        """Forget the content; safe at any time before the row is committed, also under cancellation."""
        self._buffer.clear()
        if not self._written:
            return
        self._written = 0
        with trio.CancelScope(shield=True):
            with contextlib.suppress(StorageError):  # `sweep` finds them
                await self._sql.write(partial(drop_unaccepted, message_id=self._message_id))

    async def _spill(self, length: int) -> None:
        row = {
            "message_id": self._message_id,
            "number": self._written,
            "data": bytes(memoryview(self._buffer)[:length]),
            "written_at": self._now(),
        }
        self._written += 1
        try:
            await self._sql.write(partial(_insert, row=row))
        except StorageError:
            await self.abandon()
            raise
        del self._buffer[:length]


def _insert(conn: Connection, row: dict[str, object]) -> None:
    conn.execute(insert(content_chunk).values(row))


def read(conn: Connection, message_id: str, offset: int, length: int) -> bytes:
    """As many of these octets as there are."""
    parts = []
    end = offset + length
    for number in range(offset // CHUNK, (end - 1) // CHUNK + 1):
        start = max(offset - number * CHUNK, 0)
        stop = min(end - number * CHUNK, CHUNK)
        part = func.substring(content_chunk.c.data, start + 1, stop - start)
        found = conn.execute(
            select(part).where(content_chunk.c.message_id == message_id, content_chunk.c.number == number)
        ).scalar_one_or_none()
        if found is None:
            break
        parts.append(bytes(found))
    return b"".join(parts)


def demand(conn: Connection, message_id: str, size: int) -> None:
    """Before the message is accepted: all its chunks are there, and stay. Raises StorageError."""
    of_message = content_chunk.c.message_id == message_id
    held = select(content_chunk.c.number).where(of_message).with_for_update(key_share=True, read=True)
    conn.execute(held).all()  # `sweep` passes over what is locked
    octets = func.coalesce(func.sum(func.octet_length(content_chunk.c.data)), 0)
    if conn.execute(select(octets).where(of_message)).scalar_one() != size:
        raise _incomplete(message_id)


def drop(conn: Connection, message_ids: Sequence[str]) -> None:
    """Remove the content of messages that are over. Without effect where there are no chunks."""
    if conn.dialect.name == "postgresql":
        conn.execute(delete(content_chunk).where(content_chunk.c.message_id.in_(message_ids)))


def drop_unaccepted(conn: Connection, message_id: str) -> None:
    """Remove the chunks of a message that was not accepted: nobody heard of its COMMIT, at least."""
    _drop_orphans(conn, (content_chunk.c.message_id == message_id,), None)


def sweep(conn: Connection, before: float) -> int:
    """Remove chunks written before that moment whose message was never accepted; returns how many."""
    return _drop_orphans(conn, (content_chunk.c.written_at < before,), SWEPT_AT_ONCE)


def _drop_orphans(conn: Connection, of: Sequence[ColumnElement[bool]], limit: int | None) -> int:
    accepted = select(message.c.id).where(message.c.id == content_chunk.c.message_id).exists()
    found = select(content_chunk.c.message_id, content_chunk.c.number).where(*of, ~accepted).limit(limit)
    rows = conn.execute(found.with_for_update(skip_locked=True)).all()
    removed = 0
    for row in rows:
        # asked again, now that it is locked: it may just have been accepted
        removed += conn.execute(
            delete(content_chunk).where(
                content_chunk.c.message_id == row.message_id, content_chunk.c.number == row.number, ~accepted
            )
        ).rowcount
    return removed


def _incomplete(message_id: str) -> StorageError:
    return StorageError(
        f"reading the content of {message_id}", "chunks of it are missing", "restore the database"
    )
