"""What the queue itself has to say about a settlement: events for expiries, and the log lines."""

from __future__ import annotations

import logging

from deliver.outcome import AttemptResult, Deferred, Delivered, Failed
from deliver.queue import codec
from deliver.queue.schedule import Settlement
from deliver.queue.store import Claim, Settled
from events.catalogue import Event

log = logging.getLogger("outrider.queue")


def expiries(
    claim: Claim, result: AttemptResult, settlements: tuple[Settlement, ...], now: float
) -> tuple[Event, ...]:
    """msg:fail:internal for each recipient whom the attempt deferred and the schedule gave up."""
    deferred = {recipient.ordinal for recipient, outcome in result.outcomes if isinstance(outcome, Deferred)}
    return tuple(
        Event("msg:fail:internal", now, _fields(claim, each, each.outcome))
        for each in settlements
        if isinstance(each.outcome, Failed) and each.recipient.ordinal in deferred
    )


def report(claim: Claim, settlements: tuple[Settlement, ...], settled: Settled, now: float) -> None:
    """One line per recipient, and one each for a bounce and for the end of the message."""
    stale = {recipient.ordinal for recipient in settled.stale}
    for each in settlements:
        if each.recipient.ordinal in stale:
            log.warning(
                "%s: to=<%s> was settled by another attempt", claim.envelope.id, each.recipient.mailbox
            )
            continue
        _report_one(claim, each, now)
    if settled.bounce is not None:
        log.info("%s: bounce %s queued", claim.envelope.id, settled.bounce.id)
    if settled.completed:
        log.info("%s: completed", claim.envelope.id)


def _report_one(claim: Claim, settlement: Settlement, now: float) -> None:
    outcome = settlement.outcome
    line = f"{claim.envelope.id}: to=<{settlement.recipient.mailbox}> attempt={claim.number}"
    said = codec.sentence(outcome)
    match outcome:
        case Delivered():
            where = f"{outcome.contact.host} [{outcome.contact.address}]"
            log.info("%s delivered by %s: %s", line, where, said)
        case Deferred():
            assert settlement.next_attempt is not None
            log.info("%s deferred for %d s: %s", line, settlement.next_attempt - now, said)
        case Failed():
            bounced = "" if claim.envelope.sender else " (null sender: nobody is told)"
            log.warning("%s failed: %s%s", line, said, bounced)


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
