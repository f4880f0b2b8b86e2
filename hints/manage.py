"""Forgetting, pruning, checking and counting hints, for people. Synchronous; raises `hints.show.Unreadable`.

Changes go in small transactions, so that deliveries never wait for long.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hints.kinds import KINDS, VERSION, Kind
from hints.show import Conditions, Filter, Row, conditions, each, opened

AT_ONCE = 500  # rows in one transaction
PAUSE = 0.01  # seconds between two


@dataclass(frozen=True, slots=True)
class Count:
    """Rows of a kind: all, past their time, how often consulted; the moments of the oldest and the newest."""

    kind: str
    rows: int
    expired: int
    use_count: int
    oldest: float | None
    newest: float | None


@dataclass(frozen=True, slots=True)
class Condition:
    """The state of a file. `problems` is empty for a sound one; `invalid` rows are ignored by deliveries."""

    version: int
    octets: int
    free_octets: int
    rows: int
    invalid: int
    problems: tuple[str, ...]


def forget(path: Path, wanted: Filter) -> Counter[str]:
    """Delete what passes the filter; the number of rows by kind."""
    return _delete(
        path, lambda kind: conditions(kind, wanted, 0.0) if wanted.kind in (None, kind.name) else None
    )


def forget_rows(path: Path, rows: Sequence[Row]) -> Counter[str]:
    """Delete these rows, as `hints.show` found them; the number by kind."""
    deleted: Counter[str] = Counter()
    with opened(path, write=True) as conn:
        for row in rows if conn is not None else ():
            kind = KINDS[row.kind]
            where = " AND ".join(f"{name} IS ?" for name in kind.key)
            if conn is not None:
                statement = f"DELETE FROM {kind.table} WHERE {where}"  # noqa: S608 (names of ours)
                deleted[row.kind] += conn.execute(statement, row.identity).rowcount
    return +deleted


def prune(path: Path, now: float) -> Counter[str]:
    """Delete what is past its time; the number of rows by kind."""
    return _delete(path, lambda _: ("expires <= ?", (now,)))


def count(path: Path, now: float) -> tuple[Count, ...]:
    """How many rows there are; nothing when there is no file."""
    with opened(path) as conn:
        return () if conn is None else tuple(_count(conn, kind, now) for kind in KINDS.values())


def check(path: Path, now: float) -> Condition | None:
    """Read everything: structure, version, size, rows. None when there is no file."""
    with opened(path) as conn:
        if conn is None:
            return None
        found = [str(line) for (line,) in conn.execute("PRAGMA integrity_check(20)")]
        (page,), (free,) = (
            conn.execute(f"PRAGMA {name}").fetchone() for name in ("page_size", "freelist_count")
        )
    total = invalid = 0
    for row in each(path, Filter(expired=None), now):
        total += 1
        invalid += not row.valid
    mode = path.stat().st_mode & 0o777
    problems = [] if found == ["ok"] else found
    if mode & 0o077:
        problems.append(f"the file has mode {mode:o}: others may read it; deliveries make it 600")
    return Condition(VERSION, path.stat().st_size, page * free, total, invalid, tuple(problems))


def _count(conn: sqlite3.Connection, kind: Kind, now: float) -> Count:
    counted = "count(*), total(expires <= ?), total(use_count), min(first_seen), max(last_seen)"
    query = f"SELECT {counted} FROM {kind.table}"  # noqa: S608 (names of ours)
    rows, expired, uses, oldest, newest = conn.execute(query, (now,)).fetchone()
    times = (one if isinstance(one, int | float) else None for one in (oldest, newest))
    return Count(kind.name, rows, int(expired), int(uses), *times)


def _delete(path: Path, which: Callable[[Kind], Conditions | None]) -> Counter[str]:
    deleted: Counter[str] = Counter()
    with opened(path, write=True) as conn:
        for kind in KINDS.values() if conn is not None else ():
            where = which(kind)
            while conn is not None and where is not None:
                doomed = f"SELECT rowid FROM {kind.table} WHERE {where[0]} LIMIT {AT_ONCE}"  # noqa: S608 (names of ours)
                statement = f"DELETE FROM {kind.table} WHERE rowid IN ({doomed})"  # noqa: S608 (names of ours)
                gone = conn.execute(statement, where[1]).rowcount
                deleted[kind.name] += gone
                if gone < AT_ONCE:
                    break
                time.sleep(PAUSE)
    return +deleted
