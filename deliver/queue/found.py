"""What a claim reads: a message and its due recipients of one domain, as they are in their rows.

Nobody's mail is to wait for a message whose rows cannot be read: `is_unreadable` tells such errors from those
of the database.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy.exc import DBAPIError

from deliver.errors import UsageError
from deliver.message import Envelope, Recipient
from deliver.outcome import Place
from deliver.queue import codec

UNREADABLE: Final = (ValueError, TypeError, AttributeError, KeyError, RecursionError, UsageError)
_ABOUT_MAIL: Final = frozenset({"mail", "rcpt", "data", "body", "dot"})


@dataclass(frozen=True, slots=True)
class Found:
    """What was found. `number`: of the attempt that is next. `waited`, `tried`: see `claiming.Claim`."""

    domain: str
    envelope: Envelope
    recipients: tuple[Recipient, ...]
    number: int
    waited: tuple[float, ...]
    tried: Place | None
    sender: str
    due: float
    spool_name: str | None
    content: bytes | None


def read(domain: str, mail: Any, due_now: list[Any]) -> Found:
    """The rows as values. Raises one of UNREADABLE."""
    recipients = tuple([codec.recipient_of(row) for row in due_now])
    return Found(
        domain,
        codec.envelope_of(mail, recipients),
        recipients,
        1 + max([row.attempts for row in due_now]),
        tuple([float(row.waited) for row in due_now]),
        _place(due_now[0].last_outcome),
        due_now[0].sender,
        min([row.next_attempt for row in due_now]),
        mail.spool_name,
        None if mail.content is None else bytes(mail.content),
    )


def is_unreadable(error: Exception) -> bool:
    """Whether it is about what stands in a row: its values, or text that SQLite cannot decode."""
    if isinstance(error, UNREADABLE):
        return True
    origin = error.orig if isinstance(error, DBAPIError) else error
    return isinstance(origin, sqlite3.OperationalError) and str(origin).startswith("Could not decode")


def why_unreadable(error: Exception) -> str:
    """The reason with which the message is held."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    return f"its record in the queue cannot be read: {str(origin) or type(origin).__name__}"


def _place(outcome: str | None) -> Place | None:
    """The server that failed the recipient. One that answered about the mail is not to be avoided: a server
    that greylists wants to see the same client again.
    """
    try:
        plain = json.loads(outcome) if outcome else {}
    except (ValueError, RecursionError):
        return None
    if not isinstance(plain, dict) or (plain.get("reply") and plain.get("phase") in _ABOUT_MAIL):
        return None
    contact = plain.get("contact")
    if not isinstance(contact, dict) or not contact.get("address"):
        return None
    return Place(str(contact.get("host", "")), str(contact["address"]))
