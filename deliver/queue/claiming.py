"""Claims: due recipients are leased. Synchronous, on the caller's connection, `now` given.

The attempt, its number and a pessimistic next attempt are on record before any network I/O, so that a crash
costs one wait and never the mail. Turns are taken twice: domains one message each, the one that was served
longest ago first; and within a domain its senders (see `deliver.queue.choosing`). A message whose rows cannot
be read is held with that reason, and the others go on.

Rows are locked as they are chosen, and skipped where another process has them, so that many processes may
claim from one database; SQLite has one writer and knows no such locks.
"""

from __future__ import annotations

import json
import logging
import math
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sqlalchemy import Connection, bindparam, func, insert, select, update
from sqlalchemy.exc import DBAPIError

from deliver.errors import UsageError
from deliver.message import Envelope, Recipient
from deliver.outcome import Place
from deliver.queue import choosing, codec, due, freeze, schedule
from deliver.queue.choosing import CROWDED as CROWDED, Admission as Admission
from deliver.queue.hold import Append, Key, set_aside
from deliver.queue.locking import free_destinations
from deliver.queue.misdated import IMPOSSIBLE, TOLERANCE
from deliver.queue.rule import Rule
from deliver.queue.schema import State, attempt, message, recipient
from deliver.queue.statement import Statement
from events import outbox

MAX_RECIPIENTS: Final = 100  # of one claim; every server takes as many (RFC 5321 4.5.3.1.8)
MAX_HELD: Final = 500  # recipients that one call holds, about: others want to write too
LATE: Final = (
    3600.0  # seconds after it was due: the relay was down, mail is waiting its turn, or the clock jumped
)
MAX_SENDER: Final = 320  # characters
_ABOUT_MAIL: Final = frozenset({"mail", "rcpt", "data", "body", "dot"})
_VERP: Final = "+="  # behind these a local part is made for one recipient or purpose
_UNREADABLE: Final = (ValueError, TypeError, AttributeError, KeyError, RecursionError, UsageError)

log = logging.getLogger("outrider.queue")


@dataclass(frozen=True, slots=True)
class Claim:
    """One message and its due recipients of one domain, leased until `lease_until` (epoch seconds).

    `envelope.recipients` are the recipients of this claim only. `number` counts the attempts from 1.
    `content` is there if it is in the row of the message. `waited`: the wait that was decided last, by
    recipient. `tried`: where the attempt before failed, if at a server. `sender`: see `sender_key`.
    `before`: where this one comes more than LATE after it was due, when the attempt before began, -inf for
    none; else inf. `envelope.received_at` is that of a clock that was right.
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
    before: float = math.inf
    content: bytes | None = field(default=None, repr=False, compare=False)


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
    line: due.Line | None = None,
) -> tuple[Claim, ...]:
    """Lease at most `limit` messages' due recipients for `lease` seconds, as far as `admission` allows.

    With `domains` only of these, in that order. What a freeze rule matches is held instead, and so is what
    cannot be read. `node` is who claims, where several share the database; domains that another is busy with
    are passed over. `line`: see `due.due_domains`.
    """
    taking = _Taking(conn, now, lease, retry, admission, node, freeze.active(conn, now), append)
    claims: list[Claim] = []
    passed: set[str] = set()  # domains that others are busy with

    def opens_at(domain: str) -> float:
        return math.inf if domain in passed else admission.opens_at(domain)

    while len(claims) < limit:
        wanted = limit - len(claims)
        if domains is None:
            turn = due.due_domains(conn, now, opens_at, wanted, line)
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
            if not admission.reserve(domain):
                passed.add(domain)
                continue
            taken, sender = taking.next_of(domain, last_sender)
            due.note_served(conn, domain, now, sender)
            if taken is None:
                passed.add(domain)
            else:
                claims.append(taken)
    return tuple(claims)


@dataclass(slots=True)
class _Taking:
    """What one call of `claim` goes by, and how much it has `held`."""

    conn: Connection
    now: float
    lease: float
    retry: tuple[float, ...]
    admission: Admission
    node: str | None
    rules: tuple[Rule, ...]
    append: Append
    held: int = 0

    def next_of(self, domain: str, last_sender: str) -> tuple[Claim | None, str]:
        """The next message of the domain, None if nothing may go now; and whose turn it was last."""
        frozen = freeze.rule_of_domain(self.rules, domain)
        if frozen is not None:
            self._hold(frozen, freeze.due_of(self.conn, domain, self.now))
            return None, last_sender
        sender = last_sender
        while self.held < MAX_HELD:
            choice = choosing.next_message(self.conn, domain, sender, self.now, self.admission)
            sender = choice.sender
            if choice.message_id is None:
                break
            try:
                due_now = _DUE_OF_MESSAGE.all(self.conn, domain=domain, now=self.now, of=choice.message_id)
                if not due_now:  # others have them
                    break
                mail = _MESSAGE.first(self.conn, of=choice.message_id)
                rule = freeze.rule_of_sender(self.rules, codec.sender_of(mail))
                found = _read(mail, due_now)
            except _UNREADABLE as error:
                self._set_aside(choice.message_id, domain, error)
                continue
            except (DBAPIError, sqlite3.Error) as error:
                if not _is_unreadable(error):
                    raise
                self._set_aside(choice.message_id, domain, error)
                continue
            if rule is None:
                self.admission.took(domain, found.sender)
                return self._lease(mail, found, domain), sender
            if not self._hold(rule, [Key(mail.id, row.ordinal) for row in due_now]):
                break  # others are busy with it
        return None, sender

    def _hold(self, rule: Rule, keys: list[Key]) -> int:
        held = freeze.hold_by(self.conn, rule, keys, self.now, self.append, wait=False)
        self.held += held
        return held

    def _set_aside(self, message_id: str, domain: str, error: Exception) -> None:
        """Nobody's mail is to wait for one that cannot be read."""
        why = f"its record in the queue cannot be read: {str(error) or type(error).__name__}"
        log.error("%s: held for %s: %s", message_id, domain, why)
        self.held += max(1, set_aside(self.conn, message_id, domain, why, self.now, self.append))

    def _lease(self, mail: Any, found: _Readable, domain: str) -> Claim:
        until = self.now + self.lease
        envelope, before = self._rightly_dated(found.envelope), math.inf
        if self.now - found.due > LATE:
            begun = _LAST_BEGUN.scalar(self.conn, of=mail.id, domain=domain, now=self.now)
            before = -math.inf if begun is None else begun
        attempt_id = _BEGIN_ATTEMPT.insert(
            self.conn,
            message_id=mail.id,
            domain=domain,
            number=found.number,
            started_at=self.now,
            lease_until=until,
            node=self.node,
        )
        for each in found.recipients:
            _LEASE.change(
                self.conn,
                of=mail.id,
                ordinal_=each.ordinal,
                attempt=attempt_id,
                number=found.number,
                next=schedule.pessimistic(self.now, found.number, self.retry),
            )
        return Claim(
            attempt_id,
            found.number,
            envelope,
            found.recipients,
            domain,
            until,
            mail.spool_name,
            waited=found.waited,
            tried=found.tried,
            sender=found.sender,
            before=before,
            content=None if mail.content is None else bytes(mail.content),
        )

    def _rightly_dated(self, envelope: Envelope) -> Envelope:
        """If the clock was wrong when the message was received: as of its first attempt since it is right.

        While the clock is impossible nothing has any age.
        """
        if IMPOSSIBLE <= envelope.received_at <= self.now + TOLERANCE:
            return envelope
        first = _FIRST_BEGUN.scalar(self.conn, of=envelope.id, after=IMPOSSIBLE, now=self.now)
        return replace(envelope, received_at=self.now if first is None else float(first))


@dataclass(frozen=True, slots=True)
class _Readable:
    """What is in the rows of a message and its due recipients."""

    envelope: Envelope
    recipients: tuple[Recipient, ...]
    number: int
    waited: tuple[float, ...]
    tried: Place | None
    sender: str
    due: float


def _read(mail: Any, due_now: list[Any]) -> _Readable:
    """Raises one of _UNREADABLE."""
    recipients = tuple(codec.recipient_of(row) for row in due_now)
    return _Readable(
        codec.envelope_of(mail, recipients),
        recipients,
        1 + max(row.attempts for row in due_now),
        tuple(float(row.waited) for row in due_now),
        _place(due_now[0].last_outcome),
        due_now[0].sender,
        min(row.next_attempt for row in due_now),
    )


def _is_unreadable(error: Exception) -> bool:
    """Whether it is about the text in a row of SQLite, and not about the database."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    return isinstance(origin, sqlite3.OperationalError) and str(origin).startswith("Could not decode")


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


_DUE_OF_MESSAGE: Final = Statement(
    select(recipient)
    .where(*choosing.DUE, recipient.c.message_id == bindparam("of"))
    .order_by(recipient.c.ordinal)
    .limit(MAX_RECIPIENTS)
    .with_for_update(skip_locked=True)
)
_MESSAGE: Final = Statement(select(message).where(message.c.id == bindparam("of")))
_BEGIN_ATTEMPT: Final = Statement(
    insert(attempt), ("message_id", "domain", "number", "started_at", "lease_until", "node")
)
_BEGUN: Final = (attempt.c.message_id == bindparam("of"), attempt.c.started_at <= bindparam("now"))
_LAST_BEGUN: Final = Statement(
    select(func.max(attempt.c.started_at)).where(*_BEGUN, attempt.c.domain == bindparam("domain"))
)
_FIRST_BEGUN: Final = Statement(
    select(func.min(attempt.c.started_at)).where(*_BEGUN, attempt.c.started_at >= bindparam("after"))
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
