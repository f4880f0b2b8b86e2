"""The tables of a hints file, one per kind of record, and what a note becomes in them.

Every row says who learned it (`source`), on which occasion (`reason`), when first and last, until when it is
believed (`expires`), and how often it was consulted (`use_count`). Times are seconds since the epoch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Column, Float, Index, Integer, MetaData, Table, Text, case, func
from sqlalchemy.dialects.sqlite import Insert, insert

from hints.check import MAX_REASON, MAX_SOURCE, clean
from hints.prune import lifetime
from hints.records import EhloAnswer, LevelSeen, Note, Reachability

VERSION: Final = 1  # PRAGMA user_version
APPLICATION: Final = 0x4F757448  # PRAGMA application_id, "OutH": a file without it is not ours to replace

metadata = MetaData()


def _origin() -> tuple[Column[Any], ...]:
    return (
        Column("source", Text, nullable=False),
        Column("reason", Text, nullable=False),
        Column("first_seen", Float, nullable=False),
        Column("last_seen", Float, nullable=False),
        Column("expires", Float, nullable=False),
        Column("use_count", Integer, nullable=False, default=0),
    )


ehlo_answer = Table(
    "ehlo_answer",
    metadata,
    Column("address", Text, primary_key=True),
    Column("port", Integer, primary_key=True),
    Column("phase", Text, primary_key=True),
    Column("greeted_as", Text, nullable=False),
    Column("keywords", Text, nullable=False),  # a JSON array of EHLO lines
    *_origin(),
    Index("ehlo_answer_expires", "expires"),
)

reachability = Table(
    "reachability",
    metadata,
    Column("host", Text, primary_key=True),
    Column("address", Text, primary_key=True),
    Column("port", Integer, primary_key=True),
    Column("failures", Integer, nullable=False),  # since the last success
    Column("last_error", Text),
    Column("last_failure", Float),
    Column("last_success", Float),
    *_origin(),
    Index("reachability_expires", "expires"),
)

level_seen = Table(
    "level_seen",
    metadata,
    Column("domain", Text, primary_key=True),
    Column("host", Text, primary_key=True),
    Column("level", Text, nullable=False),
    *_origin(),
    Index("level_seen_expires", "expires"),
)

KINDS: Final[Mapping[str, Table]] = {
    "ehlo": ehlo_answer,
    "reachability": reachability,
    "level": level_seen,
}


@dataclass(frozen=True, slots=True)
class Stamped:
    """A note with who learned it, on which occasion, and when."""

    note: Note
    source: str
    reason: str
    at: float


def table_of(note: Note) -> Table:
    """Where a note is kept."""
    match note:
        case EhloAnswer():
            return ehlo_answer
        case Reachability():
            return reachability
        case LevelSeen():
            return level_seen


def row_of(stamped: Stamped) -> dict[str, Any]:
    """The row that a note makes where none was before."""
    note, at = stamped.note, stamped.at
    row: dict[str, Any] = {
        "source": clean(stamped.source, MAX_SOURCE),
        "reason": clean(stamped.reason, MAX_REASON),
        "first_seen": at,
        "last_seen": at,
        "expires": at + lifetime(note),
        "use_count": 0,
    }
    match note:
        case EhloAnswer():
            row |= {"address": note.address, "port": note.port, "phase": note.phase.value}
            row |= {"greeted_as": note.greeted_as, "keywords": json.dumps(note.keywords)}
        case Reachability():
            failed = note.error is not None
            row |= {"host": note.host, "address": note.address, "port": note.port}
            row |= {"failures": int(failed), "last_error": note.error}
            row |= {"last_failure": at if failed else None, "last_success": None if failed else at}
        case LevelSeen():
            row |= {"domain": note.domain, "host": note.host, "level": note.level}
    return row


def upsert(table: Table) -> Insert:
    """Insert a row of `row_of`, or update what is there; a row past its time starts anew."""
    statement = insert(table)
    new = statement.excluded
    stale = table.c.expires <= new.last_seen
    changed: dict[str, Any] = {
        column.name: new[column.name]
        for column in table.c
        if not column.primary_key and column.name not in ("first_seen", "use_count")
    }
    changed["first_seen"] = case((stale, new.first_seen), else_=table.c.first_seen)
    changed["use_count"] = case((stale, 0), else_=table.c.use_count)
    if table is reachability:
        for name in ("last_error", "last_failure", "last_success"):
            changed[name] = case((stale, new[name]), else_=func.coalesce(new[name], table.c[name]))
        again = case((new.last_error.is_(None), 0), else_=table.c.failures + 1)
        changed["failures"] = case((stale, new.failures), else_=again)
    return statement.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=changed)
