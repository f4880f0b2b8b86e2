"""What a claim reads: a message and its due recipients of one domain, as they are in their rows."""

from __future__ import annotations

import json
from typing import Any, Final

from msgspec import Struct

from deliver.message import Envelope, Recipient
from deliver.outcome import Place
from deliver.queue import codec

_ABOUT_MAIL: Final = frozenset({"mail", "rcpt", "data", "body", "dot"})


class Found(Struct, frozen=True):
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
    """The rows as values. Raises as rows that cannot be read do, see `deliver.queue.unreadable`."""
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
