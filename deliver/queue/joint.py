"""Accepting and settling many messages at once: as `deliver.queue.store` one by one, with fewer statements.

What shares a transaction of the one writer of SQLite (`deliver.sqlrun`) shares its statements too: each runs
once for the rows of all messages, and the events of all go into the outbox together. Only the plain
settlement is settled so, with every recipient of the claim delivered and the sender owed nothing; others take
the way of `store.settle` within the same transaction. Where a delivery turns out to be recorded already,
everything is undone and carried out one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import compress
from typing import ClassVar, Final

from msgspec import Struct
from sqlalchemy import Connection, bindparam, exists, or_, select, update

from deliver.message import Envelope
from deliver.outcome import Delivered
from deliver.queue import codec, due, store
from deliver.queue.claiming import Claim
from deliver.queue.content import InlineContent, SpoolContent, StoredContent
from deliver.queue.owed import owed
from deliver.queue.schedule import Settlement
from deliver.queue.schema import OPEN_STATES, message, recipient
from deliver.queue.statement import Statement
from deliver.queue.store import Settled
from deliver.sqlrun import Joint, OneByOne
from events.catalogue import Event
from events.outbox import Append, Appending, appending


class Accept(Struct, Joint[None], frozen=True):
    """`store.accept` to come."""

    envelope: Envelope
    content: StoredContent
    events: tuple[Event, ...]
    now: float
    append: Append

    def __call__(self, conn: Connection) -> None:
        """See `store.accept`."""
        store.accept(conn, self.envelope, self.content, self.events, self.now, self.append)

    @classmethod
    def together(cls, conn: Connection, writes: Sequence[Accept]) -> Sequence[None]:
        """See `Joint.together`."""
        messages, recipients = [], []
        dues: dict[str, float] = {}
        for each in writes:
            store.demand_recipients(each.envelope)
            if not isinstance(each.content, InlineContent | SpoolContent):
                raise OneByOne
            messages.append(store.message_row(each.envelope, each.content))
            recipients += store.recipient_rows(each.envelope, each.now)
            for to in each.envelope.recipients:
                dues[to.mailbox.domain] = min(each.now, dues.get(to.mailbox.domain, each.now))
        store.ACCEPT_MESSAGE.change_each(conn, messages)
        store.ACCEPT_RECIPIENT.change_each(conn, recipients)
        due.note_due_each(conn, dues)
        _common(writes).each(conn, [(each.envelope.id, each.events) for each in writes])
        return [None] * len(writes)


class Settle(Struct, Joint[Settled], frozen=True):
    """`store.settle` to come; `gather` in seconds, `trace` is JSON."""

    doubtful: ClassVar[bool] = True
    claim: Claim
    settlements: tuple[Settlement, ...]
    events: tuple[Event, ...]
    now: float
    trace: str
    gather: float
    append: Append

    def __call__(self, conn: Connection) -> Settled:
        """See `store.settle`."""
        return store.settle(
            conn,
            self.claim,
            self.settlements,
            events=self.events,
            now=self.now,
            trace=self.trace,
            gather=self.gather,
            append=self.append,
        )

    @classmethod
    def together(cls, conn: Connection, writes: Sequence[Settle]) -> Sequence[Settled]:
        """See `Joint.together`."""
        plain = [each.is_plain for each in writes]
        ended = _settle_plain(conn, list(compress(writes, plain))) if any(plain) else {}
        settled = []
        for each, is_plain in zip(writes, plain, strict=True):
            if not is_plain:
                settled.append(each(conn))
                continue
            removable = ended.get(each.claim.attempt_id)
            settled.append(Settled(removable is not None, removable or (), ()))
        return settled

    @property
    def is_plain(self) -> bool:
        """Every recipient of the claim got the message, and the sender need not be told."""
        sender = self.claim.envelope.sender
        return len(self.settlements) == len(self.claim.recipients) and all(
            isinstance(each.outcome, Delivered) and owed(each.outcome, each.recipient, sender) is None
            for each in self.settlements
        )


def _settle_plain(conn: Connection, writes: Sequence[Settle]) -> dict[int, tuple[str, ...]]:
    """Record them; returns the spool files to remove, by the attempt that was the last of its message.

    Raises OneByOne where a recipient is not open any more.
    """
    delivered, attempts = [], []
    for each in writes:
        said = codec.outcomes_as_json([(one.recipient.ordinal, one.outcome) for one in each.settlements])
        delivered += [
            store.delivered_row(each.claim, one, text, each.now)
            for one, (_, text) in zip(each.settlements, said, strict=True)
        ]
        attempts.append(
            {
                "of": each.claim.attempt_id,
                "now": each.now,
                "word": "delivered",
                "said": codec.joined(said),
                "found": each.trace,
            }
        )
    if store.DELIVERED.change_each(conn, delivered) != len(delivered):
        raise OneByOne
    store.END_ATTEMPT.change_each(conn, attempts)
    # several claims may be of one message
    last: dict[str, Settle] = {each.claim.envelope.id: each for each in writes}
    rows: list[dict[str, object]] = [{"of": name, "now": each.now} for name, each in last.items()]
    if _COMPLETE.change_each(conn, rows) == len(rows):
        over = last
    else:
        over = {name: each for name, each in last.items() if _IS_COMPLETE.scalar(conn, of=name)}
    append = _common(writes)
    append.each(conn, [(each.claim.envelope.id, _events(each, over)) for each in writes])
    ended = {each.claim.attempt_id: _spool_files(each.claim) for each in over.values()}
    for name, each in last.items():
        if name not in over:  # recipients are open, or the sender is owed something about another one
            removable = store.complete(conn, each.claim.envelope.id, each.now, append)
            if removable is not None:
                ended[each.claim.attempt_id] = removable
    return ended


def _events(write: Settle, over: dict[str, Settle]) -> Iterable[Event]:
    envelope = write.claim.envelope
    if over.get(envelope.id) is not write:
        return write.events
    return (*write.events, store.completion(envelope.id, envelope.sender, envelope.size, write.now))


def _spool_files(claim: Claim) -> tuple[str, ...]:
    return (claim.spool_name,) if claim.spool_name else ()


def _common(writes: Sequence[Accept] | Sequence[Settle]) -> Appending:
    """What appends the events of all. Raises OneByOne where that differs."""
    append = writes[0].append
    if any(each.append != append for each in writes):
        raise OneByOne
    return appending(append)


# `store.complete` in one statement, for messages about which nothing is owed.
_COMPLETE: Final = Statement(
    update(message)
    .where(
        message.c.id == bindparam("of"),
        message.c.completed_at.is_(None),
        ~exists().where(
            recipient.c.message_id == message.c.id,
            or_(recipient.c.owed.is_not(None), *(recipient.c.state == state.value for state in OPEN_STATES)),
        ),
    )
    .values(completed_at=bindparam("now"), content=None, spool_name=None, report_due=None)
)
_IS_COMPLETE: Final = Statement(
    select(message.c.id).where(message.c.id == bindparam("of"), message.c.completed_at.is_not(None))
)
