"""Reading a queue for people: what waits, what was tried, and why it waits. Read-only, bounded pages.

A queue is in one place or several: the files of SQLite's shards, or the database that several nodes share.
Readers neither wait for the relay nor make it wait.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from deliver.queue.layout import OPEN_STATES, Key
from deliver.queue.reading import Reader
from deliver.queue.selection import Selection, conditions

MAX_PAGE: Final = 10_000  # rows of one listing
MAX_ATTEMPTS: Final = 100  # of one message, the latest
NAMED_AT_ONCE: Final = 400  # recipients in one statement
_OPEN: Final = tuple(state.value for state in OPEN_STATES)
_BOTH: Final = "recipient JOIN message ON message.id = recipient.message_id"
_SHOWN: Final = (
    "recipient.*, message.sender_local_part, message.sender_domain, message.size, message.received_at"
)
_MESSAGE: Final = (
    "id, sender_local_part, sender_domain, size, eight_bit, requires_tls, received_at, completed_at, "
    "report_due, spool_name, content IS NOT NULL AS has_content"
)


@dataclass(frozen=True, slots=True)
class Order:
    """A column to sort by, and of which table."""

    column: str
    descending: bool = False
    of_message: bool = False

    @property
    def sql(self) -> str:
        """What stands behind ORDER BY."""
        table = "message" if self.of_message else "recipient"
        return f"{table}.{self.column}{' DESC' if self.descending else ''}"


SORTS: Final = {
    "next": Order("next_attempt"),
    "age": Order("received_at", of_message=True),
    "size": Order("size", descending=True, of_message=True),
    "tries": Order("attempts", descending=True),
    "domain": Order("domain"),
}


@dataclass(frozen=True, slots=True)
class Waiting:
    """One recipient in a listing. Times are seconds since the epoch; `sender` is empty for the null path.

    `why`: how the last attempt ended. `held_reason` and `held_until` while it is held.
    """

    id: str
    sender: str
    recipient: str
    state: str
    attempts: int
    size: int
    received_at: float
    next_attempt: float
    in_doubt: int
    why: str | None
    domain: str
    held_reason: str | None = None
    held_until: float | None = None


@dataclass(frozen=True, slots=True)
class TriedAttempt:
    """One attempt: `outcomes` by ordinal and `findings`, both as `deliver.queue.codec` writes them."""

    id: int
    number: int
    domain: str
    started_at: float
    ended_at: float | None
    lease_until: float
    result: str | None
    outcomes: list[Any] = field(default_factory=list)
    findings: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ShownRecipient:
    """One recipient of a shown message; `last_outcome` as `codec.outcome_dict` gives it."""

    ordinal: int
    address: str
    state: str
    attempts: int
    next_attempt: float | None
    in_doubt: int
    finished_at: float | None
    last_outcome: dict[str, Any] | None
    held_reason: str | None = None
    held_until: float | None = None
    freeze_id: int | None = None
    owed: str | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """One message with everything known about it. `stored`: where its content is."""

    id: str
    sender: str
    size: int
    eight_bit: bool
    requires_tls: bool
    received_at: float
    completed_at: float | None
    stored: str
    recipients: tuple[ShownRecipient, ...]
    attempts: tuple[TriedAttempt, ...]
    reports: tuple[SentReport, ...] = ()
    report_due: float | None = None


@dataclass(frozen=True, slots=True)
class SentReport:
    """A notification that went to the sender: its own id, and when."""

    id: str
    address: str
    at: float


@dataclass(frozen=True, slots=True)
class Counts:
    """Open recipients by state, and messages that have any."""

    messages: int
    queued: int
    leased: int
    held: int = 0


def waiting(
    reader: Reader, selection: Selection, *, now: float, limit: int = 100, sort: str = "next"
) -> tuple[Waiting, ...]:
    """Recipients that are not done and are meant by `selection`, by `SORTS[sort]`."""
    wanted = max(0, min(limit, MAX_PAGE))
    found: list[Waiting] = []
    sql, values = _listing(selection, now, sort, wanted, reader.row_name)
    for row in reader.rows(sql, values):
        each = _waiting(row)
        if selection.says(each.why):
            found.append(each)
            if len(found) == wanted:
                break
    return tuple(found)


def merged(rows: Iterable[Waiting], sort: str) -> list[Waiting]:
    """The pages of several shards as one, in their order."""
    by = SORTS[sort]
    ties = sorted(rows, key=lambda row: (row.id, row.recipient))
    return sorted(ties, key=lambda row: getattr(row, by.column), reverse=by.descending)


def _listing(
    selection: Selection, now: float, sort: str, limit: int, row_name: str
) -> tuple[str, dict[str, object]]:
    """The statement and its values; where `recipient` alone decides, the rest is looked up for the page."""
    by = SORTS[sort]
    walk = by.of_message and not selection.of_recipients
    met = conditions(selection, now, by_state=not walk)
    values: dict[str, object] = {**met.values, "limit": limit}
    if not (by.of_message or selection.of_messages or selection.text is not None):
        page = f"SELECT {row_name} FROM recipient WHERE {met.sql} ORDER BY {by.sql} LIMIT :limit"  # noqa: S608 (names of ours)
        return f"SELECT {_SHOWN} FROM {_BOTH} WHERE ({row_name}) IN ({page}) ORDER BY {by.sql}", values  # noqa: S608 (names of ours)
    tables, where = _BOTH, met.sql
    if by.of_message:
        where = f"message.completed_at IS NULL AND {where}"  # the index has no others
        if walk:
            # SQLite keeps the order of a CROSS JOIN: it walks the messages by their index and stops
            tables = "message CROSS JOIN recipient"
            where = f"message.id = recipient.message_id AND {where}"
    sql = f"SELECT {_SHOWN} FROM {tables} WHERE {where} ORDER BY {by.sql}"  # noqa: S608 (names of ours)
    if selection.text is not None:  # `says` is asked after SQL
        return sql, dict(met.values)
    return f"{sql} LIMIT :limit", values


def matching(reader: Reader, selection: Selection, now: float) -> list[Key]:
    """The recipients that are meant, those of one message together."""
    met = conditions(selection, now)
    tables = _BOTH if selection.of_messages else "recipient"
    rows = reader.rows(
        "SELECT recipient.message_id, recipient.ordinal, recipient.last_outcome "  # noqa: S608
        f"FROM {tables} WHERE {met.sql} ORDER BY recipient.message_id, recipient.ordinal",
        met.values,
    )
    return [Key(row.message_id, row.ordinal) for row in rows if selection.says(_reason(row.last_outcome))]


def show(reader: Reader, message_id: str) -> Shown | None:
    """Everything about one message, None if this shard does not know it."""
    of = {"id": message_id}
    row = next(reader.rows(f"SELECT {_MESSAGE} FROM message WHERE id = :id", of), None)  # noqa: S608 (names of ours)
    if row is None:
        return None
    recipients = reader.rows("SELECT * FROM recipient WHERE message_id = :id ORDER BY ordinal", of)
    tried = list(
        reader.rows(
            "SELECT * FROM attempt WHERE message_id = :id ORDER BY id DESC LIMIT :most",
            {**of, "most": MAX_ATTEMPTS},
        )
    )
    return Shown(
        id=row.id,
        sender=_sender(row),
        size=row.size,
        eight_bit=bool(row.eight_bit),
        requires_tls=bool(row.requires_tls),
        received_at=row.received_at,
        completed_at=row.completed_at,
        stored=_stored(reader, row),
        recipients=tuple(_recipient(each) for each in recipients),
        attempts=tuple(_attempt(each) for each in reversed(tried)),
        reports=_reports(reader, message_id),
        report_due=row.report_due,
    )


def named(reader: Reader, keys: Sequence[Key]) -> list[dict[str, str]]:
    """`{id, recipient, state}` of these recipients, in their order."""
    found: list[dict[str, str]] = []
    for start in range(0, len(keys), NAMED_AT_ONCE):
        part = list(enumerate(keys[start : start + NAMED_AT_ONCE]))
        values: dict[str, object] = {f"id_{n}": key.message_id for n, key in part}
        values |= {f"ordinal_{n}": key.ordinal for n, key in part}
        pairs = ", ".join(f"(:id_{n}, :ordinal_{n})" for n, _ in part)
        rows = reader.rows(
            "SELECT message_id, local_part, domain, state FROM recipient "  # noqa: S608 (names of values)
            f"WHERE (message_id, ordinal) IN (VALUES {pairs}) ORDER BY message_id, ordinal",
            values,
        )
        found += [
            {"id": row.message_id, "recipient": f"{row.local_part}@{row.domain}", "state": row.state}
            for row in rows
        ]
    return found


def counts(reader: Reader) -> Counts:
    """How much waits."""
    met = conditions(Selection(), now=0.0)
    grouped = f"SELECT state, count(*) AS many FROM recipient WHERE {met.sql} GROUP BY state"  # noqa: S608 (names of ours)
    by_state = {row.state: int(row.many) for row in reader.rows(grouped, met.values)}
    (messages,) = reader.rows("SELECT count(*) AS many FROM message WHERE completed_at IS NULL")
    return Counts(
        int(messages.many), by_state.get("queued", 0), by_state.get("leased", 0), by_state.get("held", 0)
    )


def _reports(reader: Reader, message_id: str) -> tuple[SentReport, ...]:
    sql = "SELECT bounce_id, address, at FROM report WHERE message_id = :id ORDER BY at LIMIT :most"
    rows = reader.rows(sql, {"id": message_id, "most": MAX_ATTEMPTS})
    return tuple(SentReport(row.bounce_id, row.address, row.at) for row in rows)


def _sender(row: Any) -> str:
    return "" if row.sender_domain is None else f"{row.sender_local_part}@{row.sender_domain}"


def _waiting(row: Any) -> Waiting:
    return Waiting(
        id=row.message_id,
        sender=_sender(row),
        recipient=f"{row.local_part}@{row.domain}",
        state=row.state,
        attempts=row.attempts,
        size=row.size,
        received_at=row.received_at,
        next_attempt=row.next_attempt,
        in_doubt=row.in_doubt,
        why=_reason(row.last_outcome),
        domain=row.domain,
        held_reason=row.held_reason,
        held_until=row.held_until,
    )


def _recipient(row: Any) -> ShownRecipient:
    return ShownRecipient(
        ordinal=row.ordinal,
        address=f"{row.local_part}@{row.domain}",
        state=row.state,
        attempts=row.attempts,
        next_attempt=row.next_attempt if row.state in _OPEN else None,
        in_doubt=row.in_doubt,
        finished_at=row.finished_at,
        last_outcome=_loaded(row.last_outcome, None),
        held_reason=row.held_reason,
        held_until=row.held_until,
        freeze_id=row.freeze_id,
        owed=row.owed,
    )


def _attempt(row: Any) -> TriedAttempt:
    return TriedAttempt(
        id=row.id,
        number=row.number,
        domain=row.domain,
        started_at=row.started_at,
        ended_at=row.ended_at,
        lease_until=row.lease_until,
        result=row.result,
        outcomes=_loaded(row.outcomes, []),
        findings=_loaded(row.trace, []),
    )


def _stored(reader: Reader, row: Any) -> str:
    if row.spool_name:
        return f"spool file {row.spool_name}"
    if row.has_content:
        return "in the database"
    if reader.chunked:
        chunks = "SELECT count(*) AS n FROM content_chunk WHERE message_id = :id"
        number = next(reader.rows(chunks, {"id": row.id})).n
        if number:
            return f"in the database, in {number} chunks"
    return "removed"


def _reason(outcome: str | None) -> str | None:
    """The sentence in a stored outcome, None where there is none."""
    plain = _loaded(outcome, None)
    return plain.get("text") if isinstance(plain, dict) else None


def _loaded(text: str | None, otherwise: Any) -> Any:
    try:
        return otherwise if text is None else json.loads(text)
    except ValueError:
        return otherwise
