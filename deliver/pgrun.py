"""Transactions on one PostgreSQL database from trio: the `Sql` of `deliver.sqlrun` for many processes.

Work is a synchronous function `fn(connection) -> value` that may be run again: it keeps nothing of a run
whose transaction did not happen.

- Writes run side by side, READ COMMITTED, each in a transaction of its own; PostgreSQL lets those that commit
  together share a flush. Locks are the business of the functions (`deliver.queue.locking`).
- Every write is durable, whatever is asked: other nodes must not see a claim that a crash of the database
  takes back while the claimant goes on.
- Reads run in a read-only snapshot (REPEATABLE READ).
- A deadlock, a serialization failure or a connection lost before COMMIT: nothing has happened, the function
  runs again, for RETRY_FOR seconds. A connection lost during COMMIT: the database is asked what became of
  the transaction, which has left a mark (`transaction_mark`), for RESOLVE_FOR seconds; only if it cannot
  be asked is that an error of its own.
- Every statement, lock and idle transaction has a deadline at the server, every connection keepalives.
- Failures become StorageError; what `fn` itself raises reaches the caller unchanged.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from uuid import uuid4

import sqlalchemy
import trio
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from deliver.errors import StorageError, StorageFault

T = TypeVar("T")

READERS: Final = 4
CONNECT_SECONDS: Final = 5
POOL_SECONDS: Final = 30.0
RETRY_FOR: Final = 5.0  # seconds from the first failure
RESOLVE_FOR: Final = 15.0  # seconds after a COMMIT without an answer
FIRST_PAUSE: Final = 0.02  # seconds, doubled, with chance in it
LONGEST_PAUSE: Final = 1.0

# Milliseconds, or seconds for the keepalives. The server ends what exceeds them, so that the locks of a node
# that vanished do not stay.
_SESSION: Final = {
    "statement_timeout": 30_000,
    "lock_timeout": 10_000,
    "idle_in_transaction_session_timeout": 30_000,
    "tcp_keepalives_idle": 10,
    "tcp_keepalives_interval": 5,
    "tcp_keepalives_count": 3,
}
_KEEPALIVES: Final = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}

_AGAIN: Final = frozenset({"40001", "40P01", "55P03"})  # serialization, deadlock, lock timeout
_LOST: Final = ("08", "57P", "25P03")  # no connection; the server is stopping, starting, or was kept waiting
_BROKEN: Final = ("XX001", "XX002")  # data or an index is corrupted
_REMEDIES: Final = {
    "08": "start the database, or see queue.url, queue.password_file and pg_hba.conf; nothing was lost",
    "57P": "start the database; nothing was lost, the work is tried again",
    "28": "see queue.url, queue.password_file and the server's pg_hba.conf",
    "3D": "create the database",
    "42501": "give the user of queue.url the rights on its tables",
    "53100": "free disk space at the database server; nothing was lost, the work is tried again",
    "53300": "raise max_connections of the server, or lower queue.connections",
    "25006": "queue.url must lead to the primary server, not to a standby",
    "XX00": "stop, and restore the database from its backup",
}
_FAULTS: Final = (*_LOST, "28", "3D", "42501", "53100", "53200", "25006", "58", *_BROKEN)

# A row by which a transaction that has written something can be recognized later. Its number would not do:
# after a crash PostgreSQL gives numbers again that never reached the disk.
_CREATE_MARKS: Final = (
    "SELECT pg_advisory_xact_lock(1870164080)",  # two that create it at once would fail
    "CREATE TABLE IF NOT EXISTS transaction_mark (id UUID PRIMARY KEY, undone BOOLEAN NOT NULL, "
    "at TIMESTAMPTZ NOT NULL DEFAULT now())",
)
_MARK: Final = text(
    "INSERT INTO transaction_mark (id, undone) SELECT CAST(:id AS uuid), false "
    "WHERE pg_current_xact_id_if_assigned() IS NOT NULL"
)
# Waits for a transaction under way with this mark; if there is none, none will commit any more.
_FORBID: Final = text(
    "INSERT INTO transaction_mark (id, undone) VALUES (CAST(:id AS uuid), true) ON CONFLICT DO NOTHING"
)
_UNDONE: Final = text("SELECT undone FROM transaction_mark WHERE id = CAST(:id AS uuid)")
_FORGET: Final = text("DELETE FROM transaction_mark WHERE at < now() - interval '1 hour'")
_DURABLE: Final = (
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
)

log = logging.getLogger("outrider.queue")


@dataclass(slots=True)
class Patience:
    """Pauses that grow, until it is over. `seconds` counts from its making."""

    seconds: float
    _since: float = field(default_factory=time.monotonic)
    _pause: float = FIRST_PAUSE

    def wait(self) -> bool:
        """Pause, and return whether there is patience left."""
        left = self._since + self.seconds - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(left, self._pause * random.uniform(0.5, 1.0)))  # noqa: S311 (no secret)
        self._pause = min(LONGEST_PAUSE, self._pause * 2)
        return True


@dataclass(frozen=True, slots=True)
class SessionLock:
    """An advisory lock, and the database session whose end is the lock's."""

    connection: Connection

    def is_held(self) -> bool:
        """Whether the session still lives; asks the database."""
        try:
            self.connection.execute(text("SELECT 1"))
            self.connection.commit()
        except SQLAlchemyError:
            return False
        return True

    def release(self) -> None:
        """Let go of it, and end the session: its connection never serves anybody else."""
        with suppress(SQLAlchemyError):  # the server notices the end of a session when it has the time
            self.connection.execute(text("SELECT pg_advisory_unlock_all()"))
        self.connection.invalidate()
        self.connection.close()


class PostgresDatabase:
    """The synchronous part: a bounded pool of connections, and transactions that are carried out again."""

    def __init__(self, url: sqlalchemy.URL, *, connections: int = 8) -> None:
        """Nothing is connected yet. `connections` for writes; there are READERS more. Raises StorageError."""
        self.name = f"the database {url.database or ''} at {url.host or 'this host'}"
        options = " ".join(f"-c {name}={value}" for name, value in _SESSION.items())
        before = url.query.get("options", "")
        given = before if isinstance(before, str) else " ".join(before)
        try:
            self._engine = sqlalchemy.create_engine(
                url,
                isolation_level="READ COMMITTED",
                pool_size=connections + READERS + 1,  # one for `hold_lock`
                max_overflow=0,
                pool_timeout=POOL_SECONDS,
                hide_parameters=True,
                connect_args={
                    "connect_timeout": CONNECT_SECONDS,
                    "application_name": "outrider",
                    "options": f"{options} {given}".strip(),
                    **_KEEPALIVES,
                },
            )
        except (SQLAlchemyError, ImportError) as error:
            raise StorageError(
                "using queue.url", str(error), "install psycopg: pip install 'outrider[postgres]'"
            ) from error
        sqlalchemy.event.listen(self._engine, "connect", _demand_durability)
        self._has_marks = False

    def run_read(self, fn: Callable[[Connection], T]) -> T:
        """Run `fn` in one read-only transaction; again, if the connection was lost. Raises StorageError."""
        patience = Patience(RETRY_FOR)
        while True:
            try:
                with self._engine.connect() as fresh:
                    connection = fresh.execution_options(
                        isolation_level="REPEATABLE READ", postgresql_readonly=True
                    )
                    return fn(connection)
            except (DBAPIError, sqlalchemy.exc.TimeoutError) as error:
                if not _is_lost(error) or not patience.wait():
                    raise self._translated("reading", error) from error

    def run_write(self, fn: Callable[[Connection], T]) -> T:
        """Run `fn` in one transaction and commit; again, if nothing has happened. Raises StorageError."""
        patience = Patience(RETRY_FOR)
        while True:
            try:
                return self._write_once(fn)
            except _Undecided as undecided:
                if self._is_committed(undecided):
                    return undecided.value  # type: ignore[no-any-return]  # it was given by fn
                if not patience.wait():
                    raise self._translated("writing to", undecided.error) from undecided.error
            except (DBAPIError, sqlalchemy.exc.TimeoutError) as error:
                if not _is_worth_another_try(error) or not patience.wait():
                    raise self._translated("writing to", error) from error

    def hold_lock(self, space: int, key: int) -> SessionLock | None:
        """This advisory lock; None if another session holds it. Raises StorageError."""
        connection = None
        try:
            connection = self._engine.connect()
            query = text("SELECT pg_try_advisory_lock(:space, :key)")
            taken = connection.execute(query, {"space": space, "key": key}).scalar_one()
            connection.commit()  # the lock is the session's
        except DBAPIError as error:
            if connection is not None:
                SessionLock(connection).release()
            raise self._translated("writing to", error) from error
        if taken:
            return SessionLock(connection)
        connection.close()
        return None

    def close(self) -> None:
        """Close all connections that are not in use."""
        self._engine.dispose()

    def forget_marks(self) -> None:
        """Remove the marks that nobody will ask for any more. Raises StorageError."""
        self.run_write(lambda connection: connection.execute(_FORGET).rowcount)

    def _write_once(self, fn: Callable[[Connection], T]) -> T:
        if not self._has_marks:
            with self._engine.begin() as connection:
                for statement in _CREATE_MARKS:
                    connection.exec_driver_sql(statement)
            self._has_marks = True
        with self._engine.connect() as connection:
            transaction = connection.begin()
            try:
                value = fn(connection)
                mark = uuid4().hex
                marked = connection.execute(_MARK, {"id": mark}).rowcount == 1
            except BaseException:
                transaction.rollback()
                raise
            try:
                transaction.commit()
            except DBAPIError as error:
                if _is_lost(error) and marked:
                    raise _Undecided(value, mark, error) from error
                raise
            return value

    def _is_committed(self, undecided: _Undecided) -> bool:
        """What became of a COMMIT whose answer was lost; from now on it is that. Raises StorageError."""
        patience = Patience(RESOLVE_FOR)
        happened = str(undecided.error.orig)
        while True:
            try:
                with self._engine.begin() as connection:
                    connection.execute(_FORBID, {"id": undecided.mark})
                    undone = connection.execute(_UNDONE, {"id": undecided.mark}).scalar_one()
                was = "not carried out" if undone else "carried out"
                log.warning("the connection to %s was lost during a commit: it was %s", self.name, was)
                return not undone
            except (DBAPIError, sqlalchemy.exc.TimeoutError) as error:
                happened = str(getattr(error, "orig", error))
            if not patience.wait():
                break
        raise StorageError(
            f"writing to {self.name}",
            f"it is not known whether the transaction was committed ({' '.join(happened.split())})",
            "start the database, or repair the way to it; what is repeated may be there twice",
        )

    def _translated(self, verb: str, error: Exception) -> Exception:
        attempted = f"{verb} {self.name}"
        if isinstance(error, IntegrityError):
            return error
        if not isinstance(error, DBAPIError):
            return StorageError(attempted, str(error), "raise queue.connections")
        state = _state(error)
        happened = " ".join(str(error.orig).split()) or type(error.orig).__name__
        remedy = next((said for code, said in _REMEDIES.items() if state.startswith(code)), "")
        remedy = remedy or "see the database server's log"
        if state.startswith(_FAULTS):
            return StorageFault(attempted, happened, remedy, final=state in _BROKEN)
        return StorageError(attempted, happened, remedy)


class PostgresRunner:
    """Runs work on one PostgreSQL database in worker threads; open it with `PostgresRunner.open`."""

    def __init__(self, database: PostgresDatabase, *, connections: int = 8) -> None:
        self.database = database
        self._connections = connections
        self._writers = trio.CapacityLimiter(connections)
        self._readers = trio.CapacityLimiter(READERS)
        self._ended = trio.CapacityLimiter(1)

    @classmethod
    async def open(
        cls, url: sqlalchemy.URL, prepare: Callable[[Connection], object], *, connections: int = 8
    ) -> PostgresRunner:
        """Connect and run `prepare`, the migrations. Raises what they raise, StorageError."""
        database = PostgresDatabase(url, connections=connections)
        runner = cls(database, connections=connections)
        try:
            await runner.write(prepare)
        except BaseException:
            database.close()
            raise
        return runner

    async def read(self, fn: Callable[[Connection], T]) -> T:
        """See `deliver.sqlrun.Sql.read`."""
        return await trio.to_thread.run_sync(self.database.run_read, fn, limiter=self._readers)

    async def write(
        self,
        fn: Callable[[Connection], T],
        *,
        durable: bool = True,
        patience: float = 0.0,
        brief: bool = False,
    ) -> T:
        """See `deliver.sqlrun.Sql.write`. A write that has started cannot be cancelled."""
        return await trio.to_thread.run_sync(self.database.run_write, fn, limiter=self._writers)

    async def aclose(self) -> None:
        """Wait for the writes that run, then close."""
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                for _ in range(self._connections):
                    nursery.start_soon(self._writers.acquire_on_behalf_of, object())
            await trio.to_thread.run_sync(self.database.close, limiter=self._ended)


class _Undecided(Exception):
    """The answer to a COMMIT was lost."""

    def __init__(self, value: Any, mark: str, error: DBAPIError) -> None:
        super().__init__(str(error.orig))
        self.value = value
        self.mark = mark
        self.error = error


def _demand_durability(connection: Any, _record: object) -> None:
    """A server that answers COMMIT before anything is written is told otherwise for our sessions."""
    try:
        with connection.cursor() as cursor:
            cursor.execute(_DURABLE)
        connection.commit()
    except BaseException:
        connection.close()  # the pool does not know it yet
        raise


def _state(error: DBAPIError) -> str:
    """The SQLSTATE; 08000 where there is none because the connection is."""
    state = getattr(error.orig, "sqlstate", None)
    if state is None and (error.connection_invalidated or isinstance(error, sqlalchemy.exc.OperationalError)):
        return "08000"
    return str(state or "")


def _is_lost(error: Exception) -> bool:
    """Whether the connection is gone, or was not to be had."""
    return isinstance(error, DBAPIError) and _state(error).startswith(_LOST)


def _is_worth_another_try(error: Exception) -> bool:
    return isinstance(error, DBAPIError) and (_is_lost(error) or _state(error) in _AGAIN)
