"""The steps of a session from the connection to the last EHLO, and what may leave before its time.

    dial        TCP to one address
    banner      220, or the host is no use now
    EHLO        what the server can do, in clear text
    STARTTLS    where the policy wants TLS; required and not to be had: the host is no use now
    judge       the handshake against the policy, before one more SMTP octet leaves
    EHLO        again, inside TLS: everything learnt before is forgotten (RFC 3207 4.2)
    AUTH        where the route has credentials (`deliver.login`)

`deliver.smtp.pipeconnect` says what need not wait for an answer. The last EHLO may then be left to the first
transaction, in front of which it leaves (`_early`), and `_offers` is what the server is presumed to answer. A
server that is not as it was remembered is no failed host: the session begins again, one step at a time, on
one more connection.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import trio

from deliver.agent import Agent
from deliver.encounter import NO_ANSWER, Target, Unusable
from deliver.errors import PeerError
from deliver.login import LoggingIn
from deliver.net.dial import ConnectFailed, Connection, FastOpenDialer
from deliver.net.ledger import EARLY, FAST_OPEN
from deliver.net.wire import Wire
from deliver.outcome import Contact, Phase
from deliver.report.log import say
from deliver.report.testimony import Testimony
from deliver.report.trace import MAX_TEXT, Verdict
from deliver.reusing import Reusing
from deliver.settings import Destination
from deliver.smtp.client import ClientMachine, Exchange
from deliver.smtp.command import Command, Ehlo, StartTls
from deliver.smtp.ehlo import Capabilities
from deliver.smtp.pipeconnect import (
    ONE_BY_ONE,
    Circumstances,
    OpeningPlan,
    Surprise,
    as_remembered,
    plan_opening,
    promises,
)
from deliver.smtp.reply import Reply
from deliver.smtp.transaction import Transaction
from deliver.tls.hello import Hello
from deliver.tls.policy import Level, TlsPolicy
from events.catalogue import Event
from hints.levels import dropped
from hints.records import EhloAnswer, EhloPhase, Feature, LevelSeen, Reachability, Word

_log = logging.getLogger("outrider.connection")


@dataclass(frozen=True, slots=True)
class _Presumed:
    """The answer to an EHLO that was not sent yet; `bdat`: content may follow without waiting for it."""

    phase: EhloPhase
    answer: Capabilities
    bdat: bool


class EarlyEhlo:
    """EHLO in front of a transaction; see `deliver.smtp.pipeconnect.EarlyHello`.

    `take(exchange)` notes the greeting or the answer, and says why the transaction does not count, if so.
    """

    def __init__(
        self,
        command: Ehlo,
        presumed: Capabilities,
        transaction: Transaction,
        take: Callable[[Exchange], str | None],
    ) -> None:
        self.command = command
        self.presumed = presumed
        self.surprise: str | None = None
        self.answered = False
        self._transaction = transaction
        self._take = take

    def got(self, exchange: Exchange) -> None:
        """Raises Surprise, unless the last octet has left: the final reply decides then."""
        self.answered |= exchange.phase is Phase.EHLO
        self.surprise = self._take(exchange) or self.surprise
        if self.surprise is not None and not self._transaction.in_doubt:
            raise Surprise(self.surprise)


class Opening(Reusing, LoggingIn):
    """The steps of the table above."""

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
        self._testimony = testimony
        self._ahead = False  # commands have left whose answers were not read yet
        self._presumed: _Presumed | None = None
        self._said: OpeningPlan | None = None  # its commands left while connecting

    async def connect(self, *, alone: bool = False) -> None:
        """The TCP connection only; `open` does it too where it was not done. Raises Unusable.

        `alone`: no other address races with this one, so that EHLO may leave with the SYN.
        """
        await self._dial(self._plan() if alone and self._destination.smtp.tcp_fast_open else ONE_BY_ONE)

    async def open(self) -> None:
        """Up to the last EHLO, or to where it may be left to the first transaction. Raises Unusable."""
        if self._wire is None:
            await self.connect(alone=True)
        try:
            await self._proceed(self._said or self._plan())
        except Unusable as unusable:
            if not self._ahead:
                raise
            await self._begin_again(unusable.outcome.why)
        await self._log_in()
        await self._compare_level()

    async def close(self, why: str | None) -> None:
        """Say QUIT where that makes sense, close, and tell it. Bounded, also in a cancelled scope."""
        if self._wire is None:
            return
        if why is None:  # else the last finding is the reason
            self._trace.add(self._wire.ledger.finding(self._target.host))
        with trio.CancelScope(shield=True):
            await self._wire.close()
        self._events.closed(self.contact, why)

    @property
    def _offers(self) -> Capabilities:
        if self._presumed is not None:
            return self._presumed.answer
        assert self._wire is not None, "the session is not open"
        return self._wire.machine.capabilities

    @property
    def _name(self) -> str:
        return self._destination.delivery.helo or self._agent.helo

    def _plan(self) -> OpeningPlan:
        smtp, envelope = self._destination.smtp, self._testimony.envelope
        facts = Circumstances(
            wanted=smtp.pipeconnect and Word.PIPECONNECT not in self._target.avoid,
            use_tls=self._policy.use_tls,
            level_none=self._policy.level is Level.NONE,
            own_answer=envelope.eight_bit
            or envelope.internationalised
            or envelope.requires_tls
            or self._target.login is not None,
            pipelining=smtp.pipelining,
            early_bdat_clear=smtp.early_bdat_clear,
        )
        plan = plan_opening(self._target.ehlo, facts)
        if plan is not ONE_BY_ONE and self._agent.gate.watches("smtp:connect", self._events.known):
            return ONE_BY_ONE  # an action wants to see the greeting first
        return plan

    async def _proceed(self, plan: OpeningPlan) -> None:
        if plan.clear is not None and plan.envelope:
            self._presumed = _Presumed(EhloPhase.CLEAR, plan.clear, plan.bdat)
            return
        if plan.clear is not None:
            await self._talk_early(plan.clear, starttls=plan.starttls)
        else:
            await self._greet()
            await self._ehlo(EhloPhase.CLEAR)
        if not self._policy.use_tls:
            return
        same = plan.clear is not None and as_remembered(plan.clear, self._open_wire.capabilities)
        if not await self._ask_for_tls():
            return
        await self._start_tls()
        if plan.secured is not None and same:
            self._presumed = _Presumed(EhloPhase.TLS, plan.secured, plan.bdat)
        else:
            await self._ehlo(EhloPhase.TLS)
            self._keep_session()

    async def _talk_early(self, presumed: Capabilities, *, starttls: bool) -> None:
        """EHLO, and STARTTLS, before the greeting; the answer to STARTTLS is read where it is asked for."""
        wire = self._open_wire
        self._ahead = True
        try:
            if self._said is None:
                await wire.talk_early(presumed, *self._first_commands(starttls))
        except PeerError as error:
            why = f"{self._target}: {error.happened}"
            raise self._unusable(why, Phase.EHLO, fault=error.fault) from error
        await self._greet()
        await self._ehlo(EhloPhase.CLEAR)
        if not promises(wire.capabilities):  # such a server may take it amiss later in the session
            raise self._unusable(f"{self._target.host} takes nothing early any more", Phase.EHLO)
        if not starttls:
            self._ahead = False
        elif not wire.capabilities.starttls:
            raise self._unusable(f"{self._target.host} does not offer STARTTLS any more", Phase.EHLO)

    def _first_commands(self, starttls: bool) -> tuple[Command, ...]:
        return (Ehlo(self._name), *((StartTls(),) if starttls else ()))

    async def _ask_for_tls(self) -> bool:
        try:
            return await super()._ask_for_tls()
        finally:
            self._ahead = self._ahead and self._open_wire.machine.due > 0

    async def _finish(self) -> None:
        """The last EHLO, where it was left to a transaction that is not sent after all. Raises Unusable."""
        presumed, self._presumed = self._presumed, None
        if presumed is None:
            return
        if presumed.phase is EhloPhase.CLEAR:
            await self._greet()
        await self._ehlo(presumed.phase)
        if presumed.phase is EhloPhase.TLS:
            self._keep_session()

    def _early(self, transaction: Transaction, still_planned: Callable[[], bool]) -> EarlyEhlo | None:
        """EHLO for the front of the first transaction, if it was left to it.

        `still_planned()`: whether the transaction would be the same by what the server has answered.
        """
        presumed = self._presumed
        if presumed is None:
            return None

        def take(exchange: Exchange) -> str | None:
            reply = exchange.reply
            if exchange.phase is Phase.BANNER:
                self._took_greeting(reply)
                return None if reply.positive else f"{self._target} refuses the connection: {reply}"
            if not reply.positive:
                return f"{self._target} refuses EHLO: {reply}"
            self._took_ehlo(reply, presumed.phase)
            self._presumed = replace(presumed, answer=self._open_wire.capabilities)
            same = promises(self._open_wire.capabilities) and still_planned()
            return None if same else f"{self._target.host} does not offer what it offered before"

        return EarlyEhlo(Ehlo(self._name), presumed.answer, transaction, take)

    def _went_well(self) -> None:
        """The first transaction counts, early as it was."""
        phase = self._presumed.phase if self._presumed else None
        self._presumed = None
        self._note(Feature(*self._target.place, Word.PIPECONNECT, True), "taken early")
        if phase is EhloPhase.TLS:
            self._keep_session()

    def _doubt_early(self, why: str) -> None:
        """Nothing early with this server for a while."""
        self._presumed = None
        self._note(Feature(*self._target.place, Word.PIPECONNECT, False), why)

    async def _begin_again(self, why: str) -> None:
        """One more connection, on which nothing leaves early. Raises Unusable."""
        self._add("pipeconnect-surprise", f"{why}; once more without early commands"[:MAX_TEXT])
        phase = self._presumed.phase if self._presumed else EhloPhase.CLEAR
        address, port = self._target.address, self._target.port
        self._note(EhloAnswer(address, port, phase, "", ()), "not as remembered")
        self._ahead, self._presumed, self._proof, self._evidence = False, None, None, None
        self._said = None
        self._hello, self._if_lost = self._if_lost or self._hello, None
        self._transactions = 0
        self._target = replace(self._target, ehlo=())
        spent = self._open_wire.ledger.flights
        await self.close(why)
        self._wire = None
        target = self._target
        self.contact = Contact(target.host, target.address, target.port)
        place = (target.host, target.address, target.port)
        self._events = self._testimony.connection(*place, self._policy, target.secure)
        await self._dial()
        self._open_wire.ledger.flight(spent)
        await self._proceed(ONE_BY_ONE)
        self._doubt_early("works one by one only")

    async def _dial(self, plan: OpeningPlan = ONE_BY_ONE) -> None:
        """TCP. The commands of `plan` leave with the SYN, if they are no more than EHLO and STARTTLS."""
        smtp = self._destination.smtp
        await self._ask_gate(self._events.connecting(), Phase.CONNECT)
        machine = ClientMachine()
        try:
            connection = await self._connection(machine, plan)
        except ConnectFailed as failed:
            why = f"no connection to {self._target}: {failed.happened}"
            self._add("connect-failed", why, Verdict.REFUSED)
            self._note(Reachability(*self._target.place, failed.happened), "connect failed")
            raise self._unusable(why, Phase.CONNECT, NO_ANSWER, fault=failed.fault) from failed
        self._wire = Wire(connection.stream, smtp.timeouts, machine, min_rate=smtp.min_rate)
        ledger = self._wire.ledger
        ledger.flight()  # the TCP handshake
        if self._said is not None:
            ledger.flight(0 if connection.in_syn else 1)
            ledger.save(FAST_OPEN, int(connection.in_syn))
            ledger.save(EARLY, len(self._first_commands(plan.starttls)))
        self._events.connected(connection.local_address, connection.local_port)
        with_syn = ", which took EHLO with the SYN" if connection.in_syn else ""
        self._add("connected", f"Connected to {self._target}{with_syn}", Verdict.OK)
        self._note(Reachability(*self._target.place, None), "connected")

    async def _connection(self, machine: ClientMachine, plan: OpeningPlan) -> Connection:
        """Raises ConnectFailed."""
        delivery, address, port = self._destination.delivery, self._target.address, self._target.port
        source = delivery.source_ipv6 if ":" in address else delivery.source_ipv4
        dialer, timeout = self._agent.dialer, self._destination.smtp.timeouts.connect
        if plan.clear is None or plan.envelope or not isinstance(dialer, FastOpenDialer):
            return await dialer.dial(address, port, source=source, timeout=timeout)
        machine.presume(plan.clear)
        octets = b"".join(machine.send(command) for command in self._first_commands(plan.starttls))
        connection = await dialer.dial_saying(octets, address, port, source=source, timeout=timeout)
        self._said = plan
        return connection

    async def _greet(self) -> None:
        reply = await self._answer(self._open_wire.greeting(), Phase.BANNER)
        greeted = self._took_greeting(reply)
        if not reply.positive:
            raise self._unusable(f"{self._target} refuses the connection: {reply}", Phase.BANNER, reply=reply)
        await self._ask_gate(greeted, Phase.BANNER)

    async def _ehlo(self, phase: EhloPhase) -> None:
        wire = self._open_wire
        reply = await self._answer(wire.ehlo(self._name), Phase.EHLO)
        if reply.permanent and phase is EhloPhase.CLEAR and not self._policy.required and not self._ahead:
            reply = await self._answer(wire.helo(self._name), Phase.EHLO)
        if not reply.positive:
            raise self._unusable(f"{self._target} refuses EHLO: {reply}", Phase.EHLO, reply=reply)
        self._took_ehlo(reply, phase)

    def _took_greeting(self, reply: Reply) -> Event:
        self.contact = replace(self.contact, greeting=str(reply)[:MAX_TEXT])
        return self._events.greeted(reply)

    def _took_ehlo(self, reply: Reply, phase: EhloPhase) -> None:
        first = reply.lines[0] if reply.lines else ""
        self.contact = replace(self.contact, ehlo=f"{reply.code} {first}"[:MAX_TEXT])
        self._events.answered_ehlo(reply)
        said = self._open_wire.capabilities
        where = "inside TLS" if phase is EhloPhase.TLS else "in clear text"
        keywords = ", ".join(said.keywords) or "no extension"
        self._add("ehlo", f"{self._target.host} offers {where}: {keywords}"[:MAX_TEXT])
        address, port = self._target.address, self._target.port
        self._note(EhloAnswer(address, port, phase, said.greeted_as, said.lines), "EHLO answered")

    async def _compare_level(self) -> None:
        """Tell when the server was better secured before: a repair in progress, or somebody in between.

        Mail is not held up: what policy demands has been judged already.
        """
        tls = self.contact.tls
        reached = "none" if tls is None else "encrypt" if tls.verified_by == "none" else tls.verified_by
        best = await self._agent.hints.best_level(self._domain, self._target.host)
        if best is not None and dropped(best, reached):
            text = f"{self._target.host} reached {best} before, and {reached} now"
            self._add("level-dropped", text)
            self._events.level_dropped(reached, best)
            say(_log, logging.WARNING, "security dropped", host=self._target.host, was=best, now=reached)
        self._note(LevelSeen(self._domain, self._target.host, reached), "session opened")
