"""One message to one server in as many transactions as it takes, on one connection, without I/O.

    why another transaction                                    who is offered again
    ---------------------------------------------------------  ------------------------------------------
    RCPTMAX (RFC 9422 4.2) is less than what is left           those not yet offered
    452 or 552 to RCPT after others were taken                 those refused so, if the message was taken
      (too many recipients: RFC 5321 4.5.3.1.10)               for at least one: each round makes progress
    BDAT is not understood although CHUNKING was announced     the same recipients, with DATA, once
    RCPTDOMAINMAX (RFC 9422 4.3): more domains than that       those whose domain would be one too many
    MAILMAX (RFC 9422 4.1) is reached                          nobody here: `unoffered` wants a new session

Recipients never offered are deferred to the blame of the host: another one, or a new session, may take them.
"""

from __future__ import annotations

from collections.abc import Callable

from deliver.errors import Blame
from deliver.message import Recipient
from deliver.outcome import Contact, Deferred, Delivered, Failed, Outcome, Phase
from deliver.report.trace import Finding
from deliver.smtp.ehlo import Limits
from deliver.smtp.reply import EnhancedCode
from deliver.smtp.transaction import Transaction

# `begin(recipients, chunking)` makes a transaction that was not begun.
Begin = Callable[[tuple[Recipient, ...], bool], Transaction]

CLOSING = 421  # RFC 5321 3.8
_TOO_MANY = frozenset({452, 552})


class Batch:
    """The transactions of one message on one connection: `following` until None, then `outcomes`."""

    def __init__(
        self, begin: Begin, recipients: tuple[Recipient, ...], limits: Limits, contact: Contact
    ) -> None:
        self._begin = begin
        self._recipients = recipients
        self._waiting = recipients
        self._limits = limits
        self._contact = contact
        self._chunking = True
        self._transactions: list[Transaction] = []
        self._undone: tuple[Finding, ...] = ()
        self._latest: dict[int, Outcome] = {}

    @property
    def current(self) -> Transaction | None:
        """The transaction under way, or the last one."""
        return self._transactions[-1] if self._transactions else None

    @property
    def unoffered(self) -> tuple[Recipient, ...]:
        """Who still waits for a transaction."""
        return self._waiting

    @property
    def count(self) -> int:
        """Transactions that were begun."""
        return len(self._transactions)

    @property
    def _room(self) -> bool:
        """Whether the connection takes another transaction; two more than recipients are never needed."""
        limit = len(self._recipients) + 2
        return self.count < (limit if self._limits.mailmax is None else min(limit, self._limits.mailmax))

    @property
    def progress(self) -> bool:
        """Whether this connection delivered the message to anybody."""
        return Delivered in [type(outcome) for _, outcome in self.outcomes()]

    @property
    def came_to_nothing(self) -> bool:
        """Whether the session rather than the message was refused: it was lost, or MAIL was, before any end.

        On a session that was used before this says nothing about the message; nobody can have it.
        """
        nothing = False
        for _, outcome in self.outcomes():
            if isinstance(outcome, Delivered) or (isinstance(outcome, Deferred) and outcome.in_doubt):
                return False
            nothing = nothing or _of_the_session(outcome)
        return nothing

    def following(self) -> Transaction | None:
        """The next transaction, once the one before is over; None when this connection has done its part."""
        before = self.current
        if before is not None:
            if not before.finished:
                return None
            self._take(before)
        if not self._waiting or not self._room:
            return None
        now = _offer(self._waiting, self._limits)
        if len(now) == len(self._waiting):
            self._waiting = ()
        else:
            taken = {who.ordinal for who in now}
            self._waiting = tuple(who for who in self._waiting if who.ordinal not in taken)
        self._transactions.append(self._begin(now, self._chunking))
        return self._transactions[-1]

    def start_over(self, limits: Limits, contact: Contact) -> None:
        """The only transaction so far does not count: its recipients wait again, on another connection."""
        undone = self._transactions.pop()
        offered = {who.ordinal for who, _ in undone.outcomes()}
        waiting = {who.ordinal for who in self._waiting}
        self._undone = (*self._undone, *undone.findings())
        self._waiting = tuple(who for who in self._recipients if who.ordinal in offered | waiting)
        self._limits, self._contact = limits, contact

    def still_as_planned(self, limits: Limits) -> bool:
        """Whether the transaction under way would be the same if it began now, under these limits."""
        current = self._transactions[-1]
        whom = tuple(who for who, _ in current.outcomes())
        return limits == self._limits and self._begin(whom, self._chunking).planned == current.planned

    def outcomes(self) -> tuple[tuple[Recipient, Outcome], ...]:
        """One outcome per recipient, in order, at any moment."""
        if len(self._transactions) == 1:
            only = self._transactions[0].outcomes()
            if len(only) == len(self._recipients):
                return only
        latest = dict(self._latest)
        if self.current is not None:
            latest.update({who.ordinal: outcome for who, outcome in self.current.outcomes()})
        if len(latest) == len(self._recipients):
            return tuple((who, latest[who.ordinal]) for who in self._recipients)
        pending = Deferred(
            f"{self._contact.host} was not asked for this recipient any more",
            Blame.HOST,
            Phase.RCPT,
            enhanced=EnhancedCode(4, 5, 3),
            contact=self._contact,
        )
        return tuple((who, latest.get(who.ordinal, pending)) for who in self._recipients)

    def findings(self) -> tuple[Finding, ...]:
        """What the server said in all of them."""
        return sum([transaction.findings() for transaction in self._transactions], self._undone)

    def _take(self, transaction: Transaction) -> None:
        """Keep its outcomes; whoever may be offered again waits once more, in front."""
        delivered, crowded = False, []
        for who, outcome in transaction.outcomes():
            self._latest[who.ordinal] = outcome
            if isinstance(outcome, Delivered):
                delivered = True
            elif _too_many(outcome):
                crowded.append(who)
        if self._chunking and transaction.chunks_not_understood:
            self._chunking = False
            self._waiting = (*transaction.refused_with_chunk, *self._waiting)
        elif delivered and crowded:
            self._waiting = (*crowded, *self._waiting)


def _offer(waiting: tuple[Recipient, ...], limits: Limits) -> tuple[Recipient, ...]:
    """As many of the first as the server's limits allow; always at least one."""
    if limits.rcptmax is None and limits.rcptdomainmax is None:
        return waiting
    domains: set[str] = set()
    offered: list[Recipient] = []
    for who in waiting:
        domain = who.mailbox.domain
        if domain not in domains and len(domains) >= (limits.rcptdomainmax or len(waiting)):
            continue
        domains.add(domain)
        offered.append(who)
        if len(offered) == limits.rcptmax:
            break
    return tuple(offered)


def _of_the_session(outcome: Deferred | Failed) -> bool:
    if outcome.reply is None:
        return isinstance(outcome, Deferred) and outcome.blame is Blame.HOST
    return outcome.phase is Phase.MAIL or outcome.reply.code == CLOSING


def _too_many(outcome: Outcome) -> bool:
    """Whether a recipient was refused for coming too late, not for itself (RFC 5321 4.5.3.1.10)."""
    if not isinstance(outcome, Deferred) or outcome.phase is not Phase.RCPT or outcome.reply is None:
        return False
    enhanced = outcome.reply.enhanced
    unspecific = enhanced is None or (enhanced.subject, enhanced.detail) in ((5, 3), (0, 0))
    return outcome.reply.code in _TOO_MANY and unspecific
