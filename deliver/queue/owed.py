"""What the sender is to be told about a recipient (RFC 3461 4.1, 5.2). Pure.

    outcome     NOTIFY of the recipient            owed
    ----------  ---------------------------------  -----------------------------------------------------
    Failed      none given, or with FAILURE        FAILED
    Deferred    none given, or with DELAY          DELAYED, when another of `queue.delay_warning` is over
    Delivered   with SUCCESS                       RELAYED, unless the server took the request over
    any         NEVER, or without the word above   nothing

Mail with the null reverse path is never reported on: a bounce has no sender (RFC 5321 4.5.5).
"""

from __future__ import annotations

from enum import StrEnum

from deliver.dsn import Notify
from deliver.message import Mailbox, Recipient
from deliver.outcome import Deferred, Delivered, Failed, Outcome


class Owed(StrEnum):
    """What is to be said; the value is the Action field of the report (RFC 3464 2.3.3)."""

    FAILED = "failed"
    DELAYED = "delayed"
    RELAYED = "relayed"


def owed(outcome: Outcome, recipient: Recipient, sender: Mailbox | None) -> Owed | None:
    """The table above; for Deferred: what is owed if a warning is due."""
    if sender is None:
        return None
    match outcome:
        case Failed():
            return Owed.FAILED if _asked(recipient, Notify.FAILURE) else None
        case Deferred():
            return Owed.DELAYED if _asked(recipient, Notify.DELAY) else None
        case Delivered():
            passed_on = bool(getattr(outcome, "dsn_passed", False))
            explicit = recipient.notify is not None and Notify.SUCCESS in recipient.notify
            return Owed.RELAYED if explicit and not passed_on else None


def _asked(recipient: Recipient, word: Notify) -> bool:
    """Without NOTIFY the sender hears of failures, and may hear of delays (RFC 3461 4.1)."""
    return recipient.notify is None or word in recipient.notify
