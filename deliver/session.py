"""One connection to one server: opened and secured (`deliver.opening`), then one transaction after the other.

`open_session` raises `Unusable`, with the outcome that every recipient shares, when a step fails. The policy
decides about clear text; nothing here falls back by itself once TLS was begun.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from deliver.agent import Agent
from deliver.encounter import Target, Unusable
from deliver.errors import Blame
from deliver.message import Content, Envelope, Recipient
from deliver.net.wire import Journal
from deliver.opening import EarlyEhlo, Opening
from deliver.outcome import Deferred, Delivered, Outcome
from deliver.report.testimony import Testimony
from deliver.settings import Destination
from deliver.smtp.batch import Batch
from deliver.smtp.command import LocalMisuse
from deliver.smtp.ehlo import Capabilities
from deliver.smtp.transaction import Transaction
from deliver.tls.hello import Hello
from deliver.tls.policy import TlsPolicy
from hints.records import Feature, Word

__all__ = ["Session", "Target", "Unusable", "open_session", "opened"]


class Session(Opening):
    """An open connection, judged if TLS is on. `contact` says with whom, and over which TLS."""

    _takes_chunks = False  # and that is noted: once for a connection is enough

    @property
    def offers(self) -> Capabilities:
        """What the server offers; for a message that needs an extension, by its own answer to EHLO."""
        return self._offers

    def batch(self, envelope: Envelope, recipients: tuple[Recipient, ...]) -> Batch:
        """The transactions of one message with this server, none of them begun.

        Raises LocalMisuse in clear text under a policy that requires TLS, whatever led there.
        """
        if self._policy.required and self.contact.tls is None:
            raise LocalMisuse(f"a message in clear text for {self._target}, where TLS is required")
        smtp = self._destination.smtp

        def begin(these: tuple[Recipient, ...], chunking: bool) -> Transaction:
            wire = self._open_wire
            return Transaction(
                envelope,
                these,
                self._offers,
                self.contact,
                pipelining=smtp.pipelining,
                pass_8bit=smtp.pass_8bit,
                chunking=chunking and self._chunking,
                prdr=smtp.prdr and Word.PRDR not in self._target.avoid,
                logged_in=wire.machine.logged_in,
                reset=wire.needs_reset,
            )

        self.messages += 1
        return Batch(begin, recipients, self._limits, self.contact)

    async def transact(self, batch: Batch, content: Content, journal: Journal) -> None:
        """Carry them out, one behind the other; whatever happens is in `batch.outcomes()`.

        Raises Unusable where the session had to begin again before anything counted, and could not.
        """
        while (transaction := batch.following()) is not None:
            self._transactions += 1
            early = self._early(transaction, lambda: batch.still_as_planned(self._limits))
            if early is not None and transaction.finished:  # refused for what is presumed only
                await self._finish()
                batch.start_over(self._limits, self.contact)
                continue
            await self._open_wire.transact(transaction, content, journal, early)
            if early is not None and not await self._counts(early, transaction):
                batch.start_over(self._limits, self.contact)
                continue
            self._learn_about_chunks(transaction)
            if not self._open_wire.reusable:
                break

    async def _counts(self, early: EarlyEhlo, transaction: Transaction) -> bool:
        """Whether an early transaction is valid; if not, the session has begun again. Raises Unusable."""
        outcomes = [outcome for _, outcome in transaction.outcomes()]
        lost = next(
            (one.why for one in outcomes if isinstance(one, Deferred) and one.blame is Blame.HOST), None
        )
        why = early.surprise or (None if early.answered else lost)
        if why is None:
            self._went_well()
        elif any(_final(outcome) for outcome in outcomes):
            self._doubt_early(why)
        else:
            await self._begin_again(why)
            await self._compare_level()
            return False
        return True

    @property
    def _chunking(self) -> bool:
        wanted = self._destination.smtp.chunking and Word.CHUNKING not in self._target.avoid
        return wanted and (self._presumed is None or self._presumed.bdat)

    def _learn_about_chunks(self, transaction: Transaction) -> None:
        """A server that breaks on BDAT would do so again: the next attempt uses DATA."""
        if not transaction.chunked or self._takes_chunks:
            return
        outcomes = [outcome for _, outcome in transaction.outcomes()]
        worked = any(isinstance(outcome, Delivered) for outcome in outcomes)
        lost = any(isinstance(outcome, Deferred) and outcome.reply is None for outcome in outcomes)
        lost = lost and not self.contact.reused  # then it may have ended before the chunk
        if worked or lost or transaction.chunks_not_understood:
            feature = Feature(*self._target.place, Word.CHUNKING, worked)
            self._note(feature, "taken" if worked else "broke off")
            self._takes_chunks = worked

    def again(self, hello: Hello) -> Session:
        """Another session with the same server, not connected, whose handshake begins with `hello`."""
        return Session(self._agent, self._destination, self._target, self._policy, self._testimony, hello)


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


def _final(outcome: Outcome) -> bool:
    """Whether the server has the message, or may have it."""
    return isinstance(outcome, Delivered) or (isinstance(outcome, Deferred) and outcome.in_doubt)
