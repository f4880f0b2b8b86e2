"""A session that serves one message after the other, each as well proven as on a connection of its own.

    terms     what cannot be had afterwards: equal, or the message gets another session
    adopt     for another message: the vetoes are asked again, the certificate is judged again, under this
              message's policy, at this moment; only then is it used. Of the same question within one second
              (MOMENT) the answer still holds
    rest      nothing is due and another transaction may begin: it may wait for the next message

Nothing is said to the server in between: the next MAIL follows the final reply (RFC 5321 3.3), after RSET
only where a transaction was left open. What a message cost (round trips, events) is counted for that message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import trio
from msgspec import Struct

from deliver.agent import Agent
from deliver.encounter import Target
from deliver.net.ledger import Ledger
from deliver.outcome import Phase
from deliver.relay.route import Login
from deliver.report.testimony import Testimony
from deliver.report.trace import Finding, Stage, Verdict
from deliver.securing import Securing
from deliver.settings import Destination, Tls
from deliver.smtp.ehlo import Limits
from deliver.tls.crl import RevocationLists
from deliver.tls.hello import Hello
from deliver.tls.judge import judge
from deliver.tls.pkix import TrustStore
from deliver.tls.policy import Authentication, Level, TlsPolicy
from deliver.tls.verdict import Handshake, TlsVerdict
from events.catalogue import Event

UNHEARD = 0.05  # seconds without a listener after which we look whether the server is still there
MOMENT = 1.0  # seconds for which a verdict holds; a handshake may take longer


class Terms(Struct, frozen=True):
    """What a connection was opened under and cannot change any more.

    Reference identifiers, TLSA records, staples and revocation lists are no part of it: they are judged again
    for each message. `login`: the identity under which we logged in.
    """

    host: str
    address: str
    port: int
    source: str | None
    helo: str
    level: Level
    use_tls: bool
    required: bool
    authentication: Authentication
    sni: str
    request_ocsp: bool
    tls: Tls
    min_rate: int
    login: Login | None = None


def terms_of(agent: Agent, destination: Destination, target: Target, policy: TlsPolicy) -> Terms:
    """The terms of a session for a message; equal terms and a new judgement are what reuse needs."""
    delivery = destination.delivery
    return Terms(
        *target.place,
        source=delivery.source_ipv6 if ":" in target.address else delivery.source_ipv4,
        helo=delivery.helo or agent.helo,
        level=policy.level,
        use_tls=policy.use_tls,
        required=policy.required,
        authentication=policy.authentication,
        sni=policy.sni,
        request_ocsp=policy.request_ocsp,
        tls=destination.tls,
        min_rate=destination.smtp.min_rate,
        login=target.login,
    )


class _Judged(NamedTuple):
    """What was asked, when in seconds since the epoch, and the answer."""

    question: tuple[TlsPolicy, Handshake, TrustStore, RevocationLists]
    at: float
    verdict: TlsVerdict


class Reusing(Securing):
    """What outlives a message, and the change from one to the next."""

    def __init__(
        self,
        agent: Agent,
        destination: Destination,
        target: Target,
        policy: TlsPolicy,
        testimony: Testimony,
        hello: Hello | None = None,
    ) -> None:
        super().__init__(agent, destination, target, policy, testimony, hello)
        self.terms = terms_of(agent, destination, target, policy)
        self.opened_at = trio.current_time()
        self.messages = 0
        self._transactions = 0
        self._judged: _Judged | None = None

    @property
    def target(self) -> Target:
        """Where it goes."""
        return self._target

    @property
    def usable(self) -> bool:
        """Whether another transaction may begin on it."""
        wire = self._wire
        if wire is None or not wire.reusable or (self._policy.required and self.contact.tls is None):
            return False
        most = self._offers.limits.mailmax
        return most is None or self._transactions < most

    @property
    def _limits(self) -> Limits:
        """What the server announced, less the transactions that it has had (RFC 9422 4.1)."""
        limits = self._offers.limits
        if limits.mailmax is None:
            return limits
        return replace(limits, mailmax=max(0, limits.mailmax - self._transactions))

    async def catch_up(self) -> None:
        """See `deliver.pool.Idle`."""
        await self._open_wire.catch_up()

    async def overhear(self) -> None:
        """See `deliver.pool.Idle`."""
        await self._open_wire.overhear()

    def rest(self) -> None:
        """The message is served: what it cost goes on record. While it rests, nothing is told."""
        ledger = self._open_wire.ledger
        if ledger.flights:
            self._trace.findings.append(ledger.finding(self._target.host))

    async def part(self, why: str) -> Sequence[Event]:
        """See `deliver.pool.Idle`."""
        trace = self._events.part()
        try:
            await self._open_wire.close()
        finally:
            self._events.closed(self.contact, why, messages=self.messages)
        return tuple(trace.events)

    async def cut_off(self) -> None:
        """See `deliver.pool.Idle`."""
        await self._open_wire.cut_off()

    async def adopt(
        self,
        agent: Agent,
        destination: Destination,
        target: Target,
        policy: TlsPolicy,
        testimony: Testimony,
    ) -> bool:
        """Go over to another message with the same terms. False: it does not serve, and is to be closed.

        Raises Unusable where an event action refuses the message this server; the session is as it was.
        """
        self._agent = agent  # not the one it was opened by: settings are read again while it lives
        self._destination, self._target, self._policy = destination, target, policy
        self._trace, self._domain = testimony.trace, testimony.domain
        self._events.serve(testimony, policy, target.secure)
        if not self.contact.reused:
            self.contact = replace(self.contact, reused=True)
        wire = self._open_wire
        wire.pace.timeouts, wire.pace.min_rate = destination.smtp.timeouts, destination.smtp.min_rate
        wire.ledger = Ledger()
        if not agent.gate.open and not await self._asked_again():
            return False
        if not self._holds_today():
            return False
        self._trace.findings.append(_serves_again(str(target)))
        return True

    async def _asked_again(self) -> bool:
        """The vetoes, for this message; whether the server is still there after them. Raises Unusable."""
        began = trio.current_time()
        for announced in self._events.announced_again(self._agent.gate.watches):
            await self._ask_gate(announced, Phase.CONNECT if announced.name == "tcp:connect" else Phase.TLS)
        if trio.current_time() - began <= UNHEARD:
            return True
        await self.catch_up()
        return self.usable

    def _holds_today(self) -> bool:
        """Judge the certificate and its staple again, under this message's policy."""
        if self.contact.tls is None:
            return not self._policy.required
        if self._evidence is None:
            return False
        verdict = self._judged_again(self._evidence)
        if not verdict.ok:
            said = "; ".join(found.text for found in verdict.findings if found.verdict is Verdict.REFUSED)
            self._add("reuse-refused", f"An open session with {self._target} does not serve: {said}")
            return False
        self._trace.extend(verdict.findings)
        tls = self.contact.tls
        if (tls.verified_by, tls.ocsp) != (verdict.verified_by, verdict.ocsp):
            tls = replace(tls, verified_by=verdict.verified_by, ocsp=verdict.ocsp)
            self.contact = replace(self.contact, tls=tls)
        return True

    def _judged_again(self, evidence: Handshake) -> TlsVerdict:
        """The verdict of now; of the same question a moment ago it is still the answer."""
        question = (self._policy, evidence, *self._trusted_today())
        now = self._agent.clock.now()
        if (
            self._judged is None
            or not 0 <= now - self._judged.at < MOMENT
            or self._judged.question != question
        ):
            policy, _, trusted, lists = question
            self._judged = _Judged(question, now, judge(policy, evidence, now, trusted, lists))
        return self._judged.verdict


@lru_cache(maxsize=1024)  # the same for all messages that it serves
def _serves_again(target: str) -> Finding:
    text = f"An open session with {target} serves this message too"
    return Finding(Stage.SMTP, "reused", text, Verdict.OK)
