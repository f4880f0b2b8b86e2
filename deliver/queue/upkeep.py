"""What the relay does with its queue beside deliveries: reports to senders, ends of holds, changes by tools.

One loop; once a second, or when poked, it looks with one read at what is due. Tools such as `outrider queue`
change the database file themselves and count that in `counter`: a new count wakes the runner. Runs until it
is cancelled; what it was doing then is in the database or not, never half.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio
from sqlalchemy import Connection

from deliver.errors import StorageError
from deliver.net.clock import Clock
from deliver.queue import changes, freeze, reports
from deliver.queue.content import remove
from deliver.queue.freeze import Rule
from deliver.queue.notice import Notifier
from deliver.queue.reports import DueReport, Reported
from deliver.queue.shard import Shard
from deliver.queue.store import Append
from deliver.report.log import say
from events import outbox

GATHER: Final = 0.1  # seconds between two looks
LOOK: Final = 1.0  # seconds; the longest that a change by a tool waits
AT_A_TIME: Final = 20  # reports that are written side by side, so that they share an fsync
RETRY_AFTER: Final = 5.0  # seconds after an error of the database
AFTER_A_BUG: Final = 600.0  # seconds until a report that cannot be written is tried again

log = logging.getLogger("outrider.queue")


@dataclass(frozen=True, slots=True)
class Sight:
    """What one look found. `changes` counts those of tools, see `changes.count`; `rules` are in force."""

    changes: tuple[int, int]
    next_report: float | None
    next_release: float | None
    rules: tuple[Rule, ...]


def look(conn: Connection, now: float) -> Sight:
    """One look at the shard."""
    return Sight(
        changes=changes.count(conn),
        next_report=reports.next_report(conn),
        next_release=changes.next_release(conn),
        rules=freeze.active(conn, now),
    )


class Upkeep:
    """The loop over one shard. `changed` is called when mail may be due that the runner does not know of."""

    def __init__(
        self,
        shard: Shard,
        *,
        notifier: Notifier,
        clock: Clock,
        changed: Callable[[], None] = lambda: None,
        retry: Callable[[], None] = lambda: None,
        frozen: Callable[[tuple[Rule, ...]], None] = lambda rules: None,
        append: Append = outbox.append,
    ) -> None:
        """`retry` is called when the administrator asks for attempts now; `frozen` gets the freeze rules in
        force whenever they differ from before.
        """
        self._shard = shard
        self._notifier = notifier
        self._clock = clock
        self._changed = changed
        self._retry = retry
        self._frozen = frozen
        self._append = append
        self._wake = trio.Event()
        self._seen: tuple[int, int] | None = None
        self._rules: tuple[Rule, ...] = ()

    def reconfigure(self, notifier: Notifier) -> None:
        """Write the reports that are due from now on by other terms."""
        self._notifier = notifier

    def poke(self) -> None:
        """Something may be due: an attempt was settled."""
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            self._wake = trio.Event()
            began = trio.current_time()
            pause = LOOK
            try:
                await self.step()
            except StorageError as error:
                log.error("%s", error)
                pause = RETRY_AFTER
            except Exception:  # a bug must not take the deliveries along
                log.exception("the upkeep of the queue failed unexpectedly")
                pause = RETRY_AFTER
            with trio.move_on_after(pause):
                await self._wake.wait()
            await trio.sleep_until(began + GATHER)  # one look for many settlements

    async def step(self) -> None:
        """Look once, and do what is due. Raises StorageError."""
        now = self._clock.now()
        sight = await self._shard.sql.read(lambda conn: look(conn, now))
        if sight.rules != self._rules:
            self._rules = sight.rules
            self._frozen(sight.rules)
        if self._seen != sight.changes:
            if self._seen is not None and self._seen[1] != sight.changes[1]:
                self._retry()
            self._seen = sight.changes
            self._changed()
        if sight.next_release is not None and sight.next_release <= now:
            await self._release(now)
        if sight.next_report is not None and sight.next_report <= now:
            await self._tell(now)

    async def _release(self, now: float) -> None:
        """Portion by portion: a rule may hold many, and others want to write too."""
        released = 0
        while part := await self._shard.sql.write(partial(changes.release_due, now=now, append=self._append)):
            released += part
            self._changed()
        say(log, logging.INFO, "released", recipients=released)
        self._changed()

    async def _tell(self, now: float) -> None:
        due = await self._shard.sql.read(lambda conn: reports.due_reports(conn, now, AT_A_TIME))
        written: list[Reported] = []
        async with trio.open_nursery() as nursery:
            for each in due:
                nursery.start_soon(self._report, each, now, written)
        if any(each.notice is not None for each in written):
            self._changed()
        if len(due) == AT_A_TIME and written:
            self._wake.set()

    async def _report(self, due: DueReport, now: float, written: list[Reported]) -> None:
        """One report; an error is logged, and it is tried again."""
        try:
            content = await self._content(due)
            done = await self._shard.sql.write(
                partial(
                    reports.write,
                    message_id=due.envelope.id,
                    compose=self._notifier.composer(content, now),
                    now=now,
                    expire=self._notifier.terms.expire,
                    per_sender=self._notifier.terms.per_sender,
                    append=self._append,
                )
            )
        except StorageError as error:
            log.error("%s: reporting to the sender: %s", due.envelope.id, error)
            return
        except Exception:
            log.exception("%s: reporting to the sender failed unexpectedly", due.envelope.id)
            later = partial(reports.postpone, message_id=due.envelope.id, until=now + AFTER_A_BUG)
            await self._shard.sql.write(later)
            return
        written.append(done)
        _log(due, done)
        if done.removable:
            await trio.to_thread.run_sync(remove, self._shard.spool, done.removable)

    async def _content(self, due: DueReport) -> bytes:
        """What the report needs of the content; a report without it is better than none."""
        wanted = self._notifier.terms.octets_to_read(due.envelope)
        try:
            content = await self._shard.content(due.envelope.id, due.spool_name, due.envelope.size)
            return b"" if content is None else await content.read(0, wanted)
        except StorageError as error:
            log.error("%s: its report has no header: %s", due.envelope.id, error)
            return b""


def _log(due: DueReport, done: Reported) -> None:
    if done.postponed is not None:
        say(
            log, logging.WARNING, "report postponed: bounce.per_sender",
            id=due.envelope.id, sender=f"<{due.envelope.reverse_path}>",
        )  # fmt: skip
    if done.notice is not None:
        say(log, logging.INFO, "bounce queued", id=due.envelope.id, bounce=done.notice.id, action=done.action)
    if done.completed:
        say(log, logging.INFO, "completed", id=due.envelope.id)
