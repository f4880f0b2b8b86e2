"""The place of a hints file: made, brought to this version, or set aside. Synchronous.

    the file is                                     what happens
    ----------------------------------------------  ------------------------------------------------------
    missing, empty                                  made, mode 0600, WAL
    ours, of an earlier version                     its tables are changed in place
    ours, of a later version                        renamed to …version-N-TIME, a new one is made
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import select

from hints.engine import WRITE_BUSY_MS, Damaged, Unavailable, make_engine, translated
from hints.kinds import MIGRATIONS, views
from hints.tables import APPLICATION, KINDS, VERSION, metadata

SET_ASIDE_KEPT = 3  # older ones are deleted, or a bad disk would fill itself
LOCK_TRIES = 40
LOCK_PAUSE = 0.05  # seconds between tries

_log = logging.getLogger("outrider.hints")


class Place:
    """Where the file is; `max_size` in octets. Methods raise Damaged and Unavailable."""

    def __init__(self, path: Path, max_size: int) -> None:
        self.path = path
        self._max_size = max_size

    def prepare(self, now: float) -> None:
        """Make the file what this version expects."""
        with translated(), self._exclusively():
            self._prepare(now)

    def _prepare(self, now: float) -> None:
        """Make the file what this version expects. The caller holds the lock file."""
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        if self.path.stat().st_mode & 0o077:
            self.path.chmod(0o600)
        version = self._version()
        if version == VERSION:
            return
        if version != 0 and version not in MIGRATIONS:
            self._set_aside(f"version-{version}", f"it is of version {version}, this is {VERSION}", now)
            self._prepare(now)
            return
        engine = make_engine(self.path, "BEGIN IMMEDIATE", WRITE_BUSY_MS, self._max_size)
        try:
            with engine.begin() as conn:
                for step in range(version, VERSION) if version else ():
                    for statement in MIGRATIONS[step]:
                        conn.exec_driver_sql(statement)
                metadata.create_all(conn)
                for statement in views():
                    conn.exec_driver_sql(statement)
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

    def replace_if_damaged(self, damage: str, now: float) -> None:
        """Set the file aside, unless another process has done so already."""
        with self._exclusively():
            try:
                with translated():
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
