"""The loop over spool directories: take what is ready, set aside what never will be.

`SpoolDoor.run` serves until `stop`; with `once` until a look finds nothing more to take. What cannot be taken
yet is looked at again at every interval and told once for each reason. An error of one directory or one
message keeps none of the others from being taken.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import trio

from deliver.errors import StorageError
from deliver.report.log import say
from deliver.spool import ledger
from deliver.spool.directory import OVERDUE, Found, SpoolDirectory
from deliver.spool.taking import Aside, Intake, Later, Taken, Taking, take

AT_A_TIME: Final = 20  # so that they share an fsync
MOST: Final = 1000  # in one look into a directory: the next one goes on behind them, and finds what is new
TIDY: Final = 3600.0  # seconds

log = logging.getLogger("outrider.spool")


class SpoolDoor:
    """Takes messages from directories. `results` counts what became of them; `drained` is set by `once`."""

    def __init__(
        self,
        directories: Sequence[Path],
        intake: Intake,
        *,
        interval: float,
        remember: float,
        once: bool = False,
    ) -> None:
        """`interval` (between looks) and `remember` (what was taken) in seconds."""
        self._directories = [SpoolDirectory(path) for path in directories]
        self._intake = intake
        self._interval = interval
        self._remember = remember
        self._once = once
        self._limit = trio.CapacityLimiter(AT_A_TIME)
        self._stopped = trio.Event()
        self._told: dict[tuple[Path, str], str] = {}
        self._tidied = float("-inf")
        self._last: dict[Path, str] = {}  # directory: the last id that was looked at, if there are more
        self._in_vain = 0  # looks in a row
        self._looks = 1  # to see all that is there
        self.drained = trio.Event()
        self.taken = 0
        self.aside = 0
        self.waiting: dict[tuple[Path, str], str] = {}

    @property
    def directories(self) -> tuple[Path, ...]:
        """Where it looks."""
        return tuple(each.path for each in self._directories)

    def stop(self) -> None:
        """Take nothing more; what is being taken will be."""
        self._stopped.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look and take until `stop`."""
        task_status.started()
        if not self._directories:
            return
        for directory in self._directories:
            say(log, logging.INFO, "taking messages from", on=directory.path)
        while not self._stopped.is_set():
            try:
                taken = await self.look()
            except Exception:  # a bug must not take the relay along
                log.exception("looking for messages failed unexpectedly")
                taken = 0
            self._in_vain = 0 if taken else self._in_vain + 1
            if self._in_vain < self._looks:
                continue
            if self._once:
                self.drained.set()
                await self._stopped.wait()
                return
            with trio.move_on_after(self._interval):
                await self._stopped.wait()

    async def look(self) -> int:
        """One look into every directory; how many messages were taken."""
        before, waiting = self.taken, self.waiting
        there: set[str] | None = set()
        self.waiting, self._looks = {}, 1
        for directory in self._directories:
            try:
                found = await trio.to_thread.run_sync(directory.find)
            except StorageError as error:
                self._wait(directory, "", str(error))
                there = None
                continue
            if there is not None:
                there.update(found.pairs)
            self._looks = max(self._looks, -(-len(found.pairs) // MOST))
            now, later = self._portion(directory, found.pairs)
            keys = ((directory.path, spool_id) for spool_id in later)
            self.waiting |= {key: waiting[key] for key in keys if key in waiting}
            async with trio.open_nursery() as nursery:
                for spool_id in now:
                    await self._limit.acquire_on_behalf_of(spool_id)
                    if self._stopped.is_set():
                        self._limit.release_on_behalf_of(spool_id)
                        break
                    nursery.start_soon(self._take, directory, spool_id)
            await self._leftovers(directory, found)
        if there is not None:
            await self._tidy(there)
        self._told = {key: why for key, why in self._told.items() if key in self.waiting}
        return self.taken - before

    def _portion(
        self, directory: SpoolDirectory, pairs: tuple[str, ...]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Which to look at now, and which later: what cannot be taken must not keep the others waiting."""
        after = bisect_right(pairs, self._last.pop(directory.path, ""))
        turned = pairs[after:] + pairs[:after]
        if len(pairs) > MOST:
            self._last[directory.path] = turned[MOST - 1]
        return turned[:MOST], turned[MOST:]

    async def _take(self, directory: SpoolDirectory, spool_id: str) -> None:
        result: Taking
        try:
            result = await take(directory, spool_id, self._intake)
        except StorageError as error:
            result = Later(str(error))
        except Exception:  # a bug must not keep the others
            log.exception("taking %s failed unexpectedly", directory.path / spool_id)
            result = Later("an unexpected error")
        finally:
            self._limit.release_on_behalf_of(spool_id)
        match result:
            case Taken():
                self.taken += 1
            case Aside():
                self.aside += 1
            case Later(why=why):
                self._wait(directory, spool_id, why)

    async def _leftovers(self, directory: SpoolDirectory, found: Found) -> None:
        """A -D without its -H is what a crash left between two steps of removing; nobody will ask for it."""
        now = self._intake.clock.now()
        for spool_id in found.bodies:
            if directory.age(spool_id, "D", now) < OVERDUE:
                continue
            try:
                await trio.to_thread.run_sync(directory.set_aside, spool_id, "-D without its -H")
            except StorageError as error:
                self._wait(directory, spool_id, str(error))
                continue
            self.aside += 1
            say(log, logging.WARNING, "set aside", spool_id=spool_id, why="-D without its -H")

    def _wait(self, directory: SpoolDirectory, spool_id: str, why: str) -> None:
        key = (directory.path, spool_id)
        self.waiting[key] = why
        if self._told.get(key) != why:
            self._told[key] = why
            say(log, logging.INFO, "not taken yet", at=directory.path, spool_id=spool_id or None, why=why)

    async def _tidy(self, there: set[str]) -> None:
        """Now and then forget what was taken long ago, but for what could not be removed."""
        now = self._intake.clock.now()
        if now - self._tidied < TIDY:
            return
        self._tidied = now
        try:
            prune = partial(ledger.prune, before=now - self._remember, still=there)
            await self._intake.sql.write(prune, durable=False)
        except StorageError as error:
            log.error("%s", error)
