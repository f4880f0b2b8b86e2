"""Pumps events from the outbox to the actions' databases, at least once, never in the way of mail.

One pump per action, so that one database that is down holds up nobody else. A pump ships batches until
nothing waits, then sleeps until it is poked, something falls due, or `POLL` has passed (another process may
have written). Where each event is a statement of its own, a batch is what the database takes in about a
second. A database in trouble is tried again after 2, 4, 8 … 600 s; nothing is lost meanwhile, because rows
leave the outbox only after the other database has committed.

At the end `finish` lets the pumps tell what waits. A worker thread that hangs on a database is abandoned when
its pump is cancelled: its batch may still arrive and is then sent again, which "at least once" allows;
waiting for it would hold up the shutdown.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import trio
from sqlalchemy import Connection

from events import outbox, undelivered
from events.actions import Action, EventAction, told
from events.port import SqlRunner
from events.sql import Databases, Shipment, Unavailable

BATCH = 400  # events in one transaction of the other database, at most
FIRST_BATCH = 50  # where each event is a statement of its own, and time grows with their number
LEAST_BATCH = 10
BATCH_SECONDS = 1.0  # what a batch should take: the end of a relay waits for it, and others for its lease
POLL = 60.0  # seconds
LEASE = 60.0  # seconds that a batch belongs to one of several shippers
SHARED_POLL = 5.0  # seconds, where there are several
LINGER = 0.5  # seconds after a poke, so that a busy time makes few large transactions
PRUNE_EVERY = 3600.0  # seconds

T = TypeVar("T")

_log = logging.getLogger("outrider.events")


@dataclass(frozen=True, slots=True)
class Drained:
    """What `ship_once` achieved; `unavailable` names the actions whose database is in trouble."""

    told: int = 0
    refused: int = 0
    unavailable: tuple[str, ...] = ()


class Shipper:
    """Takes events to the databases of `actions`.

    `clock` gives seconds since the epoch. `runner` reaches the database that holds the outbox; `shared`: it
    has other shippers too, and each batch belongs to one of them.
    """

    def __init__(
        self,
        runner: SqlRunner,
        actions: Sequence[Action],
        *,
        clock: Callable[[], float],
        databases: Databases | None = None,
        shared: bool = False,
    ) -> None:
        self._runner = runner
        self._clock = clock
        self._databases = databases or Databases()
        self._pumps = tuple(_Pump(runner, action, self._databases, clock, shared) for action in told(actions))

    def poke(self) -> None:
        """Something was appended: look now. Cheap; call it after the commit."""
        for pump in self._pumps:
            pump.poked.set()

    async def run(self) -> None:
        """Pump until cancelled. Trouble is logged, never raised."""
        async with trio.open_nursery() as nursery:
            for pump in self._pumps:
                nursery.start_soon(pump.run)
            nursery.start_soon(self._prune_now_and_then)

    async def finish(self, within: float) -> None:
        """Let `run` tell what waits and end, for at most `within` seconds: nothing will be appended any more.

        Databases in trouble are tried once more. No batch begins that may not end in time: it would be told
        again. Cancel `run` afterwards.
        """
        for pump in self._pumps:
            pump.ending.set()
            pump.poked.set()
        with trio.move_on_after(max(0.0, within - BATCH_SECONDS)):
            await self._ended()
        for pump in self._pumps:
            pump.enough = True
        with trio.move_on_after(min(within, BATCH_SECONDS)):
            await self._ended()

    async def _ended(self) -> None:
        for pump in self._pumps:
            await pump.ended.wait()

    async def ship_once(self) -> Drained:
        """Ship everything that is due, one action after the other, where `run` does not.

        Bound it with a deadline of your own.
        """
        told = refused = 0
        unavailable: list[str] = []
        for pump in self._pumps:
            try:
                while (shipment := await pump.ship_batch()) is not None:
                    told += len(shipment.done)
                    refused += sum(not refusal.held for refusal in shipment.refused)
            except Exception as error:
                pump.trouble(error)
                unavailable.append(pump.action.name)
        return Drained(told, refused, tuple(unavailable))

    async def prune(self) -> None:
        """Forget what waits for actions that no longer exist; give up on what is overdue."""
        names = tuple(pump.action.name for pump in self._pumps)
        given_up = await self._runner.write(partial(undelivered.prune, now=self._clock(), actions=names))
        if given_up:
            _log.error("%d events could not be told for 30 days and were given up", given_up)

    async def aclose(self) -> None:
        """Close the connections to the actions' databases."""
        with trio.move_on_after(5, shield=True):
            await trio.to_thread.run_sync(self._databases.close, abandon_on_cancel=True)

    async def _prune_now_and_then(self) -> None:
        while True:
            try:
                await self.prune()
            except Exception as error:
                _log.warning("the outbox cannot be pruned: %s", error)
            await trio.sleep(PRUNE_EVERY)


def next_size(size: int, events: int, seconds: float) -> int:
    """How many events the next batch may have, after one of `events`, of at most `size`, took `seconds`.

    Never fewer than LEAST_BATCH: part of what a batch takes is the same for any number of events.
    """
    if seconds > BATCH_SECONDS:
        return max(LEAST_BATCH, min(size, int(events * BATCH_SECONDS / seconds)))
    quick = events >= size and seconds < BATCH_SECONDS / 2
    return min(BATCH, 2 * size) if quick else size


class _Pump:
    """Ships for one action."""

    def __init__(
        self,
        runner: SqlRunner,
        action: Action,
        databases: Databases,
        clock: Callable[[], float],
        shared: bool,
    ) -> None:
        self.action = action
        self.poked = trio.Event()
        self.ending = trio.Event()
        self.ended = trio.Event()
        self.enough = False  # begin no more batches
        self._runner = runner
        self._databases = databases
        self._clock = clock
        self._shared = shared
        self._limiter = trio.CapacityLimiter(1)
        self._one_by_one = isinstance(action, EventAction) and bool(action.statements)
        self._size = FIRST_BATCH if self._one_by_one else BATCH
        self._troubles = 0  # in a row
        self._put_off = True  # events may wait for their next try; those of before the start too

    async def run(self) -> None:
        """Ship, wait, ship; until cancelled, or until nothing is left at the end."""
        try:
            last = False
            while not last:
                last = self.ending.is_set()
                await self._round()
        finally:
            self.ended.set()

    async def _round(self) -> None:
        """Ship what is due, and wait until there may be more."""
        self.poked = trio.Event()
        try:
            looked, size = self._clock(), self._size
            while (shipment := await self.ship_batch()) is not None:
                self._recovered()
                if len(shipment.done) + len(shipment.refused) < size:
                    break  # what was appended meanwhile has poked
                looked, size = self._clock(), self._size
            wait = await self._until_due(looked)
            self._recovered()
        except Exception as error:  # the outbox or the other database: testimony waits, mail does not
            self.trouble(error)
            await self._pause(outbox.retry_after(self._troubles))  # pokes must not shorten it
            return
        with trio.move_on_after(0 if self.ending.is_set() else wait):
            await self.poked.wait()
            await self._pause(LINGER)

    async def _pause(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self.ending.wait()

    async def ship_batch(self) -> Shipment | None:
        """Ship one batch and acknowledge it; None when nothing is due. Raises Unavailable."""
        name = self.action.name
        if self._troubles:  # nothing is read and decoded for a database that is still down
            await self._off_loop(self._databases.reach, self.action)
        batch = () if self.enough else await self._next_batch()
        if not batch:
            return None
        began = trio.current_time()
        try:
            shipment = await self._off_loop(self._databases.ship, self.action, batch)
        except Unavailable:
            await self._leave(batch)
            raise
        if self._one_by_one:
            self._size = next_size(self._size, len(batch), trio.current_time() - began)
        self._put_off = self._put_off or bool(shipment.refused)
        settle = partial(_settle, action=name, shipment=shipment, now=self._clock())
        dead = await self._runner.write(settle, durable=False)  # lost in a crash: told again, the id tells
        for refusal in shipment.refused:
            if not refusal.held:
                _log.warning(
                    "event action %s: event %s was refused%s: %s",
                    *(name, refusal.pending.id),
                    *(" for good" if refusal.pending.seq in dead else "", refusal.error),
                )
        return shipment

    async def _next_batch(self) -> tuple[outbox.Pending, ...]:
        name, now = self.action.name, self._clock()
        if not self._shared:
            return await self._runner.read(partial(_pending, action=name, now=now, limit=self._size))
        if not await self._runner.read(partial(_pending, action=name, now=now, limit=1)):
            return ()  # no transaction for nothing
        return await self._runner.write(
            partial(outbox.claim, action=name, limit=self._size, now=now, lease=LEASE), durable=False
        )

    async def _leave(self, batch: Sequence[outbox.Pending]) -> None:
        if self._shared:
            seqs = [one.seq for one in batch]
            unclaim = partial(outbox.unclaim, action=self.action.name, seqs=seqs)
            await self._runner.write(unclaim, durable=False)

    async def _off_loop(self, fn: Callable[..., T], *args: object) -> T:
        return await trio.to_thread.run_sync(fn, *args, limiter=self._limiter, abandon_on_cancel=True)

    def trouble(self, error: Exception) -> None:
        """Count it, say it once."""
        self._troubles += 1
        if self._troubles == 1:
            expected = isinstance(error, Unavailable)
            _log.error(
                "event action %s cannot tell its events, they wait: %s (%s)",
                *(self.action.name, error, self.action.where),
                exc_info=None if expected else error,
            )

    def _recovered(self) -> None:
        if self._troubles:
            _log.warning("event action %s tells its events again", self.action.name)
        self._troubles = 0

    async def _until_due(self, looked: float) -> float:
        """Seconds until the first event that was put off when we looked; it may be due by now."""
        if not (self._put_off or self._shared):  # else another shipper may hold what ours wait for
            return POLL
        due = await self._runner.read(partial(outbox.next_due, action=self.action.name, now=looked))
        self._put_off = due is not None
        poll = SHARED_POLL if self._shared else POLL
        return poll if due is None else min(poll, max(0.1, due - self._clock()))


def _pending(conn: Connection, *, action: str, now: float, limit: int) -> tuple[outbox.Pending, ...]:
    return outbox.pending(conn, action, limit, now=now)


def _settle(conn: Connection, *, action: str, shipment: Shipment, now: float) -> frozenset[int]:
    """Acknowledge what was told, schedule what was refused. Returns the numbers of the dead."""
    outbox.acknowledge(conn, action, [one.seq for one in shipment.done])
    return frozenset(
        refusal.pending.seq
        for refusal in shipment.refused
        if not refusal.held
        and outbox.refuse(
            conn, action, refusal.pending.seq, refusal.pending.tries + 1, refusal.error, now=now
        )
    )
