"""Content of a message whose caller keeps it: in memory up to a limit, then in a file that has no name.

Nothing survives the process, and nothing has to be swept up. The file is closed with the last reference.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from pathlib import Path

import trio

from deliver.errors import MessageError, StorageError


class TransientContent:
    """Takes octets with `write`, then is a `deliver.message.Content`."""

    def __init__(self, directory: Path, *, inline_limit: int, max_size: int) -> None:
        """`directory` is on a disk with room; `inline_limit` and `max_size` in octets, 0 is no `max_size`."""
        self._directory = directory
        self._inline_limit = inline_limit
        self._max_size = max_size
        self._buffer = bytearray()
        self._descriptor: int | None = None
        self.size = 0

    async def write(self, chunk: bytes) -> None:
        """Append. Raises MessageError beyond `max_size`, StorageError for a full disk."""
        if self._max_size and self.size + len(chunk) > self._max_size:
            raise MessageError(
                "taking a message", f"it is larger than {self._max_size} octets", "send a smaller message"
            )
        self.size += len(chunk)
        self._buffer += chunk
        if len(self._buffer) > self._inline_limit:
            await self._spill()

    async def finish(self) -> None:
        """No more follows. Raises StorageError."""
        if self._descriptor is not None:
            await self._spill()

    async def read(self, offset: int, length: int) -> bytes:
        """See `deliver.message.Content`."""
        if self._descriptor is None:
            await trio.lowlevel.checkpoint()
            return bytes(self._buffer[offset : offset + length])
        return await trio.to_thread.run_sync(self._read, self._descriptor, offset, length)

    async def _spill(self) -> None:
        try:
            await trio.to_thread.run_sync(self._write_out)
        except OSError as error:
            attempted = f"writing a message to {self._directory}"
            raise StorageError(attempted, error.strerror or str(error), "free disk space") from error

    def _write_out(self) -> None:
        if self._descriptor is None:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = _nameless(self._directory)
            weakref.finalize(self, os.close, self._descriptor)
        rest = memoryview(bytes(self._buffer))
        self._buffer.clear()
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]

    def _read(self, descriptor: int, offset: int, length: int) -> bytes:
        wanted = max(0, min(length, self.size - offset))
        parts = []
        try:
            while wanted and (part := os.pread(descriptor, wanted, offset)):
                parts.append(part)
                offset += len(part)
                wanted -= len(part)
        except OSError as error:
            raise StorageError("reading a message", error.strerror or str(error), "check the disk") from error
        if wanted:
            raise StorageError("reading a message", "its file is shorter than it was", "check the disk")
        return b"".join(parts)


def _nameless(directory: Path) -> int:
    descriptor, name = tempfile.mkstemp(dir=directory)  # 0600
    os.unlink(name)
    return descriptor
