"""Claims: due recipients are leased. Synchronous, on the caller's connection, `now` given.

The attempt, its number and a pessimistic next attempt are on record before any network I/O, so that a crash
costs one wait and never the mail. Turns are taken twice: domains one message each, the one that was served
longest ago first; and within a domain its senders, round and round by name.

Rows are locked as they are chosen, and skipped where another process has them, so that many processes may
claim from one database; SQLite has one writer and knows no such locks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from sqlalchemy import Connection, Row, bindparam, insert, select, update

from deliver.message import Envelope, Recipient
from deliver.outcome import Place
from deliver.queue import codec, due, freeze, schedule
from deliver.queue.hold import Append
from deliver.queue.locking import free_destinations
from deliver.queue.schema import State, attempt, message, recipient
from deliver.queue.statement import Statement
from events import outbox

MAX_RECIPIENTS: Final = 100  # of one claim; every server takes as many (RFC 5321 4.5.3.1.8)
MAX_HOPS: Final = 20  # senders without anything due, or with a limit, that are passed over for one claim
CROWDED: Final = 1.0  # seconds until a domain whose senders all have to wait is looked at again
MAX_SENDER: Final = 320  # characters
_ABOUT_MAIL: Final = frozenset({"mail", "rcpt", "data", "body", "dot"})
_VERP: Final = "+="  # behind these a local part is made for one recipient or purpose


@dataclass(frozen=True, slots=True)
class Claim:
    """One message and its due recipients of one domain, leased until `lease_until` (epoch seconds).

    `envelope.recipients` are the recipients of this claim only. `number` counts the attempts from 1.
    `content` is there if it is in the row of the message. `waited`: the wait that was decided last, by
    recipient. `tried`: where the attempt before failed, if at a server. `sender`: see `sender_key`.
    """

    attempt_id: int
    number: int
    envelope: Envelope
    recipients: tuple[Recipient, ...]
    domain: str
    lease_until: float
    spool_name: str | None
    waited: tuple[float, ...] = ()
    tried: Place | None = None
    sender: str = ""
    content: bytes | None = field(default=None, repr=False, compare=False)


class Admission(Protocol):
    """What may begin now; asked and told in the database's thread."""

    def opens_at(self, domain: str) -> float:
        """From when on one more attempt for the domain may begin; -inf is now, inf is not known."""
        ...

    def sender_opens_at(self, domain: str, sender: str) -> float:
        """The same for mail of that sender to the domain."""
        ...

    def took(self, domain: str, sender: str) -> None:
        """One was claimed."""
        ...

    def hold(self, domain: str, until: float) -> None:
        """Nobody's mail to the domain may go before that moment."""
        ...


def sender_key(envelope: Envelope) -> str:
    """Who shares a turn: the login, else the sender's address without what was added for one recipient."""
    if envelope.authenticated:
        return envelope.authenticated[:MAX_SENDER]
    if envelope.sender is None:
        return ""
    local_part = envelope.sender.local_part
    for mark in _VERP:
        local_part = local_part.partition(mark)[0] or local_part
    return f"{local_part}@{envelope.sender.domain}".lower()[:MAX_SENDER]


def claim(
    conn: Connection,
    *,
    now: float,
    limit: int,
    lease: float,
    retry: tuple[float, ...],
    admission: Admission,
    domains: Iterable[str] | None = None,
    append: Append = outbox.append,
    node: str | None = None,
) -> tuple[Claim, ...]:
    """Lease at most `limit` messages' due recipients for `lease` seconds, as far as `admission` allows.

    With `domains` only of these, in that order. What a freeze rule matches is held instead. `node` is who
    claims, where several share the database; domains that another is busy with are passed over.
    """
    freeze.hold_frozen(conn, now, append)
    claims: list[Claim] = []
    passed: set[str] = set()  # domains that others are busy with

    def opens_at(domain: str) -> float:
        return math.inf if domain in passed else admission.opens_at(domain)

    while len(claims) < limit:
        wanted = limit - len(claims)
        if domains is None:
            turn = due.due_domains(conn, now, opens_at, wanted)
        else:
            turn = due.due_among(conn, now, tuple(domains), opens_at, wanted)
        if not turn:
            break
        free = free_destinations(conn, [domain for domain, _ in turn])
        passed.update(domain for domain, _ in turn if domain not in free)
        for domain, last_sender in turn:
            if domain in passed:
                continue
            if admission.opens_at(domain) > now:  # what the domains before it took
                continue
            taken = _claim_one(conn, domain, last_sender, now, lease, retry, admission, node)
            due.note_served(conn, domain, now, taken.sender if taken else last_sender)
            if taken is None:
                passed.add(domain)
            else:
                claims.append(taken)
    return tuple(claims)


def _claim_one(
    conn: Connection,
    domain: str,
    last_sender: str,
    now: float,
    lease: float,
    retry: tuple[float, ...],
    admission: Admission,
    node: str | None,
) -> Claim | None:
    chosen = _next_message(conn, domain, last_sender, now, admission)
    if chosen is None:
        return None
    rows = _DUE_OF_MESSAGE.all(conn, domain=domain, now=now, of=chosen.message_id)
    if not rows:
        return None
    mail = _MESSAGE.first(conn, of=chosen.message_id)
    admission.took(domain, chosen.sender)
    return _lease(conn, mail, rows, domain, now, lease, retry, node)


def _next_message(conn: Connection, domain: str, last_sender: str, now: float, admission: Admission) -> Any:
    """The message that is due longest of the sender whose turn it is."""
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
            return found
    else:  # many senders wait for their time: the oldest message of any that may go
        for found in _OLDEST.all(conn, domain=domain, now=now):
            if admission.sender_opens_at(domain, found.sender) <= now:
                return found
            opening = min(opening, now + CROWDED)
    if opening < math.inf:
        admission.hold(domain, opening)
    elif any(admission.sender_opens_at(domain, each) > now for each in seen):
        admission.hold(domain, now + CROWDED)
    return None


def _sender_behind(conn: Connection, domain: str, sender: str) -> str | None:
    """The next sender by name with something queued for the domain; behind the last one the first."""
    found = _SENDER_BEHIND.scalar(conn, domain=domain, behind=sender)
    return _FIRST_SENDER.scalar(conn, domain=domain) if found is None else str(found)


def _lease(
    conn: Connection,
    mail: Row[Any],
    rows: Iterable[Row[Any]],
    domain: str,
    now: float,
    lease: float,
    retry: tuple[float, ...],
    node: str | None,
) -> Claim:
    leased = tuple(rows)
    number = 1 + max(row.attempts for row in leased)
    attempt_id = _BEGIN_ATTEMPT.insert(
        conn,
        message_id=mail.id,
        domain=domain,
        number=number,
        started_at=now,
        lease_until=now + lease,
        node=node,
    )
    for row in leased:
        _LEASE.change(
            conn,
            of=mail.id,
            ordinal_=row.ordinal,
            attempt=attempt_id,
            number=number,
            next=schedule.pessimistic(now, number, retry),
        )
    recipients = tuple(codec.recipient_of(row) for row in leased)
    return Claim(
        attempt_id,
        number,
        codec.envelope_of(mail, recipients),
        recipients,
        domain,
        now + lease,
        mail.spool_name,
        waited=tuple(row.waited for row in leased),
        tried=_place(leased[0].last_outcome),
        sender=leased[0].sender,
        content=None if mail.content is None else bytes(mail.content),
    )


def _place(outcome: str | None) -> Place | None:
    """The server that failed the recipient. One that answered about the mail is not to be avoided: a server
    that greylists wants to see the same client again.
    """
    plain = json.loads(outcome) if outcome else {}
    if plain.get("reply") and plain.get("phase") in _ABOUT_MAIL:
        return None
    contact = plain.get("contact") or {}
    return Place(contact.get("host", ""), contact["address"]) if contact.get("address") else None


_QUEUED: Final = (recipient.c.state == State.QUEUED.value, recipient.c.domain == bindparam("domain"))
_DUE: Final = (*_QUEUED, recipient.c.next_attempt <= bindparam("now"))
_SENDERS: Final = select(recipient.c.sender).where(*_QUEUED).order_by(recipient.c.sender).limit(1)
_FIRST_SENDER: Final = Statement(_SENDERS)
_SENDER_BEHIND: Final = Statement(_SENDERS.where(recipient.c.sender > bindparam("behind")))
_BY_AGE: Final = (
    select(recipient.c.message_id, recipient.c.sender).where(*_DUE).order_by(recipient.c.next_attempt)
)
_OLDEST: Final = Statement(_BY_AGE.limit(MAX_HOPS))
_OLDEST_OF_SENDER: Final = Statement(_BY_AGE.where(recipient.c.sender == bindparam("sender")).limit(1))
_DUE_OF_MESSAGE: Final = Statement(
    select(recipient)
    .where(*_DUE, recipient.c.message_id == bindparam("of"))
    .order_by(recipient.c.ordinal)
    .limit(MAX_RECIPIENTS)
    .with_for_update(skip_locked=True)
)
_MESSAGE: Final = Statement(select(message).where(message.c.id == bindparam("of")))
_BEGIN_ATTEMPT: Final = Statement(
    insert(attempt), ("message_id", "domain", "number", "started_at", "lease_until", "node")
)
_LEASE: Final = Statement(
    update(recipient)
    .where(
        recipient.c.message_id == bindparam("of"),
        recipient.c.ordinal == bindparam("ordinal_"),
        recipient.c.state == State.QUEUED.value,
    )
    .values(
        state=State.LEASED.value,
        attempt_id=bindparam("attempt"),
        attempts=bindparam("number"),
        next_attempt=bindparam("next"),
    )
)
