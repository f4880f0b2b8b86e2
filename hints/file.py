"""One hints file: opening it or setting it aside, reading views, writing notes. Synchronous.

    the file is                                     what happens
    ----------------------------------------------  ------------------------------------------------------
    missing, empty                                  made, mode 0600, WAL
    ours, of another version                        renamed to …version-N-TIME, a new one is made
    damaged, or no database                         renamed to …corrupt-TIME, a new one is made
    a healthy database of something else            left alone; Unavailable
    locked, read-only, on a full disk               left alone; Unavailable, try again later

Several processes share a file. Whoever replaces it holds `FILE.lock` and looks again first, so that nobody
sets aside the new file of another; the others notice the new inode at their next write.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Select, create_engine, delete, event, func, select, update
from sqlalchemy.exc import DBAPIError

from hints.check import is_origin, is_reachability, read_ehlo
from hints.port import AddressView
from hints.records import EhloAnswer
from hints.tables import (
    APPLICATION,
    KINDS,
    VERSION,
    Stamped,
    ehlo_answer,
    metadata,
    reachability,
    row_of,
    table_of,
    upsert,
)

T = TypeVar("T")

WRITE_BUSY_MS = 2000
READ_BUSY_MS = 40  # below the patience of a look
SET_ASIDE_KEPT = 3  # older ones are deleted, or a bad disk would fill itself
MIN_PAGES = 64
LOCK_TRIES = 40
LOCK_PAUSE = 0.05  # seconds between tries
FREED_WHEN_FULL = 4  # a full file loses this part of each kind, the least recently seen

# SQLITE_ERROR: our statements are fixed, so that it means missing tables or columns.
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)

_log = logging.getLogger("outrider.hints")


class Unavailable(Exception):
    """The file cannot be used now; the text says why."""


class Damaged(Exception):
    """The file is no database, or its tables are not what its version says."""


class HintsFile:
    """`max_size` in octets. Thread-safe; every method may block and raises only Unavailable."""

    def __init__(self, path: Path, *, max_size: int) -> None:
        self.path = path.absolute()
        self.invalid = 0  # rows that were not believed
        self._max_size = max_size
        self._lock = RLock()
        self._engines: tuple[Engine, Engine] | None = None
        self._inode = 0

    def read(self, host: str, addresses: Sequence[str], port: int, now: float) -> tuple[AddressView, ...]:
        """One view per address; expired rows count as unknown."""
        return self._guarded(lambda: self._views(host, addresses, port, now), now)

    def write(
        self, batch: Sequence[Stamped], uses: Mapping[tuple[str, str, int], int], now: float, *, prune: bool
    ) -> None:
        """Store notes, count consultations by (host, address, port), and delete what expired if `prune`."""
        self._guarded(lambda: self._store(batch, uses, now, prune), now)

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for engine in self._engines or ():
                engine.dispose()
            self._engines = None

    def _guarded(self, work: Callable[[], T], now: float) -> T:
        """Run; on a damaged file set it aside and run once more."""
        try:
            with _translated():
                return work()
        except Damaged as damage:
            with _translated_damage(), self._lock:
                self.close()
                self._replace_if_damaged(str(damage), now)
                return work()

    def _views(self, host: str, addresses: Sequence[str], port: int, now: float) -> tuple[AddressView, ...]:
        _, reader = self._open(now)
        with reader.connect() as conn:
            reached = self._believed(conn, _fresh_reachability(host, addresses, port, now))
            answers = self._believed(conn, _fresh_answers(addresses, port, now))
        views = {row["address"]: row for row in reached if self._valid(is_reachability(row))}
        ehlo: dict[str, list[EhloAnswer]] = {}
        for row in answers:
            answer = read_ehlo(row)
            if self._valid(answer is not None) and answer is not None:
                ehlo.setdefault(answer.address, []).append(answer)
        return tuple(_view(one, views.get(one), ehlo.get(one, [])) for one in addresses)

    def _believed(self, conn: Connection, query: Select[Any]) -> list[Mapping[str, Any]]:
        rows = [row._asdict() for row in conn.execute(query)]
        return [row for row in rows if self._valid(is_origin(row))]

    def _valid(self, valid: bool) -> bool:
        self.invalid += not valid
        return valid

    def _store(
        self, batch: Sequence[Stamped], uses: Mapping[tuple[str, str, int], int], now: float, prune: bool
    ) -> None:
        writer, _ = self._open(now)
        try:
            with writer.begin() as conn:
                for table in KINDS.values():
                    rows = [row_of(stamped) for stamped in batch if table_of(stamped.note) is table]
                    if rows:
                        conn.execute(upsert(table), rows)
                _count_uses(conn, uses)
                if prune:
                    for table in KINDS.values():
                        conn.execute(delete(table).where(table.c.expires <= now))
        except DBAPIError as error:
            if _code(error.orig) == sqlite3.SQLITE_FULL:
                _make_room(writer)
            raise

    def _open(self, now: float) -> tuple[Engine, Engine]:
        """The engines of writer and readers; made anew when the file was replaced by another process."""
        with self._lock:
            if self._engines is not None and _inode(self.path) != self._inode:
                self.close()
            if self._engines is None:
                with _translated(), self._exclusively():
                    self._prepare(now)
                self._engines = (
                    _engine(self.path, "BEGIN IMMEDIATE", WRITE_BUSY_MS, self._max_size),
                    _engine(self.path, "BEGIN", READ_BUSY_MS, self._max_size),
                )
                self._inode = _inode(self.path)
            return self._engines

    def _prepare(self, now: float) -> None:
        """Make the file what this version expects. The caller holds the lock file."""
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        if self.path.stat().st_mode & 0o077:
            self.path.chmod(0o600)
        version = self._version()
        if version not in (0, VERSION):
            self._set_aside(f"version-{version}", f"it is of version {version}, this is {VERSION}", now)
            self._prepare(now)
            return
        engine = _engine(self.path, "BEGIN IMMEDIATE", WRITE_BUSY_MS, self._max_size)
        try:
            with engine.begin() as conn:
                metadata.create_all(conn)
                conn.exec_driver_sql(f"PRAGMA application_id={APPLICATION}")
                conn.exec_driver_sql(f"PRAGMA user_version={VERSION}")
        finally:
            engine.dispose()

    def _version(self) -> int:
        """The version in the file, 0 for an empty one. Raises Damaged, Unavailable."""
        connection = sqlite3.connect(self.path, timeout=WRITE_BUSY_MS / 1000, isolation_level=None)
        try:
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if application == APPLICATION:
                return int(version)
            if tables:
                raise Unavailable(f"{self.path} is a database, but not one of hints; it is left alone")
            return 0
        finally:
            connection.close()

    def _replace_if_damaged(self, damage: str, now: float) -> None:
        """Set the file aside, unless another process has done so already."""
        with self._exclusively():
            try:
                with _translated():
                    self._check()
            except Damaged:
                self._set_aside("corrupt", damage, now)

    def _check(self) -> None:
        self._version()
        connection = sqlite3.connect(self.path, timeout=WRITE_BUSY_MS / 1000, isolation_level=None)
        try:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise Damaged(str(found))
            for table in KINDS.values():
                connection.execute(
                    str(select(table).limit(0).compile(compile_kwargs={"literal_binds": True}))
                )
        finally:
            connection.close()

    def _set_aside(self, word: str, why: str, now: float) -> None:
        target = self.path.with_name(f"{self.path.name}.{word}-{int(now)}")
        count = 0
        while target.exists():
            count += 1
            target = self.path.with_name(f"{self.path.name}.{word}-{int(now)}.{count}")
        for suffix in ("-wal", "-shm", ""):  # a left-over WAL must never meet the new file
            part = self.path.with_name(self.path.name + suffix)
            if part.exists():
                part.rename(target.with_name(target.name + suffix))
        _log.warning("hints file %s: %s; set aside as %s, starting empty", self.path, why, target.name)
        self._forget_old_copies()

    def _forget_old_copies(self) -> None:
        copies = [
            one
            for word in ("corrupt", "version")
            for one in self.path.parent.glob(f"{self.path.name}.{word}-*")
            if not one.name.endswith(("-wal", "-shm"))
        ]
        copies.sort(key=lambda one: one.stat().st_mtime, reverse=True)
        for old in copies[SET_ASIDE_KEPT:]:
            for suffix in ("-wal", "-shm", ""):
                old.with_name(old.name + suffix).unlink(missing_ok=True)

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _take(lock)
            yield
        finally:
            os.close(lock)


def _take(lock: int) -> None:
    """Lock within two seconds: held only for moments, but never wait for a process that hangs."""
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(LOCK_PAUSE)
    raise Unavailable("another process is busy replacing it")


def _fresh_reachability(host: str, addresses: Sequence[str], port: int, now: float) -> Select[Any]:
    return select(reachability).where(
        reachability.c.host == host,
        reachability.c.address.in_(addresses),
        reachability.c.port == port,
        reachability.c.expires > now,
    )


def _fresh_answers(addresses: Sequence[str], port: int, now: float) -> Select[Any]:
    return (
        select(ehlo_answer)
        .where(ehlo_answer.c.address.in_(addresses), ehlo_answer.c.port == port, ehlo_answer.c.expires > now)
        .order_by(ehlo_answer.c.phase)
    )


def _view(address: str, row: Mapping[str, Any] | None, ehlo: Sequence[EhloAnswer]) -> AddressView:
    if row is None:
        return AddressView(address, ehlo=tuple(ehlo))
    return AddressView(
        address, row["failures"], row["last_error"], row["last_failure"], row["last_success"], tuple(ehlo)
    )


def _count_uses(conn: Connection, uses: Mapping[tuple[str, str, int], int]) -> None:
    for (host, address, port), count in uses.items():
        for table in (reachability, ehlo_answer):
            here = [table.c.address == address, table.c.port == port]
            if table is reachability:
                here.append(table.c.host == host)
            conn.execute(update(table).where(*here).values(use_count=table.c.use_count + count))


def _make_room(writer: Engine) -> None:
    """Delete what was not seen for longest; the next write has room then."""
    with writer.begin() as conn:
        for table in KINDS.values():
            part = select(table.c.last_seen).order_by(table.c.last_seen)
            rows = conn.execute(select(func.count()).select_from(table)).scalar_one()
            limit = conn.execute(part.offset(rows // FREED_WHEN_FULL).limit(1)).scalar_one_or_none()
            if limit is not None:
                conn.execute(delete(table).where(table.c.last_seen <= limit))


def _engine(path: Path, begin: str, busy_ms: int, max_size: int) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}", hide_parameters=True, connect_args={"check_same_thread": False}
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # else the driver decides when transactions begin
        connection.execute(f"PRAGMA busy_timeout={busy_ms}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        (page,) = connection.execute("PRAGMA page_size").fetchone()
        connection.execute(f"PRAGMA max_page_count={max(MIN_PAGES, max_size // page)}")
        connection.execute("PRAGMA journal_size_limit=1048576")

    @event.listens_for(engine, "begin")
    def start(conn: Connection) -> None:
        conn.exec_driver_sql(begin)

    return engine


@contextmanager
def _translated() -> Iterator[None]:
    """Errors of SQLite and of the file system as Damaged or Unavailable."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        origin = error.orig if isinstance(error, DBAPIError) else error
        text = str(origin)
        if _code(origin) in _DAMAGED:
            raise Damaged(text) from error
        raise Unavailable(text) from error
    except OSError as error:
        raise Unavailable(f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")) from error


@contextmanager
def _translated_damage() -> Iterator[None]:
    """As `_translated`, where damage has been dealt with once already."""
    try:
        with _translated():
            yield
    except Damaged as damage:
        raise Unavailable(f"damaged again: {damage}") from damage


def _code(error: object) -> int:
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0
