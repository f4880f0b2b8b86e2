"""One claim, from its content to its settlement.

- Nothing that an attempt raises reaches its siblings: an unexpected exception is logged with its traceback
  and the recipients are deferred.
- Every claim is settled, also under cancellation: in a shield with a deadline. A settlement that the database
  refuses is tried again until the lease ends; then the journal keeps the deliveries.
- An attempt that does nothing for `silence` seconds is ended, see `deliver.queue.silence`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Final, Protocol

import trio
from msgspec import Struct
from sqlalchemy import Connection

from deliver.errors import StorageError
from deliver.message import Content, Recipient
from deliver.net.clock import Clock
from deliver.outcome import AttemptResult, Delivered
from deliver.queue import codec, conclusion, schedule
from deliver.queue.account import expiries, report
from deliver.queue.claiming import Claim
from deliver.queue.content import InlineContent, remove
from deliver.queue.joint import Settle
from deliver.queue.journal import Proof
from deliver.queue.schedule import Plan, Settlement
from deliver.queue.shard import Shard
from deliver.queue.silence import Silence
from deliver.queue.store import Append, Settled
from deliver.sqlrun import FEW

SETTLE_PATIENCE: Final = 30.0  # seconds in which a settlement must succeed when the end has come
COMPANY: Final = 0.08  # seconds that a settlement waits for others to share its fsync; the journal has it
RETRY_AFTER: Final = 1.0  # seconds between tries when the database refuses; twice as long each time
LONGEST_PAUSE: Final = 15.0  # seconds

JournalReply = Callable[[tuple[Recipient, ...], Delivered], None]


class Attempt(Protocol):
    """What delivers one claim: `deliver.attempt.Attempt`, or a test's."""

    async def run(self, scope: trio.CancelScope) -> None:
        """Deliver in `scope`, entered for this alone, whose deadline may come down. May be cancelled."""
        ...

    def result(self) -> AttemptResult:
        """What is known; called once, after `run` has returned, raised or been cancelled."""
        ...

    def progress(self) -> int:
        """A number that grows whenever something was found out."""
        ...


Begin = Callable[[Claim, Content, JournalReply], Attempt]

log = logging.getLogger("outrider.queue")


class Ended(Struct, frozen=True):
    """What became of a claim, and what is to be recorded of it."""

    result: AttemptResult
    settlements: tuple[Settlement, ...]

    @property
    def again(self) -> float:
        """When a recipient is due again (epoch seconds), inf for never."""
        due = [each.next_attempt for each in self.settlements if each.next_attempt is not None]
        return min(due) if due else math.inf


@dataclass(slots=True, eq=False)
class Watched:
    """Content that counts how often it is read: octets on their way are progress. `size` in octets."""

    content: Content
    size: int
    reads: int = 0

    def read(self, offset: int, length: int) -> Coroutine[Any, Any, bytes]:
        """See `deliver.message.Content`."""
        self.reads += 1
        return self.content.read(offset, length)


@dataclass(frozen=True, slots=True)
class Execution:
    """How claims are carried out; times in seconds.

    `begin(claim, content, journal)` makes an attempt, which calls `journal` at a final 2yz and may run for
    `deadline`. `gather`: see `store.settle`. `settled` is called after each commit that may have put events
    into the outbox; True: all messages of it are complete, so that nobody is owed anything about them.
    `silent` ends attempts that do nothing for `silence`. `hurried`: whether we are to end.
    """

    shard: Shard
    begin: Begin
    plan: Plan
    deadline: float
    silence: float
    clock: Clock
    rng: Random
    gather: float
    append: Append
    settled: Callable[[bool], None]
    silent: Silence
    hurried: Callable[[], bool] = lambda: False

    async def run(self, claim: Claim, scope: trio.CancelScope, over: Callable[[Ended], None]) -> None:
        """Attempt within `scope`, then tell `over`, who sees to `settle`. Raises no Exception."""
        journalled: dict[int, Delivered] = {}
        attempt: Attempt | None = None
        result: AttemptResult | None = None
        scope.deadline = last = trio.current_time() + self.deadline
        try:
            with scope:
                content = await self._content(claim)
                if content is None:
                    result = conclusion.without_content(claim.recipients)
                else:
                    watched = Watched(content, content.size)
                    attempt = self.begin(claim, watched, partial(self._note, claim, journalled))
                    self.silent.begin(claim, self.silence, partial(_progress, attempt, watched), scope)
                    await attempt.run(scope)
            if scope.cancelled_caught and trio.current_time() >= last:
                log.error(
                    "%s: attempt %d took longer than %g s", claim.envelope.id, claim.number, self.deadline
                )
        except Exception:
            log.exception("%s: attempt %d failed unexpectedly", claim.envelope.id, claim.number)
        finally:
            self.silent.end(claim)
            if attempt is not None:
                result = self._result_of(attempt, claim)
            elif result is None:
                result = conclusion.interrupted(claim.recipients, started=False)
            result = conclusion.conclude(claim.recipients, result, journalled)
            over(Ended(result, self._settlements(claim, result)))

    def _result_of(self, attempt: Attempt, claim: Claim) -> AttemptResult:
        try:
            return attempt.result()
        except Exception:
            log.exception("%s: attempt %d has no result", claim.envelope.id, claim.number)
            return conclusion.interrupted(claim.recipients, started=True)

    def settlement(self, claim: Claim, ended: Ended) -> Settle:
        """The write that puts it on record."""
        now, result = self.clock.now(), ended.result
        return Settle(
            claim,
            ended.settlements,
            events=(*result.trace.events, *expiries(claim, result, ended.settlements, now)),
            now=now,
            trace=codec.trace_json(result.trace),
            gather=self.gather,
            append=self.append,
        )

    def record(self, write: Settle, settled: Settled) -> None:
        """It is on record."""
        self.shard.journal.settled(write.claim.attempt_id)
        report(write.claim, write.settlements, settled, write.now)

    async def settle(self, claim: Claim, ended: Ended) -> None:
        """Put on record what became of the claim, also under cancellation; raises no Exception."""
        settled: Settled | None = None
        try:
            settled = await self._settle(claim, ended)
            if settled is not None and settled.removable:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(remove, self.shard.spool, settled.removable)
        except Exception:
            log.exception("%s: attempt %d cannot be settled", claim.envelope.id, claim.number)
        finally:
            if settled is None:
                log.critical(
                    "%s: attempt %d is open until its lease expires", claim.envelope.id, claim.number
                )

    async def _content(self, claim: Claim) -> Content | None:
        """The content; None, and an error in the log, when it cannot be read."""
        if claim.content is not None:
            return InlineContent(claim.content)
        try:
            found = await self.shard.content(claim.envelope.id, claim.spool_name, claim.envelope.size)
        except StorageError as error:
            log.error("%s: %s", claim.envelope.id, error)
            return None
        if found is None:
            log.error("%s: its row has no content", claim.envelope.id)
        return found

    def _note(
        self,
        claim: Claim,
        journalled: dict[int, Delivered],
        recipients: tuple[Recipient, ...],
        outcome: Delivered,
    ) -> None:
        """A final 2yz has been read for these recipients; synchronous, so that nothing comes in between."""
        ordinals = tuple([recipient.ordinal for recipient in recipients])
        journalled.update(dict.fromkeys(ordinals, outcome))
        self.shard.journal.note(Proof.of(claim.attempt_id, claim.envelope.id, ordinals, outcome))

    def _settlements(self, claim: Claim, result: AttemptResult) -> tuple[Settlement, ...]:
        """What is to be recorded; nothing, so that all are queued again, if that cannot be said."""
        try:
            return self._decide(claim, result)
        except Exception:
            log.exception("%s: attempt %d cannot be settled", claim.envelope.id, claim.number)
            return ()

    def _decide(self, claim: Claim, result: AttemptResult) -> tuple[Settlement, ...]:
        if result.all_delivered:
            return tuple([Settlement(recipient, outcome) for recipient, outcome in result.outcomes])
        now = self.clock.now()
        waited = {
            recipient.ordinal: seconds
            for recipient, seconds in zip(claim.recipients, claim.waited, strict=False)
        }
        # no attempt outlives its lease: the clock was set forward
        before = claim.before if now <= claim.lease_until else -math.inf
        return tuple(
            schedule.settle_as(
                recipient,
                outcome,
                self.plan,
                number=claim.number,
                received_at=claim.envelope.received_at,
                now=now,
                rng=self.rng,
                sender=claim.envelope.reverse_path,
                waited=waited.get(recipient.ordinal, 0.0),
                before=before,
            )
            for recipient, outcome in result.outcomes
        )

    async def _settle(self, claim: Claim, ended: Ended) -> Settled | None:
        """None: the database refused it for too long."""
        write = self.settlement(claim, ended)
        settled = await self._insist(claim, write)
        if settled is not None:
            self.record(write, settled)
            self.settled(settled.completed)
        return settled

    async def _insist(self, claim: Claim, work: Callable[[Connection], Settled]) -> Settled | None:
        """Commit, again and again until the lease ends; at the end or cancelled, for SETTLE_PATIENCE."""
        began = trio.current_time()
        last = began + max(SETTLE_PATIENCE, claim.lease_until - self.clock.now())
        pause = RETRY_AFTER
        brief = len(claim.recipients) <= FEW
        while trio.current_time() < last:
            if self.hurried() or trio.current_effective_deadline() <= trio.current_time():
                last = began + SETTLE_PATIENCE
            with trio.CancelScope(shield=True, deadline=last):
                try:
                    return await self.shard.sql.write(work, patience=COMPANY, brief=brief)
                except StorageError as error:
                    level = logging.ERROR if pause == RETRY_AFTER else logging.DEBUG
                    log.log(level, "%s: settling attempt %d: %s", claim.envelope.id, claim.number, error)
                await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        return None


def _progress(attempt: Attempt, watched: Watched) -> tuple[int, int]:
    return attempt.progress(), watched.reads
