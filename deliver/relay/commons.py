"""What several worker processes know of clients together: one table in memory that they share.

Made before the workers are forked. A client has its place by a keyed hash, among WAYS places; when all are
taken, the one that was used least recently gives way, unless it stands for open connections. How many
connections a worker has is written by that worker only, so that the supervisor can strike them out when it
dies. A lock keeps the rest in order; a process that was stopped while it had the lock holds up nobody for
long: the others go on without, and the worst is a count that is wrong by one.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from mmap import mmap
from typing import Final

from deliver.relay.failures import Failures
from deliver.relay.limits import MINUTE, Allowance, ClientLimits, account

PLACES: Final = 1 << 16
WAYS: Final = 8
TRIES: Final = 50  # for the lock

_KEY: Final = 16  # octets of a digest
_PAIR: Final = struct.Struct("dd")  # a moment, and an amount


class Commons:
    """The table; `seat` is one worker's way to it. `now` in seconds of a clock that all processes share."""

    def __init__(
        self, workers: int, *, places: int = PLACES, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.workers = workers
        self.now = now
        self._sets = places // WAYS
        self._secret = secrets.token_bytes(32)  # nobody chooses with whom he shares a place
        self._memory = mmap(-1, places * (_KEY + _PAIR.size + 4 * workers) + 4 * workers)
        view = memoryview(self._memory)
        keys, pairs = places * _KEY, places * _PAIR.size
        self._keys, self._pairs = view[:keys], view[keys : keys + pairs]
        counts = view[keys + pairs :].cast("I")
        self.open = counts[:workers]  # connections of each worker
        self._counts = [counts[workers + n * places : workers + (n + 1) * places] for n in range(workers)]
        self._lock = os.memfd_create("outrider-clients", os.MFD_CLOEXEC)

    def seat(self, worker: int) -> Seat:
        """That worker's."""
        return Seat(self, worker)

    def clear(self, worker: int) -> None:
        """The worker has ended: it has no connections any more."""
        self.open[worker] = 0
        counts = self._counts[worker]
        counts.cast("B")[:] = bytes(counts.nbytes)

    def find(self, name: str) -> int | None:
        """The place of what has this name."""
        key = self._key(name)
        return next((place for place in self._candidates(key) if self._at(place) == key), None)

    def make(self, name: str) -> int | None:
        """The same, or a new place; None when all are taken by open connections."""
        key = self._key(name)
        candidates = tuple(self._candidates(key))
        for place in candidates:
            if self._at(place) == key:
                return place
        idle = [place for place in candidates if not self.connections(place)]
        if not idle:
            return None
        place = min(idle, key=lambda each: self.pair(each)[0])
        self._keys[place * _KEY : (place + 1) * _KEY] = key
        self.put(place, 0.0, 0.0)
        return place

    def connections(self, place: int) -> int:
        """Of all workers."""
        return sum(counts[place] for counts in self._counts)

    def add(self, place: int, worker: int, change: int) -> None:
        """That worker has so many more connections from there."""
        counts = self._counts[worker]
        counts[place] = max(0, counts[place] + change)

    def pair(self, place: int) -> tuple[float, float]:
        """The moment of the last use, and the amount."""
        moment, amount = _PAIR.unpack_from(self._pairs, place * _PAIR.size)
        return moment, amount

    def put(self, place: int, moment: float, amount: float) -> None:
        """Other ones."""
        _PAIR.pack_into(self._pairs, place * _PAIR.size, moment, amount)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone, as far as that is to be had at once."""
        for _ in range(TRIES):
            try:
                fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                os.sched_yield()
        try:
            yield
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN)

    def _key(self, name: str) -> bytes:
        return blake2b(name.encode("utf-8", "replace"), digest_size=_KEY, key=self._secret).digest()

    def _candidates(self, key: bytes) -> range:
        first = int.from_bytes(key[:8], "little") % self._sets * WAYS
        return range(first, first + WAYS)

    def _at(self, place: int) -> bytes:
        return bytes(self._keys[place * _KEY : (place + 1) * _KEY])


class Seat:
    """What one worker asks of the table."""

    def __init__(self, commons: Commons, worker: int) -> None:
        self.commons = commons
        self._worker = worker

    def others_open(self) -> int:
        """Connections of all other workers."""
        return sum(self.commons.open) - self.commons.open[self._worker]

    def note_open(self, connections: int) -> None:
        """How many we have."""
        self.commons.open[self._worker] = connections

    def connect(self, name: str, limit: int) -> bool:
        """Whether one more is within the limit; then it is counted. Where there is no room, it is not."""
        with self.commons.locked():
            place = self.commons.make(name)
            if place is None:
                return True
            if self.commons.connections(place) >= limit:
                return False
            self.commons.put(place, self.commons.now(), 0.0)
            self.commons.add(place, self._worker, 1)
            return True

    def disconnect(self, name: str) -> None:
        """One has ended."""
        with self.commons.locked():
            place = self.commons.find(name)
            if place is not None:
                self.commons.add(place, self._worker, -1)

    def take(self, name: str, a_minute: int) -> bool:
        """Whether the bucket that holds a minute's worth and fills evenly has one left; then it is taken."""
        now = self.commons.now()
        with self.commons.locked():
            place = self.commons.make(name)
            if place is None:
                return True
            since, used = self.commons.pair(place)
            used = max(0.0, used - (now - since) * a_minute / MINUTE) if since else 0.0
            granted = used <= a_minute - 1
            self.commons.put(place, now, used + granted)
            return granted

    def count(self, name: str, memory: float, add: int = 0) -> int:
        """How often it has happened, `add` times more now; forgotten `memory` seconds after the first time."""
        now = self.commons.now()
        with self.commons.locked():
            place = self.commons.make(name) if add else self.commons.find(name)
            if place is None:
                return 0
            since, amount = self.commons.pair(place)
            if not since or now - since >= memory:
                since, amount = now, 0.0
            if add:
                self.commons.put(place, since, amount + add)
            return int(amount) + add


class SharedLimits(ClientLimits):
    """The accounts of all clients of all workers."""

    def __init__(self, allowance: Allowance, seat: Seat) -> None:
        super().__init__(allowance, seat.commons.now)
        self._seat = seat

    def connect(self, client: str) -> bool:
        """See ClientLimits."""
        limit = self.allowance.connections
        if limit is not None and not self._seat.connect(f"connections {account(client)}", limit):
            return False
        self._counted[account(client)] = self._counted.get(account(client), 0) + (limit is not None)
        return True
