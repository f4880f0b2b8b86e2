"""One recipient's result as plain data: what `outrider send --json` prints and its one line of text."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from deliver.message import Recipient
from deliver.outcome import Deferred, Delivered, Failed, Outcome
from deliver.report.trace import Trace

EX_OK = 0
EX_UNAVAILABLE = 69
EX_TEMPFAIL = 75


def as_dict(recipient: Recipient, outcome: Outcome, trace: Trace) -> dict[str, Any]:
    """{recipient, outcome, host, address, reply, enhanced_code, tls, in_doubt, reasons}; absent is None."""
    contact = outcome.contact
    enhanced = outcome.reply.enhanced if isinstance(outcome, Delivered) else outcome.enhanced
    return {
        "recipient": str(recipient.mailbox),
        "outcome": word(outcome),
        "host": contact.host if contact else None,
        "address": contact.address if contact else None,
        "reply": str(outcome.reply) if outcome.reply else None,
        "enhanced_code": str(enhanced) if enhanced else None,
        "tls": asdict(contact.tls) if contact and contact.tls else None,
        "in_doubt": isinstance(outcome, Deferred) and outcome.in_doubt,
        "reasons": trace.reasons(),
    }


def as_line(recipient: Recipient, outcome: Outcome) -> str:
    """`a@example.org: deferred 4.7.0: why`, for people and for the bounce of a calling MTA."""
    if isinstance(outcome, Delivered):
        contact = outcome.contact
        return f"{recipient.mailbox}: delivered to {contact.host} [{contact.address}]: {outcome.reply}"
    doubt = " (the server may hold the message)" if isinstance(outcome, Deferred) and outcome.in_doubt else ""
    return f"{recipient.mailbox}: {word(outcome)} {outcome.enhanced}: {outcome.why}{doubt}"


def word(outcome: Outcome) -> str:
    """`delivered`, `deferred` or `failed`."""
    match outcome:
        case Delivered():
            return "delivered"
        case Deferred():
            return "deferred"
        case Failed():
            return "failed"


def exit_status(outcomes: tuple[Outcome, ...]) -> int:
    """0 all delivered; 75 any deferred, so that the caller tries again; 69 none deferred and any failed."""
    if any(isinstance(outcome, Deferred) for outcome in outcomes):
        return EX_TEMPFAIL
    if any(isinstance(outcome, Failed) for outcome in outcomes):
        return EX_UNAVAILABLE
    return EX_OK
