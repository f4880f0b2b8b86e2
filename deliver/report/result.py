"""One recipient's result as plain data, as a line of text, and as a line of the log."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from deliver.message import Envelope, Recipient
from deliver.outcome import Deferred, Delivered, Failed, Outcome, TlsFacts
from deliver.report.log import say
from deliver.report.trace import Trace

_log = logging.getLogger("outrider.delivery")

EX_OK = 0
EX_UNAVAILABLE = 69
EX_TEMPFAIL = 75


def as_dict(recipient: Recipient, outcome: Outcome, trace: Trace) -> dict[str, Any]:
    """{recipient, outcome, host, address, reply, enhanced_code, tls, in_doubt, round_trips, reasons}.

    Absent is None. `round_trips` counts those of the whole attempt, all sessions together.
    """
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
        "round_trips": _round_trips(trace),
        "reasons": trace.reasons(),
    }


def _round_trips(trace: Trace) -> int:
    counted = (dict(finding.evidence) for finding in trace.findings if finding.code == "round-trips")
    return sum(int(evidence["round_trips"]) for evidence in counted)


def as_line(recipient: Recipient, outcome: Outcome) -> str:
    """`a@example.org: deferred 4.7.0: why`, for people and for the bounce of a calling MTA."""
    if isinstance(outcome, Delivered):
        contact = outcome.contact
        to = f" to {contact.host} [{contact.address}]" if contact.host else ""
        return f"{recipient.mailbox}: delivered{to}: {outcome.reply}"
    doubt = " (the server may hold the message)" if isinstance(outcome, Deferred) and outcome.in_doubt else ""
    return f"{recipient.mailbox}: {word(outcome)} {outcome.enhanced}: {outcome.why}{doubt}"


def rendered(results: Iterable[tuple[Recipient, Outcome, Trace]], *, as_json: bool) -> str:
    """One line per recipient, each with its line end: `as_dict` in JSON, or `as_line`."""
    if as_json:
        plain = (as_dict(*result) for result in results)
        return "".join(json.dumps(each, default=str, separators=(",", ":")) + "\n" for each in plain)
    return "".join(f"{as_line(recipient, outcome)}\n" for recipient, outcome, _ in results)


def log_outcome(
    envelope: Envelope, recipient: Recipient, outcome: Outcome, *, attempt: int, wait: float | None = None
) -> None:
    """The log line of a settled outcome; `wait`: seconds to the next attempt."""
    contact = outcome.contact
    refusal = {} if isinstance(outcome, Delivered) else {"why": outcome.why, "code": outcome.enhanced}
    say(
        _log,
        logging.WARNING if isinstance(outcome, Failed) else logging.INFO,
        word(outcome),
        id=envelope.id,
        to=recipient.mailbox,
        sender=envelope.reverse_path or "<>",
        attempt=attempt,
        **({"host": contact.host, "address": contact.address, "port": contact.port} if contact else {}),
        tls=tls_word(contact.tls if contact else None),
        reused="yes" if contact and contact.reused else None,
        reply=outcome.reply,
        **refusal,
        in_doubt="yes" if isinstance(outcome, Deferred) and outcome.in_doubt else None,
        retry_in=None if wait is None else round(wait),
    )


def tls_word(tls: TlsFacts | None) -> str:
    """`dane:dane-ee`: the level asked for and what it reached; `none` in clear text."""
    if tls is None:
        return "none"
    return f"{tls.level}:{'encrypt' if tls.verified_by == 'none' else tls.verified_by}"


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
