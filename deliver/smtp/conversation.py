"""What was said in a transaction, as findings for the trace: refusals one by one, acceptance as a count."""

from __future__ import annotations

from collections.abc import Sequence

from deliver.outcome import Contact, Phase
from deliver.report.trace import Finding, Stage, Verdict
from deliver.smtp.client import Exchange
from deliver.smtp.command import BdatLast, Rcpt


def findings_of(exchanges: Sequence[Exchange], contact: Contact) -> tuple[Finding, ...]:
    """The findings, in the order of the replies."""
    findings: list[Finding] = []
    accepted = 0
    for exchange in exchanges:
        reply, digit = exchange.reply, exchange.reply.code // 100
        if digit != 2 and digit != 3:
            word = exchange.phase.name.lower()
            said = str(reply)
            text = f"{contact.host} refused {exchange.phase.value}: {said}"
            evidence = _evidence(exchange, said, contact)
            findings.append(
                Finding(Stage.TRANSACTION, f"{word}-refused", text, Verdict.REFUSED, "RFC 5321", evidence)
            )
        elif exchange.phase is Phase.RCPT:
            accepted += 1
        elif exchange.phase is Phase.DOT and digit == 2 and not exchange.individual:
            whom = "1 recipient" if accepted == 1 else f"{accepted} recipients"
            said = str(reply)
            text = f"{contact.host} took the message for {whom}: {said}"
            rfc = "RFC 3030 2" if isinstance(exchange.command, BdatLast) else "RFC 5321 4.1.1.4"
            evidence = _evidence(exchange, said, contact)
            findings.append(Finding(Stage.TRANSACTION, "accepted", text, Verdict.OK, rfc, evidence))
    return tuple(findings)


def _evidence(exchange: Exchange, said: str, contact: Contact) -> tuple[tuple[str, str], ...]:
    where = (("reply", said), ("host", contact.host), ("address", contact.address))
    if isinstance(exchange.command, Rcpt):
        return (("recipient", str(exchange.command.mailbox)), *where)
    return where
