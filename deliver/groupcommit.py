"""Group commit: who writes when, with whom, and on which thread.

Writes run one batch at a time; those that arrive while a batch runs form the next one and share its fsync.

- Statements of brief writes run on the loop's thread, only a COMMIT with fsync in a worker's: a thread that
  executes statements gives up the interpreter at each of them and fights for it with the loop, which costs
  more than they do. Where they wait for the disk (`deliver.diskwatch`), or another process holds the file, a
  thread runs them.
- A durable write with patience waits for company, but never much longer than a COMMIT takes: where fsync is
  quick, waiting costs more than it saves. Only the one whose patience ends first keeps the time, as all go
  along when it leads; while a batch runs nobody has to.
- A write that has started cannot be cancelled: its caller gets the value, and the cancellation at its next
  checkpoint. A write that still waits is withdrawn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, TypeVar

import sqlalchemy
import trio

from deliver.diskwatch import DiskWatch
from deliver.sqlrun import Database, Write

T = TypeVar("T")

MAX_BATCH: Final = 200  # writes that share one COMMIT
READERS: Final = 4
HERE: Final = 50  # writes that the loop's thread runs at a time
LEAST: Final = 0.01  # seconds of patience that are always granted
COMPANY: Final = 5.0  # times the seconds that a COMMIT takes
_WEIGHT: Final = 0.1  # of the last COMMIT in their mean


class SqlRunner:
    """Runs work on one SQLite file in worker threads; open it with `SqlRunner.open`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._writer = trio.CapacityLimiter(1)
        self._readers = trio.CapacityLimiter(READERS)
        self._waiting: list[Write[Any]] = []
        self._leader: Write[Any] | None = None  # of the batch that runs, or comes next
        self._timekeeper: Write[Any] | None = None  # of those that wait for company
        self._disk = DiskWatch()
        self._cost = 0.0  # seconds that a COMMIT takes, about
        self.commits = 0

    @classmethod
    async def open(cls, path: Path, prepare: Callable[[sqlalchemy.Connection], object]) -> SqlRunner:
        """Open or create the file and run `prepare`, the migrations. Raises what they raise, StorageError."""
        database = await trio.to_thread.run_sync(Database, path)
        runner = cls(database)
        try:
            await runner.write(prepare)
        except BaseException:
            database.close()
            runner._disk.close()
            raise
        return runner

    async def read(self, fn: Callable[[sqlalchemy.Connection], T]) -> T:
        """See `Sql.read`."""
        return await trio.to_thread.run_sync(self._database.run_read, fn, limiter=self._readers)

    async def write(
        self,
        fn: Callable[[sqlalchemy.Connection], T],
        *,
        durable: bool = True,
        patience: float = 0.0,
        brief: bool = False,
    ) -> T:
        """See `Sql.write`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        mine = Write(fn, durable, brief=brief)
        if patience:
            mine.deadline = trio.current_time() + min(patience, max(LEAST, COMPANY * self._cost))
        self._waiting.append(mine)
        while mine in self._waiting:
            if self._leader is mine or (self._leader is None and mine.deadline <= trio.current_time()):
                await self._lead(mine)
            else:
                await self._wait_for_turn(mine)
        return mine.result()

    async def aclose(self) -> None:
        """Wait for the running batch, then close."""
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._database.close, limiter=self._writer)
        self._disk.close()

    async def _wait_for_turn(self, mine: Write[Any]) -> None:
        """Until the write is done, or it is its turn to lead or to keep the time, or that time is up."""
        try:
            if self._leader is None and self._is_first(mine):
                self._timekeeper = mine
                with trio.move_on_at(mine.deadline):
                    await mine.wake.wait()
            else:
                await mine.wake.wait()
        except trio.Cancelled:
            if mine in self._waiting:
                self._waiting.remove(mine)
                if self._leader is mine or self._leader is None:
                    self._hand_over()
                raise
        finally:
            if self._timekeeper is mine:
                self._timekeeper = None
        if mine not in self._waiting and not mine.wake.is_set():
            with trio.CancelScope(shield=True):  # started: it cannot be taken back
                await mine.wake.wait()

    def _is_first(self, write: Write[Any]) -> bool:
        """Whether its patience ends before that of the one who keeps the time."""
        keeper = self._timekeeper
        return keeper not in self._waiting or write.deadline < keeper.deadline

    async def _lead(self, mine: Write[Any]) -> None:
        """Run everything that waits, the caller's own write first, in one transaction; see `batch_of`."""
        self._leader = mine
        self._waiting.remove(mine)
        batch = batch_of(mine, self._waiting, trio.current_time())
        taken = set(batch)
        self._waiting = [write for write in self._waiting if write not in taken]
        try:
            with trio.CancelScope(shield=True):
                await self._run(batch)
            self.commits += 1
        finally:
            for write in batch:
                write.wake.set()
            self._hand_over()

    async def _run(self, batch: list[Write[Any]]) -> None:
        """In one transaction; see the module's text for where."""
        try:
            if not self._run_here(batch):
                await trio.to_thread.run_sync(self._execute_and_commit, batch, limiter=self._writer)
            elif any(write.durable for write in batch):
                await trio.to_thread.run_sync(self._commit, batch, limiter=self._writer)
            else:
                await trio.lowlevel.checkpoint()  # it has been committed
        except BaseException:
            self._database.abandon()  # such as KeyboardInterrupt, or no thread to be had
            raise

    def _run_here(self, batch: list[Write[Any]]) -> bool:
        """Run the statements at once, if they are few and nobody has to be waited for; whether they ran.

        Where nothing has to be durable they are committed too.
        """
        if len(batch) > HERE or not all(write.brief for write in batch):
            return False
        if self._disk.is_slow(trio.current_time()):
            return False
        self._disk.begin()
        ran = self._database.execute(batch, wait=False)
        if ran and not any(write.durable for write in batch):
            self._database.commit(batch)
        self._disk.end(trio.current_time())
        return ran

    def _execute_and_commit(self, batch: list[Write[Any]]) -> None:
        self._database.execute(batch)
        self._commit(batch)

    def _commit(self, batch: list[Write[Any]]) -> None:
        began = time.perf_counter()
        self._database.commit(batch)
        self._cost += _WEIGHT * (time.perf_counter() - began - self._cost)

    def _hand_over(self) -> None:
        """Let the first write that waits for no company lead the next batch; the others wait on.

        Where all wait for company, one of them keeps the time.
        """
        now = trio.current_time()
        self._leader = next((write for write in self._waiting if write.deadline <= now), None)
        if self._leader is not None:
            self._leader.wake.set()
        elif self._waiting:
            first = min(self._waiting, key=attrgetter("deadline"))
            if self._is_first(first):
                stir, first.wake = first.wake, trio.Event()  # `wake` itself means that it leads or is done
                stir.set()


def batch_of(first: Write[Any], waiting: Sequence[Write[Any]], now: float) -> list[Write[Any]]:
    """`first` and those who go along, in their order: MAX_BATCH at most.

    Durable writes with patience left go along only if there is an fsync anyway.
    """
    durable = first.durable or any(write.durable and write.deadline <= now for write in waiting)
    along = [write for write in waiting if durable or not write.durable]
    return [first, *along[: MAX_BATCH - 1]]
