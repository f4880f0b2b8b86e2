"""Reading a hints file for people: rows of every kind, by key, with their ages. Synchronous, changes nothing.

Keys, as printed and as asked for:

    ehlo           ADDRESS:PORT/PHASE     192.0.2.1:25/clear
    reachability   HOST/ADDRESS:PORT      mx.example.org/192.0.2.1:25
    level          DOMAIN/HOST            example.org/mx.example.org

A host, an address or a domain alone means every row about it. Rows that make no sense are shown as such,
without their content.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Table, create_engine, or_, select
from sqlalchemy.exc import DBAPIError

from hints.check import is_level_seen, is_origin, is_reachability, read_ehlo
from hints.prune import expired
from hints.tables import APPLICATION, KINDS, VERSION, ehlo_answer, level_seen, reachability

MAX_ROWS = 10_000  # of each kind


class Unreadable(Exception):
    """There is a file, but it cannot be read as hints; the text says why."""


@dataclass(frozen=True, slots=True)
class Row:
    """One hint. `values` are the columns of its kind, `expired` whether it is no longer believed.

    `valid` is False for a row that makes no sense: deliveries ignore it, and `values` is empty here.
    """

    kind: str
    key: str
    values: Mapping[str, Any]
    source: str
    reason: str
    first_seen: float
    last_seen: float
    expires: float
    use_count: int
    expired: bool
    valid: bool = True


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rows. `expired` True: only those past their time; False: only the others; None: all."""

    kind: str | None = None
    host: str | None = None
    domain: str | None = None
    expired: bool | None = False


def rows(path: Path, wanted: Filter, now: float) -> tuple[Row, ...]:
    """The rows that pass the filter, by kind and key; none when there is no file. Raises Unreadable.

    `host` is a host name or an address. A kind without such a column has no rows that pass.
    """
    with _opened(path) as conn:
        if conn is None:
            return ()
        found = [
            row
            for kind, table in KINDS.items()
            if wanted.kind in (None, kind)
            for row in _select(conn, kind, table, _conditions(table, wanted), now)
        ]
    return tuple(row for row in found if wanted.expired is None or row.expired is wanted.expired)


def about(path: Path, key: str, now: float) -> tuple[Row, ...]:
    """The row of this key, or all rows about a host, an address or a domain. Raises Unreadable."""
    with _opened(path) as conn:
        if conn is None:
            return ()
        name = key.rpartition(":")[0] if "/" in key else key
        parts = {part.lower() for part in (key, *key.split("/"), *name.split("/"))}
        found = [
            row
            for kind, table in KINDS.items()
            for row in _select(conn, kind, table, _any_column(table, parts), now)
        ]
    exact = tuple(row for row in found if row.key == key.lower())
    return exact or (() if "/" in key else tuple(found))


def key_of(kind: str, row: Mapping[str, Any]) -> str:
    """The key of a row as people write it."""
    if kind == "ehlo":
        return f"{_socket(row['address'], row['port'])}/{row['phase']}"
    if kind == "reachability":
        return f"{row['host']}/{_socket(row['address'], row['port'])}"
    return f"{row['domain']}/{row['host']}"


def _socket(address: object, port: object) -> str:
    return f"[{address}]:{port}" if ":" in str(address) else f"{address}:{port}"


def _conditions(table: Table, wanted: Filter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.host is not None:
        names = [table.c[name] for name in ("host", "address") if name in table.c]
        conditions.append(or_(*(column == wanted.host.lower() for column in names)))
    if wanted.domain is not None:
        named = table.c.domain == wanted.domain.lower() if "domain" in table.c else table.c.source.is_(None)
        conditions.append(named)
    return conditions


def _any_column(table: Table, parts: set[str]) -> list[ColumnElement[bool]]:
    bare = parts | {part.strip("[]") for part in parts} | {_address(part) for part in parts}
    names = [table.c[name] for name in ("host", "address", "domain") if name in table.c]
    return [or_(*(column.in_(sorted(bare)) for column in names))]


def _address(part: str) -> str:
    """`192.0.2.1:25` and `[2001:db8::1]:25` without the port."""
    address, colon, port = part.rpartition(":")
    return (
        address.strip("[]")
        if colon and port.isdecimal() and (address.count(":") == 0 or "]" in address)
        else part
    )


def _select(
    conn: Connection, kind: str, table: Table, conditions: list[ColumnElement[bool]], now: float
) -> Iterator[Row]:
    query = select(table).where(*conditions).order_by(*table.primary_key.columns).limit(MAX_ROWS)
    for found in conn.execute(query):
        yield _row(kind, found._asdict(), now)


_VALID = {
    ehlo_answer.name: lambda row: read_ehlo(row) is not None,
    reachability.name: is_reachability,
    level_seen.name: is_level_seen,
}
_ORIGIN = ("source", "reason", "first_seen", "last_seen", "expires", "use_count")


def _row(kind: str, row: Mapping[str, Any], now: float) -> Row:
    if not (is_origin(row) and _VALID[KINDS[kind].name](row)):
        return Row(kind, key_of(kind, row)[:600], {}, "", "", 0.0, 0.0, 0.0, 0, expired=False, valid=False)
    values = {name: value for name, value in row.items() if name not in _ORIGIN}
    if kind == "ehlo":
        answer = read_ehlo(row)
        assert answer is not None
        values["keywords"] = list(answer.keywords)
    origin = {name: row[name] for name in _ORIGIN}
    return Row(kind, key_of(kind, row), values, expired=expired(row["expires"], now), **origin)


@contextmanager
def _opened(path: Path) -> Iterator[Connection | None]:
    """A connection for reading; None when there is no file or nothing in it."""
    if not path.exists():
        yield None
        return
    engine = _reader(path)
    try:
        with engine.connect() as conn:
            yield conn if _is_ours(conn, path) else None
    except DBAPIError as error:
        raise Unreadable(f"{path}: {error.orig}") from error
    finally:
        engine.dispose()


def _is_ours(conn: Connection, path: Path) -> bool:
    if not conn.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one():
        return False
    if conn.exec_driver_sql("PRAGMA application_id").scalar_one() != APPLICATION:
        raise Unreadable(f"{path} is a database, but not one of hints")
    version = conn.exec_driver_sql("PRAGMA user_version").scalar_one()
    if version != VERSION:
        raise Unreadable(f"{path} is of version {version}, this program reads version {VERSION}")
    return True


def _reader(path: Path) -> Engine:
    def connect() -> sqlite3.Connection:
        # rw and not ro: a reader of a WAL file has to be able to make its -shm; nothing is ever written
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=1.0)
        connection.execute("PRAGMA query_only=ON")
        return connection

    return create_engine("sqlite://", creator=connect, hide_parameters=True)
