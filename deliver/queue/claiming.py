"""Claims: due recipients are leased. Synchronous, on the caller's connection, `now` given.

The attempt, its number and a pessimistic next attempt are on record before any network I/O, so that a crash
costs one wait and never the mail. Turns are taken twice: domains one message each, the one that was served
longest ago first; and within a domain its senders (see `deliver.queue.choosing`). A message whose rows cannot
be read is held with that reason, and the others go on.

Rows are locked as they are chosen, and skipped where another process has them, so that many processes may
claim from one database; SQLite has one writer and knows no such locks.
"""

from __future__ import annotations

import logging
import math
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from msgspec.structs import replace
from sqlalchemy import Connection, Integer, bindparam, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from deliver.message import Envelope, Recipient
from deliver.outcome import Place
from deliver.queue import choosing, codec, due, freeze, schedule
from deliver.queue.choosing import CROWDED as CROWDED, Admission as Admission
from deliver.queue.found import Found, read
from deliver.queue.heads import heads
from deliver.queue.hold import Append, Key, is_in, set_aside
from deliver.queue.locking import ALONE, free_destinations
from deliver.queue.misdated import IMPOSSIBLE, TOLERANCE
from deliver.queue.rule import Rule
from deliver.queue.schema import State, attempt, message, recipient
from deliver.queue.statement import Statement
from deliver.queue.unreadable import UNREADABLE, is_unreadable, why_unreadable
from events import outbox

MAX_RECIPIENTS: Final = 100  # of one claim; every server takes as many (RFC 5321 4.5.3.1.8)
MAX_HELD: Final = 500  # recipients that one call holds, about: others want to write too
AT_ONCE: Final = 8  # domains whose next messages are fetched together; a site may close behind the first
LATE: Final = (
    3600.0  # seconds after it was due: the relay was down, mail is waiting its turn, or the clock jumped
)
MAX_SENDER: Final = 320  # characters
Served = tuple[str, str]  # a domain, and the sender whose turn it was

_VERP: Final = "+="  # behind these a local part is made for one recipient or purpose

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
    rules: tuple[Rule, ...] | None = None,
    survey: due.Survey | None = None,
) -> tuple[Claim, ...]:
    """Lease at most `limit` messages' due recipients for `lease` seconds, as far as `admission` allows.

    With `domains` only of these, in that order. What a freeze rule matches is held instead, and so is what
    cannot be read. `node` is who claims, where several share the database; domains that another is busy with
    are passed over. `line`: see `due.due_domains`. `rules`: the active ones, if they have been read already.
    `survey` is filled if there are no `domains`.
    """
    rules = freeze.active(conn, now) if rules is None else rules
    taking = _Taking(conn, now, lease, retry, admission, node, rules, append)
    claims: list[Claim] = []
    passed: set[str] = set()  # domains that others are busy with

    def opens_at(domain: str) -> float:
        return math.inf if domain in passed else admission.opens_at(domain)

    survey = survey or due.Survey()
    known: list[str] = []  # when all was looked through: those that may be open still
    while len(claims) < limit:
        wanted = limit - len(claims)
        if domains is not None:
            turn = due.due_among(conn, now, tuple(domains), opens_at, wanted)
        elif survey.whole and conn.dialect.name == ALONE:  # what was closed then is closed now
            turn = _open_again(conn, now, known, passed, admission, survey)[:wanted]
        else:
            turn = due.due_domains(conn, now, opens_at, wanted, line, survey)
        if not turn:
            break
        free = free_destinations(conn, [domain for domain, _ in turn])
        passed.update(domain for domain, _ in turn if domain not in free)
        found, served = taking.one_of_each([each for each in turn if each[0] in free])
        passed.update(domain for domain, first in found.items() if first is None)
        claims += taking.lease_all(found.values())
        due.note_all_served(conn, served, now)
        behind = {
            domain for domain, _ in turn
        }  # these were looked at now, and are closed unless they were found
        known = [*found, *[domain for domain in known if domain not in behind]]
        survey.opening = min(survey.opening, taking.opening)
    if len(claims) >= limit or conn.dialect.name != ALONE:
        survey.whole = False  # there may be more, or others have changed it
    return tuple(claims)


def _open_again(
    conn: Connection,
    now: float,
    known: list[str],
    passed: set[str],
    admission: Admission,
    survey: due.Survey,
) -> list[tuple[str, str]]:
    """Those of the known domains that have more and are open still, in the order of their next turn."""
    found = []
    for domain, last_sender in due.due_again(conn, now, known):
        opens = admission.opens_at(domain)
        if opens <= now and domain not in passed:
            found.append((domain, last_sender))
        else:
            survey.opening = min(survey.opening, max(now, opens))
    return found


@dataclass(slots=True)
class _Taking:
    """What one call of `claim` goes by, how much it has `held`, and when the first closed domain opens."""

    conn: Connection
    now: float
    lease: float
    retry: tuple[float, ...]
    admission: Admission
    node: str | None
    rules: tuple[Rule, ...]
    append: Append
    held: int = 0
    opening: float = math.inf

    def one_of_each(self, turn: list[tuple[str, str]]) -> tuple[dict[str, Found | None], list[Served]]:
        """For each domain that may go now its next message, None if nothing of it may; and who was served."""
        found: dict[str, Found | None] = {}
        served: list[Served] = []
        for start in range(0, len(turn), AT_ONCE):
            some = turn[start : start + AT_ONCE]
            if start:  # a site may have filled up since the turn was found
                some = [each for each in some if self._is_open(each[0])]
            first = self._heads([domain for domain, _ in some])
            for domain, last_sender in some:
                if not self._is_open(domain):  # what the domains before it took
                    continue
                if not self.admission.reserve(domain):
                    found[domain] = None
                    continue
                found[domain], sender = self._next_of(domain, last_sender, first.get(domain))
                served.append((domain, sender))
        return found, served

    def _is_open(self, domain: str) -> bool:
        opens = self.admission.opens_at(domain)
        if self.now < opens < self.opening:
            self.opening = opens
        return opens <= self.now

    def _heads(self, domains: list[str]) -> dict[str, Any]:
        try:
            return heads(self.conn, domains, self.now)
        except (DBAPIError, sqlite3.Error) as error:
            if not is_unreadable(error):
                raise
            return {}  # they are looked at one by one

    def _next_of(self, domain: str, last_sender: str, head: Any) -> tuple[Found | None, str]:
        """The next message of the domain, None if nothing may go now; and whose turn it was last."""
        frozen = freeze.rule_of_domain(self.rules, domain)
        if frozen is not None:
            if self.held < MAX_HELD:
                self._hold(frozen, freeze.due_of(self.conn, domain, self.now))
            return None, last_sender
        found = self._of_head(domain, head)
        if found is not None:
            self.admission.took(domain, found.sender)
            return found, found.sender
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
                found = read(domain, mail, due_now)
            except (*UNREADABLE, DBAPIError, sqlite3.Error) as error:
                if not is_unreadable(error):
                    raise
                self._set_aside(choice.message_id, domain, error)
                continue
            if rule is None:
                self.admission.took(domain, found.sender)
                return found, sender
            if not self._hold(rule, [Key(mail.id, row.ordinal) for row in due_now]):
                break  # others are busy with it
        return None, sender

    def _of_head(self, domain: str, head: Any) -> Found | None:
        """The message at the head of the line; None where that has to be looked at more closely."""
        if head is None or head.others:
            return None
        try:
            if freeze.rule_of_sender(self.rules, codec.sender_of(head)) is not None:
                return None
            found = read(domain, head, [head])
        except UNREADABLE:
            return None
        return found if self.admission.sender_opens_at(domain, found.sender) <= self.now else None

    def _hold(self, rule: Rule, keys: list[Key]) -> int:
        held = freeze.hold_by(self.conn, rule, keys, self.now, self.append, wait=False)
        self.held += held
        return held

    def _set_aside(self, message_id: str, domain: str, error: Exception) -> None:
        """Nobody's mail is to wait for one that cannot be read."""
        why = why_unreadable(error)
        log.error("%s: held for %s: %s", message_id, domain, why)
        of_domain = recipient.c.domain == domain
        self.held += max(1, set_aside(self.conn, message_id, of_domain, why, self.now, self.append))

    def lease_all(self, found: Iterable[Found | None]) -> list[Claim]:
        """Put on record that an attempt begins for each of these."""
        chosen = [each for each in found if each is not None]
        numbers = self._begin_attempts(chosen)
        _LEASE.change_each(
            self.conn,
            [
                {
                    "of": each.envelope.id,
                    "ordinal_": recipient.ordinal,
                    "attempt": attempt_id,
                    "number": each.number,
                    "next": schedule.pessimistic(self.now, each.number, self.retry),
                }
                for attempt_id, each in zip(numbers, chosen, strict=True)
                for recipient in each.recipients
            ],
        )
        return [self._claim(attempt_id, each) for attempt_id, each in zip(numbers, chosen, strict=True)]

    def _begin_attempts(self, chosen: list[Found]) -> Sequence[int]:
        """Returns their ids. With one writer they can be told before the rows are made, all at once."""
        rows: list[dict[str, object]] = [
            {
                "message_id": each.envelope.id,
                "domain": each.domain,
                "number": each.number,
                "started_at": self.now,
                "lease_until": self.now + self.lease,
                "node": self.node,
            }
            for each in chosen
        ]
        if len(rows) < 2 or self.conn.dialect.name != ALONE:
            return [_BEGIN_ATTEMPT.insert(self.conn, **row) for row in rows]
        first = 1 + (_LAST_ATTEMPT.scalar(self.conn) or 0)
        _BEGIN_NUMBERED.change_each(
            self.conn, [{**row, "id": number} for number, row in enumerate(rows, first)]
        )
        return range(first, first + len(rows))

    def _claim(self, attempt_id: int, found: Found) -> Claim:
        before = math.inf
        if self.now - found.due > LATE:
            begun = _LAST_BEGUN.scalar(
                self.conn, of=found.envelope.id, domain=found.domain, now=self.now, but=attempt_id
            )
            before = -math.inf if begun is None else begun
        return Claim(
            attempt_id,
            found.number,
            self._rightly_dated(found.envelope, attempt_id),
            found.recipients,
            found.domain,
            self.now + self.lease,
            found.spool_name,
            waited=found.waited,
            tried=found.tried,
            sender=found.sender,
            before=before,
            content=found.content,
        )

    def _rightly_dated(self, envelope: Envelope, attempt_id: int) -> Envelope:
        """If the clock was wrong when the message was received: as of its first attempt since it is right.

        While the clock is impossible nothing has any age.
        """
        if IMPOSSIBLE <= envelope.received_at <= self.now + TOLERANCE:
            return envelope
        first = _FIRST_BEGUN.scalar(self.conn, of=envelope.id, after=IMPOSSIBLE, now=self.now, but=attempt_id)
        return replace(envelope, received_at=self.now if first is None else float(first))


_DUE_OF_MESSAGE: Final = Statement(
    select(recipient)
    .where(
        recipient.c.message_id == bindparam("of"),
        is_in(State.QUEUED),
        recipient.c.domain == bindparam("domain"),
        recipient.c.next_attempt <= bindparam("now"),
    )
    .order_by(recipient.c.ordinal)
    .limit(MAX_RECIPIENTS)
    .with_for_update(skip_locked=True)
)
_MESSAGE: Final = Statement(select(message).where(message.c.id == bindparam("of")))
_BEGIN_ATTEMPT: Final = Statement(
    insert(attempt), ("message_id", "domain", "number", "started_at", "lease_until", "node")
)
_BEGIN_NUMBERED: Final = Statement(
    insert(attempt), ("id", "message_id", "domain", "number", "started_at", "lease_until", "node")
)
_LAST_ATTEMPT: Final = Statement(
    text(
        "SELECT max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'attempt'), 0),"
        " coalesce((SELECT max(id) FROM attempt), 0)) AS seq"
    ).columns(seq=Integer)
)
_BEGUN: Final = (
    attempt.c.message_id == bindparam("of"),
    attempt.c.started_at <= bindparam("now"),
    attempt.c.id != bindparam("but"),
)
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
