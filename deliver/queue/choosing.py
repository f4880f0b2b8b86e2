"""Whose turn it is within a domain: its senders go round and round by name, each with its oldest message.

Synchronous, within the transaction of a claim (see `deliver.queue.claiming`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Protocol

from sqlalchemy import Connection, bindparam, select

from deliver.queue.schema import is_queued, recipient
from deliver.queue.statement import Statement

MAX_HOPS: Final = 20  # senders without anything due, or with a limit, that are passed over for one claim
CROWDED: Final = 1.0  # seconds until a domain whose senders all have to wait is looked at again


class Admission(Protocol):
    """What may begin now; asked and told in the database's thread."""

    def opens_at(self, domain: str) -> float:
        """From when on one more attempt for the domain may begin; -inf is now, inf is not known."""
        ...

    def sender_opens_at(self, domain: str, sender: str) -> float:
        """The same for mail of that sender to the domain."""
        ...

    def reserve(self, domain: str) -> bool:
        """Take the place for one more attempt, where others share the limits; False: they were quicker."""
        ...

    def took(self, domain: str, sender: str) -> None:
        """One was claimed."""
        ...

    def hold(self, domain: str, until: float) -> None:
        """Nobody's mail to the domain may go before that moment."""
        ...


@dataclass(frozen=True, slots=True)
class Choice:
    """The message that is next, None where nobody's may go; `sender`: who was looked at last."""

    message_id: str | None
    sender: str


def next_message(conn: Connection, domain: str, last_sender: str, now: float, admission: Admission) -> Choice:
    """The message that is due longest of the sender whose turn it is, behind `last_sender`."""
    sender, opening = last_sender, math.inf
    seen: set[str] = set()
    while len(seen) < MAX_HOPS:
        behind = _sender_behind(conn, domain, sender)
        if behind is None or behind in seen:
            break
        sender = behind
        seen.add(sender)
        opens = admission.sender_opens_at(domain, sender)
        if opens > now:
            opening = min(opening, opens)
            continue
        found = _OLDEST_OF_SENDER.first(conn, domain=domain, now=now, sender=sender)
        if found is not None:
            return Choice(found.message_id, sender)
    else:  # many senders wait for their time: the oldest message of any that may go
        for found in _OLDEST.all(conn, domain=domain, now=now):
            if admission.sender_opens_at(domain, found.sender) <= now:
                return Choice(found.message_id, found.sender)
            opening = min(opening, now + CROWDED)
    if opening < math.inf:
        admission.hold(domain, opening)
    elif any(admission.sender_opens_at(domain, each) > now for each in seen):
        admission.hold(domain, now + CROWDED)
    return Choice(None, sender)


def _sender_behind(conn: Connection, domain: str, sender: str) -> str | None:
    """The next sender by name with something queued for the domain; behind the last one the first."""
    found = _SENDER_BEHIND.scalar(conn, domain=domain, behind=sender)
    return _FIRST_SENDER.scalar(conn, domain=domain) if found is None else str(found)


_QUEUED: Final = (is_queued(), recipient.c.domain == bindparam("domain"))
DUE: Final = (*_QUEUED, recipient.c.next_attempt <= bindparam("now"))
_SENDERS: Final = select(recipient.c.sender).where(*_QUEUED).order_by(recipient.c.sender).limit(1)
_FIRST_SENDER: Final = Statement(_SENDERS)
_SENDER_BEHIND: Final = Statement(_SENDERS.where(recipient.c.sender > bindparam("behind")))
_BY_AGE: Final = (
    select(recipient.c.message_id, recipient.c.sender).where(*DUE).order_by(recipient.c.next_attempt)
)
_OLDEST: Final = Statement(_BY_AGE.limit(MAX_HOPS))
_OLDEST_OF_SENDER: Final = Statement(_BY_AGE.where(recipient.c.sender == bindparam("sender")).limit(1))
