"""Turns on the lanes and under the limits: an attempt has one from its beginning to its end.

The queue claims and then begins (`begin`, `end`). Who delivers what is not queued asks (`take`), and waits:

    a worker or a place is free, no limit holds   begins at once
    all places are taken                          waits for its place, as long as it likes
    a pause or a rate ends soon                   waits for that moment, `SOON` at most
    it ends later                                 Closed at once: whoever keeps the message comes again

Those who wait for the same domain are served in their order, the domains in turn. Places that the queue is
about to claim are not given away meanwhile: both count under one lock.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Final

import trio
from msgspec import Struct

from deliver.net.clock import Clock
from deliver.outcome import AttemptResult
from deliver.queue.lanes import Feedback, Lane, Lanes, Occupancy, feedback
from deliver.queue.throttle import Key, Subject, Throttle
from deliver.report.log import say
from deliver.report.trace import Trace

PATIENCE: Final = 60.0  # seconds; callers that wait are places of theirs that are taken
SOON: Final = 10.0  # seconds

log = logging.getLogger("outrider.queue")


class Closed(Exception):
    """No turn now; the text says why."""


class Turn(Struct, frozen=True):
    """An attempt under way: its number, when it began (epoch seconds), on which lane, under which limits."""

    number: int
    domain: str
    site: str
    started: float
    held: tuple[Key, ...]


@dataclass(slots=True, eq=False)
class _Asked:
    domain: str
    sender: str
    answered: trio.Event = field(default_factory=trio.Event)
    turn: Turn | None = None
    why: str = ""


class Turns:
    """`lock` is held while claims are counted; `freed` is called when an attempt has ended.

    `run` has to run for those who wait.
    """

    def __init__(
        self,
        lanes: Lanes,
        throttle: Throttle,
        occupancy: Occupancy,
        clock: Clock,
        lock: trio.Lock,
        freed: Callable[[], None] = lambda: None,
    ) -> None:
        self.lanes = lanes
        self.throttle = throttle
        self.occupancy = occupancy
        self._clock = clock
        self._lock = lock
        self._freed = freed
        self._numbers = count(-1, -1)  # those of claims are positive
        self._waiting: OrderedDict[tuple[str, str], deque[_Asked]] = OrderedDict()
        self._look = trio.Event()

    def begin(self, number: int, domain: str, held: tuple[Key, ...], now: float) -> Turn:
        """It begins; `held` is from `Throttle.take`."""
        slow = self.lanes.slow(domain)
        site = self.lanes.begin(domain)
        self.throttle.hold(held)
        self.occupancy.begin(number, now, slow=slow)
        return Turn(number, domain, site, now, held)

    def end(self, turn: Turn, result: AttemptResult, *, again: float = math.inf) -> Feedback:
        """It has ended; `again` is when its message is due again (epoch seconds)."""
        now, said = self._clock.now(), feedback(result)
        before = self.lanes.lane(turn.domain)
        lane = self.lanes.end(
            turn.domain, turn.site, said, result.site, started=turn.started, now=now, again=again
        )
        self._say_pause(turn.domain, before, lane, now)
        self.throttle.release(turn.held)
        self.occupancy.end(turn.number)
        if not self._lock.locked():
            self.settle()
        self._freed()
        self.look()
        return said

    async def take(self, domain: str, sender: str, patience: float = PATIENCE) -> Turn:
        """A turn for an attempt that is not in the queue; `end` it. Raises Closed.

        `patience`: seconds to wait for a place.
        """
        asked = _Asked(domain, sender if self.throttle.by_sender else "")
        key = (asked.domain, asked.sender)
        if key not in self._waiting and not self._lock.locked():
            self._answer(asked, self._clock.now())
            self.settle()
        if not asked.answered.is_set():
            await self._wait(asked, self._waiting.setdefault(key, deque()), patience)
        if asked.turn is None:
            raise Closed(asked.why)
        return asked.turn

    def settle(self) -> None:
        """Give back to others what was reserved and not used; for whoever has the lock."""
        self.lanes.share.settle()

    def look(self) -> None:
        """Something has changed: whoever waits may have a turn now."""
        if self._waiting:
            self._look.set()

    async def run(self) -> None:
        """Give turns to those who wait, until cancelled."""
        while True:
            self._look = trio.Event()
            moment = math.inf
            if self._waiting:
                async with self._lock:
                    moment = self._serve_safely()
                    self.settle()
            with trio.move_on_after(max(0.0, moment - self._clock.now())):
                await self._look.wait()

    async def _wait(self, asked: _Asked, line: deque[_Asked], patience: float) -> None:
        line.append(asked)
        self._look.set()
        try:
            with trio.move_on_after(patience):
                await asked.answered.wait()
        except trio.Cancelled:
            if asked.turn is not None:  # given in the very moment in which its taker goes
                self.end(asked.turn, AttemptResult((), Trace()))
            raise
        finally:
            if not asked.answered.is_set():
                asked.why = f"as many deliveries to {asked.domain} as may be are under way"
                line.remove(asked)
                if not line:
                    self._waiting.pop((asked.domain, asked.sender), None)

    def _serve_safely(self) -> float:
        """A bug must cost those who wait their patience, not the service."""
        try:
            return self._serve()
        except Exception:
            log.exception("giving turns failed unexpectedly")
            return self._clock.now() + SOON

    def _serve(self) -> float:
        """One turn for each domain, round and round; returns when there may be more (epoch seconds)."""
        now, moment, served = self._clock.now(), math.inf, True
        while served:
            served, moment = False, math.inf
            for key, line in tuple(self._waiting.items()):
                moment = min(moment, self._answer(line[0], now))
                if line[0].answered.is_set():
                    line.popleft()
                    self._waiting.move_to_end(key)
                    served = True
                if not line:
                    del self._waiting[key]
        return min(moment, self.occupancy.next_change()) if self._waiting else math.inf

    def _answer(self, asked: _Asked, now: float) -> float:
        """Let it begin, or say that it will be long, or return the moment of the next look."""
        sender = asked.sender if self.throttle.by_sender else None
        subject = self.throttle.subject(asked.domain, self.lanes.site(asked.domain), sender)
        lane, limit = self.lanes.opens_at(asked.domain), self.throttle.opens_at(subject)
        moment = max(lane, limit)
        if now + SOON < moment < math.inf:
            asked.why = _why_closed(asked.domain, moment - now, paused=lane >= limit)
            asked.answered.set()
        elif moment <= now and self.occupancy.free(now) and self._reserve(asked.domain, subject, now):
            held = self.throttle.take(subject, now)
            asked.turn = self.begin(next(self._numbers), asked.domain, held, now)
            asked.answered.set()
        return moment if moment > now else math.inf

    def _reserve(self, domain: str, subject: Subject, now: float) -> bool:
        return self.lanes.reserve(domain) and self.throttle.reserve(subject, now)

    def _say_pause(self, domain: str, before: Lane, lane: Lane, now: float) -> None:
        if lane.paused_until > now and lane.paused_until != before.paused_until:
            site, pause = self.lanes.site(domain), lane.paused_until - now
            say(log, logging.WARNING, "site paused", site=site, domain=domain, seconds=f"{pause:g}")
        elif before.failures and not lane.failures:
            say(log, logging.INFO, "site answers again", site=self.lanes.site(domain), domain=domain)


def _why_closed(domain: str, seconds: float, *, paused: bool) -> str:
    if paused:
        return f"the servers of {domain} failed lately and are left alone for another {seconds:.0f} s"
    return f"a limit on mail to {domain} (queue.limit) opens in {seconds:.0f} s"
