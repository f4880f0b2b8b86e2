"""Messages and outcomes for the tests of the queue."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

from sqlalchemy import Connection, select

from deliver.errors import Blame
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.outcome import Contact, Deferred, Delivered, Failed
from deliver.queue import claiming, store
from deliver.queue.content import InlineContent
from deliver.queue.journal import Proof
from deliver.queue.schema import recipient
from deliver.smtp.reply import EnhancedCode, Reply
from events.catalogue import Event

NOW = 1_700_000_000.0
CONTENT = b"From: a@sender.example\r\nMessage-ID: <1@sender.example>\r\nSubject: x\r\n\r\nHello\r\n"
RETRY = (60.0, 300.0, 600.0)

DELIVERED = Delivered(Reply(250, ("2.0.0 Ok",)), Contact("mx.example.org", "192.0.2.1", 25))
DEFERRED = Deferred("try later", Blame.HOST, enhanced=EnhancedCode(4, 4, 1))
IN_DOUBT = Deferred("the connection was lost", Blame.HOST, in_doubt=True)
FAILED = Failed(
    "the server refused the recipient",
    Blame.RECIPIENT,
    reply=Reply(550, ("5.1.1 No such user",)),
    enhanced=EnhancedCode(5, 1, 1),
    contact=Contact("mx.example.org", "192.0.2.1", 25),
)


def envelope(
    name: str, *recipients: str, sender: str | None = "a@sender.example", at: float = NOW
) -> Envelope:
    boxes = tuple(
        Recipient(i, Mailbox.parse(text)) for i, text in enumerate(recipients or ("b@example.org",))
    )
    return Envelope(
        MessageId(name), Mailbox.parse(sender) if sender else None, boxes, len(CONTENT), False, at
    )


def accept(
    conn: Connection, name: str, *recipients: str, sender: str | None = "a@sender.example"
) -> Envelope:
    made = envelope(name, *recipients, sender=sender)
    store.accept(conn, made, InlineContent(CONTENT), [Event("msg:accept", NOW)], NOW)
    return made


def proof(claimed: claiming.Claim, *ordinals: int) -> Proof:
    return Proof(claimed.attempt_id, claimed.envelope.id, ordinals, Reply(250, ("2.0.0 queued",)))


class Room:
    """Admits `per_domain` messages for each domain, those in `busy` counted; who was admitted is in `taken`."""

    def __init__(self, per_domain: int = 5, busy: Mapping[str, int] | None = None) -> None:
        self.per_domain = per_domain
        self.running = Counter(busy or {})
        self.taken: list[tuple[str, str]] = []

    def opens_at(self, domain: str) -> float:
        return math.inf if self.running[domain] >= self.per_domain else -math.inf

    def reserve(self, domain: str) -> bool:
        return True

    def sender_opens_at(self, domain: str, sender: str) -> float:
        return -math.inf

    def took(self, domain: str, sender: str) -> None:
        self.running[domain] += 1
        self.taken.append((domain, sender))

    def hold(self, domain: str, until: float) -> None:
        self.running[domain] = self.per_domain


def claim(
    conn: Connection,
    now: float = NOW,
    limit: int = 10,
    *,
    per_domain: int = 5,
    busy: Mapping[str, int] | None = None,
    lease: float = 1000.0,
    domains: Iterable[str] | None = None,
) -> tuple[claiming.Claim, ...]:
    room = Room(per_domain, busy)
    return claiming.claim(
        conn, now=now, limit=limit, lease=lease, retry=RETRY, admission=room, domains=domains
    )


def states(conn: Connection) -> dict[str, str]:
    """State by address."""
    rows = conn.execute(select(recipient))
    return {f"{row.local_part}@{row.domain}": row.state for row in rows}


def rows(conn: Connection) -> list[object]:
    return list(conn.execute(select(recipient).order_by(recipient.c.message_id, recipient.c.ordinal)))


class Recorder:
    """In the place of the outbox: what was appended."""

    def __init__(self) -> None:
        self.events: list[tuple[str | None, Event]] = []

    def __call__(self, conn: Connection, message_id: str | None, events: Iterable[Event]) -> None:
        self.events += [(message_id, event) for event in events]

    def names(self) -> list[str]:
        return [event.name for _, event in self.events]
