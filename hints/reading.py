"""What a hints file knows of a host, in one look on one connection: plain SQL, and rows believed or not.

The statements are written once: to build and compile one costs far more than SQLite does, and so does what
SQLAlchemy does for each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from sqlite3 import Connection
from typing import Any

from msgspec import Struct, structs
from sqlalchemy import Table, select
from sqlalchemy.dialects import sqlite

from hints.check import is_feature, is_level_seen, is_origin, is_reachability, read_ehlo, read_sts
from hints.memory import faded
from hints.port import AddressView, FeatureView
from hints.prune import LEVEL_SEEN, STS_AHEAD
from hints.records import EhloAnswer, StsSeen, Word
from hints.tables import ehlo_answer, feature, level_seen, reachability, sts_policy

Valid = Callable[[bool], bool]  # counts what is not believed, and gives it back
_Row = Mapping[str, Any]

_BEST = (
    f"SELECT {', '.join(level_seen.c.keys())} FROM level_seen "  # noqa: S608  # nothing of anybody's is in it
    "WHERE domain = ? AND host = ? AND expires > ? AND best_at > ?"
)
_POLICY = (
    f"SELECT {', '.join(sts_policy.c.keys())} FROM sts_policy "  # noqa: S608
    "WHERE domain = ? AND expires > ? AND fetched_at <= ?"
)
_SESSION = "SELECT 1 FROM tls_session WHERE host = ? AND port = ? AND expires > ? AND saved_at <= ? LIMIT 1"


class Known(Struct, frozen=True):
    """One view per address; the best `level` for the domain in question; whether there are `sessions`."""

    views: tuple[AddressView, ...]
    level: str | None
    sessions: bool


def read(
    conn: Connection,
    host: str,
    addresses: Sequence[str],
    port: int,
    domain: str | None,
    now: float,
    valid: Valid,
) -> Known:
    """Everything about a host that a delivery may ask for; expired rows count as unknown."""
    level = None if domain is None else best_level(conn, domain, host, now, valid)
    sessions = conn.execute(_SESSION, (host, port, now, now)).fetchone() is not None
    return Known(_views(conn, host, addresses, port, now, valid), level, sessions)


def best_level(conn: Connection, domain: str, host: str, now: float, valid: Valid) -> str | None:
    """The best level of the last 90 days."""
    found = conn.execute(_BEST, (domain, host, now, now - LEVEL_SEEN)).fetchall()
    believed = _believed(level_seen, found, valid)
    rows = [row for row in believed if valid(is_level_seen(row))]
    return str(rows[0]["best"]) if rows else None


def policy(conn: Connection, domain: str, now: float, valid: Valid) -> StsSeen | None:
    """The MTA-STS policy of a domain that still counts."""
    found = conn.execute(_POLICY, (domain, now, now + STS_AHEAD)).fetchall()
    for row in _believed(sts_policy, found, valid):
        seen = read_sts(row)
        if valid(seen is not None):
            return seen
    return None


def _views(
    conn: Connection, host: str, addresses: Sequence[str], port: int, now: float, valid: Valid
) -> tuple[AddressView, ...]:
    reached = _fresh(conn, reachability, host, addresses, port, now, valid)
    known = {row["address"]: row for row in reached if valid(is_reachability(row))}
    ehlo: dict[str, list[EhloAnswer]] = {}
    for row in _fresh(conn, ehlo_answer, None, addresses, port, now, valid):
        answer = read_ehlo(row)
        if valid(answer is not None) and answer is not None:
            ehlo.setdefault(answer.address, []).append(answer)
    features: dict[str, list[FeatureView]] = {}
    for row in _fresh(conn, feature, host, addresses, port, now, valid):
        if valid(is_feature(row)):
            features.setdefault(row["address"], []).append(faded(_feature(row), now))
    return tuple(_view(one, known.get(one), ehlo.get(one, ()), features.get(one, ())) for one in addresses)


def _fresh(
    conn: Connection,
    table: Table,
    host: str | None,
    addresses: Sequence[str],
    port: int,
    now: float,
    valid: Valid,
) -> list[_Row]:
    """The rows about these addresses that are believed still, those of `host` where the table has hosts."""
    of_host = () if host is None else (host,)
    text = _text(table, host is not None, len(addresses))
    return _believed(table, conn.execute(text, (*addresses, port, now, *of_host)).fetchall(), valid)


def _believed(table: Table, found: Sequence[tuple[Any, ...]], valid: Valid) -> list[_Row]:
    if not found:
        return []
    names = table.c.keys()
    rows = (dict(zip(names, row, strict=True)) for row in found)
    return [row for row in rows if valid(is_origin(row))]


@lru_cache(maxsize=256)
def _text(table: Table, of_host: bool, addresses: int) -> str:
    conditions = [table.c.address.in_(range(addresses)), table.c.port == 0, table.c.expires > 0.0]
    if of_host:
        conditions.append(table.c.host == "")
    query = select(table).where(*conditions).order_by(*table.primary_key.columns)
    return str(query.compile(dialect=sqlite.dialect(), compile_kwargs={"render_postcompile": True}))


def _feature(row: _Row) -> FeatureView:
    return FeatureView(
        Word(row["word"]), row["worked"], row["failed"], row["last_worked"], row["last_failed"]
    )


def _view(
    address: str, row: _Row | None, ehlo: Sequence[EhloAnswer], features: Sequence[FeatureView]
) -> AddressView:
    known = AddressView(address, ehlo=tuple(ehlo), features=tuple(features))
    if row is None:
        return known
    return structs.replace(
        known,
        failures=row["failures"],
        last_error=row["last_error"],
        last_failure=row["last_failure"],
        last_success=row["last_success"],
    )
