"""After a crash or an expired lease: attempts that nobody will settle any more.

    the journal holds a positive reply   Delivered: the message is not sent again
    else                                 in doubt: the server may hold it; due at the pessimistic next attempt

`recover` ends every open attempt. It is for start-up, by the process that owns the shard (see
`deliver.queue.shard`): no attempt of it can be running. `rejoin` ends those of one node, where several share
the database (`deliver.queue.cluster`). `reclaim` ends only those whose lease has expired.
Synchronous, within the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    delete as sql_delete,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)

from deliver.errors import Blame
from deliver.message import Mailbox, MessageId, Recipient
from deliver.outcome import Deferred
from deliver.queue import codec
from deliver.queue.due import note_due_again
from deliver.queue.hold import is_in
from deliver.queue.journal import Proof
from deliver.queue.locking import CHUNK, lock_messages
from deliver.queue.owed import owed
from deliver.queue.schema import (
    OPEN_STATES,
    State,
    attempt,
    destination,
    is_leased,
    is_queued,
    message,
    recipient,
)
from deliver.queue.store import Append, complete
from deliver.smtp.reply import EnhancedCode
from events import outbox
from events.catalogue import Event

INTERRUPTED: Final = "interrupted"


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was found: ids of the attempts ended, deliveries proven by the journal, spool files to remove."""

    attempts: tuple[int, ...]
    delivered: int
    removable: tuple[str, ...]

    @property
    def interrupted(self) -> int:
        """How many attempts were ended."""
        return len(self.attempts)


def rejoin(
    conn: Connection, now: float, proofs: Iterable[Proof], node: str, append: Append = outbox.append
) -> Recovered:
    """At start-up of one of several nodes: end the attempts that it had open."""
    ours = select(attempt).where(attempt.c.ended_at.is_(None), attempt.c.node == node)
    return _end(conn, now, tuple(proofs), ours, append)


def recover(
    conn: Connection, now: float, proofs: Iterable[Proof], append: Append = outbox.append
) -> Recovered:
    """At start-up: end every open attempt, and rebuild the table of destinations from the recipients."""
    found = _end(conn, now, tuple(proofs), select(attempt).where(attempt.c.ended_at.is_(None)), append)
    conn.execute(update(recipient).where(is_leased()).values(state=State.QUEUED.value, attempt_id=None))
    conn.execute(sql_delete(destination))
    queued = (
        select(recipient.c.domain, func.min(recipient.c.next_attempt), literal(0.0))
        .where(is_queued())
        .group_by(recipient.c.domain)
    )
    conn.execute(insert(destination).from_select(["domain", "due", "served_at"], queued))
    return found


def reclaim(
    conn: Connection,
    now: float,
    proofs: Iterable[Proof] = (),
    append: Append = outbox.append,
    *,
    node: str | None = None,
    courtesy: float = 0.0,
    left_over: frozenset[int] = frozenset(),
    running: Collection[int] = (),
) -> Recovered:
    """End the open attempts whose lease has expired; `proofs` are the journal's, of any attempt.

    Not those that are `running` here: they will be settled, and only the clock can have jumped.

    Those of other nodes than `node` are ended `courtesy` seconds later: it may be back, and its journal may
    prove deliveries. `left_over`: attempts that nobody will settle any more, whose proofs count at once.
    """
    expired = select(attempt).where(*_expired(now, node, courtesy, running))
    rows = conn.execute(expired.with_only_columns(attempt.c.id)).scalars().all()
    known = left_over.union(rows)
    return _end(conn, now, tuple(p for p in proofs if p.attempt_id in known), expired, append)


def any_expired(
    conn: Connection,
    now: float,
    *,
    node: str | None = None,
    courtesy: float = 0.0,
    running: Collection[int] = (),
) -> bool:
    """Whether `reclaim` would find an attempt."""
    expired = select(attempt.c.id).where(*_expired(now, node, courtesy, running))
    return conn.execute(expired.limit(1)).first() is not None


def _expired(
    now: float, node: str | None, courtesy: float, running: Collection[int]
) -> tuple[ColumnElement[bool], ...]:
    over: tuple[ColumnElement[bool], ...] = (attempt.c.ended_at.is_(None), attempt.c.lease_until < now)
    if running:
        over += (attempt.c.id.not_in(running),)
    if node is None:
        return over
    ours = func.coalesce(attempt.c.node, node) == node
    return (*over, or_(ours, attempt.c.lease_until < now - courtesy))


def referred_spool_files(conn: Connection) -> frozenset[str]:
    """The names of the spool files that rows refer to."""
    names = conn.execute(select(message.c.spool_name).where(message.c.spool_name.is_not(None)))
    return frozenset(names.scalars())


def known_messages(conn: Connection, spool_names: Collection[str]) -> frozenset[str]:
    """Of the messages whose content had these names: the ids that are on record."""
    ids = sorted({name.rpartition(".")[0] for name in spool_names})
    found: set[str] = set()
    for start in range(0, len(ids), CHUNK):
        some = message.c.id.in_(ids[start : start + CHUNK])
        found.update(conn.execute(select(message.c.id).where(some)).scalars())
    return frozenset(found)


def _end(conn: Connection, now: float, proofs: tuple[Proof, ...], query: Any, append: Append) -> Recovered:
    if conn.dialect.name != "sqlite":
        messages = conn.execute(query.with_only_columns(attempt.c.message_id)).scalars().all()
        lock_messages(conn, (*messages, *(proof.message_id for proof in proofs)))
    rows = conn.execute(query).all()  # others may have ended some before they were locked
    proven: dict[int, set[int]] = {}
    touched: dict[str, None] = {}
    domains: dict[str, None] = {}
    delivered = 0
    for proof in proofs:
        proven.setdefault(proof.attempt_id, set()).update(proof.ordinals)
        touched[proof.message_id] = None
        delivered += _record_proof(conn, proof, now, domains, append)
    for row in rows:
        touched[row.message_id] = None
        domains[row.domain] = None
        _interrupt(conn, row, now, proven.get(row.id, set()))
    for domain in sorted(domains):
        note_due_again(conn, domain)
    removable: list[str] = []
    for message_id in touched:
        removable += complete(conn, MessageId(message_id), now, append) or ()
    return Recovered(tuple(row.id for row in rows), delivered, tuple(removable))


def _record_proof(
    conn: Connection, proof: Proof, now: float, domains: dict[str, None], append: Append
) -> int:
    rows = conn.execute(
        select(recipient).where(
            recipient.c.message_id == proof.message_id,
            recipient.c.ordinal.in_(proof.ordinals),
            recipient.c.state.in_([state.value for state in OPEN_STATES]),
        )
    ).all()
    sender = _sender(conn, proof.message_id) if rows and proof.dsn_passed is not None else None
    for row in rows:
        domains[row.domain] = None
        tell = owed(proof.outcome, codec.known_of(row), sender)
        conn.execute(
            update(recipient)
            .where(recipient.c.message_id == proof.message_id, recipient.c.ordinal == row.ordinal)
            .values(
                state=State.DELIVERED.value,
                attempt_id=None,
                finished_at=now,
                last_outcome=codec.outcome_json(proof.outcome),
                owed=tell,
            )
        )
    append(conn, proof.message_id, [_delivery(proof, codec.known_of(row), now) for row in rows])
    return len(rows)


def _sender(conn: Connection, message_id: str) -> Mailbox | None:
    row = conn.execute(select(message).where(message.c.id == message_id)).one_or_none()
    return None if row is None else codec.sender_of(row)


def _interrupt(conn: Connection, row: Row[Any], now: float, proven: set[int]) -> None:
    outcome = Deferred(
        "the attempt was interrupted, and the server may hold the message",
        Blame.LOCAL,
        enhanced=EnhancedCode(4, 3, 0),
        in_doubt=True,
    )
    conn.execute(
        update(recipient)
        .where(
            recipient.c.message_id == row.message_id,
            is_in(State.LEASED),
            recipient.c.attempt_id == row.id,
        )
        .values(
            state=State.QUEUED.value,
            attempt_id=None,
            in_doubt=recipient.c.in_doubt + 1,
            last_outcome=codec.outcome_json(outcome),
        )
    )
    result = "delivered (journal)" if proven else INTERRUPTED
    conn.execute(update(attempt).where(attempt.c.id == row.id).values(ended_at=now, result=result))


def _delivery(proof: Proof, delivered: Recipient, now: float) -> Event:
    fields = {
        "message_id": proof.message_id,
        "local_part": delivered.mailbox.local_part,
        "domain": delivered.mailbox.domain,
        "host": proof.host,
        "host_address": proof.address,
        "event_data": str(proof.reply),
        "reason": "read in an attempt that was interrupted afterwards",
    }
    return Event("msg:delivery", now, fields)
