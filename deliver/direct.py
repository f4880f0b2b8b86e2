"""Delivery without a queue of ours: one message, now, answered within a time; its caller keeps it meanwhile.

    until the last call     hosts are tried, messages completed
    from the last call on   no further host, no further final dot: a server may only answer what it has
    at the deadline         whoever has no outcome is deferred, and the answer is given
    after that              a server that has the whole message may still answer: its reply is put down,
                            and the caller's next try is answered with it instead of a second copy

Recipients are grouped by domain. The domains are delivered side by side, each when it is its turn on the
lanes and under the limits, which are those of the queue. Outcomes and events of a domain are on record before
`deliver` returns them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count

import trio

from deliver.agent import Agent
from deliver.attempt import Attempt
from deliver.errors import Blame, StorageError
from deliver.message import Content, Envelope, Recipient
from deliver.outcome import AttemptResult, Deferred, Delivered, Failed, Outcome, Phase
from deliver.queue import conclusion
from deliver.queue.claiming import sender_key
from deliver.queue.turns import PATIENCE, Closed, Turn, Turns
from deliver.records import Records
from deliver.report.result import log_outcome
from deliver.report.testimony import Testimony
from deliver.report.trace import Finding, Stage, Trace
from deliver.settled import Job
from deliver.smtp.reply import EnhancedCode

DOMAINS_AT_A_TIME = 20  # of one message
LEASE_MARGIN = 900.0  # seconds; a server may take 10 minutes to answer the final dot (RFC 5321 4.5.3.2.6)
SETTLE_PATIENCE = 30.0  # seconds to put down what became of a delivery that was cancelled
LONG_PATIENCE = 600.0  # seconds for a place on a lane, where the caller gives no deadline
SHARE = 0.25  # of the time to the deadline that a server gets to answer the final dot,
LONGEST_SHARE = 120.0  # and the most of it, seconds

NO_TIME = "no time is left for this delivery before its caller must be answered"
UNANSWERED = "the server has the whole message and has not answered yet"
STOPPING = "the service is stopping"

_log = logging.getLogger("outrider.delivery")

Result = tuple[Recipient, Outcome, Trace]


@dataclass(frozen=True, slots=True)
class Limit:
    """Moments on trio's clock."""

    last_call: float = math.inf
    deadline: float = math.inf

    @classmethod
    def within(cls, seconds: float) -> Limit:
        """The deadline after so many seconds, and the last call early enough for a server to answer."""
        deadline = trio.current_time() + seconds
        return cls(deadline - min(seconds * SHARE, LONGEST_SHARE), deadline)


class Direct:
    """Delivers messages as they come; `run` must be running."""

    def __init__(self, agent: Agent, records: Records | None, turns: Turns) -> None:
        """`turns`: when attempts may begin, over all messages. Without records nothing is put down."""
        self._agent = agent
        self._records = records
        self._turns = turns
        self._numbers = count(1)
        self._nursery: trio.Nursery | None = None
        self._under_way: set[_Errand] = set()
        self._empty = trio.Event()
        self._stopping = False
        self._interrupted = False
        self.ended = trio.Event()

    def reload(self, agent: Agent) -> None:
        """Deliver what comes from now on by `agent`'s settings; what is under way goes on with its own."""
        self._agent = agent

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until `stop`, and the end of what is under way."""
        async with trio.open_nursery() as waiting, trio.open_nursery() as nursery:
            waiting.start_soon(self._turns.run)
            self._nursery = nursery
            task_status.started()
            while not self._stopping or self._under_way:
                self._empty = trio.Event()
                await self._empty.wait()
            waiting.cancel_scope.cancel()
        self._nursery = None
        self.ended.set()

    def stop(self) -> None:
        """No message comes any more."""
        self._stopping = True
        self._empty.set()

    def interrupt(self) -> None:
        """End what is under way, and what comes; what a server may have is in doubt."""
        self._interrupted = True
        for errand in tuple(self._under_way):
            errand.interrupt()

    async def deliver(
        self, envelope: Envelope, content: Content, job: Job | None, limit: Limit
    ) -> tuple[Result, ...]:
        """One result per recipient, in their order. Raises StorageError when nothing was begun.

        Cancelling this ends the wait; what is under way goes on.
        """
        known: dict[int, tuple[Outcome, Trace]] = {}
        to_do = envelope.recipients
        if job is not None and self._records is not None:
            lease = self._lease(limit)
            opened = await self._records.begin(job, envelope, lease)
            known = {ordinal: (outcome, _as_before(outcome)) for ordinal, outcome in opened.known.items()}
            to_do = opened.open
        if to_do:
            known |= await self._deliver(envelope, to_do, content, job, limit)
        return tuple((recipient, *known[recipient.ordinal]) for recipient in envelope.recipients)

    async def _deliver(
        self,
        envelope: Envelope,
        recipients: tuple[Recipient, ...],
        content: Content,
        job: Job | None,
        limit: Limit,
    ) -> dict[int, tuple[Outcome, Trace]]:
        assert self._nursery is not None, "not running"
        patience = PATIENCE if limit.deadline < math.inf else LONG_PATIENCE
        errand = _Errand(
            self._agent,
            self._records,
            envelope,
            recipients,
            content,
            job,
            self._numbers,
            patience,
            in_company=lambda: len(self._under_way) > 1,
        )
        if self._interrupted:
            errand.interrupt()
        self._under_way.add(errand)
        self._nursery.start_soon(self._carry_out, errand)
        with trio.move_on_at(limit.last_call):
            await errand.done.wait()
        if not errand.done.is_set():
            errand.last_call()
            with trio.move_on_at(limit.deadline):
                await errand.done.wait()
        return errand.results()

    async def _carry_out(self, errand: _Errand) -> None:
        try:
            await errand.run(self._turns)
        except Exception:  # a bug must not take the service along; what is known is the answer
            _log.exception("a delivery failed unexpectedly")
        finally:
            self._under_way.discard(errand)
            self._empty.set()

    def _lease(self, limit: Limit) -> float:
        """Seconds after which nothing of this can be under way any more."""
        settings = self._agent.settings
        longest = min(limit.deadline - trio.current_time(), settings.delivery.deadline)
        return longest + settings.smtp.timeouts.dot + LEASE_MARGIN


class _Errand:
    """One message on its way to those of its recipients that need it."""

    def __init__(
        self,
        agent: Agent,
        records: Records | None,
        envelope: Envelope,
        recipients: tuple[Recipient, ...],
        content: Content,
        job: Job | None,
        numbers: count[int],
        patience: float,
        *,
        in_company: Callable[[], bool],
    ) -> None:
        """`in_company`: whether other messages are under way."""
        self._patience = patience
        self._in_company = in_company
        self._agent = agent
        self._records = records
        self._envelope = envelope
        self._recipients = recipients
        self._job = job
        self.done = trio.Event()
        self._results: dict[int, tuple[Outcome, Trace]] = {}
        self._content = _TimelyContent(content)
        by_domain: dict[str, list[Recipient]] = {}
        for recipient in recipients:
            by_domain.setdefault(recipient.mailbox.domain, []).append(recipient)
        self._legs = [_Leg(next(numbers), tuple(group)) for group in by_domain.values()]

    async def run(self, turns: Turns) -> None:
        """Deliver all; every outcome is put down, also when cancelled."""
        try:
            if len(self._legs) == 1:
                await self._go(self._legs[0], turns)
            else:
                await self._go_side_by_side(turns)
        finally:
            self.done.set()

    async def _go_side_by_side(self, turns: Turns) -> None:
        own = trio.CapacityLimiter(DOMAINS_AT_A_TIME)
        async with trio.open_nursery() as nursery:
            for leg in self._legs:
                nursery.start_soon(self._go, leg, turns, own)

    def last_call(self) -> None:
        """Nothing is begun any more; what is not in doubt yet ends."""
        self._content.closed = NO_TIME
        for leg in self._legs:
            leg.last_call(NO_TIME)

    def interrupt(self) -> None:
        """Everything ends."""
        self._content.closed = STOPPING
        for leg in self._legs:
            leg.last_call(STOPPING)
            leg.scope.cancel()

    def results(self) -> dict[int, tuple[Outcome, Trace]]:
        """What is known now, by ordinal."""
        found: dict[int, tuple[Outcome, Trace]] = {}
        for leg in self._legs:
            for recipient in leg.recipients:
                found[recipient.ordinal] = self._results.get(recipient.ordinal) or leg.so_far(recipient)
        return found

    async def _go(self, leg: _Leg, turns: Turns, own: trio.CapacityLimiter | None = None) -> None:
        """One domain, while there is room in `own`; never raises an Exception."""
        journalled: dict[int, Delivered] = {}
        try:
            with leg.scope:
                if own is None:
                    await self._attempt(leg, turns, journalled)
                else:
                    async with own:
                        await self._attempt(leg, turns, journalled)
        except Closed as closed:
            leg.last_call(str(closed))
        except Exception:  # a bug must cost this domain a deferral, not the others their outcome
            _log.exception("%s: an attempt failed unexpectedly", self._envelope.id)
        finally:
            result = conclusion.conclude(leg.recipients, leg.result(), journalled)
            if leg.attempt is None:
                self._testify(leg, result)
            try:
                if leg.turn is not None:
                    turns.end(leg.turn, result)
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + SETTLE_PATIENCE):
                    await self._settle(leg, result)

    async def _attempt(self, leg: _Leg, turns: Turns, journalled: dict[int, Delivered]) -> None:
        def journal(recipients: tuple[Recipient, ...], outcome: Delivered) -> None:
            journalled.update({recipient.ordinal: outcome for recipient in recipients})
            if self._job is not None and self._records is not None:
                self._records.note(leg.number, self._envelope, recipients, outcome)

        leg.turn = await turns.take(leg.domain, sender_key(self._envelope), self._patience)
        leg.attempt = Attempt(self._agent, self._envelope, leg.recipients, self._content, journal=journal)
        await leg.attempt.run()

    def _testify(self, leg: _Leg, result: AttemptResult) -> None:
        """Deferred without an attempt: nobody else says so."""
        testimony = Testimony(result.trace, self._agent.clock.now, self._envelope, leg.domain, 1)
        testimony.attempt_over(result.outcomes)

    async def _settle(self, leg: _Leg, result: AttemptResult) -> None:
        if self._records is not None:
            await self._records.settle(
                self._job,
                leg.number,
                self._envelope,
                result.outcomes,
                result.trace.events,
                in_company=self._in_company(),
            )
        for recipient, outcome in result.outcomes:
            self._results[recipient.ordinal] = (outcome, result.trace)
            log_outcome(self._envelope, recipient, outcome, attempt=1)


class _Leg:
    """The recipients of one domain; `attempt` once it was begun."""

    def __init__(self, number: int, recipients: tuple[Recipient, ...]) -> None:
        self.number = number
        self.recipients = recipients
        self.domain = recipients[0].mailbox.domain
        self.turn: Turn | None = None
        self.attempt: Attempt | None = None
        self.scope = trio.CancelScope()
        self._why = ""

    def last_call(self, why: str) -> None:
        """No other host; ended unless a server has the whole message and only has to answer."""
        self._why = self._why or why
        if self.attempt is not None:
            self.attempt.last_call(why)
        if self.attempt is None or not self.attempt.in_doubt:
            self.scope.cancel()

    def result(self) -> AttemptResult:
        """What became of it, once it has ended."""
        if self.attempt is None:
            return self._not_begun()
        try:
            result = self.attempt.result()
        except Exception:
            _log.exception("an attempt has no result")
            return conclusion.interrupted(self.recipients, started=True)
        return self._explained(result) if self.scope.cancelled_caught else result

    def _explained(self, result: AttemptResult) -> AttemptResult:
        """With our reason for ending it, where nothing better is known."""
        outcomes = tuple(
            (
                recipient,
                replace(outcome, why=self._why, blame=Blame.LOCAL)
                if isinstance(outcome, Deferred) and outcome.reply is None and not outcome.in_doubt
                else outcome,
            )
            for recipient, outcome in result.outcomes
        )
        return AttemptResult(outcomes, result.trace, result.site)

    def so_far(self, recipient: Recipient) -> tuple[Outcome, Trace]:
        """The recipient's outcome while the attempt goes on: its own, or in doubt."""
        if self.attempt is None:
            return self._not_begun().outcomes[0][1], Trace()
        outcome = self.attempt.known(recipient)
        if outcome is None:
            code = EnhancedCode(4, 4, 2)
            outcome = Deferred(UNANSWERED, Blame.HOST, Phase.DOT, enhanced=code, in_doubt=True)
        return outcome, self.attempt.trace

    def _not_begun(self) -> AttemptResult:
        outcome = Deferred(self._why or STOPPING, Blame.LOCAL, enhanced=EnhancedCode(4, 3, 2))
        return AttemptResult(tuple((recipient, outcome) for recipient in self.recipients), Trace())


class _TimelyContent:
    """The content until it is `closed` for a reason: then no message can be completed any more."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self.closed = ""

    @property
    def size(self) -> int:
        """Octets."""
        return self._content.size

    async def read(self, offset: int, length: int) -> bytes:
        """See `deliver.message.Content`. Raises StorageError once it is closed."""
        if self.closed:
            raise StorageError("sending the message", self.closed, "it is tried again")
        return await self._content.read(offset, length)


def _as_before(outcome: Outcome) -> Trace:
    """The trace of an answer that an earlier delivery gave."""
    trace = Trace()
    said = {Delivered: "delivered before", Failed: "failed before"}.get(type(outcome), "under way already")
    trace.add(Finding(Stage.OUTCOME, "settled-before", f"{said}: nothing was sent this time"))
    return trace
