"""One connection to one server: connect, greet, STARTTLS, judge, transact, close.

    dial        TCP to one address
    banner      220, or the host is no use now
    EHLO        what the server can do, in clear text
    STARTTLS    where the policy wants TLS; required and not to be had: the host is no use now
    judge       the handshake against the policy, before one more SMTP octet leaves
    EHLO        again, inside TLS: everything learnt before is forgotten (RFC 3207 4.2)

`open_session` raises `Unusable`, with the outcome that every recipient shares, when a step fails. The policy
decides about clear text; nothing here falls back by itself once TLS was begun.

"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import trio
from OpenSSL import SSL

from deliver.agent import Agent
from deliver.demands import context_of, lists_of
from deliver.errors import Blame, ConfigurationError, PeerError
from deliver.message import Content, Envelope, Recipient
from deliver.net.dial import ConnectFailed
from deliver.net.tlsstream import TlsStream
from deliver.net.wire import Journal, Wire
from deliver.outcome import Contact, Deferred, Delivered, Phase, TlsFacts
from deliver.report.log import say
from deliver.report.testimony import Connection, Testimony
from deliver.report.trace import MAX_TEXT, Finding, Stage, Trace, Verdict
from deliver.settings import Destination
from deliver.smtp.batch import Batch
from deliver.smtp.command import LocalMisuse
from deliver.smtp.reply import EnhancedCode, Reply
from deliver.smtp.transaction import Transaction
from deliver.tls.crl import RevocationLists
from deliver.tls.engine import TlsEngine, TlsError
from deliver.tls.judge import judge
from deliver.tls.pkix import TrustStore
from deliver.tls.policy import Authentication, TlsPolicy, clear_text_allowed
from deliver.tls.verdict import Handshake
from events.catalogue import Event
from events.port import Refuse
from hints.levels import dropped
from hints.records import EhloAnswer, EhloPhase, Feature, LevelSeen, Note, Reachability, Word

_log = logging.getLogger("outrider.connection")

CLOSING = 421  # RFC 5321 3.8: the server ends the session, whatever was asked

# RFC 3463 and, for the last two, the IANA registry.
NO_ANSWER = EnhancedCode(4, 4, 1)
DISCONNECTED = EnhancedCode(4, 4, 2)
NO_SECURITY = EnhancedCode(4, 7, 0)
NOT_TRUSTED = EnhancedCode(4, 7, 5)

_STAGES = {
    "connect-failed": Stage.CONNECT,
    "connected": Stage.CONNECT,
    "tls-failed": Stage.TLS,
    "starttls-required": Stage.TLS,
    "starttls-missing": Stage.TLS,
    "starttls-refused": Stage.TLS,
}


_VETO_STAGES = {"tcp:connect": Stage.CONNECT, "tls:cert": Stage.TLS}


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect; `secure`: DNSSEC vouches for the address; `avoid`: what went wrong with it lately."""

    host: str
    address: str
    port: int
    secure: bool = False
    avoid: frozenset[Word] = frozenset()

    def __str__(self) -> str:
        return f"{self.host} [{self.address}]:{self.port}"

    @property
    def place(self) -> tuple[str, str, int]:
        """(host, address, port)"""
        return self.host, self.address, self.port


class Unusable(Exception):
    """This server is no use in this attempt; `outcome` holds for every recipient.

    `tls_failed`: TLS was offered and did not come about, so that a policy which does not require it may try
    again in clear text.
    """

    def __init__(self, outcome: Deferred, *, tls_failed: bool = False) -> None:
        super().__init__(outcome.why)
        self.outcome = outcome
        self.tls_failed = tls_failed


class Session:
    """An open connection, judged if TLS is on. `contact` says with whom, and over which TLS."""

    def __init__(
        self, agent: Agent, destination: Destination, target: Target, policy: TlsPolicy, testimony: Testimony
    ) -> None:
        self._agent = agent
        self._destination = destination
        self._target = target
        self._policy = policy
        self._domain = testimony.domain
        self._trace: Trace = testimony.trace
        self._events: Connection = testimony.connection(
            target.host, target.address, target.port, policy, target.secure
        )
        self._wire: Wire | None = None
        self.contact = Contact(target.host, target.address, target.port)

    def batch(self, envelope: Envelope, recipients: tuple[Recipient, ...]) -> Batch:
        """The transactions of one message with this server, none of them begun.

        Raises LocalMisuse in clear text under a policy that requires TLS, whatever led there.
        """
        if self._policy.required and self.contact.tls is None:
            raise LocalMisuse(f"a message in clear text for {self._target}, where TLS is required")
        capabilities, smtp = self._open_wire.capabilities, self._destination.smtp

        def begin(these: tuple[Recipient, ...], chunking: bool) -> Transaction:
            return Transaction(
                envelope,
                these,
                capabilities,
                self.contact,
                pipelining=smtp.pipelining,
                pass_8bit=smtp.pass_8bit,
                chunking=chunking and smtp.chunking and Word.CHUNKING not in self._target.avoid,
                prdr=smtp.prdr and Word.PRDR not in self._target.avoid,
            )

        return Batch(begin, recipients, capabilities.limits, self.contact)

    async def transact(self, batch: Batch, content: Content, journal: Journal) -> None:
        """Carry them out, one behind the other; whatever happens is in `batch.outcomes()`."""
        wire = self._open_wire
        while (transaction := batch.following()) is not None:
            await wire.transact(transaction, content, journal)
            self._learn_about_chunks(transaction)
            if not wire.reusable:
                break

    def _learn_about_chunks(self, transaction: Transaction) -> None:
        """A server that breaks on BDAT would do so again: the next attempt uses DATA."""
        if not transaction.chunked:
            return
        outcomes = [outcome for _, outcome in transaction.outcomes()]
        worked = any(isinstance(outcome, Delivered) for outcome in outcomes)
        lost = any(isinstance(outcome, Deferred) and outcome.reply is None for outcome in outcomes)
        if worked or lost or transaction.chunks_not_understood:
            feature = Feature(*self._target.place, Word.CHUNKING, worked)
            self._note(feature, "taken" if worked else "broke off")

    async def open(self) -> None:
        """All the steps of the table above. Raises Unusable."""
        await self._dial()
        await self._greet()
        await self._ehlo(EhloPhase.CLEAR)
        if self._policy.use_tls and await self._ask_for_tls():
            await self._start_tls()
            await self._ehlo(EhloPhase.TLS)
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
    def _open_wire(self) -> Wire:
        assert self._wire is not None, "the session is not open"
        return self._wire

    async def _dial(self) -> None:
        delivery, timeouts = self._destination.delivery, self._destination.smtp.timeouts
        await self._ask_gate(self._events.connecting(), Phase.CONNECT)
        source = delivery.source_ipv6 if ":" in self._target.address else delivery.source_ipv4
        try:
            connection = await self._agent.dialer.dial(
                self._target.address, self._target.port, source=source, timeout=timeouts.connect
            )
        except ConnectFailed as failed:
            why = f"no connection to {self._target}: {failed.happened}"
            self._add("connect-failed", why, Verdict.REFUSED)
            self._note(Reachability(*self._target.place, failed.happened), "connect failed")
            raise self._unusable(why, Phase.CONNECT, NO_ANSWER) from failed
        self._wire = Wire(connection.stream, timeouts)
        self._wire.ledger.flight()  # the TCP handshake
        self._events.connected(connection.local_address, connection.local_port)
        self._add("connected", f"Connected to {self._target}", Verdict.OK)
        self._note(Reachability(*self._target.place, None), "connected")

    async def _greet(self) -> None:
        reply = await self._answer(self._open_wire.greeting(), Phase.BANNER)
        greeted = self._events.greeted(reply)
        if not reply.positive:
            raise self._unusable(f"{self._target} refuses the connection: {reply}", Phase.BANNER, reply=reply)
        await self._ask_gate(greeted, Phase.BANNER)

    async def _ask_gate(self, event: Event, phase: Phase, stream: TlsStream | None = None) -> None:
        """Let an event action refuse what it announces. Raises Unusable; `stream`: not to be used then."""
        said = await self._agent.gate.consult(event)
        if not isinstance(said, Refuse):
            return
        if stream is not None:
            await stream.discard()
            self._events.rejected(said.text)
        why = f"an event action refuses {event.name} for {self._target}: {said.text}"
        stage = _VETO_STAGES.get(event.name, Stage.SMTP)
        self._trace.add(Finding(stage, "event-veto", why, Verdict.REFUSED))
        raise self._unusable(why, phase, NO_SECURITY, blame=Blame.POLICY)

    async def _ehlo(self, phase: EhloPhase) -> None:
        wire = self._open_wire
        name = self._destination.delivery.helo or self._agent.helo
        reply = await self._answer(wire.ehlo(name), Phase.EHLO)
        if reply.permanent and phase is EhloPhase.CLEAR and not self._policy.required:
            reply = await self._answer(wire.helo(name), Phase.EHLO)
        if not reply.positive:
            raise self._unusable(f"{self._target} refuses EHLO: {reply}", Phase.EHLO, reply=reply)
        self._events.answered_ehlo(reply)
        said = wire.capabilities
        where = "inside TLS" if phase is EhloPhase.TLS else "in clear text"
        keywords = ", ".join(said.keywords) or "no extension"
        self._add("ehlo", f"{self._target.host} offers {where}: {keywords}"[:MAX_TEXT])
        address, port = self._target.address, self._target.port
        self._note(EhloAnswer(address, port, phase, said.greeted_as, said.lines), "EHLO answered")

    async def _ask_for_tls(self) -> bool:
        """Whether the server is ready for the handshake; False: go on in clear text, as the policy allows."""
        fallback = self._destination.tls.clear_text_fallback
        if not self._open_wire.capabilities.starttls:
            if clear_text_allowed(self._policy, tls_offered=False, fallback=fallback):
                self._add("starttls-missing", f"{self._target.host} does not offer STARTTLS: clear text")
                return False
            raise self._no_tls(f"{self._target.host} does not offer STARTTLS")
        reply = await self._answer(self._open_wire.starttls(), Phase.STARTTLS)
        if reply.positive:
            return True
        why = f"{self._target.host} refuses STARTTLS: {reply}"
        if reply.code == CLOSING:
            raise self._unusable(why, Phase.STARTTLS, reply=reply)
        if not clear_text_allowed(self._policy, tls_offered=True, fallback=fallback):
            raise self._no_tls(why)
        self._add("starttls-refused", f"{why}: clear text")
        return False

    async def _start_tls(self) -> None:
        wire = self._open_wire
        context, trusted, lists = self._tls_material()
        engine = TlsEngine(context, _server_name(self._policy.sni), request_staple=self._policy.request_ocsp)
        stream = TlsStream(wire.stream, engine)
        wire.stream = stream
        handshake = await self._handshake(stream)
        for presented in self._events.shook_hands(handshake):
            await self._ask_gate(presented, Phase.TLS, stream)
        verdict = judge(self._policy, handshake, self._agent.clock.now(), trusted, lists)
        self._trace.extend(verdict.findings)
        if self._policy.request_ocsp:
            self._events.staple(verdict.ocsp)
        if not verdict.ok:
            await stream.discard()
            refusals = [found.text for found in verdict.findings if found.verdict is Verdict.REFUSED]
            why = f"{self._target.host} is not authenticated: {'; '.join(refusals)}"
            self._events.rejected(why)
            raise self._unusable(why, Phase.TLS, NOT_TRUSTED, blame=Blame.POLICY)
        facts = TlsFacts(
            level=self._policy.level,
            version=handshake.version,
            cipher=handshake.cipher,
            group=handshake.group,
            resumed=handshake.resumed,
            verified_by=verdict.verified_by,
            ocsp=verdict.ocsp,
        )
        self.contact = replace(self.contact, tls=facts)
        self._events.judged(facts)
        wire.starttls_done(stream)
        wire.ledger.flight(1 if handshake.version == "TLSv1.3" else 2)  # RFC 8446 2, RFC 5246 7.3

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

    async def _handshake(self, stream: TlsStream) -> Handshake:
        patience = self._destination.smtp.timeouts.tls
        why = f"nothing for {patience:g} s"
        try:
            with trio.move_on_after(patience):
                return await stream.do_handshake()
        except TlsError as error:
            why = error.happened
        why = f"the TLS handshake with {self._target.host} failed: {why}"
        self._events.handshake_failed(why)
        self._add("tls-failed", why, Verdict.REFUSED)
        raise self._unusable(why, Phase.TLS, NO_SECURITY, blame=Blame.POLICY, tls_failed=True)

    def _tls_material(self) -> tuple[SSL.Context, TrustStore, RevocationLists]:
        """What the settings say in files. Raises Unusable: mail waits until they can be read."""
        settings, tls = self._agent.settings, self._destination.tls
        try:
            context = context_of(settings, tls, self._policy)
            return context, self._trust_store(), lists_of(settings, tls)
        except ConfigurationError as error:
            raise self._unusable(str(error), Phase.TLS, NO_SECURITY, blame=Blame.LOCAL) from error

    def _trust_store(self) -> TrustStore:
        if self._policy.authentication is not Authentication.PKIX:
            return TrustStore.empty()
        store = self._destination.tls.trust_store
        return self._agent.trust(None if store is None else str(self._agent.settings.path(store)))

    def _no_tls(self, why: str) -> Unusable:
        rfc = "RFC 7672 2.2" if self._policy.authentication is Authentication.DANE else None
        said = f"TLS is required, but {why}"
        self._events.starttls_refused(why)
        self._add("starttls-required", said, Verdict.REFUSED, rfc)
        return self._unusable(said, Phase.STARTTLS, NO_SECURITY, blame=Blame.POLICY)

    async def _answer(self, conversation: Awaitable[Reply], phase: Phase) -> Reply:
        """A reply, or Unusable when the connection fails."""
        try:
            return await conversation
        except PeerError as error:
            where = "" if phase.value in error.happened else f" {phase.value}"
            why = f"{self._target}: {error.happened}{where}"
            self._add("connection-lost", why, Verdict.REFUSED)
            # A server that rejects the handshake is first heard of here (RFC 8446 4.4.2.4).
            tls_failed = self.contact.tls is not None
            raise self._unusable(why, phase, tls_failed=tls_failed) from error

    def _unusable(
        self,
        why: str,
        phase: Phase,
        enhanced: EnhancedCode = DISCONNECTED,
        reply: Reply | None = None,
        blame: Blame = Blame.HOST,
        *,
        tls_failed: bool = False,
    ) -> Unusable:
        if reply is not None:
            self._add("refused", why, Verdict.REFUSED)
            enhanced = replace(reply.enhanced, klass=4) if reply.enhanced else enhanced
        outcome = Deferred(why, blame, phase, reply, enhanced, self.contact)
        return Unusable(outcome, tls_failed=tls_failed)

    def _add(self, code: str, text: str, verdict: Verdict = Verdict.NOTE, rfc: str | None = None) -> None:
        self._trace.add(Finding(_STAGES.get(code, Stage.SMTP), code, text, verdict, rfc))

    def _note(self, note: Note, reason: str) -> None:
        agent = self._agent
        agent.hints.note(note, source=agent.learner, reason=reason, now=agent.clock.now())


@asynccontextmanager
async def open_session(
    agent: Agent, destination: Destination, target: Target, policy: TlsPolicy, testimony: Testimony
) -> AsyncIterator[Session]:
    """A session for the length of the block. Raises Unusable when a step up to the last EHLO fails."""
    session = Session(agent, destination, target, policy, testimony)
    why: str | None = "interrupted"
    try:
        await session.open()
        yield session
        why = None
    except Unusable as unusable:
        why = unusable.outcome.why
        raise
    finally:
        await session.close(why)


def _server_name(sni: str) -> str:
    """Nothing for an IP address: SNI carries host names only (RFC 6066 3)."""
    try:
        ipaddress.ip_address(sni)
    except ValueError:
        return sni
    return ""
