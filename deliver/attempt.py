"""The story of one attempt: some recipients of one message, of one domain, from route to outcomes.

    route   settings → by MX, by a smarthost, or refused
    plan    MX → candidate hosts, ourselves and everything behind us removed
    host    addresses and TLSA → one TLS policy, or the host is refused
    contact one session per address: connect, greet, STARTTLS, judge, transact
    fold    one outcome per recipient; those that another host may help go on to it

An attempt never raises for what the network did. Whatever moment it is cancelled at, `result` says what is
known: a recipient whose final dot may have left is in doubt, one never offered is merely deferred.
"""

from __future__ import annotations

import trio

from deliver.agent import Agent
from deliver.candidates import Candidate, find_candidates, refusal_finding, would_loop
from deliver.demands import demands_of
from deliver.errors import Blame
from deliver.message import Content, Envelope, Recipient
from deliver.net.wire import Journal
from deliver.outcome import AttemptResult, Deferred, Failed, Outcome, Phase, Step, next_step
from deliver.relay.route import Reject, ViaSmarthost, choose, finding
from deliver.report.testimony import Testimony
from deliver.report.trace import Finding, Stage, Trace
from deliver.resolve.mx import HostPlan, MxPlan, NoHost
from deliver.session import Target, Unusable, open_session
from deliver.settings import Destination
from deliver.smtp.batch import Batch
from deliver.smtp.reply import EnhancedCode
from deliver.tls.policy import Refuse, TlsPolicy, clear_text_allowed, decide, in_clear_text
from hints.port import AddressView
from hints.records import Word

LOOKUPS = 5  # hosts looked up at a time
EXTRAS = (Word.CHUNKING, Word.PRDR)  # what a message can do without
PLAIN_EVERY = 3  # every third attempt does without them
RECENT = 300  # seconds for which an unreachable address is tried after the others


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
        journal: Journal = lambda recipients, reply: None,
    ) -> None:
        self._agent = agent
        self._envelope = envelope
        self._recipients = recipients
        self._content = content
        self._journal = journal
        self._number = number
        self._domain = recipients[0].mailbox.domain
        self._open = {recipient.ordinal: recipient for recipient in recipients}
        self._settled: dict[int, Outcome] = {}
        self._latest: dict[int, Outcome] = {}
        self._refusals: list[NoHost] = []
        self._batch: Batch | None = None
        self._contacts = 0
        self._gave_up: str | None = None
        self.trace = Trace()
        self._testimony = Testimony(self.trace, agent.clock.now, envelope, self._domain, number)

    async def run(self) -> None:
        """Deliver as far as possible within `delivery.deadline`."""
        deadline = self._agent.settings.towards(self._domain, None).delivery.deadline
        with trio.move_on_after(deadline) as scope:
            await self._deliver()
        if scope.cancelled_caught:
            self._gave_up = f"the attempt took longer than {deadline:g} s (delivery.deadline)"

    def result(self) -> AttemptResult:
        """One outcome per recipient, whatever has happened so far. Call it once."""
        if self._batch is not None:
            self._fold(self._batch)
        for ordinal, recipient in self._open.items():
            self._settled[ordinal] = self._latest.get(ordinal) or self._without_contact()
            self._testimony.settled(recipient, self._settled[ordinal])
        outcomes = tuple((recipient, self._settled[recipient.ordinal]) for recipient in self._recipients)
        self._testimony.attempt_over(outcomes)
        return AttemptResult(outcomes, self.trace)

    async def _deliver(self) -> None:
        route = choose(self._agent.settings.route, self._domain)
        self._testimony.router = "smarthost" if isinstance(route, ViaSmarthost) else "mx"
        self.trace.add(finding(route, self._domain))
        if isinstance(route, Reject):
            self._settle_all(Failed(route.why, Blame.POLICY, enhanced=EnhancedCode(5, 7, 1)))
            return
        walked = await find_candidates(self._agent, self._domain, route)
        self.trace.extend(walked.findings)
        plan = walked.plan
        if isinstance(plan, NoHost):
            self._testimony.no_route(plan)
            self._settle_all(_outcome_without_host(plan))
            return
        await self._try_hosts(plan)

    async def _try_hosts(self, plan: MxPlan) -> None:
        """Look all hosts up side by side, try them in their order."""
        async with trio.open_nursery() as lookups:
            limit = trio.CapacityLimiter(LOOKUPS)
            hosts = [Candidate(target, self._agent, self._domain, plan) for target in plan.targets]
            for host in hosts:
                lookups.start_soon(host.look_up, limit)
            for host in hosts:
                await host.ready.wait()
                await self._try_host(plan, host)
                if not self._open or self._enough():
                    break
            lookups.cancel_scope.cancel()

    async def _try_host(self, plan: MxPlan, found: Candidate) -> None:
        target, port, destination = found.target, found.port, found.destination
        assert found.walked is not None
        self.trace.extend(found.walked.findings)
        host = found.walked.plan
        if isinstance(host, NoHost):
            self._testimony.no_route(host)
            self._refusals.append(host)
            return
        policy = decide(destination.tls.level, plan, host, demands_of(destination.tls))
        if isinstance(policy, Refuse):
            self.trace.add(policy.finding)
            self._testimony.refused(target.host, port, policy.finding)
            why = Deferred(policy.finding.text, Blame.POLICY, enhanced=EnhancedCode(4, 7, 0))
            self._note_for_all(why, target.host)
            return
        self.trace.extend(policy.findings)
        for view in await self._order(host, port):
            address = view.address
            if (address, port) in self._agent.own_sockets:
                refusal = would_loop(self._domain, f"{target.host} [{address}]:{port} is this host itself")
                self.trace.add(refusal_finding(refusal))
                self._refusals.append(refusal)
                continue
            await self._try_address(
                destination, Target(target.host, address, port, host.secure, self._avoid(view)), policy
            )
            if not self._open or self._enough():
                return

    async def _order(self, host: HostPlan, port: int) -> tuple[AddressView, ...]:
        """The addresses, those that lately could not be reached last: advice, none is skipped."""
        views = await self._agent.hints.look(host.host, host.addresses, port)
        recent = self._agent.clock.now() - RECENT
        shunned = {view.address for view in views if (view.last_failure or 0) > recent and view.failures}
        if shunned and len(shunned) < len(host.addresses):
            text = f"{', '.join(sorted(shunned))} of {host.host} could not be reached lately: tried last"
            self.trace.add(Finding(Stage.CONNECT, "hint-unreachable", text))
        return tuple(sorted(views, key=lambda view: view.address in shunned))

    def _avoid(self, view: AddressView) -> frozenset[Word]:
        """Extensions that broke with this server lately; now and then all, in case a hint is missing."""
        if self._number % PLAIN_EVERY == 0:
            return frozenset(EXTRAS)
        return frozenset(word for word in EXTRAS if view.works(word) is False)

    def _enough(self) -> bool:
        limit = self._agent.settings.towards(self._domain, None).delivery.max_hosts
        if self._contacts < limit:
            return False
        text = f"{limit} addresses were tried in this attempt (delivery.max_hosts): the rest waits"
        self.trace.add(Finding(Stage.CONNECT, "max-hosts", text))
        return True

    async def _try_address(self, destination: Destination, target: Target, policy: TlsPolicy) -> None:
        self._contacts += 1
        try:
            await self._contact(destination, target, policy)
        except Unusable as unusable:
            fallback = destination.tls.clear_text_fallback
            if unusable.tls_failed and clear_text_allowed(policy, tls_offered=True, fallback=fallback):
                clear = in_clear_text(policy, f"TLS with {target} failed and is not required: clear text")
                self.trace.extend(clear.findings)
                self._testimony.fell_back(target.host, unusable.outcome)
                try:
                    await self._contact(destination, target, clear)
                    return
                except Unusable as in_clear:
                    unusable = in_clear
            self._note_for_all(unusable.outcome, target.host)

    async def _contact(self, destination: Destination, target: Target, policy: TlsPolicy) -> None:
        """One session, or several where a server limits its length (RFC 9422 4.1)."""
        recipients = tuple(self._open.values())
        while recipients:
            recipients = await self._one_session(destination, target, policy, recipients)

    async def _one_session(
        self, destination: Destination, target: Target, policy: TlsPolicy, recipients: tuple[Recipient, ...]
    ) -> tuple[Recipient, ...]:
        """Deliver; returns those to whom another session with the same server may deliver."""
        async with open_session(self._agent, destination, target, policy, self._testimony) as session:
            batch = self._batch = session.batch(self._envelope, recipients)
            await session.transact(batch, self._content, self._journal)
        self._fold(batch)
        return batch.unoffered if batch.progress else ()

    def _fold(self, batch: Batch) -> None:
        """Take over what a session's transactions found out; those whom another host may help stay open."""
        self._batch = None
        self.trace.extend(batch.findings())
        for recipient, outcome in batch.outcomes():
            if batch.progress and recipient in batch.unoffered:
                self._latest[recipient.ordinal] = outcome
                continue
            self._testimony.tried(recipient, outcome)
            if next_step(outcome) is Step.STOP:
                self._settle(recipient, outcome)
            else:
                self._latest[recipient.ordinal] = outcome

    def _settle(self, recipient: Recipient, outcome: Outcome) -> None:
        self._settled[recipient.ordinal] = outcome
        del self._open[recipient.ordinal]
        self._testimony.settled(recipient, outcome)

    def _settle_all(self, outcome: Outcome) -> None:
        for recipient in tuple(self._open.values()):
            self._settle(recipient, outcome)

    def _note_for_all(self, outcome: Deferred | Failed, host: str) -> None:
        self._testimony.host_deferred(host, outcome)
        for ordinal in self._open:
            self._latest[ordinal] = outcome

    def _without_contact(self) -> Outcome:
        """For a recipient that no session reached."""
        if self._gave_up:
            return Deferred(self._gave_up, Blame.LOCAL, Phase.CONNECT, enhanced=EnhancedCode(4, 4, 7))
        if not self._refusals:
            return Deferred("the attempt was interrupted", Blame.LOCAL, enhanced=EnhancedCode(4, 3, 2))
        temporary = next((refusal for refusal in self._refusals if not refusal.permanent), None)
        return _outcome_without_host(temporary or self._refusals[-1])


def _outcome_without_host(refusal: NoHost) -> Deferred | Failed:
    enhanced = EnhancedCode(*refusal.enhanced)
    if refusal.permanent:
        return Failed(refusal.why, Blame.DESTINATION, enhanced=enhanced)
    return Deferred(refusal.why, Blame.DESTINATION, enhanced=enhanced)
