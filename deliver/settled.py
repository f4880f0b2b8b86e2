"""What became of recipients whose message somebody else queues: handed over again, it is not sent again.

A caller's message is known by its queue id and by the digest of sender, REQUIRETLS and content: short queue
ids are used again by their makers, and a settled recipient of another message must never be taken for this
one's. Rows:

    state      what is known                                when the message comes again
    ---------  -------------------------------------------  ---------------------------------------------
    under way  `owner` is delivering, until `lease`         deferred; taken over when the owner is gone
    delivered  a server took it                             that is the answer, nothing is sent
    failed     never deliverable                            that is the answer, nothing is sent
    in doubt   a server may have it                         delivered again: at least once

What is merely deferred has no row. The reply that settles a delivery is written to the owner's journal before
anything is awaited, so that an owner that dies before its commit leaves the proof to whoever takes over.
All functions are synchronous, take the caller's connection and neither begin nor commit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    Column,
    Connection,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    and_,
    bindparam,
    delete,
    select,
)
from sqlalchemy.dialects.sqlite import insert

from deliver.errors import Blame
from deliver.message import Envelope, MessageId, Recipient
from deliver.outcome import Contact, Deferred, Delivered, Failed, Outcome
from deliver.queue.journal import Proof
from deliver.queue.statement import Statement
from deliver.smtp.reply import EnhancedCode, Reply

UNDER_WAY: Final = "under way"
DELIVERED: Final = "delivered"
FAILED: Final = "failed"
IN_DOUBT: Final = "in doubt"

MAX_TEXT: Final = 1000  # characters of a reply or reason; peers control them

metadata = MetaData()

settled = Table(
    "settled",
    metadata,
    Column("queue_id", Text, primary_key=True),
    Column("digest", LargeBinary, primary_key=True),
    Column("recipient", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("at", Float, nullable=False),  # seconds since the epoch
    Column("owner", Text, nullable=False),
    Column("lease", Float, nullable=False),  # seconds since the epoch
    Column("message_id", Text, nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("code", Integer),
    Column("text", Text),
    Column("enhanced", Text),
    Column("host", Text),
    Column("address", Text),
    Column("port", Integer),
    sqlite_with_rowid=False,
)
Index("settled_at", settled.c.at)


_OF_JOB = and_(settled.c.queue_id == bindparam("id"), settled.c.digest == bindparam("sum"))
_KNOWN: Final = Statement(select(settled).where(_OF_JOB))
_FORGET: Final = Statement(
    delete(settled).where(
        _OF_JOB, settled.c.recipient == bindparam("theirs"), settled.c.owner == bindparam("whose")
    )
)
_ADDED = insert(settled)
_PUT: Final = Statement(
    _ADDED.on_conflict_do_update(
        index_elements=list(settled.primary_key),
        set_={column.name: column for column in _ADDED.excluded if not column.primary_key},
    ),
    settled.columns.keys(),
)


@dataclass(frozen=True, slots=True)
class Job:
    """A message as its caller knows it. `digest` as from `Digest.value`."""

    queue_id: str
    digest: bytes


class Digest:
    """SHA-256 of the content as the caller gave it, in any portions, and of what its envelope says."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def feed(self, content: bytes) -> None:
        """The next octets of the content."""
        self._hash.update(content)

    def value(self, envelope: Envelope) -> bytes:
        """32 octets, of the reverse path and of REQUIRETLS (RFC 8689 2) too.

        What failed for want of REQUIRETLS says nothing of the same text without it, and what was delivered
        without it never answers a caller that requires it.
        """
        mark = b"\0REQUIRETLS" if envelope.requires_tls else b""  # a path has no NUL
        return hashlib.sha256(self._hash.digest() + envelope.reverse_path.encode() + mark).digest()


# Whether an owner is alive: None if that cannot be told from here.
Alive = Callable[[str], bool | None]
# What the journal of an owner that is gone proves.
Proofs = Callable[[str], Sequence[Proof]]


@dataclass(frozen=True, slots=True)
class Opened:
    """`known` are the answers that need no delivery, `open` those who are now under way for us."""

    known: Mapping[int, Outcome]
    open: tuple[Recipient, ...]


def begin(
    conn: Connection,
    *,
    job: Job,
    envelope: Envelope,
    owner: str,
    now: float,
    lease: float,
    alive: Alive,
    proofs: Proofs,
) -> Opened:
    """Take the recipients that have to be delivered, for `lease` seconds."""
    known: dict[int, Outcome] = {}
    to_do: list[Recipient] = []
    rows = {row.recipient: row for row in _KNOWN.all(conn, id=job.queue_id, sum=job.digest)}
    for recipient in envelope.recipients:
        row = rows.get(str(recipient.mailbox))
        answer = None if row is None else _answer(row, now, alive, proofs)
        if row is not None and isinstance(answer, Delivered) and row.state == UNDER_WAY:
            _write(conn, job, recipient, _columns(answer), row.message_id, owner, now)
        if answer is None:
            to_do.append(recipient)
            _write(conn, job, recipient, {"state": UNDER_WAY}, envelope.id, owner, now, now + lease)
        else:
            known[recipient.ordinal] = answer
    return Opened(known, tuple(to_do))


def settle(
    conn: Connection,
    *,
    job: Job,
    message_id: MessageId,
    outcomes: Iterable[tuple[Recipient, Outcome]],
    owner: str,
    now: float,
) -> None:
    """Put down what became of recipients that were under way for us."""
    for recipient, outcome in outcomes:
        if isinstance(outcome, Deferred) and not outcome.in_doubt:
            _FORGET.change(conn, id=job.queue_id, sum=job.digest, theirs=str(recipient.mailbox), whose=owner)
        else:
            _write(conn, job, recipient, _columns(outcome), message_id, owner, now)


def prune(conn: Connection, *, before: float) -> None:
    """Forget what was settled before that moment (seconds since the epoch)."""
    conn.execute(delete(settled).where(settled.c.at < before))


def _answer(row: Any, now: float, alive: Alive, proofs: Proofs) -> Outcome | None:
    """What the row answers for its recipient; None: deliver."""
    if row.state == IN_DOUBT:
        return None
    contact = Contact(row.host or "", row.address or "", row.port or 0)
    if row.state == DELIVERED:
        return Delivered(Reply(row.code or 250, (row.text or "",)), contact)
    if row.state == FAILED:
        reply = Reply(row.code, (row.text or "",)) if row.code else None
        enhanced = EnhancedCode.parse(row.enhanced or "") or EnhancedCode(5, 0, 0)
        return Failed(row.text or "failed before", Blame.RECIPIENT, reply=reply, enhanced=enhanced)
    lives = alive(row.owner)
    if lives is not False and row.lease > now:
        why = "a delivery of this message from an earlier call is still under way"
        return Deferred(why, Blame.LOCAL, enhanced=EnhancedCode(4, 3, 0))
    for proof in proofs(row.owner):
        if proof.message_id == row.message_id and row.ordinal in proof.ordinals:
            return proof.outcome
    return None


def _columns(outcome: Outcome) -> dict[str, object]:
    contact = outcome.contact
    columns: dict[str, object] = {
        "state": IN_DOUBT,
        "code": outcome.reply.code if outcome.reply else None,
        "host": contact.host if contact else None,
        "address": contact.address if contact else None,
        "port": contact.port if contact else None,
    }
    match outcome:
        case Delivered(reply=reply):
            return columns | {"state": DELIVERED, "text": " ".join(reply.lines)[:MAX_TEXT]}
        case Failed():
            columns["state"] = FAILED
    text = " ".join(outcome.reply.lines) if outcome.reply else outcome.why
    return columns | {"text": text[:MAX_TEXT], "enhanced": str(outcome.enhanced)}


def _write(
    conn: Connection,
    job: Job,
    recipient: Recipient,
    columns: Mapping[str, object],
    message_id: str,
    owner: str,
    now: float,
    lease: float = 0.0,
) -> None:
    row = {
        **dict.fromkeys(("code", "text", "enhanced", "host", "address", "port")),
        **columns,
        "queue_id": job.queue_id,
        "digest": job.digest,
        "recipient": str(recipient.mailbox),
        "message_id": message_id,
        "ordinal": recipient.ordinal,
        "owner": owner,
        "at": now,
        "lease": lease,
    }
    _PUT.change(conn, **row)
