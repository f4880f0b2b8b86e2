"""The tables of a hints file, one per kind of record, and what a note becomes in them.

Every row says who learned it (`source`), on which occasion (`reason`), when first and last, until when it is
believed (`expires`), and how often it was consulted (`use_count`). Times are seconds since the epoch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import (
    Column,
    ColumnElement,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    and_,
    case,
    func,
    or_,
)
from sqlalchemy.dialects.sqlite import Insert, insert

from hints.check import MAX_REASON, MAX_SOURCE, clean
from hints.kinds import APPLICATION, VERSION
from hints.levels import RANK
from hints.prune import HALF_LIFE, LEVEL_SEEN, MAX_EVIDENCE, STS_AHEAD, lifetime
from hints.records import EhloAnswer, Feature, LevelSeen, Note, Reachability, StsSeen

__all__ = ["APPLICATION", "KINDS", "VERSION", "Stamped", "metadata", "row_of", "table_of", "upsert"]

metadata = MetaData()


def _kind(name: str, *own: Column[Any] | Index) -> Table:
    """A table with columns and indexes of its own, then those that every kind has."""
    return Table(
        name,
        metadata,
        *own,
        Column("source", Text, nullable=False),
        Column("reason", Text, nullable=False),
        Column("first_seen", Float, nullable=False),
        Column("last_seen", Float, nullable=False),
        Column("expires", Float, nullable=False),
        Column("use_count", Integer, nullable=False, default=0),
        Index(f"{name}_expires", "expires"),
    )


ehlo_answer = _kind(
    "ehlo_answer",
    Column("address", Text, primary_key=True),
    Column("port", Integer, primary_key=True),
    Column("phase", Text, primary_key=True),
    Column("greeted_as", Text, nullable=False),
    Column("keywords", Text, nullable=False),  # a JSON array of EHLO lines
)

reachability = _kind(
    "reachability",
    Column("host", Text, primary_key=True),
    Column("address", Text, primary_key=True),
    Column("port", Integer, primary_key=True),
    Column("failures", Integer, nullable=False),  # since the last success
    Column("last_error", Text),
    Column("last_failure", Float),
    Column("last_success", Float),
    Index("reachability_address", "address"),
)

level_seen = _kind(
    "level_seen",
    Column("domain", Text, primary_key=True),
    Column("host", Text, primary_key=True),
    Column("level", Text, nullable=False),  # of the last delivery
    Column("best", Text, nullable=False),  # of the last 90 days
    Column("best_at", Float, nullable=False),
    Index("level_seen_host", "host"),
)

feature = _kind(
    "feature",
    Column("host", Text, primary_key=True),
    Column("address", Text, primary_key=True),
    Column("port", Integer, primary_key=True),
    Column("word", Text, primary_key=True),
    Column("worked", Integer, nullable=False),  # as of last_worked; halves every three days since
    Column("failed", Integer, nullable=False),  # as of last_failed; halves every three days since
    Column("last_worked", Float),
    Column("last_failed", Float),
    Index("feature_address", "address"),
)

tls_session = _kind(
    "tls_session",
    Column("host", Text, primary_key=True),
    Column("port", Integer, primary_key=True),
    Column("sni", Text, primary_key=True),
    Column("level", Text, primary_key=True),
    Column("client_certificate", Text, primary_key=True),
    Column("minimum_version", Text, primary_key=True),
    Column("greeted_as", Text, primary_key=True),
    Column("ticket", Text, primary_key=True),
    Column("version", Text, nullable=False),
    Column("saved_at", Float, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
)

sts_policy = _kind(
    "sts_policy",
    Column("domain", Text, primary_key=True),
    Column("id", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("patterns", Text, nullable=False),  # a JSON array of mx patterns
    Column("max_age", Integer, nullable=False),
    Column("fetched_at", Float, nullable=False),
)

KINDS: Final[Mapping[str, Table]] = {
    "ehlo": ehlo_answer,
    "reachability": reachability,
    "level": level_seen,
    "feature": feature,
    "session": tls_session,
    "sts": sts_policy,
}


class Stamped(Struct, frozen=True):
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
        case Feature():
            return feature
        case StsSeen():
            return sts_policy


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
            row |= {"best": note.level, "best_at": at}
        case Feature():
            row |= {"host": note.host, "address": note.address, "port": note.port, "word": note.word.value}
            row |= {"worked": int(note.worked), "failed": int(not note.worked)}
            row |= {"last_worked": at if note.worked else None, "last_failed": None if note.worked else at}
        case StsSeen():
            row |= {"domain": note.domain, "id": note.id, "mode": note.mode, "expires": note.expires}
            row |= {"patterns": json.dumps(note.patterns)}
            row |= {"max_age": note.max_age, "fetched_at": note.fetched_at}
    return row


@cache
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
    if table is feature:
        for count, last in (("worked", "last_worked"), ("failed", "last_failed")):
            more = case(
                (new[last].is_(None), table.c[count]), else_=_one_more(table.c[count], table.c[last], new)
            )
            changed[count] = case((stale, new[count]), else_=more)
            changed[last] = case((stale, new[last]), else_=func.coalesce(new[last], table.c[last]))
    if table is level_seen:
        rank = {word: RANK[word] for word in RANK}
        best = case(rank, value=table.c.best, else_=-1)
        kept = (best > case(rank, value=new.level, else_=-1)) & (table.c.best_at > new.best_at - LEVEL_SEEN)
        changed["best"] = case((stale, new.level), (kept, table.c.best), else_=new.level)
        changed["best_at"] = case((stale, new.best_at), (kept, table.c.best_at), else_=new.best_at)
    replaced = None
    if table is sts_policy:
        known = and_(~stale, table.c.first_seen >= 0, table.c.first_seen <= new.first_seen)
        changed["first_seen"] = case((known, table.c.first_seen), else_=new.first_seen)
        changed["use_count"] = 0  # a row that makes no sense must not outlive the next fetch
        replaced = or_(table.c.fetched_at <= new.fetched_at, table.c.fetched_at > new.last_seen + STS_AHEAD)
    return statement.on_conflict_do_update(
        index_elements=list(table.primary_key.columns), set_=changed, where=replaced
    )


def _one_more(count: ColumnElement[int], last: ColumnElement[float], new: Any) -> ColumnElement[int]:
    """The decayed count and one, in SQL; see `hints.prune.decayed`."""
    halves = func.min(62, func.max(0, ((new.last_seen - last) / HALF_LIFE).cast(Integer)))
    left = case((or_(last.is_(None), count < 0), 0), else_=count.bitwise_rshift(halves))
    return func.min(MAX_EVIDENCE, left + 1)
