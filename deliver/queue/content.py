"""The content of messages: small ones in the database row, large ones in spool files.

A spool file is written under a temporary name, fsynced, renamed to `<message id>.eml`, and its directory
fsynced before `finish` returns: a row that names it (see `deliver.queue.store.accept`) never names a torn
file. At start-up files that no message needs are removed, and those of unknown messages are kept apart; a row
whose file is gone is reported and its recipients are deferred, until the sender is told at the expiry.

The size limit is enforced while writing; file work runs in worker threads and is not cancelled half-way. Only
what the system has in memory is read without one. Files that are finished at the same time share the fsync of
their directory.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import trio
from msgspec import Struct

from deliver.errors import MessageError, StorageError, StorageFault
from deliver.message import Content, MessageId

if TYPE_CHECKING:
    from deliver.queue.chunks import ChunkedContent

SUFFIX: Final = ".eml"
TEMPORARY: Final = ".part"
LOST: Final = "lost"  # in the spool directory: messages that the database does not know
AT_ONCE: Final = 256 * 1024  # octets that are copied out of the system's memory on the event loop
DIRECTORIES: Final = 64  # whose fsyncs are shared
_NOW: Final = getattr(os, "RWF_NOWAIT", None)  # Linux
_SAFE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}\Z")

log = logging.getLogger("outrider.queue")


class ContentTooLarge(MessageError):
    """The content is larger than the limit; what was written has been removed."""


class InlineContent(Struct, frozen=True):
    """Content in memory, or in its row."""

    data: bytes

    @property
    def size(self) -> int:
        """Octets."""
        return len(self.data)

    async def read(self, offset: int, length: int) -> bytes:
        """See `deliver.message.Content`."""
        await trio.lowlevel.checkpoint_if_cancelled()  # nothing is waited for
        return self.data[offset : offset + length]


class SpoolContent(Struct, frozen=True):
    """Content in the file `name` of the directory `spool`."""

    spool: Path
    name: str
    size: int

    async def read(self, offset: int, length: int) -> bytes:
        """See `deliver.message.Content`. Raises StorageError when the file is gone or shorter than it was."""
        wanted = max(0, min(length, self.size - offset))
        octets = self._in_memory(offset, wanted) if wanted <= AT_ONCE else None
        if octets is None:
            return await trio.to_thread.run_sync(self._read, offset, wanted)
        await trio.lowlevel.checkpoint()
        return octets

    def _in_memory(self, offset: int, wanted: int) -> bytes | None:
        """These octets, if no disk has to be asked for them (it seldom has: the file was just written)."""
        if _NOW is None:
            return None
        try:
            descriptor = os.open(self.spool / self.name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                octets = bytearray(wanted)
                return bytes(octets) if os.preadv(descriptor, [octets], offset, _NOW) == wanted else None
            finally:
                os.close(descriptor)
        except OSError:
            return None  # not there, or a file system that cannot say: the thread finds out

    def _read(self, offset: int, wanted: int) -> bytes:
        path = self.spool / self.name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                parts = []
                while wanted and (part := os.pread(descriptor, wanted, offset)):
                    parts.append(part)
                    offset += len(part)
                    wanted -= len(part)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _failed("reading", path, error) from error
        if wanted:
            raise StorageError(f"reading {path}", "the file is shorter than it was", "restore the file")
        return b"".join(parts)


StoredContent: TypeAlias = "InlineContent | SpoolContent | ChunkedContent"


class Writer(Protocol):
    """Takes the content of one message as it arrives; finish it or abandon it."""

    size: int  # octets so far

    async def write(self, chunk: bytes) -> None:
        """Append. Raises ContentTooLarge or StorageError, both after removing what was written."""
        ...

    async def finish(self) -> StoredContent:
        """Make the content durable, as far as it is not meant for the row. Raises StorageError."""
        ...

    async def abandon(self) -> None:
        """Forget the content; safe at any time before the row is committed, also under cancellation."""
        ...


class ContentWriter:
    """Takes the content of one message as it arrives; finish it or abandon it."""

    def __init__(self, spool: Path, message_id: MessageId, *, inline_limit: int, max_size: int) -> None:
        """`inline_limit` and `max_size` in octets. Nothing is created before the inline limit is passed."""
        if not _SAFE_NAME.match(message_id):
            raise ValueError(f"not a message id: {message_id!r}")
        self._spool = spool
        self._message_id = message_id
        self._inline_limit = inline_limit
        self._max_size = max_size
        self._buffer = bytearray()
        self._descriptor: int | None = None
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
        if len(self._buffer) > self._inline_limit:
            await self._in_thread(self._spill)

    async def finish(self) -> StoredContent:
        """Make the content durable, as far as it is not meant for the row. Raises StorageError."""
        if self._descriptor is None:
            return InlineContent(bytes(self._buffer))
        await self._in_thread(self._complete)
        return SpoolContent(self._spool, self._finished.name, self.size)

    async def abandon(self) -> None:
        """Forget the content; safe at any time before the row is committed, also under cancellation."""
        self._buffer.clear()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._remove)

    @property
    def _temporary(self) -> Path:  # most messages need none
        return self._spool / f"{self._message_id}{TEMPORARY}"

    @property
    def _finished(self) -> Path:
        return self._spool / f"{self._message_id}{SUFFIX}"

    async def _in_thread(self, work: object) -> None:
        assert callable(work)
        try:
            await trio.to_thread.run_sync(work)
        except OSError as error:
            await self.abandon()
            raise _failed("writing", self._temporary, error) from error

    def _spill(self) -> None:
        if self._descriptor is None:
            make_directory(self._spool)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._descriptor = os.open(self._temporary, flags, 0o600)
        octets, self._buffer = self._buffer, bytearray()
        rest = memoryview(octets)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]

    def _complete(self) -> None:
        assert self._descriptor is not None
        self._spill()
        os.fsync(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = None
        os.rename(self._temporary, self._finished)
        _shared_sync(self._spool).run()

    def _remove(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        for path in (self._temporary, self._finished):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def as_content(spool: Path, name: str | None, data: bytes | None, size: int) -> Content | None:
    """The content that a row refers to; None when the row has neither name nor data."""
    if data is not None:
        return InlineContent(data)
    return SpoolContent(spool, name, size) if name else None


def remove(spool: Path, names: Iterable[str]) -> None:
    """Unlink spool files of completed messages; what fails is left to the next start."""
    for name in names:
        with contextlib.suppress(OSError):
            (spool / name).unlink(missing_ok=True)


def unreferred(spool: Path, referred: frozenset[str]) -> frozenset[str]:
    """The names of files that no row names, unfinished ones too. Raises StorageError."""
    return frozenset(name for name in _present(spool) - referred if name.endswith((SUFFIX, TEMPORARY)))


def sweep(spool: Path, referred: frozenset[str], ended: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """At start-up: clear the directory of files that no row names; returns the names whose file is gone.

    Unfinished files are removed, and those of messages that have `ended` (their ids). Of the others nobody
    knows: the database may be another one than theirs, and so they are moved to LOST.
    Only for the process that owns the shard, before it accepts mail. Raises StorageError.
    """
    over = frozenset(f"{each}{SUFFIX}" for each in ended)
    left = unreferred(spool, referred)
    removable = {name for name in left if name.endswith(TEMPORARY) or name in over}
    remove(spool, removable)
    if removable:
        log.info("removed %d spool files that no message needs", len(removable))
    if left - removable:
        _keep(spool, left - removable)
    return tuple(sorted(referred - _present(spool)))


def _present(spool: Path) -> frozenset[str]:
    try:
        return frozenset(path.name for path in spool.iterdir()) if spool.exists() else frozenset()
    except OSError as error:
        raise _failed("listing", spool, error) from error


def _keep(spool: Path, names: frozenset[str]) -> None:
    lost = spool / LOST
    try:
        make_directory(lost)
        for name in names:
            os.rename(spool / name, lost / name)
        sync_directory(lost)
        sync_directory(spool)
    except OSError as error:
        raise _failed("moving files to", lost, error) from error
    log.warning(
        "%d messages in %s are unknown to the queue's database and were moved to %s: they were being "
        "accepted when the relay ended, or the database was replaced; see docs/operation.md",
        len(names),
        spool,
        lost,
    )


def make_directory(directory: Path) -> None:
    """Make a directory of ours exist, with those above it, and survive a power loss. Raises OSError."""
    if directory.is_dir():
        return
    parent = directory.parent
    make_directory(parent)
    directory.mkdir(mode=0o700, exist_ok=True)
    sync_directory(parent)


class _SharedSync:
    """The fsyncs of one directory: whoever has waited for one that began after it came needs no other."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running = threading.Lock()
        self._begun = 0
        self._done = 0  # the last that succeeded

    def run(self) -> None:
        """Return after an fsync that began after this call. Raises OSError."""
        wanted = self._begun + 1
        with self._running:
            if self._done >= wanted:
                return
            self._begun += 1
            begun = self._begun
            sync_directory(self._directory)
            self._done = begun


_syncs: OrderedDict[Path, _SharedSync] = OrderedDict()
_syncs_lock = threading.Lock()


def _shared_sync(directory: Path) -> _SharedSync:
    with _syncs_lock:
        found = _syncs.setdefault(directory, _SharedSync(directory))
        _syncs.move_to_end(directory)
        while len(_syncs) > DIRECTORIES:
            _syncs.popitem(last=False)
        return found


def sync_directory(directory: Path) -> None:
    """fsync a directory, so that a rename in it survives a power loss. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failed(verb: str, path: Path, error: OSError) -> StorageError:
    happened = error.strerror or str(error)
    if error.errno in (errno.EIO, errno.EROFS):
        return StorageFault(f"{verb} {path}", happened, "check the disk and the system's log", final=True)
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = "free disk space" if full else "make the directory exist and writable for this user"
    return StorageError(f"{verb} {path}", happened, remedy)
