"""What the queue itself has to say about a settlement: events for expiries, and the log lines."""

from __future__ import annotations

import logging

from deliver.outcome import AttemptResult, Deferred, Failed
from deliver.queue.schedule import Settlement
from deliver.queue.store import Claim, Settled
from deliver.report.log import say
from deliver.report.result import log_outcome
from events.catalogue import Event

log = logging.getLogger("outrider.queue")


def expiries(
    claim: Claim, result: AttemptResult, settlements: tuple[Settlement, ...], now: float
) -> tuple[Event, ...]:
    """msg:fail:internal for each recipient whom the attempt deferred and the schedule gave up."""
    failed = [(each, each.outcome) for each in settlements if isinstance(each.outcome, Failed)]
    if not failed:
        return ()
    deferred = {recipient.ordinal for recipient, outcome in result.outcomes if isinstance(outcome, Deferred)}
    return tuple(
        Event("msg:fail:internal", now, _fields(claim, each, outcome))
        for each, outcome in failed
        if each.recipient.ordinal in deferred
    )


def report(claim: Claim, settlements: tuple[Settlement, ...], settled: Settled, now: float) -> None:
    """One line per recipient, and one for the end of the message."""
    stale = {recipient.ordinal for recipient in settled.stale} if settled.stale else ()
    for each in settlements:
        if each.recipient.ordinal in stale:
            say(
                log,
                logging.WARNING,
                "settled by another attempt",
                id=claim.envelope.id,
                to=each.recipient.mailbox,
            )
            continue
        due = each.next_attempt
        wait = None if due is None else due - now
        log_outcome(claim.envelope, each.recipient, each.outcome, attempt=claim.number, wait=wait)
    if settled.completed:
        say(log, logging.INFO, "completed", id=claim.envelope.id)


def _fields(claim: Claim, settlement: Settlement, outcome: Failed) -> dict[str, str | int | float | None]:
    return {
        "message_id": claim.envelope.id,
        "sender_address": claim.envelope.reverse_path,
        "attempt": claim.number,
        "local_part": settlement.recipient.mailbox.local_part,
        "domain": settlement.recipient.mailbox.domain,
        "blame": outcome.blame.value,
        "enhanced_code": str(outcome.enhanced),
        "event_data": outcome.why,
    }
