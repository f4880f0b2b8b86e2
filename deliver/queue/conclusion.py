"""What an attempt is taken to have found out, whatever became of it. Pure.

the attempt                               a recipient's outcome
----------------------------------------  ---------------------------------------------------------
any, and a positive reply was journalled  Delivered: that reply is proof, whatever else was said
says what it knows about the recipient    that, also after an exception or a cancellation
says nothing about the recipient          Deferred LOCAL (a bug)
cannot say anything                       Deferred LOCAL, in doubt: where it stood is not known
was never begun                           Deferred LOCAL
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from deliver.errors import Blame
from deliver.message import Recipient
from deliver.outcome import AttemptResult, Deferred, Delivered, Outcome
from deliver.report.trace import Finding, Stage, Trace, Verdict
from deliver.smtp.reply import EnhancedCode

SYSTEM: Final = EnhancedCode(4, 3, 0)  # other mail system status, RFC 3463 3.4
NOT_STARTED: Final = "the attempt was not started because the relay is stopping"
UNEXPECTED: Final = "the attempt failed in an unexpected way"
NO_CONTENT: Final = "the content of the message cannot be read at the moment"
NOT_REPORTED: Final = "the attempt ended without a result for this recipient"


def conclude(
    recipients: tuple[Recipient, ...], result: AttemptResult, journalled: Mapping[int, Delivered]
) -> AttemptResult:
    """One outcome for each of `recipients`, in their order; `journalled` is by ordinal."""
    if tuple([to for to, _ in result.outcomes]) == recipients and result.all_delivered:
        return result  # as nearly always
    found = {recipient.ordinal: outcome for recipient, outcome in result.outcomes}
    missing = Deferred(NOT_REPORTED, Blame.LOCAL, enhanced=SYSTEM)
    outcomes: list[tuple[Recipient, Outcome]] = []
    for recipient in recipients:
        outcome = found.get(recipient.ordinal, missing)
        if not isinstance(outcome, Delivered):
            outcome = journalled.get(recipient.ordinal, outcome)
        outcomes.append((recipient, outcome))
    return AttemptResult(tuple(outcomes), result.trace, result.site)


def interrupted(recipients: tuple[Recipient, ...], *, started: bool) -> AttemptResult:
    """For an attempt that left no result; in doubt if it had started."""
    said = UNEXPECTED if started else NOT_STARTED
    outcome = Deferred(said, Blame.LOCAL, enhanced=SYSTEM, in_doubt=started)
    trace = Trace()
    trace.add(Finding(Stage.OUTCOME, "interrupted", said, Verdict.REFUSED))
    return AttemptResult(tuple((recipient, outcome) for recipient in recipients), trace)


def without_content(recipients: tuple[Recipient, ...]) -> AttemptResult:
    """For a message whose content cannot be read: held, and the sender is told at the expiry."""
    outcome = Deferred(NO_CONTENT, Blame.LOCAL, enhanced=SYSTEM)
    trace = Trace()
    trace.add(Finding(Stage.OUTCOME, "content-unreadable", NO_CONTENT, Verdict.REFUSED))
    return AttemptResult(tuple((recipient, outcome) for recipient in recipients), trace)
