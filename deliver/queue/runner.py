"""The queue at work: claims what is due, runs attempts side by side, settles each.

- One loop claims; it sleeps until it is poked (new mail, an attempt ended) or the next recipient is due. At
  most `queue.workers` attempts run, at most `queue.per_domain` of them to one recipient domain.
- One task per attempt. Nothing that it raises reaches its siblings: an unexpected exception is logged with
  its traceback and the recipients are deferred.
- Every claim is settled, also under cancellation: in a shield with a deadline. A settlement that the database
  refuses is tried again; if it stays refused, the journal keeps the deliveries and the lease expires.
- `stop` ends claiming; attempts get `queue.shutdown_grace`, then they are cancelled and settled.

The lease is longer than an attempt may take, so that no attempt outlives its claim.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Final, Protocol

import trio

from deliver.errors import StorageError
from deliver.message import Content, Recipient
from deliver.net.clock import Clock
from deliver.outcome import AttemptResult, Failed
from deliver.queue import codec, conclusion, due, recovery, schedule, store
from deliver.queue.account import expiries, report
from deliver.queue.content import InlineContent, SpoolContent, remove
from deliver.queue.journal import Proof
from deliver.queue.notice import Notifier
from deliver.queue.schedule import Plan
from deliver.queue.shard import Shard
from deliver.queue.store import Append, Claim, Settled
from deliver.relay.bounce import MAX_HEADERS
from deliver.settings import Queue
from deliver.smtp.reply import Reply
from events import outbox

LONGEST_SLEEP: Final = 60.0  # seconds; expired leases and old history are looked for that often
SETTLE_PATIENCE: Final = 30.0  # seconds in which a settlement must succeed
RETRY_AFTER: Final = 1.0  # seconds between tries when the database refuses
KEEP_HISTORY: Final = 86400.0  # seconds for which `queue show` knows a completed message

JournalReply = Callable[[tuple[Recipient, ...], Reply], None]


class Attempt(Protocol):
    """What delivers one claim: `deliver.attempt.Attempt`, or a test's."""

    async def run(self) -> None:
        """Deliver. May be cancelled at any moment."""
        ...

    def result(self) -> AttemptResult:
        """What is known; called once, after `run` has returned, raised or been cancelled."""
        ...


Begin = Callable[[Claim, Content, JournalReply], Attempt]

log = logging.getLogger("outrider.queue")


class Runner:
    """Runs one shard. `begin(claim, content, journal)` makes an attempt; that calls `journal` at a final 2yz.

    `attempt_deadline`: seconds that an attempt may take (delivery.deadline). `settled` is called after each
    commit that may have put events into the outbox.
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
        notifier: Notifier,
        append: Append = outbox.append,
        settled: Callable[[], None] = lambda: None,
    ) -> None:
        self._shard = shard
        self._on_settled = settled
        self._begin = begin
        self._settings = settings
        self._deadline = attempt_deadline
        self._lease = attempt_deadline + settings.lease_margin
        self._plan = Plan(tuple(float(seconds) for seconds in settings.retry), settings.expire)
        self._clock = clock
        self._rng = rng
        self._notifier = notifier
        self._append = append
        self._wake = trio.Event()
        self._stopping = False
        self._tidied = -LONGEST_SLEEP
        self._busy: Counter[str] = Counter()
        self._running: dict[int, trio.CancelScope] = {}

    @property
    def running(self) -> int:
        """Attempts under way."""
        return len(self._running)

    def poke(self) -> None:
        """Something may be due: mail was accepted."""
        self._wake.set()

    def stop(self) -> None:
        """Claim no more; `run` returns when the attempts under way are settled."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Work until `stop` is called or the caller is cancelled; either way every claim is settled."""
        async with trio.open_nursery() as attempts:
            while not self._stopping:
                self._wake = trio.Event()
                pause = await self._step(attempts)
                if self._stopping:
                    break
                with trio.move_on_after(pause):
                    await self._wake.wait()
            await self._grace()

    async def _grace(self) -> None:
        with trio.move_on_after(self._settings.shutdown_grace):
            while self._running:
                self._wake = trio.Event()
                await self._wake.wait()
        for scope in tuple(self._running.values()):
            scope.cancel()

    async def _step(self, attempts: trio.Nursery) -> float:
        """Claim what is due and start it; returns the seconds until there may be more."""
        now = self._clock.now()
        try:
            await self._tidy(now)
            claims = await self._claim(now)
        except StorageError as error:
            log.error("%s", error)
            return RETRY_AFTER
        for claim in claims:
            # registered before anything is awaited: what is claimed is settled
            self._busy[claim.domain] += 1
            self._running[claim.attempt_id] = trio.CancelScope()
            attempts.start_soon(self._work, claim)
        if self._free() == 0:
            return LONGEST_SLEEP
        return await self._pause(now)

    def _free(self) -> int:
        return self._settings.workers - len(self._running)

    async def _claim(self, now: float) -> tuple[Claim, ...]:
        if self._free() <= 0:
            return ()
        take = partial(
            store.claim,
            now=now,
            limit=self._free(),
            lease=self._lease,
            retry=self._plan.retry,
            per_domain=self._settings.per_domain,
            busy=dict(self._busy),
        )
        return await self._shard.sql.write(take, durable=False)

    async def _pause(self, now: float) -> float:
        full = tuple(domain for domain, count in self._busy.items() if count >= self._settings.per_domain)
        try:
            moment = await self._shard.sql.read(lambda conn: due.next_due(conn, full=full))
        except StorageError as error:
            log.error("%s", error)
            return RETRY_AFTER
        return LONGEST_SLEEP if moment is None else min(LONGEST_SLEEP, max(0.0, moment - now))

    async def _tidy(self, now: float) -> None:
        """Now and then: take back expired leases, and forget old history."""
        if now - self._tidied < LONGEST_SLEEP:
            return
        self._tidied = now
        proofs = self._shard.journal.proofs()
        if await self._shard.sql.read(lambda conn: recovery.any_expired(conn, now)):
            found = await self._shard.sql.write(
                lambda conn: recovery.reclaim(conn, now, proofs, self._append)
            )
            for attempt_id in found.attempts:
                self._shard.journal.settled(attempt_id)
            log.warning("took back %d attempts that were not settled in time", found.interrupted)
            await self._remove(found.removable)
        before = now - KEEP_HISTORY
        await self._shard.sql.write(lambda conn: store.forget(conn, before=before), durable=False)

    async def _work(self, claim: Claim) -> None:
        """One attempt, from its claim to its settlement; never raises an Exception."""
        journalled: dict[int, Reply] = {}
        attempt: Attempt | None = None
        result = conclusion.interrupted(claim.recipients, started=False)
        try:
            with self._running[claim.attempt_id]:
                content = await self._content(claim)
                if content is None:
                    result = conclusion.without_content(claim.recipients)
                else:
                    attempt = self._begin(claim, content, partial(self._note, claim, journalled))
                    with trio.fail_after(self._deadline + self._settings.lease_margin / 2):
                        await attempt.run()
        except Exception:
            log.exception("%s: attempt %d failed unexpectedly", claim.envelope.id, claim.number)
        finally:
            if attempt is not None:
                result = self._result_of(attempt, claim)
            with trio.CancelScope(shield=True):
                await self._finish(claim, conclusion.conclude(claim.recipients, result, journalled))

    def _result_of(self, attempt: Attempt, claim: Claim) -> AttemptResult:
        try:
            return attempt.result()
        except Exception:
            log.exception("%s: attempt %d has no result", claim.envelope.id, claim.number)
            return conclusion.interrupted(claim.recipients, started=True)

    async def _finish(self, claim: Claim, result: AttemptResult) -> None:
        settled: Settled | None = None
        try:
            with trio.move_on_after(SETTLE_PATIENCE):
                settled = await self._settle(claim, result)
            if settled is not None:
                await self._remove(settled.removable)
        except Exception:
            log.exception("%s: attempt %d cannot be settled", claim.envelope.id, claim.number)
        finally:
            if settled is None:
                log.critical(
                    "%s: attempt %d is open until its lease expires", claim.envelope.id, claim.number
                )
            del self._running[claim.attempt_id]
            self._busy[claim.domain] -= 1
            self._busy += Counter()  # drops the zeros
            self._wake.set()

    async def _content(self, claim: Claim) -> Content | None:
        """The content; None, and an error in the log, when it cannot be read."""
        try:
            if claim.spool_name is not None:
                content = SpoolContent(self._shard.spool, claim.spool_name, claim.envelope.size)
                await content.read(0, 1)  # a lost file is noticed before any server is bothered
                return content
            data = await self._shard.sql.read(lambda conn: store.content_of(conn, claim.envelope.id))
        except StorageError as error:
            log.error("%s: %s", claim.envelope.id, error)
            return None
        if data is None:
            log.error("%s: its row has no content", claim.envelope.id)
            return None
        return InlineContent(data)

    def _note(
        self, claim: Claim, journalled: dict[int, Reply], recipients: tuple[Recipient, ...], reply: Reply
    ) -> None:
        """A final 2yz has been read for these recipients; synchronous, so that nothing comes in between."""
        ordinals = tuple(recipient.ordinal for recipient in recipients)
        journalled.update(dict.fromkeys(ordinals, reply))
        self._shard.journal.note(Proof(claim.attempt_id, claim.envelope.id, ordinals, reply))

    async def _settle(self, claim: Claim, result: AttemptResult) -> Settled:
        now = self._clock.now()
        settlements = tuple(
            schedule.settle_as(
                recipient,
                outcome,
                self._plan,
                number=claim.number,
                received_at=claim.envelope.received_at,
                now=now,
                rng=self._rng,
            )
            for recipient, outcome in result.outcomes
        )
        headers = b""
        if any(isinstance(each.outcome, Failed) for each in settlements):
            headers = await self._headers(claim)
        work = partial(
            store.settle,
            claim=claim,
            settlements=settlements,
            events=(*result.trace.events, *expiries(claim, result, settlements, now)),
            now=now,
            trace=codec.trace_json(result.trace),
            bounce=self._notifier.writer(claim.envelope, headers, now),
            append=self._append,
        )
        while True:
            try:
                settled = await self._shard.sql.write(work)
                break
            except StorageError as error:
                log.error("%s: settling attempt %d: %s", claim.envelope.id, claim.number, error)
                await trio.sleep(RETRY_AFTER)
        self._shard.journal.settled(claim.attempt_id)
        report(claim, settlements, settled, now)
        self._on_settled()
        return settled

    async def _headers(self, claim: Claim) -> bytes:
        """The start of the content, for the bounce; a bounce without it is better than none."""
        content = await self._content(claim)
        try:
            return b"" if content is None else await content.read(0, MAX_HEADERS)
        except StorageError as error:
            log.error("%s: no header for the bounce: %s", claim.envelope.id, error)
            return b""

    async def _remove(self, names: tuple[str, ...]) -> None:
        if names:
            await trio.to_thread.run_sync(remove, self._shard.spool, names)
