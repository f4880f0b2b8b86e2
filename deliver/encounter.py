"""One meeting with one server, as every step of it needs it: who, under which policy, and how to tell.

Findings go to the trace, what was learnt to the hints, events to the gate where they may be refused. A step
that fails raises `Unusable`, with the outcome that every recipient shares.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, replace

from deliver.agent import Agent
from deliver.errors import Blame, Fault, PeerError
from deliver.net.tlsstream import TlsStream
from deliver.net.wire import Wire
from deliver.outcome import Contact, Deferred, Phase
from deliver.relay.route import Login
from deliver.report.testimony import Connection, Testimony
from deliver.report.trace import Finding, Stage, Trace, Verdict
from deliver.settings import Destination
from deliver.smtp.ehlo import Capabilities
from deliver.smtp.reply import EnhancedCode, Reply
from deliver.tls.hello import Hello
from deliver.tls.policy import TlsPolicy
from events.catalogue import Event
from events.port import Refuse
from hints.records import EhloAnswer, Note, Word

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
    "tls-retry": Stage.TLS,
    "resumption-refused": Stage.TLS,
    "session-not-offered": Stage.TLS,
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
    ehlo: tuple[EhloAnswer, ...] = ()  # what it said on an earlier connection
    login: Login | None = None  # as whom to log in there

    def __str__(self) -> str:
        return f"{self.host} [{self.address}]:{self.port}"

    @property
    def place(self) -> tuple[str, str, int]:
        """(host, address, port)"""
        return self.host, self.address, self.port


class Unusable(Exception):
    """This server is no use in this attempt; `outcome` holds for every recipient.

    `tls_failed`: TLS was offered and did not come about, so that a policy which does not require it may try
    again in clear text, at the same `target`. `again`: open another connection first, and begin the handshake
    so.
    """

    def __init__(
        self, outcome: Deferred, target: Target, *, tls_failed: bool = False, again: Hello | None = None
    ) -> None:
        super().__init__(outcome.why)
        self.outcome = outcome
        self.target = target
        self.tls_failed = tls_failed
        self.again = again


class Encounter:
    """What all steps share. `contact` says with whom, and over which TLS once that was judged."""

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
        self._if_lost: Hello | None = None  # how to begin again when the connection breaks now
        self.contact = Contact(target.host, target.address, target.port)

    @property
    def _open_wire(self) -> Wire:
        assert self._wire is not None, "the session is not open"
        return self._wire

    @property
    def _offers(self) -> Capabilities:
        """What the server offers, or is presumed to until it answers EHLO (see `deliver.opening`)."""
        return self._open_wire.capabilities

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
            again = self._if_lost
            raise self._unusable(why, phase, tls_failed=tls_failed, again=again, fault=error.fault) from error

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

    def _unusable(
        self,
        why: str,
        phase: Phase,
        enhanced: EnhancedCode = DISCONNECTED,
        reply: Reply | None = None,
        blame: Blame = Blame.HOST,
        *,
        tls_failed: bool = False,
        again: Hello | None = None,
        fault: Fault | None = None,
    ) -> Unusable:
        if reply is not None:
            self._add("refused", why, Verdict.REFUSED)
            enhanced = replace(reply.enhanced, klass=4) if reply.enhanced else enhanced
        outcome = Deferred(why, blame, phase, reply, enhanced, self.contact, fault=fault)
        return Unusable(outcome, self._target, tls_failed=tls_failed, again=again)

    def _add(self, code: str, text: str, verdict: Verdict = Verdict.NOTE, rfc: str | None = None) -> None:
        self._trace.add(Finding(_STAGES.get(code, Stage.SMTP), code, text, verdict, rfc))

    def _note(self, note: Note, reason: str) -> None:
        agent = self._agent
        agent.hints.note(note, source=agent.learner, reason=reason, now=agent.clock.now())
