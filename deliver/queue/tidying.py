"""What the runner sees to now and then: attempts whose lease has expired, and history that is old enough."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from deliver.queue import due, misdated, recovery, store
from deliver.queue.content import remove
from deliver.queue.shard import Shard
from deliver.queue.store import Append

SELDOM: Final = 60.0  # seconds
NEWS: Final = 5.0  # seconds; where several nodes share the queue, that often each looks what others left
IDLE_DESTINATIONS: Final = 3600.0  # seconds for which a destination without mail keeps its place in the line

log = logging.getLogger("outrider.queue")


@dataclass(slots=True)
class Tidying:
    """For one shard; times in seconds, `now` since the epoch."""

    shard: Shard
    append: Append
    _tidied: float = -math.inf
    _taken_back: float = -math.inf
    _mended: float = -math.inf

    async def take_back(self, now: float, *, courtesy: float, running: Collection[int]) -> None:
        """End attempts whose lease has expired for `courtesy`, those of other nodes too. Raises StorageError.

        Not the `running` ones: by a clock that jumped forward their leases have expired too.
        """
        shard = self.shard
        if 0 <= now - self._taken_back < (SELDOM if shard.node is None else NEWS):
            return
        self._taken_back = now
        proofs = shard.journal.proofs()
        left_over = frozenset[int]()
        if shard.node is not None:  # another node may have ended them while the database was out of reach
            left_over = frozenset(proof.attempt_id for proof in proofs) - frozenset(running)
        ours = tuple(running)
        look = partial(recovery.any_expired, now=now, node=shard.node, courtesy=courtesy, running=ours)
        if not await shard.sql.read(look) and not left_over:
            return
        take = partial(
            recovery.reclaim, now=now, proofs=proofs, append=self.append,
            node=shard.node, courtesy=courtesy, left_over=left_over, running=ours,
        )  # fmt: skip
        found = await shard.sql.write(take)
        for attempt_id in left_over.union(found.attempts):
            shard.journal.settled(attempt_id)
        if found.interrupted:
            log.warning("took back %d attempts that were not settled in time", found.interrupted)
        if found.removable:
            await trio.to_thread.run_sync(remove, shard.spool, found.removable)

    async def mend(self, now: float, *, latest: float) -> None:
        """Make due what a wrong clock has put off to after `latest`. Raises StorageError."""
        set_back = now < self._mended - misdated.TOLERANCE
        if 0 <= now - self._mended < SELDOM:
            return
        everywhere = set_back or self._mended == -math.inf
        self._mended = now
        look = partial(misdated.find, now=now, latest=latest, everywhere=everywhere)
        mended = 0
        while found := await self.shard.sql.read(look):
            part = await self.shard.sql.write(partial(misdated.mend, found=found, now=now))
            mended += part
            if not part:  # others were quicker, or it cannot be read
                break
        if mended:
            log.warning("%d recipients and reports were due impossibly late, and are due now", mended)

    async def forget(self, now: float, *, keep: float) -> None:
        """Drop what ended `keep` seconds ago, and destinations without mail. Raises StorageError."""
        if 0 <= now - self._tidied < SELDOM:
            return
        self._tidied = now
        sql = self.shard.sql
        await sql.write(lambda conn: store.forget(conn, before=now - keep), durable=False)
        await sql.write(lambda conn: due.forget_idle(conn, now - IDLE_DESTINATIONS), durable=False)
