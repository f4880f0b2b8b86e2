"""Reading a hints file for people: rows of every kind, by key, with their ages. Synchronous, changes nothing.

Keys, as printed and as asked for:

    ehlo           ADDRESS:PORT/PHASE          192.0.2.1:25/clear
    reachability   HOST/ADDRESS:PORT           mx.example.org/192.0.2.1:25
    level          DOMAIN/HOST                 example.org/mx.example.org
    feature        HOST/ADDRESS:PORT/WORD      mx.example.org/192.0.2.1:25/chunking
    session        HOST:PORT/LEVEL/TICKET      mx.example.org:25/dane-ee/reusable
    sts            DOMAIN/sts                  example.org/sts

A host, an address or a domain alone means every row about it. Rows that make no sense are shown as such,
without their content; what a session holds is never read. Plain sqlite3, because tools have to start fast.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hints.check import (
    is_feature,
    is_level_seen,
    is_origin,
    is_reachability,
    is_session,
    lenient_text,
    read_ehlo,
    read_sts,
)
from hints.kinds import APPLICATION, KINDS, ORIGIN, VERSION, Kind
from hints.prune import expired

MAX_ROWS = 10_000  # of each kind, in a list

Conditions = tuple[str, tuple[object, ...]]  # SQL with bound parameters


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
    identity: tuple[Any, ...] = ()  # the primary key, as it is in the table

    def document(self) -> dict[str, Any]:
        """The row as JSON shows it."""
        names = ("kind", "key", "values", *ORIGIN, "expired", "valid")
        return {name: getattr(self, name) for name in names}


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
    return tuple(each(path, wanted, now, limit=MAX_ROWS))


def each(path: Path, wanted: Filter, now: float, *, limit: int = -1) -> Iterator[Row]:
    """As `rows`, one after the other, up to `limit` of each kind. Raises Unreadable."""
    with opened(path) as conn:
        for kind in KINDS.values() if conn is not None else ():
            if conn is not None and wanted.kind in (None, kind.name):
                yield from _select(conn, kind, conditions(kind, wanted, now), now, limit)


def about(path: Path, key: str, now: float) -> tuple[Row, ...]:
    """The row of this key, or all rows about a host, an address or a domain. Raises Unreadable."""
    name = key.rpartition(":")[0] if "/" in key else key
    parts = {part.lower() for part in (key, *key.split("/"), *name.split("/"))}
    with opened(path) as conn:
        if conn is None:
            return ()
        found = [
            row
            for kind in KINDS.values()
            for row in _select(conn, kind, _any_column(kind, parts), now, MAX_ROWS)
        ]
    exact = tuple(row for row in found if row.key == key.lower())
    return exact or (() if "/" in key else tuple(found))


def key_of(kind: str, row: Mapping[str, Any]) -> str:
    """The key of a row as people write it."""
    if kind == "ehlo":
        return f"{_socket(row['address'], row['port'])}/{row['phase']}"
    if kind == "reachability":
        return f"{row['host']}/{_socket(row['address'], row['port'])}"
    if kind == "feature":
        return f"{row['host']}/{_socket(row['address'], row['port'])}/{row['word']}"
    if kind == "session":
        return f"{_socket(row['host'], row['port'])}/{row['level']}/{row['ticket']}"
    if kind == "sts":
        return f"{row['domain']}/sts"
    return f"{row['domain']}/{row['host']}"


def _socket(address: object, port: object) -> str:
    return f"[{address}]:{port}" if ":" in str(address) else f"{address}:{port}"


def conditions(kind: Kind, wanted: Filter, now: float) -> Conditions:
    """What passes the filter, as SQL; the names of columns are ours, all values are bound."""
    terms: list[str] = []
    values: list[object] = []
    if wanted.host is not None:
        names = [name for name in ("host", "address") if name in kind.columns]
        terms.append(f"({' OR '.join(f'{name} = ?' for name in names) or '0'})")
        values += [wanted.host.lower()] * len(names)
    if wanted.domain is not None:
        terms.append("domain = ?" if "domain" in kind.columns else "? IS NULL")
        values.append(wanted.domain.lower())
    if wanted.expired is not None:
        terms.append("expires <= ?" if wanted.expired else "(expires > ? OR expires IS NULL)")
        values.append(now)
    return " AND ".join(terms) or "1", tuple(values)


def _any_column(kind: Kind, parts: set[str]) -> Conditions:
    bare = sorted(parts | {part.strip("[]") for part in parts} | {_address(part) for part in parts})
    names = [name for name in ("host", "address", "domain") if name in kind.columns]
    marks = ", ".join("?" * len(bare))
    return " OR ".join(f"{name} IN ({marks})" for name in names), (*bare,) * len(names)


def _address(part: str) -> str:
    """`192.0.2.1:25` and `[2001:db8::1]:25` without the port."""
    address, colon, port = part.rpartition(":")
    return (
        address.strip("[]")
        if colon and port.isdecimal() and (address.count(":") == 0 or "]" in address)
        else part
    )


def _select(conn: sqlite3.Connection, kind: Kind, where: Conditions, now: float, limit: int) -> Iterator[Row]:
    columns, order = ", ".join(kind.columns), ", ".join(kind.key)
    query = f"SELECT {columns} FROM {kind.table} WHERE {where[0]} ORDER BY {order} LIMIT ?"  # noqa: S608 (names of ours)
    for found in conn.execute(query, (*where[1], limit)):
        yield _row(kind.name, dict(zip(kind.columns, found, strict=True)), now)


_VALID: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {
    "ehlo": lambda row: read_ehlo(row) is not None,
    "reachability": is_reachability,
    "level": is_level_seen,
    "feature": is_feature,
    "session": is_session,
    "sts": lambda row: read_sts(row) is not None,
}


def _row(kind: str, row: Mapping[str, Any], now: float) -> Row:
    identity = tuple(row[name] for name in KINDS[kind].key)
    if not (is_origin(row) and _VALID[kind](row)):
        key = key_of(kind, row)[:600].encode("utf-8", "backslashreplace").decode()
        return Row(kind, key, {}, "", "", 0.0, 0.0, 0.0, 0, False, valid=False, identity=identity)
    values = {name: value for name, value in row.items() if name not in ORIGIN}
    if kind == "ehlo":
        answer = read_ehlo(row)
        assert answer is not None
        values["keywords"] = list(answer.keywords)
    if kind == "sts":
        policy = read_sts(row)
        assert policy is not None
        values["patterns"] = list(policy.patterns)
    origin = {name: row[name] for name in ORIGIN}
    gone = expired(row["expires"], now)
    return Row(kind, key_of(kind, row), values, expired=gone, identity=identity, **origin)


@contextmanager
def opened(path: Path, *, write: bool = False) -> Iterator[sqlite3.Connection | None]:
    """A connection in autocommit mode; None when there is no file or nothing in it. Raises Unreadable."""
    try:
        if not path.exists():
            yield None
            return
    except OSError as error:  # a directory that is not ours to look into
        raise Unreadable(f"{path}: {error.strerror}") from error
    conn: sqlite3.Connection | None = None
    try:
        # rw and not ro: a reader of a WAL file has to be able to make its -shm
        uri = f"{path.absolute().as_uri()}?mode=rw"
        conn = sqlite3.connect(uri, uri=True, timeout=2.0, isolation_level=None)
        conn.text_factory = lenient_text
        if not write:
            conn.execute("PRAGMA query_only=ON")
        yield conn if _is_ours(conn, path) else None
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter: a name in a damaged schema
        raise Unreadable(f"{path}: {error}") from error
    finally:
        if conn is not None:
            conn.close()


def _is_ours(conn: sqlite3.Connection, path: Path) -> bool:
    if not conn.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        return False
    if conn.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
        raise Unreadable(f"{path} is a database, but not one of hints")
    (version,) = conn.execute("PRAGMA user_version").fetchone()
    if version < VERSION:
        raise Unreadable(f"{path} is of version {version}; the next delivery brings it to version {VERSION}")
    if version > VERSION:
        raise Unreadable(f"{path} is of version {version}, this program reads version {VERSION}")
    return True
