"""The story of one attempt: some recipients of one message, of one domain, from route to outcomes.

    route   settings → by MX, by a smarthost, or refused
    plan    MX → candidate hosts, ourselves and everything behind us removed
    host    addresses and TLSA → one TLS policy, or the host is refused
    reach   an idle session, else the first address to connect: greet, STARTTLS, judge
    contact transact; one session, or several where the server limits its length
    fold    one outcome per recipient; those that another host may help go on to it

An attempt never raises for what the network did. Whatever moment it is cancelled at, `result` says what is
known: a recipient whose final dot may have left is in doubt, one never offered is merely deferred.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import trio

from deliver.addresses import Tries, elsewhere_first, targets_at
from deliver.agent import Agent
from deliver.candidates import find_candidates, owed_by_policy, refusal_finding
from deliver.course import Course, Host
from deliver.demands import pinned_by
from deliver.errors import Blame, StorageError
from deliver.fallback import applies
from deliver.level import Level
from deliver.message import Content, Envelope, Recipient
from deliver.net.wire import Journal
from deliver.outcome import (
    AttemptResult,
    Deferred,
    Failed,
    Outcome,
    Phase,
    Place,
    Step,
    after_another_host,
    failed_for_now,
    next_step,
)
from deliver.presentation import Presentation
from deliver.reach import Reach
from deliver.relay.route import Reject, finding
from deliver.report.testimony import Testimony
from deliver.report.trace import Finding, Stage, Trace
from deliver.resolve.answer import Answer
from deliver.resolve.mx import HostPlan, MxPlan, NoHost
from deliver.session import Target, Unusable
from deliver.smtp.batch import Batch
from deliver.smtp.plan import needs_8bitmime
from deliver.smtp.reply import EnhancedCode
from deliver.tls.policy import (
    Floor,
    Refuse,
    TlsPolicy,
    at_least,
    clear_text_allowed,
    floor_of,
    floor_unknown,
    in_clear_text,
)
from deliver.tls.requiretls import required_by_sender
from deliver.unreached import temporary, unreached

IN_7BIT = "no other host is left, and the message is not signed: it is sent in 7-bit text"
LOOKUPS = 5  # hosts looked up at a time


class Attempt:
    """One attempt; `run` it, then ask for the `result`, also after a cancellation."""

    def __init__(
        self,
        agent: Agent,
        envelope: Envelope,
        recipients: tuple[Recipient, ...],
        content: Content,
        *,
        number: int = 1,
        tried: Place | None = None,
        journal: Journal = lambda recipients, delivered: None,
        took: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """`took(seconds)` is called when `run` ends."""
        self._agent = agent
        self._envelope = envelope
        self._recipients = recipients
        self._presentation = Presentation(envelope, content)
        self._without_8bit: Reach | None = None  # the first server that lacks 8BITMIME
        self._journal = journal
        self._took = took
        self._tries = Tries(number, tried)
        self._domain = recipients[0].mailbox.domain
        self._limit = 0  # of addresses that are tried
        self._open = {recipient.ordinal: recipient for recipient in recipients}
        self._settled: dict[int, Outcome] = {}
        self._latest: dict[int, Outcome] = {}
        self._refusals: list[NoHost] = []
        self._batch: Batch | None = None
        self._contacts = 0
        self._gave_up: str | None = None
        self._over = False
        self._rest: str | None = None  # why hosts or addresses were left for a later attempt
        self._by_settings = False  # the hosts in turn are named by the settings, not by DNS
        self._floor = Floor.ANY  # of the hosts in turn
        self._owed = Floor.ANY  # by the hosts so far
        self._record: Answer | None = None  # about the MTA-STS policy of the domain
        self._site: str | None = None
        self.trace = Trace()
        self._testimony = Testimony(self.trace, agent.clock.now, envelope, self._domain, number)

    async def run(self, scope: trio.CancelScope | None = None) -> None:
        """Deliver as far as possible within `delivery.deadline`.

        `scope`: what the caller has entered for this attempt alone; it will end no later than that.
        """
        if scope is None:
            with trio.CancelScope() as scope:
                await self.run(scope)
            return
        sender = self._envelope.reverse_path
        course = self._agent.courses.of(self._agent.settings, self._domain, sender)
        self._limit = course.max_hosts
        began = trio.current_time()
        ends = began + course.deadline
        scope.deadline = min(scope.deadline, ends)
        try:
            await self._deliver(course)
            self._over = True
        finally:
            now = trio.current_time()
            self._took(now - began)
            if not self._over and now >= ends:
                self._gave_up = f"the attempt took longer than {course.deadline:g} s (delivery.deadline)"

    def result(self) -> AttemptResult:
        """One outcome per recipient, whatever has happened so far. Call it once."""
        if self._batch is not None:
            self._fold(self._batch)
        for ordinal, recipient in self._open.items():
            self._settled[ordinal] = self._for_now(self._latest.get(ordinal) or self._without_contact())
            self._testimony.settled(recipient, self._settled[ordinal])
        outcomes = tuple([(recipient, self._settled[recipient.ordinal]) for recipient in self._recipients])
        self._testimony.attempt_over(outcomes)
        return AttemptResult(outcomes, self.trace, self._site)

    @property
    def in_doubt(self) -> bool:
        """Whether a server has the whole message now and has not answered yet."""
        transaction = self._batch.current if self._batch is not None else None
        return transaction is not None and transaction.in_doubt

    def known(self, recipient: Recipient) -> Outcome | None:
        """The recipient's outcome if it is settled already."""
        return self._settled.get(recipient.ordinal)

    def last_call(self, why: str) -> None:
        """Contact no other host from now on; `why` is the reason for those whom that leaves over."""
        self._gave_up = why

    def progress(self) -> int:
        """A number that grows whenever something was found out."""
        return len(self.trace.findings) + len(self.trace.events)

    async def _deliver(self, course: Course) -> None:
        route = course.route
        self._testimony.router = course.router
        self.trace.findings.append(course.finding)
        self._by_settings = course.by_settings
        if isinstance(route, Reject):
            self._settle_all(Failed(route.why, Blame.POLICY, enhanced=EnhancedCode(5, 7, 1)))
            return
        walked = await course.candidates(self._agent)
        self.trace.findings += walked.findings
        plan = walked.plan
        if isinstance(plan, NoHost):
            self._testimony.no_route(plan)
            self._refuse(
                plan, route.level or self._agent.settings.towards(self._domain, None).tls.level, None
            )
            outcome = self._without_contact()
            self._latest = dict.fromkeys(self._open, outcome)
            await self._fall_back(course)
            for ordinal, recipient in tuple(self._open.items()):
                self._settle(recipient, self._latest[ordinal])
            return
        self._site = course.site
        if self._tries.last is not None and course.by_preference:
            plan = replace(plan, targets=elsewhere_first(plan.targets, self._tries.last))
        await self._try_hosts(plan, [course.host(self._agent, target, plan) for target in plan.targets])
        if self._open:
            await self._in_7bit()
            await self._fall_back(course)

    async def _fall_back(self, course: Course) -> None:
        """The hosts of last resort, for those whom the route's own hosts did not serve."""
        fallback = None if isinstance(course.route, Reject) else course.route.fallback
        if fallback is None or self._gave_up or not self._open:
            return
        without = self._without_contact()
        for ordinal, recipient in tuple(self._open.items()):
            outcome = self._latest.setdefault(ordinal, without)
            if not applies(fallback, self._tries.number, outcome):
                self._settle(recipient, outcome)
        if self._open:
            owed, why = await owed_by_policy(self._agent, self._domain, course.route, self._record)
            self.trace.findings += why
            self._owed = max(self._owed, owed)
            if course.login is not None and not course.login.in_clear:
                self._owed = Floor.AUTHENTICATED
            self._floor, self._by_settings = self._owed, True
            self._contacts, self._without_8bit = 0, None
            self.trace.add(finding(fallback.to, self._domain))
            walked = await find_candidates(self._agent, self._domain, fallback.to)
            plan = walked.plan
            assert isinstance(plan, MxPlan), "the hosts are given"
            hosts = [Host(target, self._agent, self._domain, plan) for target in plan.targets]
            await self._try_hosts(plan, hosts)
            await self._in_7bit()

    async def _try_hosts(self, plan: MxPlan, hosts: Sequence[Host]) -> None:
        """Look all hosts up side by side that are not known, try them in their order."""
        unknown = [host for host in hosts if host.walked is None]
        if len(hosts) == 1 and unknown:  # there is nothing to do beside it
            await hosts[0].look_up_at_once()
            unknown = []
        if not unknown:
            await self._try_in_order(plan, hosts)
            return
        async with trio.open_nursery() as lookups:
            limit = trio.CapacityLimiter(LOOKUPS)
            for host in unknown:
                lookups.start_soon(host.look_up, limit)
            await self._try_in_order(plan, hosts)
            lookups.cancel_scope.cancel()

    async def _try_in_order(self, plan: MxPlan, hosts: Sequence[Host]) -> None:
        left = len(hosts)
        for host in hosts:
            left -= 1
            if host.walked is None:
                await host.ready.wait()
            untried = await self._try_host(plan, host)
            if not self._open or ((left or untried) and self._enough()):
                break

    async def _try_host(self, plan: MxPlan, found: Host) -> int:
        """Returns how many of its addresses are left."""
        target, port, destination = found.target, found.port, found.destination
        assert found.walked is not None
        self._record = found.record or self._record
        self.trace.findings += found.walked.findings
        host = found.walked.plan
        if isinstance(host, NoHost):
            self._testimony.no_route(host)
            self._refuse(host, destination.tls.level, plan)
            return 0
        policy = self._policy(plan, found, host)
        if isinstance(policy, Refuse):
            self.trace.add(policy.finding)
            self._testimony.refused(target.host, port, policy.finding)
            why = Deferred(policy.finding.text, Blame.POLICY, enhanced=EnhancedCode(4, 7, 0))
            self._note_for_all(why, target.host)
            return 0
        self.trace.findings += policy.findings
        chosen = await targets_at(self._agent, self._domain, found, host, self._tries)
        self.trace.findings += chosen.findings
        if chosen.refusals:
            self.trace.extend(map(refusal_finding, chosen.refusals))
            self._refusals.extend(chosen.refusals)
        worth = chosen.targets[: self._limit - self._contacts]
        reach = Reach(self._agent, destination, policy, self._testimony, worth, self._note_for_all)
        while reach.waiting and self._open and not self._gave_up:
            await self._try_address(reach)
        self._contacts += len(worth) - len(reach.waiting)
        return len(chosen.targets) - len(worth)

    def _policy(self, plan: MxPlan, found: Host, host: HostPlan) -> TlsPolicy | Refuse:
        """What is asked of the host, raised to what hosts before were held to and to what the sender asks."""
        policy, floor = found.policy(host)
        if floor < self._floor:
            policy = at_least(self._floor, policy, plan, host)
            floor = floor_of(policy)
        if self._envelope.requires_tls:
            policy = required_by_sender(policy, plan, host, pinned_by(found))
            floor = floor_of(policy)
        self._owed = max(self._owed, floor)
        return policy

    def _refuse(self, refusal: NoHost, level: Level, plan: MxPlan | None) -> None:
        """A host, or with `plan` None the whole domain, is out of reach."""
        self._refusals.append(refusal)
        if not refusal.permanent:
            possible = plan is None or plan.secure or plan.implicit
            self._owed = max(self._owed, floor_unknown(level, tlsa_possible=possible))

    def _enough(self) -> bool:
        if self._gave_up:
            return True
        if self._contacts < self._limit:
            return False
        if self._rest is None:
            self._rest = (
                f"{self._limit} addresses were tried in this attempt (delivery.max_hosts): the rest waits"
            )
            self.trace.add(Finding(Stage.CONNECT, "max-hosts", self._rest))
        return True

    async def _try_address(self, reach: Reach) -> None:
        try:
            await self._contact(reach)
        except StorageError as error:
            self._cannot_read(error)
        except Unusable as unusable:
            fallback = reach.destination.tls.clear_text_fallback
            if unusable.tls_failed and clear_text_allowed(reach.policy, tls_offered=True, fallback=fallback):
                target = unusable.target
                why = f"TLS with {target} failed and is not required: clear text"
                clear = in_clear_text(reach.policy, why)
                self.trace.extend(clear.findings)
                self._testimony.fell_back(target.host, unusable.outcome)
                try:
                    await self._contact(reach.once_more(target, clear))
                    return
                except Unusable as in_clear:
                    unusable = in_clear
            self._batch = None  # nothing in it counts
            self._note_for_all(unusable.outcome)

    async def _contact(self, reach: Reach) -> None:
        """One session, or several where a server limits its length (RFC 9422 4.1)."""
        recipients, fresh = tuple(self._open.values()), False
        while recipients:
            session = await reach.open(fresh=fresh)
            ended: str | None = "interrupted"
            try:
                envelope, content = await self._presentation.towards(session.offers)
                batch = self._batch = session.batch(envelope, recipients)
                await session.transact(batch, content, self._journal)
                ended = None
            except Unusable as unusable:
                ended = unusable.outcome.why
                raise
            finally:
                await reach.leave(session, ended)
            fresh = session.contact.reused and batch.came_to_nothing
            if fresh:
                self._reuse_failed(session.target)
            else:
                recipients = self._fold(batch)
            if not self._open:
                return
            reach = reach.once_more(session.target, reach.policy)
            if not fresh and any(needs_8bitmime(outcome) for _, outcome in batch.outcomes()):
                self._without_8bit = self._without_8bit or reach

    async def _in_7bit(self) -> None:
        """The last resort for 8-bit text, when every host was tried (RFC 6152 3)."""
        reach = self._without_8bit
        if reach is None or not self._open or self._gave_up:
            return
        try:
            converted = await self._presentation.convert()
        except StorageError as error:
            self._cannot_read(error)
            return
        if converted:
            self.trace.add(Finding(Stage.TRANSACTION, "converted", IN_7BIT, rfc="RFC 6152 3"))
            await self._try_address(reach)
        else:
            text = f"the message stays in 8-bit text: {self._presentation.why_not}"
            self.trace.add(Finding(Stage.TRANSACTION, "not-converted", text, rfc="RFC 6152 3"))

    def _cannot_read(self, error: StorageError) -> None:
        why = Deferred(str(error), Blame.LOCAL, Phase.BODY, enhanced=EnhancedCode(4, 3, 0))
        self._settle_all(why)

    def _reuse_failed(self, target: Target) -> None:
        """A session that had ended, or was not meant to be used again, says nothing about the message."""
        self._batch = None
        text = f"The open session with {target} was of no use any more: a new connection"
        self.trace.add(Finding(Stage.CONNECT, "reuse-failed", text))

    def _fold(self, batch: Batch) -> tuple[Recipient, ...]:
        """Take over what a session's transactions found out; those whom another host may help stay open.

        Returns whom another session with the same server may serve.
        """
        self._batch = None
        self.trace.findings += batch.findings()
        left = batch.unoffered if batch.unoffered and batch.progress else ()
        for recipient, outcome in batch.outcomes():
            if left and recipient in left:
                self._latest[recipient.ordinal] = outcome
                continue
            self._testimony.tried(recipient, outcome)
            if next_step(outcome) is Step.STOP:
                self._settle(recipient, outcome)
            else:
                before = self._latest.get(recipient.ordinal)
                self._latest[recipient.ordinal] = after_another_host(before, outcome)
        return left

    def _settle(self, recipient: Recipient, outcome: Outcome) -> None:
        self._settled[recipient.ordinal] = outcome
        del self._open[recipient.ordinal]
        self._testimony.settled(recipient, outcome)

    def _settle_all(self, outcome: Outcome) -> None:
        for recipient in tuple(self._open.values()):
            self._settle(recipient, outcome)

    def _note_for_all(self, outcome: Deferred, host: str = "") -> None:
        self._testimony.host_deferred(outcome.contact.host if outcome.contact else host, outcome)
        if next_step(outcome) is Step.STOP:
            self._settle_all(outcome)
        for ordinal in self._open:
            self._latest[ordinal] = outcome

    def _without_contact(self) -> Outcome:
        """For a recipient that no session reached."""
        return unreached(self._refusals, self._gave_up, by_settings=self._by_settings)

    def _for_now(self, outcome: Outcome) -> Outcome:
        """A recipient whom a host that was not asked may take has not failed."""
        if not isinstance(outcome, Failed):
            return outcome
        if (refusal := temporary(self._refusals)) is not None:
            return failed_for_now(outcome, refusal.why)
        why = self._gave_up or self._rest or (None if self._over else "the attempt was interrupted")
        return outcome if why is None else failed_for_now(outcome, why)
