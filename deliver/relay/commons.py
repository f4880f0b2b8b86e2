"""What several worker processes know of clients together: one table in memory that they share.

Made before the workers are forked. How many connections a worker has is written by that worker only, so that
the supervisor can strike them out when it dies. A lock keeps the rest in order; where it is not to be had at
once a worker goes on without, and the worst is a count that is wrong by one.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable
from typing import Final

from deliver.relay.failures import Failures
from deliver.relay.limits import MINUTE, Allowance, ClientLimits, account
from deliver.sharedtable import SharedTable

PLACES: Final = 1 << 16
ABSENT: Final = (1 << 32) - 1  # instead of the connections of a worker that does not serve

_PAIR: Final = struct.Struct("dd")  # a moment, and an amount


class Commons:
    """The table; `seat` is one worker's way to it. `now` in seconds of a clock that all processes share."""

    def __init__(
        self, workers: int, *, places: int = PLACES, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.now = now
        self._table = SharedTable(places, places * (_PAIR.size + 4 * workers) + 4 * workers)
        self.locked = self._table.locked
        self.find = self._table.find
        self._pairs = self._table.rest[: places * _PAIR.size]
        counts = self._table.rest[places * _PAIR.size :].cast("I")
        self.open = counts[:workers]  # connections of each worker that serves
        for worker in range(workers):
            self.open[worker] = ABSENT
        self._counts = [counts[workers + n * places : workers + (n + 1) * places] for n in range(workers)]

    def seat(self, worker: int) -> Seat:
        """That worker's."""
        return Seat(self, worker)

    def clear(self, worker: int) -> None:
        """The worker has ended: it has no connections any more."""
        self.open[worker] = ABSENT
        counts = self._counts[worker]
        counts.cast("B")[:] = bytes(counts.nbytes)

    def make(self, name: str) -> int | None:
        """The place of what has this name; None when all are taken by open connections."""
        found = self._table.make(name, self._used)
        if found is None:
            return None
        place, new = found
        if new:
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

    def _used(self, place: int) -> float:
        return math.inf if self.connections(place) else self.pair(place)[0]


class Seat:
    """What one worker asks of the table."""

    def __init__(self, commons: Commons, worker: int) -> None:
        self.commons = commons
        self._worker = worker

    def others_open(self) -> int:
        """Connections of all other workers."""
        others = (n for worker, n in enumerate(self.commons.open) if worker != self._worker)
        return sum(n for n in others if n != ABSENT)

    def ahead(self) -> bool:
        """Whether another worker that serves has fewer connections than we."""
        return self.commons.open[self._worker] > min(self.commons.open)

    def note_open(self, connections: int) -> None:
        """How many we have; from the first time on we serve."""
        self.commons.open[self._worker] = connections

    def connect(self, name: str, limit: float) -> bool:
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
        """How often it has happened, `add` times more now; forgotten `memory` seconds after the first."""
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
    """The accounts of all clients, whichever worker they come to."""

    shared = True

    def __init__(self, seat: Seat) -> None:
        super().__init__(Allowance(), seat.commons.now)
        self._seat = seat

    def others_open(self) -> int:
        """See ClientLimits."""
        return self._seat.others_open()

    def connect(self, client: str) -> bool:
        """See ClientLimits."""
        limit = self.allowance.connections
        return self._seat.connect(f"connections {account(client)}", math.inf if limit is None else limit)

    def disconnect(self, client: str) -> None:
        """See ClientLimits."""
        self._seat.disconnect(f"connections {account(client)}")

    def ahead(self) -> bool:
        """See ClientLimits."""
        return self._seat.ahead()

    def note_open(self, connections: int) -> None:
        """See ClientLimits."""
        self._seat.note_open(connections)

    def _take(self, kind: str, client: str, a_minute: int | None) -> bool:
        return a_minute is None or self._seat.take(f"{kind} {account(client)}", a_minute)


class SharedFailures(Failures):
    """The failures of all clients, whichever worker they come to; by the clock of the table."""

    def __init__(self, seat: Seat) -> None:
        super().__init__()
        self._seat = seat

    def add(self, client: str, now: float) -> None:
        """See Failures."""
        self._seat.count(f"failures {account(client)}", self.memory, 1)

    def too_many(self, client: str, now: float) -> bool:
        """See Failures."""
        return self._seat.count(f"failures {account(client)}", self.memory) >= self.limit
