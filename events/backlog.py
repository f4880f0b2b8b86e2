"""How much may wait while databases are down, and what gives way: diagnosis, then new mail, msg:* never.

    waiting < 4/5 of the limit     everything is kept
    from 4/5 of the limit on       events that only serve diagnosis (all but msg:*) are dropped and counted
    from the limit on              new mail is refused for the time being; what was accepted goes on as before

`waiting` is counted in the outbox every REFRESH seconds and kept up between by what is appended, so that it
is never too low by more than what other processes append. The counters are also touched by the database's
writer thread: a lost increment is mended by the next count.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

import trio
from sqlalchemy import Connection, func, select

from events import outbox
from events.catalogue import Event
from events.outbox import Matcher, Wanted
from events.port import SqlRunner

REFRESH = 10.0  # seconds
KEPT = "msg:"  # what mail itself is about

_log = logging.getLogger("outrider.events")


@dataclass(slots=True)
class Backlog:
    """The outbox's `append` under a limit; `limit` and `waiting` in events, `dropped` since the start."""

    limit: int
    wanted: Matcher
    waiting: int = 0
    dropped: int = 0
    _told: int = field(default=0, init=False)

    @property
    def full(self) -> bool:
        """New mail has to wait."""
        return self.waiting >= self.limit

    def append(self, conn: Connection, message_id: str | None, events: Iterable[Event]) -> None:
        """See `outbox.append`."""
        self.append_each(conn, ((message_id, events),))

    def append_each(self, conn: Connection, told: Iterable[tuple[str | None, Iterable[Event]]]) -> None:
        """`append` for the events of several messages at once."""
        kept: list[Wanted] = []
        room = self.limit * 4 // 5 - self.waiting
        for message_id, events in told:
            for event in events:
                actions = self.wanted(event)
                if not actions:
                    continue
                if len(kept) < room or event.name.startswith(KEPT):
                    kept.append((message_id, event, actions))
                else:
                    self.dropped += 1
        outbox.append_for(conn, kept)
        self.waiting += len(kept)

    async def watch(self, runner: SqlRunner) -> None:
        """Count now and then, and say when something is dropped; until cancelled."""
        while True:
            try:
                await self.count(runner)
            except Exception as error:
                _log.warning("the outbox cannot be counted: %s", error)
            await trio.sleep(REFRESH)

    async def count(self, runner: SqlRunner) -> None:
        """Count what waits, and say what was dropped since the last time."""
        await runner.read(self.recount)
        self.tell_dropped()

    def recount(self, conn: Connection) -> None:
        """Count what waits, as far as it matters."""
        some = select(outbox.event_outbox.c.seq).limit(self.limit).subquery()
        self.waiting = int(conn.execute(select(func.count()).select_from(some)).scalar_one())

    def tell_dropped(self) -> None:
        """Say what was dropped since the last time."""
        if self.dropped > self._told:
            _log.error(
                "%d events wait for their databases (events.backlog is %d): "
                "%d that only serve diagnosis were dropped%s",
                *(self.waiting, self.limit, self.dropped - self._told),
                ", new mail is refused" if self.full else "",
            )
            self._told = self.dropped
