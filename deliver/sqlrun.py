"""Transactions on one SQLite file from trio: one writer, readers beside it.

Work is a synchronous function `fn(connection) -> value` that holds no reference to the connection
afterwards, so that no connection ever crosses an await.

- Writes run one batch at a time under BEGIN IMMEDIATE (a deferred transaction that reads before it writes
  fails at once in WAL mode, whatever the busy timeout). Where one raises, all are rolled back and run again,
  each in its own SAVEPOINT, so that it does not fail its neighbours: `fn` may run twice. Everybody gets the
  answer only after COMMIT. See `deliver.groupcommit` for who shares one.
- `durable=False` allows a batch to be committed without fsync (synchronous=NORMAL); one durable write makes
  its whole batch, and everything committed before it, durable.
- Failures of SQLite become StorageError; what `fn` itself raises reaches its caller unchanged.

`InlineRunner` offers the same in the calling task, without threads: under trio's autojump clock a worker
thread counts as idle time.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar

import sqlalchemy
import trio
from sqlalchemy.exc import DatabaseError, DBAPIError, IntegrityError, ProgrammingError

from deliver.errors import StorageError, StorageFault
from deliver.privatefile import create_private_file

T = TypeVar("T")

BUSY_MS: Final = 5000  # another process, such as a tool, may hold the file for a moment
FEW: Final = 20  # recipients whose rows the loop's thread may write
WAL_PAUSE: Final = 0.01  # seconds
WAL_PAGES: Final = 1000  # that a COMMIT with fsync leaves in the WAL, about
_BY_HAND: Final = "outrider_begun_by_hand"

_REMEDIES: Final = {
    sqlite3.SQLITE_FULL: "free disk space; nothing was lost, the work is tried again",
    sqlite3.SQLITE_READONLY: "make the file and its directory writable for this user",
    sqlite3.SQLITE_PERM: "make the file and its directory writable for this user",
    sqlite3.SQLITE_CANTOPEN: "make the directory exist and writable for this user",
    sqlite3.SQLITE_BUSY: "find the process that holds the file locked",
    sqlite3.SQLITE_LOCKED: "find the process that holds the file locked",
    sqlite3.SQLITE_CORRUPT: "stop, keep a copy of the file and its -wal, then use .recover of sqlite3",
    sqlite3.SQLITE_NOTADB: "this is not a database; move it away or correct the path",
    sqlite3.SQLITE_IOERR: "check the disk and the system's log",
}

# What concerns all writes, and what may have damaged the file or be about to.
_FAULTS: Final = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN}
)
_FINAL: Final = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class Sql(Protocol):
    """What the queue asks of a database."""

    async def read(self, fn: Callable[[sqlalchemy.Connection], T]) -> T:
        """Run `fn` in a read transaction. Raises StorageError, and whatever `fn` raises."""
        ...

    async def write(
        self,
        fn: Callable[[sqlalchemy.Connection], T],
        *,
        durable: bool = True,
        patience: float = 0.0,
        brief: bool = False,
    ) -> T:
        """Run `fn` in a write transaction and return its value after COMMIT. Raises as `read` does.

        `patience`: seconds for which it may wait for others to share its COMMIT with. `brief`: it touches few
        rows, so that it may run on the loop's thread.
        """
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...


class Joint(Generic[T]):
    """A write that can be carried out with others of its class, by fewer statements than one by one."""

    __slots__ = ()
    doubtful: ClassVar[bool] = False  # may well raise OneByOne: comes before others have done their work

    def __call__(self, conn: sqlalchemy.Connection) -> T:
        """Alone: `fn` of `Sql.write`."""
        raise NotImplementedError

    @classmethod
    def together(cls, conn: sqlalchemy.Connection, writes: Sequence[Any]) -> Sequence[T]:
        """All of them, in a database with one writer; their values in order. It may be one only.

        Raises OneByOne, and what any of them raises: then all are undone and carried out alone.
        """
        raise NotImplementedError


class OneByOne(Exception):
    """Joint writes that cannot be carried out together after all."""


class Write(Generic[T]):
    """One write on its way: the function, then its value or its error."""

    __slots__ = ("brief", "committed", "deadline", "durable", "error", "fn", "value", "wake")

    def __init__(
        self, fn: Callable[[sqlalchemy.Connection], T], durable: bool, *, brief: bool = False
    ) -> None:
        self.fn = fn
        self.durable = durable
        self.brief = brief
        self.deadline = -math.inf  # when it waits no longer for company, by trio's clock
        self.wake = trio.Event()
        self.committed = False
        self.value: T | None = None
        self.error: BaseException | None = None

    def result(self) -> T:
        """The value, or raise the error."""
        if self.error is not None:
            raise self.error
        if not self.committed:
            raise StorageError("writing to the database", "the transaction was interrupted", "try again")
        return self.value  # type: ignore[return-value]  # set by run_batch before it commits


class Database:
    """The synchronous part: engines for one file (None: in memory, for tests) and the batch transaction."""

    def __init__(self, path: Path | None) -> None:
        """Create the file with mode 0600, its directory with 0700. Raises StorageError."""
        self.name = str(path) if path else "the database in memory"
        self._writing: sqlalchemy.Connection | None = None  # kept: to take one costs as much as a write
        self._level: tuple[str, int] | None = None
        self._waits: bool | None = None  # for other processes, up to BUSY_MS
        self._begun = False
        if path is None:
            self._writer = _engine("sqlite://", "BEGIN IMMEDIATE", sqlalchemy.StaticPool)
            self._reader = self._writer
            return
        create_private_file(path)
        url = sqlalchemy.URL.create("sqlite", database=str(path))
        self._writer = _engine(url, "BEGIN IMMEDIATE", sqlalchemy.QueuePool)
        self._reader = _engine(url, "BEGIN", sqlalchemy.QueuePool)

    def run_read(self, fn: Callable[[sqlalchemy.Connection], T]) -> T:
        """Run `fn` in one read transaction; what it wrote, if it did, is rolled back."""
        try:
            with self._reader.connect() as connection:
                connection.begin()  # what goes straight to the driver would not begin one
                return fn(connection)
        except (DBAPIError, sqlite3.Error) as error:
            raise self._translated("reading", error) from error

    def run_batch(self, batch: list[Write[Any]]) -> None:
        """Run every write and commit once; results and errors go into the writes."""
        self.execute(batch)
        self.commit(batch)

    def execute(self, batch: list[Write[Any]], *, wait: bool = True) -> bool:
        """Run every write in a transaction that stays open; without `wait` only if nobody holds the file.

        False, and nothing was done, if somebody does. `commit` has to follow in any other case.
        """
        try:
            connection = self._writing = self._writing or _begun_by_hand(self._writer)
            self._choose_wait(connection, wait)
            durable = any(write.durable for write in batch)
            self._choose_level(connection, durable=durable, fold=durable or wait)
            if not self._run_together(connection, batch):
                self._begin(connection)
                for write in batch:
                    self._run_in_savepoint(connection, write)
        except Exception as error:
            if not wait and not self._begun and _is_busy(error):
                return False
            self._fail(batch, error)
        return True

    def abandon(self) -> None:
        """`commit` will not follow: undo what `execute` has done."""
        if self._begun:
            self._forget_connection()

    def commit(self, batch: list[Write[Any]]) -> None:
        """End what `execute` has begun; writes that raised nothing are committed."""
        if self._writing is None or not self._begun:
            return  # what went wrong is in the writes
        self._begun = False
        try:
            _driver(self._writing).execute("COMMIT")
            for write in batch:
                write.committed = write.error is None
        except Exception as error:
            self._fail(batch, error)

    def _fail(self, batch: list[Write[Any]], error: Exception) -> None:
        """COMMIT or the transaction as a whole failed: nothing of the batch happened."""
        self._forget_connection()
        failure = self._translated("writing to", error)
        for write in batch:
            write.error = write.error or failure

    def _run_together(self, connection: sqlalchemy.Connection, batch: list[Write[Any]]) -> bool:
        """Without savepoints, as hardly any raises. False: one did, nothing was done, and others wait."""
        self._begin(connection)
        try:
            _carry_out(connection, batch)
        except Exception as error:
            self._begun = False
            _driver(connection).rollback()
            if len(batch) > 1 or isinstance(error, OneByOne):
                return False
            batch[0].error = self._translated("writing to", error)
        return True

    def _begin(self, connection: sqlalchemy.Connection) -> None:
        _driver(connection).execute("BEGIN IMMEDIATE")
        self._begun = True

    def _choose_wait(self, connection: sqlalchemy.Connection, wait: bool) -> None:
        if wait is not self._waits:
            _driver(connection).execute(f"PRAGMA busy_timeout={BUSY_MS if wait else 0}")
            self._waits = wait

    def _choose_level(self, connection: sqlalchemy.Connection, *, durable: bool, fold: bool) -> None:
        """`fold`: COMMIT may move pages from the WAL into the file, which takes long."""
        wanted = ("FULL" if durable else "NORMAL"), (WAL_PAGES if fold else 0)
        if wanted != self._level:
            self._level = None
            _driver(connection).execute(f"PRAGMA synchronous={wanted[0]}")
            _driver(connection).execute(f"PRAGMA wal_autocheckpoint={wanted[1]}")
            self._level = wanted

    def _forget_connection(self) -> None:
        """The next batch takes a fresh one: nobody knows what state this one is in."""
        connection, self._writing, self._level = self._writing, None, None
        self._begun, self._waits = False, None
        if connection is not None:
            with contextlib.suppress(DBAPIError, sqlite3.Error):
                connection.close()

    def run_write(self, fn: Callable[[sqlalchemy.Connection], T]) -> T:
        """Run `fn` in a durable transaction of its own. Raises StorageError, and what `fn` raises."""
        write = Write(fn, True)
        self.run_batch([write])
        return write.result()

    def _run_in_savepoint(self, connection: sqlalchemy.Connection, write: Write[Any]) -> None:
        driver = _driver(connection)
        driver.execute("SAVEPOINT one_write")
        try:
            write.value = write.fn(connection)
        except Exception as error:
            write.error = self._translated("writing to", error)
            if not driver.in_transaction:
                # a full disk or an I/O error makes SQLite roll back everything, neighbours included
                raise
            driver.execute("ROLLBACK TO one_write")
        driver.execute("RELEASE one_write")

    def _translated(self, verb: str, error: Exception) -> Exception:
        if isinstance(error, IntegrityError | ProgrammingError) or not isinstance(
            error, DatabaseError | sqlite3.Error
        ):
            return error
        origin = error.orig if isinstance(error, DBAPIError) else error
        code = getattr(origin, "sqlite_errorcode", 0) & 0xFF
        remedy = _REMEDIES.get(code, "see the system's log")
        attempted, happened = f"{verb} {self.name}", str(origin)
        if code in _FAULTS or code in _FINAL:
            return StorageFault(attempted, happened, remedy, final=code in _FINAL)
        return StorageError(attempted, happened, remedy)

    def close(self) -> None:
        """Close all connections; the last one folds the WAL into the file."""
        self._forget_connection()
        self._reader.dispose()
        self._writer.dispose()


class InlineRunner:
    """The same contract in the calling task: for tests under a simulated clock and for short tools."""

    def __init__(
        self, path: Path | None = None, prepare: Callable[[sqlalchemy.Connection], object] | None = None
    ) -> None:
        self._database = Database(path)
        if prepare is not None:
            self._write_now(prepare, True)

    async def read(self, fn: Callable[[sqlalchemy.Connection], T]) -> T:
        """See `Sql.read`."""
        await trio.lowlevel.checkpoint()
        return self._database.run_read(fn)

    async def write(
        self,
        fn: Callable[[sqlalchemy.Connection], T],
        *,
        durable: bool = True,
        patience: float = 0.0,
        brief: bool = False,
    ) -> T:
        """See `Sql.write`."""
        await trio.lowlevel.checkpoint()
        return self._write_now(fn, durable)

    async def aclose(self) -> None:
        """Close."""
        self._database.close()

    def _write_now(self, fn: Callable[[sqlalchemy.Connection], T], durable: bool) -> T:
        write = Write(fn, durable)
        self._database.run_batch([write])
        return write.result()


def _engine(url: str | sqlalchemy.URL, begin: str, pool: type[sqlalchemy.Pool]) -> sqlalchemy.Engine:
    engine = sqlalchemy.create_engine(url, poolclass=pool, connect_args={"check_same_thread": False})

    @sqlalchemy.event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # else the driver decides when transactions begin
        connection.execute(f"PRAGMA busy_timeout={BUSY_MS}")
        _enter_wal(connection)
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA temp_store=MEMORY")  # else savepoints copy mail into files in /var/tmp

    @sqlalchemy.event.listens_for(engine, "begin")
    def start(connection: sqlalchemy.Connection) -> None:
        if _BY_HAND not in connection.get_execution_options():
            connection.exec_driver_sql(begin)

    return engine


def _enter_wal(connection: sqlite3.Connection) -> None:
    """The first process turns WAL on; SQLite's busy timeout does not hold for those beside it."""
    patience = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= patience:
                raise
            time.sleep(WAL_PAUSE)


def _carry_out(connection: sqlalchemy.Connection, batch: Sequence[Write[Any]]) -> None:
    """Joint writes first, so that a claim finds what is accepted with it; then the others in their order."""
    joint: dict[type[Joint[Any]], list[Write[Any]]] = {}
    single: list[Write[Any]] = []
    for write in batch:
        if isinstance(write.fn, Joint):
            joint.setdefault(type(write.fn), []).append(write)
        else:
            single.append(write)
    for kind, writes in sorted(joint.items(), key=lambda item: not item[0].doubtful):
        values = kind.together(connection, [write.fn for write in writes])
        for write, value in zip(writes, values, strict=True):
            write.value = value
    for write in single:
        write.value = write.fn(connection)


def _begun_by_hand(engine: sqlalchemy.Engine) -> sqlalchemy.Connection:
    """A connection that SQLAlchemy takes to be in one transaction for good.

    Ours are begun and committed at the driver: by SQLAlchemy that costs ten times what it costs SQLite.
    """
    connection = engine.connect().execution_options(**{_BY_HAND: True})
    connection.begin()
    return connection


def _is_busy(error: Exception) -> bool:
    origin = error.orig if isinstance(error, DBAPIError) else error
    return getattr(origin, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _driver(connection: sqlalchemy.Connection) -> sqlite3.Connection:
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver
