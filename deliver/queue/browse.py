"""Reading a queue for people: what waits, what was tried, and why it waits. Read-only, bounded pages.

A queue is in one place or several: the files of SQLite's shards, or the database that several nodes share.
Readers neither wait for the relay nor make it wait.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import sqlalchemy
from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Row,
    Select,
    func,
    literal_column,
    select,
    tuple_,
)
from sqlalchemy.exc import DBAPIError

from deliver.errors import StorageError
from deliver.queue import codec
from deliver.queue.hold import Key, is_one_of
from deliver.queue.schema import OPEN_STATES, VERSION, attempt, message, recipient, report, version_of
from deliver.queue.selection import Selection, conditions

Place = Path | sqlalchemy.URL

CONNECT: Final = 5  # seconds
MAX_PAGE: Final = 10_000  # rows of one listing
MAX_ATTEMPTS: Final = 100  # of one message, the latest
NAMED_AT_ONCE: Final = 500  # recipients in one statement
_OPEN: Final = [state.value for state in OPEN_STATES]


@dataclass(frozen=True, slots=True)
class Order:
    """A column to sort by, and of which table."""

    column: str
    descending: bool = False
    of_message: bool = False

    def order(self, rows: FromClause) -> tuple[ColumnElement[Any], ...]:
        """The ORDER BY over these rows."""
        wanted = rows.c[self.column]
        return (wanted.desc() if self.descending else wanted.asc(),)


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


def named_place(place: Place) -> str:
    """The place for people, without a password."""
    return str(place) if isinstance(place, Path) else place.render_as_string(hide_password=True)


def shard_files(directory: Path) -> tuple[Path, ...]:
    """The database files of all shards in order; none where there is no queue yet."""
    return tuple(sorted(directory.glob("shard-*.db"), key=lambda path: (len(path.name), path.name)))


@contextmanager
def reading(place: Place) -> Iterator[Connection]:
    """A read-only connection to a part of the queue in one consistent snapshot. Raises StorageError."""
    with _reading_file(place) if isinstance(place, Path) else _reading_shared(place) as connection:
        yield connection


@contextmanager
def _reading_shared(url: sqlalchemy.URL) -> Iterator[Connection]:
    engine = sqlalchemy.create_engine(
        url, poolclass=sqlalchemy.NullPool, hide_parameters=True, connect_args={"connect_timeout": CONNECT}
    )
    name = named_place(url)
    try:
        with engine.connect() as fresh:
            connection = fresh.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            version = version_of(connection)
            if version == 0:
                raise StorageError(f"reading {name}", "there is no queue yet", "start outrider relay once")
            if version > VERSION:
                raise StorageError(
                    f"reading {name}", "it was written by a newer version", "use that version of outrider"
                )
            yield connection
    except DBAPIError as error:
        happened = " ".join(str(error.orig).split())
        raise StorageError(f"reading {name}", happened, "see queue.url and queue.password_file") from error
    finally:
        engine.dispose()


@contextmanager
def _reading_file(path: Path) -> Iterator[Connection]:
    url = sqlalchemy.URL.create(
        "sqlite", database=path.absolute().as_uri(), query={"mode": "ro", "uri": "true"}
    )
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    try:
        with engine.connect() as connection:
            version = int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
            if version > VERSION:
                raise StorageError(
                    f"reading {path}", "it was written by a newer version", "use that version of outrider"
                )
            connection.exec_driver_sql("BEGIN")
            yield connection
    except DBAPIError as error:
        remedy = "run this as the user of the relay, and check the file"
        raise StorageError(f"reading {path}", str(error.orig), remedy) from error
    finally:
        engine.dispose()


def waiting(
    conn: Connection, selection: Selection, *, now: float, limit: int = 100, sort: str = "next"
) -> tuple[Waiting, ...]:
    """Recipients that are not done and are meant by `selection`, by `SORTS[sort]`."""
    wanted = max(0, min(limit, MAX_PAGE))
    found: list[Waiting] = []
    for row in conn.execute(_listing(selection, now, sort, wanted, conn.dialect.name)):
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


def _listing(selection: Selection, now: float, sort: str, limit: int, dialect: str) -> Select[Any]:
    """The rows; where `recipient` alone decides, it is cut before the messages are looked up."""
    by = SORTS[sort]
    met = conditions(selection, now)
    if by.of_message or selection.of_messages or selection.text is not None:
        query = (
            _with_message(recipient).where(*met).order_by(*by.order(message if by.of_message else recipient))
        )
        return query if selection.text is not None else query.limit(limit)  # `says` is asked after SQL
    names = _row_names(dialect)
    first = select(*names).select_from(recipient).where(*met).order_by(*by.order(recipient)).limit(limit)
    return _with_message(recipient).where(tuple_(*names).in_(first)).order_by(*by.order(recipient))


def _row_names(dialect: str) -> tuple[ColumnElement[Any], ...]:
    """What names a row of `recipient`; SQLite's rowid is in every index, so that no row is read for it."""
    if dialect == "sqlite":
        return (literal_column("recipient.rowid"),)
    return (recipient.c.message_id, recipient.c.ordinal)


def _with_message(rows: FromClause) -> Select[Any]:
    columns = (message.c.sender_local_part, message.c.sender_domain, message.c.size, message.c.received_at)
    return select(rows, *columns).join(message, message.c.id == rows.c.message_id)


def show(conn: Connection, message_id: str) -> Shown | None:
    """Everything about one message, None if this shard does not know it."""
    row = conn.execute(select(message).where(message.c.id == message_id)).one_or_none()
    if row is None:
        return None
    recipients = conn.execute(
        select(recipient).where(recipient.c.message_id == message_id).order_by(recipient.c.ordinal)
    )
    tried = conn.execute(
        select(attempt)
        .where(attempt.c.message_id == message_id)
        .order_by(attempt.c.id.desc())
        .limit(MAX_ATTEMPTS)
    ).all()
    return Shown(
        id=row.id,
        sender=str(codec.sender_of(row) or ""),
        size=row.size,
        eight_bit=bool(row.eight_bit),
        received_at=row.received_at,
        completed_at=row.completed_at,
        stored=_stored(row),
        recipients=tuple(_recipient(each) for each in recipients),
        attempts=tuple(_attempt(each) for each in reversed(tried)),
        reports=_reports(conn, message_id),
        report_due=row.report_due,
    )


def named(conn: Connection, keys: Sequence[Key]) -> list[dict[str, str]]:
    """`{id, recipient, state}` of these recipients, in their order."""
    found: list[dict[str, str]] = []
    for start in range(0, len(keys), NAMED_AT_ONCE):
        query = (
            select(recipient)
            .where(is_one_of(keys[start : start + NAMED_AT_ONCE]))
            .order_by(recipient.c.message_id, recipient.c.ordinal)
        )
        found += [
            {"id": row.message_id, "recipient": f"{row.local_part}@{row.domain}", "state": row.state}
            for row in conn.execute(query)
        ]
    return found


def counts(conn: Connection) -> Counts:
    """How much waits."""
    by_state = {
        row[0]: int(row[1])
        for row in conn.execute(
            select(recipient.c.state, func.count())
            .where(recipient.c.state.in_(_OPEN))
            .group_by(recipient.c.state)
        )
    }
    messages = conn.execute(
        select(func.count()).select_from(message).where(message.c.completed_at.is_(None))
    ).scalar_one()
    return Counts(
        int(messages), by_state.get("queued", 0), by_state.get("leased", 0), by_state.get("held", 0)
    )


def _reports(conn: Connection, message_id: str) -> tuple[SentReport, ...]:
    query = select(report).where(report.c.message_id == message_id).order_by(report.c.at).limit(MAX_ATTEMPTS)
    return tuple(SentReport(row.bounce_id, row.address, row.at) for row in conn.execute(query))


def _waiting(row: Row[Any]) -> Waiting:
    last = _loaded(row.last_outcome, None)
    return Waiting(
        id=row.message_id,
        sender=str(codec.sender_of(row) or ""),
        recipient=f"{row.local_part}@{row.domain}",
        state=row.state,
        attempts=row.attempts,
        size=row.size,
        received_at=row.received_at,
        next_attempt=row.next_attempt,
        in_doubt=row.in_doubt,
        why=last.get("text") if isinstance(last, dict) else None,
        domain=row.domain,
        held_reason=row.held_reason,
        held_until=row.held_until,
    )


def _recipient(row: Row[Any]) -> ShownRecipient:
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


def _attempt(row: Row[Any]) -> TriedAttempt:
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


def _stored(row: Row[Any]) -> str:
    if row.spool_name:
        return f"spool file {row.spool_name}"
    return "removed" if row.content is None else "in the database"


def _loaded(text: str | None, otherwise: Any) -> Any:
    try:
        return otherwise if text is None else json.loads(text)
    except ValueError:
        return otherwise
