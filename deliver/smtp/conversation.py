"""What was said in a transaction, as findings for the trace: refusals one by one, acceptance as a count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deliver.outcome import Contact, Phase
from deliver.report.trace import Finding, Stage, Verdict
from deliver.smtp.client import Exchange
from deliver.smtp.command import BdatLast, Rcpt


def findings_of(exchanges: Sequence[Exchange], contact: Contact) -> Iterator[Finding]:
    """The findings, in the order of the replies."""
    accepted = 0
    for exchange in exchanges:
        reply, digit = exchange.reply, exchange.reply.code // 100
        if digit != 2 and digit != 3:
            word = exchange.phase.name.lower()
            text = f"{contact.host} refused {exchange.phase.value}: {reply}"
            evidence = _evidence(exchange, contact)
            yield Finding(Stage.TRANSACTION, f"{word}-refused", text, Verdict.REFUSED, "RFC 5321", evidence)
        elif exchange.phase is Phase.RCPT:
            accepted += 1
        elif exchange.phase is Phase.DOT and digit == 2 and not exchange.individual:
            whom = "1 recipient" if accepted == 1 else f"{accepted} recipients"
            text = f"{contact.host} took the message for {whom}: {reply}"
            rfc = "RFC 3030 2" if isinstance(exchange.command, BdatLast) else "RFC 5321 4.1.1.4"
            evidence = _evidence(exchange, contact)
            yield Finding(Stage.TRANSACTION, "accepted", text, Verdict.OK, rfc, evidence)


def _evidence(exchange: Exchange, contact: Contact) -> tuple[tuple[str, str], ...]:
    said = (("reply", str(exchange.reply)), ("host", contact.host), ("address", contact.address))
    if isinstance(exchange.command, Rcpt):
        return (("recipient", str(exchange.command.mailbox)), *said)
    return said
