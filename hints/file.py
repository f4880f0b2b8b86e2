"""One hints file: reading views, writing notes, pruning. Synchronous; see `hints.place` for opening it.

Another process may replace the file; the new inode is noticed at the next read or write.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import RLock
from typing import TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Integer,
    Table,
    bindparam,
    delete,
    func,
    literal_column,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError

from hints import sessions
from hints.engine import (
    WRITE_BUSY_MS,
    Damaged,
    Unavailable,
    code_of,
    connect,
    make_engine,
    translated,
    translated_damage,
)
from hints.place import Place
from hints.reading import Known, best_level, policy, read
from hints.records import SessionKey, StsSeen, TlsSession
from hints.seal import Sealer
from hints.tables import (
    KINDS,
    Stamped,
    ehlo_answer,
    feature,
    reachability,
    row_of,
    sts_policy,
    table_of,
    upsert,
)

__all__ = ["HintsFile", "Unavailable"]

T = TypeVar("T")

READ_BUSY_MS = 40  # below the patience of a look
PRUNED_AT_ONCE = 500  # rows in one transaction, so that no other writer waits for long
PRUNED_BY_A_WRITE = 10_000
PRUNE_PAUSE = 0.01  # seconds between two of them: a writer that waits asks again within 10 ms at first
FREED_WHEN_FULL = 4  # a full file loses this part of each kind, the least recently seen,
ROOM = 16  # until this part of it is free; policies only when nothing else is left
POLICIES_AT_ONCE = 100  # in one transaction


class HintsFile:
    """`max_size` in octets. Thread-safe; methods raise only Unavailable and, save `read_now`, may block."""

    def __init__(self, path: Path, *, max_size: int) -> None:
        self.path = path.absolute()
        self.invalid = 0  # rows that were not believed
        self._max_size = max_size
        self._place = Place(self.path, max_size)
        self._lock = RLock()
        self._engines: tuple[Engine, Engine, Engine] | None = None
        self._at_hand: sqlite3.Connection | None = None  # it waits for nobody
        self._inode = 0

    def read(
        self, host: str, addresses: Sequence[str], port: int, now: float, domain: str | None = None
    ) -> Known:
        """What there is about a host, see `hints.reading`."""
        return self._guarded(
            lambda: self._read(now, lambda conn: read(conn, host, addresses, port, domain, now, self._valid)),
            now,
        )

    def read_now(
        self, host: str, addresses: Sequence[str], port: int, now: float, domain: str | None = None
    ) -> Known | None:
        """The same where the file is open and nobody has to be waited for but the disk, else None."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            if self._at_hand is None or _inode(self.path) != self._inode:
                return None
            return read(self._at_hand, host, addresses, port, domain, now, self._valid)
        except (sqlite3.Error, UnicodeDecodeError):
            return None  # whoever may wait finds out what it is
        finally:
            self._lock.release()

    def best_level(self, domain: str, host: str, now: float) -> str | None:
        """The best level of the last 90 days."""
        return self._guarded(
            lambda: self._read(now, lambda conn: best_level(conn, domain, host, now, self._valid)), now
        )

    def policy(self, domain: str, now: float) -> StsSeen | None:
        """The MTA-STS policy of a domain that still counts."""
        return self._guarded(
            lambda: self._read(now, lambda conn: policy(conn, domain, now, self._valid)), now
        )

    def write(
        self,
        batch: Sequence[Stamped],
        uses: Mapping[tuple[str, str, int], int],
        now: float,
        *,
        prune: bool,
        tickets: sessions.Changes | None = None,
    ) -> bool:
        """Store notes and sessions, count consultations by (host, address, port); `prune` some that expired.

        False when there is more to prune.
        """
        self._guarded(lambda: self._store(batch, uses, now, tickets), now)
        return not prune or self.prune(now, most=PRUNED_BY_A_WRITE).total() < PRUNED_BY_A_WRITE

    def prune(self, now: float, *, most: int | None = None) -> Counter[str]:
        """Delete what is past its time, in small transactions; the number of rows by kind."""
        return self._guarded(lambda: self._prune(now, most), now)

    def claim(
        self, key: SessionKey, now: float, sealer: Sealer, given_up: Callable[[], bool]
    ) -> TlsSession | None:
        """A session of this key; one of TLS 1.3 is deleted, unless `given_up` says that nobody waits."""
        return self._guarded(lambda: self._claim(key, now, sealer, given_up), now)

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            if self._at_hand is not None:
                self._at_hand.close()
            for engine in self._engines or ():
                engine.dispose()
            self._engines = self._at_hand = None

    def _guarded(self, work: Callable[[], T], now: float) -> T:
        """Run; on a damaged file set it aside and run once more."""
        try:
            with translated():
                return work()
        except Damaged as damage:
            with translated_damage(), self._lock:
                self.close()
                self._place.replace_if_damaged(str(damage), now)
                return work()

    def _read(self, now: float, work: Callable[[sqlite3.Connection], T]) -> T:
        """On a reader's own connection: SQLAlchemy's would cost more than what is read."""
        reader = self._open(now)[1].raw_connection()
        try:
            connection = reader.driver_connection
            assert isinstance(connection, sqlite3.Connection)
            return work(connection)
        finally:
            reader.close()

    def _claim(
        self, key: SessionKey, now: float, sealer: Sealer, given_up: Callable[[], bool]
    ) -> TlsSession | None:
        _, reader, claimer = self._open(now)
        with reader.connect() as conn:
            kept = sessions.reusable(conn, key, now)
            if kept is None and not sessions.has_ticket(conn, key, now):
                return None
        if kept is not None:
            session = sessions.opened(kept, sealer)
            if self._valid(session is not None):
                with suppress(DBAPIError), claimer.begin() as conn:  # a count is not worth a miss
                    sessions.count_use(conn, kept)
                return session
            with claimer.begin() as conn:
                sessions.drop(conn, kept)
            return None
        with claimer.connect() as conn, conn.begin() as transaction:
            for _ in range(sessions.MAX_TICKETS):
                row = sessions.take(conn, key, now)
                session = None if row is None else sessions.opened(row, sealer)
                if row is None or self._valid(session is not None):
                    break
            if given_up():
                transaction.rollback()
                return None
        return session

    def _valid(self, valid: bool) -> bool:
        self.invalid += not valid
        return valid

    def _store(
        self,
        batch: Sequence[Stamped],
        uses: Mapping[tuple[str, str, int], int],
        now: float,
        tickets: sessions.Changes | None,
    ) -> None:
        writer = self._open(now)[0]
        try:
            _store_policies(writer, [stamped for stamped in batch if table_of(stamped.note) is sts_policy])
            with writer.begin() as conn:
                for table in KINDS.values():
                    rows = [row_of(stamped) for stamped in batch if table_of(stamped.note) is table]
                    if rows and table is not sts_policy:
                        conn.execute(upsert(table), rows)
                _count_uses(conn, uses)
                if tickets is not None:
                    sessions.store(conn, tickets)
        except DBAPIError as error:
            if code_of(error.orig) == sqlite3.SQLITE_FULL:
                _make_room(writer)
            raise

    def _prune(self, now: float, most: int | None) -> Counter[str]:
        writer = self._open(now)[0]
        deleted: Counter[str] = Counter()
        for kind, table in KINDS.items():
            doomed = select(_rowid(table)).where(table.c.expires <= now).limit(PRUNED_AT_ONCE)
            while most is None or deleted.total() < most:
                with writer.begin() as conn:
                    count = conn.execute(delete(table).where(_rowid(table).in_(doomed))).rowcount
                deleted[kind] += count
                if count < PRUNED_AT_ONCE:
                    break
                time.sleep(PRUNE_PAUSE)
        return deleted

    def _open(self, now: float) -> tuple[Engine, Engine, Engine]:
        """The engines of writer, readers, claimers; made anew when another process replaced the file."""
        with self._lock:
            if self._engines is not None and _inode(self.path) != self._inode:
                self.close()
            if self._engines is None:
                self._place.prepare(now)
                self._at_hand = connect(self.path, READ_BUSY_MS, self._max_size)
                self._at_hand.execute("PRAGMA busy_timeout=0")
                self._engines = (
                    make_engine(self.path, "BEGIN IMMEDIATE", WRITE_BUSY_MS, self._max_size),
                    make_engine(self.path, "BEGIN", READ_BUSY_MS, self._max_size),
                    make_engine(self.path, "BEGIN IMMEDIATE", READ_BUSY_MS, self._max_size),
                )
                self._inode = _inode(self.path)
            return self._engines


def _store_policies(writer: Engine, batch: Sequence[Stamped]) -> None:
    """Before all else, some at a time: advice that finds no room must not keep policies out.

    They may be written again.
    """
    for start in range(0, len(batch), POLICIES_AT_ONCE):
        rows = [row_of(stamped) for stamped in batch[start : start + POLICIES_AT_ONCE]]
        with writer.begin() as conn:
            conn.execute(upsert(sts_policy), rows)


def _count_uses(conn: Connection, uses: Mapping[tuple[str, str, int], int]) -> None:
    rows = [
        {"a_host": host, "an_address": address, "a_port": port, "more": count}
        for (host, address, port), count in uses.items()
    ]
    for table in (reachability, ehlo_answer, feature) if rows else ():
        here = [table.c.address == bindparam("an_address"), table.c.port == bindparam("a_port")]
        if "host" in table.c:
            here.append(table.c.host == bindparam("a_host"))
        counted = update(table).where(*here).values(use_count=table.c.use_count + bindparam("more"))
        conn.execute(counted, rows)


def _rowid(table: Table) -> ColumnElement[int]:
    return literal_column(f"{table.name}.rowid", Integer)


def _make_room(writer: Engine) -> None:
    """Delete what was not seen for longest; the next write has room then.

    An MTA-STS policy that is lost is a downgrade waiting to happen, all the rest is advice: policies go only
    where deleting everything else leaves no room, the longest lists first, since it takes most to fill a file
    with short ones.
    """
    with writer.begin() as conn:
        while _drop_advice(conn):
            if _has_room(conn):
                return
        if not _has_room(conn):
            rows = conn.execute(select(func.count()).select_from(sts_policy)).scalar_one()
            largest = func.length(sts_policy.c.patterns).desc(), sts_policy.c.expires
            doomed = select(_rowid(sts_policy)).select_from(sts_policy).order_by(*largest)
            part = doomed.limit(rows // FREED_WHEN_FULL + 1)
            conn.execute(delete(sts_policy).where(_rowid(sts_policy).in_(part)))


def _drop_advice(conn: Connection) -> int:
    """Delete a part of each kind but the policies; how many rows."""
    deleted = 0
    for table in KINDS.values():
        if table is not sts_policy:
            part = select(table.c.last_seen).order_by(table.c.last_seen)
            rows = conn.execute(select(func.count()).select_from(table)).scalar_one()
            limit = conn.execute(part.offset(rows // FREED_WHEN_FULL).limit(1)).scalar_one_or_none()
            if limit is not None:
                deleted += conn.execute(delete(table).where(table.c.last_seen <= limit)).rowcount
    return deleted


def _has_room(conn: Connection) -> bool:
    names = ("freelist_count", "page_count", "max_page_count")
    free, used, most = (conn.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in names)
    return bool(free + most - used >= most // ROOM)


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0
