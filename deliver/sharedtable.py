"""A table in memory for processes that are forked after it was made: places for names, and a lock.

A name has its place by a keyed hash, among WAYS of them; when all are taken, the one that was used least
recently gives way, if it may. What stands in a place is up to the owner of the table.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from mmap import mmap
from threading import Lock
from typing import Final

WAYS: Final = 8
TRIES: Final = 50  # for the lock

_KEY: Final = 16  # octets of a digest


class SharedTable:
    """`places` for names; `rest` are so many octets more, zeros at first."""

    def __init__(self, places: int, rest: int) -> None:
        self.places = places
        self._secret = secrets.token_bytes(32)  # nobody chooses with whom he shares a place
        self._memory = mmap(-1, places * _KEY + rest)
        view = memoryview(self._memory)
        self._keys, self.rest = view[: places * _KEY], view[places * _KEY :]
        self._among_threads = Lock()
        self._among_processes = os.memfd_create("outrider-table", os.MFD_CLOEXEC)

    def find(self, name: str) -> int | None:
        """The place of the name."""
        key = self._key(name)
        return next((place for place in self._candidates(key) if self._at(place) == key), None)

    def make(self, name: str, used: Callable[[int], float]) -> tuple[int, bool] | None:
        """The same, or a new one, and whether it is new; None when no other may give way.

        `used` says when a place was used last; infinity for one that has to stay.
        """
        key = self._key(name)
        candidates = tuple(self._candidates(key))
        for place in candidates:
            if self._at(place) == key:
                return place, False
        moment, oldest = min((used(place), place) for place in candidates)
        if moment == float("inf"):
            return None
        self._keys[oldest * _KEY : (oldest + 1) * _KEY] = key
        return oldest, True

    @contextmanager
    def locked(self) -> Iterator[bool]:
        """Alone; False: not to be had at once, as by a process that was stopped while it had the lock."""
        with self._among_threads:
            held = self._try()
            try:
                yield held
            finally:
                if held:
                    fcntl.lockf(self._among_processes, fcntl.LOCK_UN)

    def _try(self) -> bool:
        for _ in range(TRIES):
            try:
                fcntl.lockf(self._among_processes, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError:
                os.sched_yield()
        return False

    def _key(self, name: str) -> bytes:
        return blake2b(name.encode("utf-8", "replace"), digest_size=_KEY, key=self._secret).digest()

    def _candidates(self, key: bytes) -> range:
        first = int.from_bytes(key[:8], "little") % (self.places // WAYS) * WAYS
        return range(first, first + WAYS)

    def _at(self, place: int) -> bytes:
        return bytes(self._keys[place * _KEY : (place + 1) * _KEY])
