"""Shards of other workers that this one works off meanwhile, beside its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import trio

from deliver.queue.shard import Shard
from deliver.shardwork import ShardWork
from events.backlog import Backlog

Employ = Callable[[Shard, Backlog], ShardWork]


class Adoption:
    """All shards that a relay works on: `own`, and those of others while `hold` runs."""

    def __init__(self, own: ShardWork, employ: Employ) -> None:
        """`employ` makes what works on a shard."""
        self._own = own
        self._employ = employ
        self._others: dict[int, ShardWork] = {}
        self._nursery: trio.Nursery | None = None
        self._ending = trio.Event()

    def __iter__(self) -> Iterator[ShardWork]:
        return iter((self._own, *self._others.values()))

    async def hold(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until `stop`, and the end of what is under way in the shards of others."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await self._ending.wait()

    async def adopt(
        self, number: int, shard: Shard, backlog: Backlog, opened: Callable[[], Awaitable[None]]
    ) -> None:
        """Work off another worker's shard until `release` and the end of what is under way there."""
        assert self._nursery is not None, "the relay does not run"
        over = trio.Event()
        work = self._others[number] = self._employ(shard, backlog)

        async def run() -> None:
            try:
                await work.run()
            finally:
                over.set()

        try:
            self._nursery.start_soon(run)
            if self._ending.is_set():
                work.stop()
            await opened()
            await over.wait()
        finally:
            del self._others[number]

    def release(self, number: int) -> None:
        """Begin no more deliveries of an adopted shard."""
        if number in self._others:
            self._others[number].stop()

    def stop(self) -> None:
        """Begin no more deliveries at all."""
        self._ending.set()
        for work in self:
            work.stop()

    def look(self) -> None:
        """Others have given back places under the limits."""
        for work in self:
            work.runner.look()

    async def prove_progress(self) -> None:
        """Return when every database has answered: the event loop turns, and nothing hangs."""
        for work in self:
            await work.prove_progress()
