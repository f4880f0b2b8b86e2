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

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import trio

from deliver.agent import Agent
from deliver.encounter import NO_ANSWER, Target, Unusable
from deliver.message import Content, Envelope, Recipient
from deliver.net.dial import ConnectFailed
from deliver.net.wire import Journal, Wire
from deliver.outcome import Deferred, Delivered, Phase
from deliver.report.log import say
from deliver.report.testimony import Testimony
from deliver.report.trace import MAX_TEXT, Verdict
from deliver.reusing import Reusing
from deliver.settings import Destination
from deliver.smtp.batch import Batch
from deliver.smtp.command import LocalMisuse
from deliver.smtp.transaction import Transaction
from deliver.tls.hello import Hello
from deliver.tls.policy import TlsPolicy
from hints.levels import dropped
from hints.records import EhloAnswer, EhloPhase, Feature, LevelSeen, Reachability, Word

__all__ = ["Session", "Target", "Unusable", "open_session", "opened"]

_log = logging.getLogger("outrider.connection")


class Session(Reusing):
    """An open connection, judged if TLS is on. `contact` says with whom, and over which TLS."""

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
                logged_in=self._open_wire.machine.logged_in,
                reset=self._open_wire.needs_reset,
            )

        self.messages += 1
        return Batch(begin, recipients, self._limits, self.contact)

    async def transact(self, batch: Batch, content: Content, journal: Journal) -> None:
        """Carry them out, one behind the other; whatever happens is in `batch.outcomes()`."""
        wire = self._open_wire
        while (transaction := batch.following()) is not None:
            self._transactions += 1
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
        lost = lost and not self.contact.reused  # then it may have ended before the chunk
        if worked or lost or transaction.chunks_not_understood:
            feature = Feature(*self._target.place, Word.CHUNKING, worked)
            self._note(feature, "taken" if worked else "broke off")

    async def connect(self) -> None:
        """The TCP connection only; `open` does it too where it was not done. Raises Unusable."""
        await self._dial()

    async def open(self) -> None:
        """All the steps of the table above. Raises Unusable."""
        if self._wire is None:
            await self._dial()
        await self._greet()
        await self._ehlo(EhloPhase.CLEAR)
        if self._policy.use_tls and await self._ask_for_tls():
            await self._start_tls()
            await self._ehlo(EhloPhase.TLS)
            self._keep_session()
        await self._compare_level()

    def again(self, hello: Hello) -> Session:
        """Another session with the same server, not connected, whose handshake begins with `hello`."""
        return Session(self._agent, self._destination, self._target, self._policy, self._testimony, hello)

    async def close(self, why: str | None) -> None:
        """Say QUIT where that makes sense, close, and tell it. Bounded, also in a cancelled scope."""
        if self._wire is None:
            return
        if why is None:  # else the last finding is the reason
            self._trace.add(self._wire.ledger.finding(self._target.host))
        with trio.CancelScope(shield=True):
            await self._wire.close()
        self._events.closed(self.contact, why)

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
        self.contact = replace(self.contact, greeting=str(reply)[:MAX_TEXT])
        greeted = self._events.greeted(reply)
        if not reply.positive:
            raise self._unusable(f"{self._target} refuses the connection: {reply}", Phase.BANNER, reply=reply)
        await self._ask_gate(greeted, Phase.BANNER)

    async def _ehlo(self, phase: EhloPhase) -> None:
        wire = self._open_wire
        name = self._destination.delivery.helo or self._agent.helo
        reply = await self._answer(wire.ehlo(name), Phase.EHLO)
        if reply.permanent and phase is EhloPhase.CLEAR and not self._policy.required:
            reply = await self._answer(wire.helo(name), Phase.EHLO)
        if not reply.positive:
            raise self._unusable(f"{self._target} refuses EHLO: {reply}", Phase.EHLO, reply=reply)
        self.contact = replace(
            self.contact, ehlo=f"{reply.code} {reply.lines[0] if reply.lines else ''}"[:MAX_TEXT]
        )
        self._events.answered_ehlo(reply)
        said = wire.capabilities
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


@asynccontextmanager
async def open_session(
    agent: Agent, destination: Destination, target: Target, policy: TlsPolicy, testimony: Testimony
) -> AsyncIterator[Session]:
    """A session for the length of the block. Raises Unusable when a step up to the last EHLO fails."""
    session = await opened(Session(agent, destination, target, policy, testimony))
    why: str | None = "interrupted"
    try:
        yield session
        why = None
    except Unusable as unusable:
        why = unusable.outcome.why
        raise
    finally:
        await session.close(why)


async def opened(session: Session) -> Session:
    """`session` open, or another one with the same server where only the handshake had to begin otherwise.

    Raises Unusable. What is not returned is closed.
    """
    while True:
        why: str | None = "interrupted"
        try:
            await session.open()
            why = None
            return session
        except Unusable as unusable:
            why, again = unusable.outcome.why, unusable.again
            if again is None:
                raise
        finally:
            if why is not None:
                await session.close(why)
        session = session.again(again)
