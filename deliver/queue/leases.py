"""Places under the limits, leased to several worker processes: together never more than the limit.

All workers look into one table in memory (`Leases`), made before they are forked; each has a `Ledger` for
what it claims from its queue. A place is leased before an attempt is claimed, and given back when that has
ended or was not claimed after all (`settle`). So a single worker that has mail may use the whole limit, and a
limit of one holds for all of them.

A worker that finds no place is put down as waiting. After `QUANTUM` seconds nobody else gets a place that it
waits for, and whoever gives one back wakes it. Rates are buckets in the same table; a token is taken, and
given back, like a place. What a worker that died had leased is struck out by the supervisor. Without the
table's lock nothing is leased.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections import Counter
from collections.abc import Callable
from typing import Final
from weakref import WeakSet

import trio

from deliver.queue.throttle import Rate
from deliver.sharedtable import SharedTable

PLACES: Final = 1 << 14
QUANTUM: Final = 0.5  # seconds that others may go on while somebody waits
FRESH: Final = 3.0  # seconds for which somebody that waits is believed to
LOOK: Final = 1.0  # seconds between the looks of somebody that waits
WHOLE_TOKEN: Final = 1.0 - 1e-9


class Leases:
    """The table. `now` in seconds of a clock that all processes share."""

    def __init__(
        self, workers: int, *, places: int = PLACES, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.workers = workers
        self.now = now
        self._table = SharedTable(places, places * 8 * (2 + 2 * workers) + places * 4 * workers)
        self.locked = self._table.locked
        moments, counts = 8 * places, 4 * places
        rest = self._table.rest
        self.tokens, self.filled = (
            rest[n * moments : (n + 1) * moments].cast("d") for n in range(2)
        )  # buckets, and when they were looked at last
        rest = rest[2 * moments :]
        self.since, self.seen = (
            [rest[(which * workers + n) * moments :][:moments].cast("d") for n in range(workers)]
            for which in range(2)
        )  # for each worker: since when it has been waiting, and when it said so last
        rest = rest[2 * workers * moments :]
        self.leased = [rest[n * counts : (n + 1) * counts].cast("I") for n in range(workers)]
        self._bells = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(workers)]

    def desk(self, worker: int) -> Desk:
        """That worker's."""
        return Desk(self, worker)

    def clear(self, worker: int) -> None:
        """The worker has ended: it has nothing and wants nothing, and others may."""
        for column in (self.leased[worker], self.since[worker], self.seen[worker]):
            column.cast("B")[:] = bytes(column.nbytes)
        for other in range(self.workers):
            self.ring(other)

    def place(self, name: str) -> int | None:
        """Where the name stands; None: nothing can give way to it."""
        found = self._table.make(name, self._used)
        if found is None:
            return None
        place, new = found
        if new:
            self.filled[place] = self.tokens[place] = 0.0
            for column in (*self.since, *self.seen):
                column[place] = 0.0
        return place

    def known(self, name: str) -> int | None:
        """The same, if it stands anywhere."""
        return self._table.find(name)

    def in_use(self, place: int) -> int:
        """Leased to anybody."""
        return sum(column[place] for column in self.leased)

    def waits(self, worker: int, place: int) -> bool:
        """Whether the worker has said lately that it waits there."""
        return self.now() - self.seen[worker][place] < FRESH

    def ring(self, worker: int) -> None:
        """Wake the worker."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self._bells[worker], 1)

    async def rung(self, worker: int) -> None:
        """Until somebody rings for the worker."""
        await trio.lowlevel.wait_readable(self._bells[worker])
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bells[worker])

    def _used(self, place: int) -> float:
        if self.in_use(place) or any(self.waits(worker, place) for worker in range(self.workers)):
            return math.inf
        return self.filled[place]


class Desk:
    """Where one worker leases, for all of its ledgers."""

    def __init__(self, leases: Leases, worker: int) -> None:
        self._leases = leases
        self._worker = worker
        self._ledgers: WeakSet[Ledger] = WeakSet()
        self.workers = leases.workers

    def ledger(self) -> Ledger:
        """For one queue, or for doors without one."""
        made = Ledger(self)
        self._ledgers.add(made)
        return made

    async def watch(self, freed: Callable[[], None]) -> None:
        """Call `freed` when there may be places where there were none; until cancelled."""
        while True:
            with trio.move_on_after(LOOK):
                await self._leases.rung(self._worker)
            refused = [ledger.forget_refusals() for ledger in self._ledgers]
            if any(refused):
                freed()

    def lease(self, name: str, more: int, limit: int) -> bool:
        """So many places more, or none: we are put down as waiting."""
        leases, me = self._leases, self._worker
        with leases.locked() as alone:
            place = leases.place(name) if alone else None
            if place is None:
                return False
            now, since = leases.now(), leases.since[me]
            waiting = since[place] if leases.waits(me, place) else math.inf
            if limit - leases.in_use(place) - self._ahead(place, waiting, now) >= more:
                leases.leased[me][place] += more
                since[place] = leases.seen[me][place] = 0.0
                return True
            since[place], leases.seen[me][place] = min(waiting, now), now
            return False

    def give_back(self, name: str, places: int) -> None:
        """Others may have them; who waits is woken."""
        leases, me = self._leases, self._worker
        with leases.locked():  # this column is ours alone: with the lock or without
            place = leases.known(name)
            if place is None:
                return
            leases.leased[me][place] = max(0, leases.leased[me][place] - places)
        for worker in range(leases.workers):
            if worker != me and leases.since[worker][place]:
                leases.ring(worker)

    def token_at(self, name: str, rate: Rate) -> float:
        """When there is a token in the bucket of that name; -inf is now."""
        place = self._leases.known(name)
        if place is None or not self._leases.filled[place]:
            return -math.inf
        missing = 1.0 - self._leases.tokens[place]
        return self._leases.filled[place] + missing / rate.per_second if missing > 1e-9 else -math.inf

    def take_token(self, name: str, rate: Rate, now: float) -> bool:
        """One, if there is one at `now` (seconds since the epoch)."""
        leases = self._leases
        with leases.locked() as alone:
            place = leases.place(name) if alone else None
            if place is None:
                return False
            tokens = rate.burst
            if leases.filled[place]:
                tokens = leases.tokens[place] + max(0.0, now - leases.filled[place]) * rate.per_second
            tokens = min(rate.burst, tokens)
            leases.filled[place] = now
            leases.tokens[place] = tokens - 1.0 if tokens >= WHOLE_TOKEN else tokens
            return tokens >= WHOLE_TOKEN

    def return_tokens(self, name: str, tokens: int) -> None:
        """They were not needed."""
        with self._leases.locked():
            place = self._leases.known(name)
            if place is not None:
                self._leases.tokens[place] += tokens

    def _ahead(self, place: int, waiting: float, now: float) -> int:
        """How many others have waited longer than we, and for long enough."""
        return sum(
            worker != self._worker
            and self._leases.waits(worker, place)
            and self._leases.since[worker][place] < min(waiting, now - QUANTUM)
            for worker in range(self._leases.workers)
        )


class Ledger:
    """A `Share` of what several workers may have together: what one queue, or the doors, have leased.

    `reserve` and what follows may run in the database's thread, while the loop calls `end`; `settle` is for
    whoever holds the lock of claims.
    """

    def __init__(self, desk: Desk) -> None:
        self.parts = desk.workers
        self._desk = desk
        self._leased: Counter[str] = Counter()
        self._used: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._touched: set[str] = set()
        self._refused: set[str] = set()

    def places(self, limit: int, key: str) -> int:
        """All, as far as is known here; none where others had them lately."""
        return 0 if key in self._refused else limit

    def portion(self, amount: int) -> int:
        """See `Share`."""
        return max(1, amount // self.parts)

    def reserve(self, limit: int, key: str, wanted: int) -> bool:
        """Have `wanted` places, for what runs included."""
        self._touched.add(key)
        more = wanted - self._leased[key]
        if wanted > limit or (more > 0 and not self._desk.lease(key, more, limit)):
            self._refused.add(key)
            return False
        self._leased[key] += max(0, more)
        return True

    def begin(self, key: str) -> None:
        """An attempt begins."""
        self._used[key] += 1

    def end(self, key: str) -> None:
        """It has ended."""
        self._used[key] -= 1
        self._touched.add(key)
        self._refused.discard(key)

    def token_at(self, key: str, rate: Rate) -> float:
        """When there is a token: seconds since the epoch."""
        return -math.inf if self._tokens[key] else self._desk.token_at(key, rate)

    def reserve_token(self, key: str, rate: Rate, now: float) -> bool:
        """Have one."""
        self._touched.add(key)
        if not self._tokens[key]:
            self._tokens[key] += self._desk.take_token(key, rate, now)
        return bool(self._tokens[key])

    def spend_token(self, key: str) -> None:
        """It is used."""
        self._tokens[key] -= 1

    def settle(self) -> None:
        """Give back what is not in use."""
        touched, self._touched = self._touched, set()
        for key in touched:
            if (idle := self._leased[key] - self._used[key]) > 0:
                self._desk.give_back(key, idle)
                self._leased[key] -= idle
            if self._tokens[key] > 0:
                self._desk.return_tokens(key, self._tokens[key])
            for counter in (self._leased, self._used, self._tokens):
                if counter is self._tokens or counter[key] <= 0:
                    del counter[key]

    def close(self) -> None:
        """Give back everything: nothing runs any more."""
        self._used.clear()
        self._touched.update(self._leased, self._tokens)
        self.settle()

    def forget_refusals(self) -> bool:
        """It is worth to look again; whether there were any."""
        refused, self._refused = self._refused, set()
        return bool(refused)
