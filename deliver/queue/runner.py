"""The queue at work: claims what is due and runs attempts side by side, each on the lane of its site.

- One loop claims; it sleeps until it is poked (new mail, an attempt ended), the next recipient is due, or a
  lane or limit opens. `queue.workers` attempts run at most, beside those that have turned slow.
- A worker whose attempt was answered takes the next message for the same site, whose session is still open,
  for up to TURN messages while others wait; so mail for one host flows back to back.
- One claim runs at a time, for everybody who waits to claim, so that lanes and limits are exact.
- `stop` ends claiming; attempts get `queue.shutdown_grace`, then they are cancelled and settled.

The lease is longer than an attempt may take, so that no attempt outlives its claim (see
`deliver.queue.execution`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Final

import trio
from msgspec import Struct
from sqlalchemy import Connection

from deliver.errors import StorageError
from deliver.net.clock import Clock
from deliver.queue import claiming, due, freeze, misdated, schedule
from deliver.queue.admission import Permits
from deliver.queue.claiming import Claim
from deliver.queue.execution import (
    RETRY_AFTER,
    Attempt as Attempt,
    Begin,
    Ended,
    Execution,
    JournalReply as JournalReply,
)
from deliver.queue.lanes import Feedback, Lanes, Occupancy
from deliver.queue.settling import Settling
from deliver.queue.shard import Shard
from deliver.queue.share import WHOLE, Share
from deliver.queue.silence import Silence
from deliver.queue.store import Append
from deliver.queue.terms import lanes_of, limits_of, plan_of
from deliver.queue.throttle import Key, Throttle
from deliver.queue.tidying import NEWS, Tidying
from deliver.queue.turns import Turn, Turns
from deliver.settings import Queue
from events import outbox

GATHER: Final = 0.02  # seconds between two looks for what is due
LONGEST_SLEEP: Final = 60.0  # seconds; expired leases and old history are looked for that often
BUSY: Final = 0.05  # seconds until a node looks again for what others are busy with
BRIEF: Final = 0.1  # seconds between the looks at parts of a long line
TURN: Final = 20  # messages that a worker takes for one site while others wait
SILENCE: Final = 3600.0  # seconds, unless said otherwise

log = logging.getLogger("outrider.queue")


class Running(Struct, frozen=True):
    """An attempt under way, and its turn on lanes and under limits."""

    claim: Claim
    turn: Turn
    scope: trio.CancelScope
    execution: Execution


@dataclass(slots=True, eq=False)
class Wish:
    """To claim one message for the site of `domain`, None: whatever may go; what came of it when `over`."""

    domain: str | None
    begun: tuple[Running, ...] = ()
    moment: float | None = None
    error: Exception | None = None
    over: bool = False


class Runner:
    """Runs one shard. `begin` makes attempts, see `deliver.queue.execution`; so are `gather` and `settled`.

    `attempt_deadline`: seconds that an attempt may take (delivery.deadline); `silence`: without any progress.
    `sources`: the source addresses that mail for a domain may leave from. `share`: see `deliver.queue.share`.
    """

    def __init__(
        self,
        shard: Shard,
        begin: Begin,
        *,
        settings: Queue,
        attempt_deadline: float,
        clock: Clock,
        rng: Random,
        gather: float = 0.0,
        append: Append = outbox.append,
        settled: Callable[[bool], None] = lambda _: None,
        silence: float = SILENCE,
        sources: Callable[[str], tuple[str, ...]] = lambda _: (),
        share: Share = WHOLE,
    ) -> None:
        self._shard = shard
        self._begin = begin
        self._clock = clock
        self._rng = rng
        self._append = append
        self._settled = settled
        self._sources = sources
        self._wake = trio.Event()
        self._stopping = False
        self._tidying = Tidying(shard, append)
        self._claiming = trio.Lock()
        self._wishes: list[Wish] = []
        self._holds: dict[str, float] = {}
        self._line = due.Line()
        self._seen = -math.inf
        self._running: dict[int, Running] = {}
        self._silent = Silence()
        self._settling = Settling(shard, self._settled_claim)
        self._left_due = -math.inf
        self.lanes = Lanes(lanes_of(settings))
        self.throttle = Throttle(limits_of(settings), lambda domain: self._sources(domain))
        self.lanes.share = self.throttle.share = share
        self._occupancy = Occupancy(settings.workers, settings.slow_workers, settings.slow_after)
        self.turns = Turns(self.lanes, self.throttle, self._occupancy, clock, self._claiming, self.poke)
        self.reconfigure(settings, attempt_deadline=attempt_deadline, gather=gather, silence=silence)

    @property
    def running(self) -> int:
        """Attempts under way, or not settled yet."""
        return len(self._running)

    def poke(self) -> None:
        """Something may be due, or begin: mail was accepted, an attempt has ended."""
        self._wake.set()

    def retry_sites(self) -> None:
        """Somebody says that it is worth a try: no site is left alone any longer."""
        self.lanes.reopen()
        self.turns.look()
        self._wake.set()

    def look(self) -> None:
        """Others have given back places: what waits may begin."""
        self.turns.look()
        self._wake.set()

    def stop(self) -> None:
        """Claim no more; `run` returns when the attempts under way are settled."""
        self._stopping = True
        self._wake.set()

    def reconfigure(
        self,
        settings: Queue,
        *,
        attempt_deadline: float,
        gather: float = 0.0,
        silence: float = SILENCE,
        sources: Callable[[str], tuple[str, ...]] | None = None,
    ) -> None:
        """Other settings from now on; attempts under way go on with theirs, what lanes have learned stays."""
        self._settings = settings
        self._lease = attempt_deadline + settings.lease_margin
        self._plan = plan_of(settings)
        self._sources = sources or self._sources
        self.lanes.terms = lanes_of(settings)
        self.throttle.reconfigure(limits_of(settings))
        self._occupancy.workers = settings.workers
        self._occupancy.slow_workers = settings.slow_workers
        self._occupancy.slow_after = settings.slow_after
        self._execution = Execution(
            self._shard,
            self._begin,
            self._plan,
            deadline=attempt_deadline + settings.lease_margin / 2,
            silence=silence,
            clock=self._clock,
            rng=self._rng,
            gather=gather,
            append=self._append,
            settled=self._settled,
            silent=self._silent,
            hurried=lambda: self._stopping,
        )
        self.turns.look()
        self._wake.set()

    async def run(self) -> None:
        """Work until `stop` is called or the caller is cancelled; either way every claim is settled."""
        async with trio.open_nursery() as beside:
            beside.start_soon(self._silent.run)
            await self._claim_and_work()
            beside.cancel_scope.cancel()

    async def _claim_and_work(self) -> None:
        async with trio.open_nursery() as attempts:
            while not self._stopping:
                self._wake = trio.Event()
                began = trio.current_time()
                pause = await self._step(attempts)
                if self._stopping:
                    break
                with trio.move_on_after(pause):
                    await self._wake.wait()
                # a busy time makes few large claims; what comes alone is claimed at once
                await trio.sleep_until(began + GATHER)
            await self._grace()

    async def _grace(self) -> None:
        with trio.move_on_after(self._settings.shutdown_grace):
            while self._running:
                self._wake = trio.Event()
                await self._wake.wait()
        for running in tuple(self._running.values()):
            running.scope.cancel()

    async def _step(self, attempts: trio.Nursery) -> float:
        """Claim what is due and start it; returns the seconds until there may be more."""
        now = self._clock.now()
        self._notice_clock(now)
        if self._shard.latch.fault is not None:
            return RETRY_AFTER
        try:
            await self._tidying.take_back(
                now, courtesy=self._settings.lease_margin, running=tuple(self._running)
            )
            await self._tidying.mend(now, latest=schedule.latest(self._plan, now))
            await self._tidying.forget(now, keep=self._settings.keep_history)
            begun, moment = await self._claim_and_look()
            for running in begun:
                # registered before anything is awaited: what is claimed is settled
                attempts.start_soon(self._work, running, attempts)
            if self._occupancy.free(now) == 0:
                return min(LONGEST_SLEEP, max(0.0, self._occupancy.next_change() - now))
            pause = self._until(moment, now)
            if self._shard.node is None:
                return pause
            return max(BUSY, min(pause, NEWS)) if not begun else pause  # others may be busy with what is due
        except StorageError as error:
            log.error("%s", error)
            return RETRY_AFTER

    def _notice_clock(self, now: float) -> None:
        """After a clock was set back, what is to end at a moment would last for as long as it was ahead."""
        if now < self._seen - misdated.TOLERANCE:
            log.warning("the clock was set back by %.0f s: pauses end, limits begin anew", self._seen - now)
            self.lanes.set_back(now)
            self.throttle.set_back(now)
            self._holds.clear()
            self.turns.look()
        self._seen = now

    async def _claim_and_look(self, domain: str | None = None) -> tuple[tuple[Running, ...], float | None]:
        """Claim for every free worker, or one message for the site of `domain`; they run from here on.

        Also when there is more to claim, None for never. Raises StorageError.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        mine = Wish(domain)
        self._wishes.append(mine)
        with trio.CancelScope(shield=True):  # what another claims for us is ours to settle
            async with self._claiming:
                if not mine.over:
                    await self._grant()
        if mine.error is not None:
            raise mine.error
        return mine.begun, mine.moment

    async def _grant(self) -> None:
        """One transaction for everybody who wants to claim by now."""
        wishes, self._wishes = self._wishes, []
        try:
            await self._claim(wishes)
        except Exception as error:
            for wish in wishes:
                wish.error = error
        finally:
            self.turns.settle()
            for wish in wishes:
                wish.over = True

    async def _claim(self, wishes: list[Wish]) -> None:
        now = self._clock.now()
        free = self._occupancy.free(now)
        look = next((wish for wish in wishes if wish.domain is None), None)
        if free <= 0 or self._stopping or (look is None and self._nothing_left(now)):
            for wish in wishes:
                wish.moment = now
            return
        self._holds = {domain: until for domain, until in self._holds.items() if until > now}
        take = partial(
            claiming.claim,
            now=now,
            lease=self._lease,
            retry=self._plan.retry,
            append=self._append,
            node=self._shard.node,
            line=self._line,
        )

        waiting: dict[str, list[Wish]] = {}
        for wish in wishes:
            if wish.domain is not None:
                waiting.setdefault(self.lanes.site(wish.domain), []).append(wish)
        sites = [] if look else [(len(some), self._domains_of(some)) for some in waiting.values()]

        def take_permitted(
            conn: Connection,
        ) -> tuple[list[Claim], list[tuple[Key, ...]], float | None, float]:
            permits = Permits(self.lanes, self.throttle, now, self._holds)  # one for each run of this
            if look:
                survey = due.Survey()
                taken = [*take(conn, admission=permits, limit=free, survey=survey)]
                if survey.whole:
                    moment = due.next_after(conn, now, permits.opens_at, survey.opening)
                else:
                    moment = due.next_due(conn, permits.opens_at, soon=now + BRIEF)
                return taken, permits.held, moment, due.first_due(conn)
            taken, rules = [], freeze.active(conn, now)
            for most, domains in sites:
                if permits.may_have_one(domains[0]):
                    limit = min(most, free - len(taken))
                    taken += take(conn, admission=permits, limit=limit, domains=domains, rules=rules)
            return taken, permits.held, now, self._left_due

        taken, held, moment, self._left_due = await self._shard.sql.write(
            take_permitted, durable=False, brief=True
        )
        for wish in wishes:
            wish.moment = moment
        for claim, places in zip(taken, held, strict=True):
            # a worker that waits has a session with the site
            who = waiting.get(self.lanes.site(claim.domain))
            wish = who.pop(0) if who else look or wishes[0]
            wish.begun += (self._began(claim, places, now),)

    def _domains_of(self, wishes: list[Wish]) -> tuple[str, ...]:
        """The domains of the one site that these wishes are for, their own first."""
        own = [wish.domain for wish in wishes if wish.domain is not None]
        return tuple(dict.fromkeys((*own, *self.lanes.domains(own[0]))))

    def _began(self, claim: Claim, held: tuple[Key, ...], now: float) -> Running:
        turn = self.turns.begin(claim.attempt_id, claim.domain, held, now)
        running = self._running[claim.attempt_id] = Running(claim, turn, trio.CancelScope(), self._execution)
        return running

    def _ended(self, running: Running, ended: Ended) -> Feedback:
        """The counterpart of `_began`, as far as others wait for it: its settlement follows."""
        return self.turns.end(running.turn, ended.result, again=ended.again)

    async def _work(self, running: Running, nursery: trio.Nursery) -> None:
        """Attempts for one site, one behind the other; each is settled while the next one is under way."""
        said, served = Feedback.NEUTRAL, 0

        def over(ended: Ended) -> None:
            nonlocal said
            said = self._ended(running, ended)
            self._settling.add(running.execution, running.claim, ended, nursery)

        following: tuple[Running, ...] = (running,)
        while following:
            running, *others = following
            for other in others:
                nursery.start_soon(self._work, other, nursery)
            await running.execution.run(running.claim, running.scope, over)
            served += 1
            following = ()
            if said is Feedback.GOOD and not running.scope.cancel_called and self._may_go_on(served):
                following = await self._next(running.claim.domain)

    def _settled_claim(self, claim: Claim) -> None:
        del self._running[claim.attempt_id]
        self._wake.set()

    def _may_go_on(self, served: int) -> bool:
        return not self._stopping and (served < TURN or self._occupancy.free(self._clock.now()) > 1)

    async def _next(self, domain: str) -> tuple[Running, ...]:
        """The next message for the same site, if it may have one.

        Nobody asks for what came after the last look for all domains: the next one is soon, and takes more.
        """
        if self._nothing_left(self._clock.now()):
            return ()
        try:
            return (await self._claim_and_look(domain))[0]
        except StorageError as error:
            log.error("%s", error)
            return ()

    def _nothing_left(self, now: float) -> bool:
        """Whether the last look for all domains left nothing that is due by now; nodes cannot know that."""
        return now < self._left_due and self._shard.node is None

    async def idle(self) -> bool:
        """Whether nothing is under way and nothing is due that may be tried now. Raises StorageError."""
        pause = await self._pause(self._clock.now())
        return pause > 0 and not self._running and not self._claiming.locked()  # as they are now

    async def _pause(self, now: float) -> float:
        permits = Permits(self.lanes, self.throttle, now, self._holds)
        moment = await self._shard.sql.read(lambda conn: due.next_due(conn, permits.opens_at))
        return self._until(moment, now)

    @staticmethod
    def _until(moment: float | None, now: float) -> float:
        return LONGEST_SLEEP if moment is None else min(LONGEST_SLEEP, max(0.0, moment - now))
