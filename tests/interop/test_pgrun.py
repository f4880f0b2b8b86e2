"""Transactions on a real PostgreSQL: what happens when the connection is lost at each moment, and to locks."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
import trio
from sqlalchemy import text

from deliver import pgrun
from deliver.errors import StorageError, StorageFault
from deliver.pgrun import PostgresDatabase, PostgresRunner
from tests.interop.peers.database import Database
from tests.interop.peers.factory import Factory
from tests.interop.peers.postgres import PostgresConfig

LIMIT = 30.0  # seconds

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def server(postgres: Factory[PostgresConfig, Database]) -> Database:
    return postgres(name="pgrun")


@pytest.fixture
def url(server: Database) -> sqlalchemy.URL:
    made = sqlalchemy.make_url(server.url)
    engine = sqlalchemy.create_engine(made, poolclass=sqlalchemy.NullPool)
    with engine.begin() as conn:
        conn.execute(text("DROP TABLE IF EXISTS fact"))
        conn.execute(text("CREATE TABLE fact (n INTEGER PRIMARY KEY)"))
    engine.dispose()
    return made


@pytest.fixture
def database(url: sqlalchemy.URL) -> Iterator[PostgresDatabase]:
    made = PostgresDatabase(url, connections=4)
    yield made
    made.close()


class Proxy:
    """A way to the server that is cut once, at the first COMMIT: before it gets there, or before its answer."""

    def __init__(self, url: sqlalchemy.URL, *, forward: bool, closed_after: bool = False) -> None:
        self._closed_after = closed_after
        self._server = (str(url.host), int(url.port or 5432))
        self._forward = forward
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.cut = threading.Event()
        self.armed = threading.Event()
        self.url = url.set(host="127.0.0.1", port=self._listener.getsockname()[1])
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(LIMIT)
        for each in (self._listener, *self._sockets):
            each.close()

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._closed_after and self.cut.is_set():
                    client.close()
                    continue
                server = socket.create_connection(self._server)
                self._sockets += [client, server]
                self._start(self._pump, client, server, self._watch)
                self._start(self._pump, server, client, None)

    def _watch(self, data: bytes, client: socket.socket, server: socket.socket) -> bool:
        """Whether it goes on."""
        if not self.armed.is_set() or self.cut.is_set() or b"COMMIT\x00" not in data:
            return True
        self.cut.set()
        client.shutdown(socket.SHUT_RDWR)
        if self._forward:
            server.sendall(data)  # carried out; the answer finds nobody
        return False

    def _pump(self, source: socket.socket, sink: socket.socket, watch: Callable[..., bool] | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if watch is not None and not watch(data, source, sink):
                    break
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def facts(url: sqlalchemy.URL) -> list[int]:
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    try:
        with engine.connect() as conn:
            return list(conn.execute(text("SELECT n FROM fact ORDER BY n")).scalars())
    finally:
        engine.dispose()


@pytest.mark.parametrize("forward", [True, False], ids=["carried out", "not carried out"])
def test_a_commit_without_an_answer_is_asked_about_and_done_once(url: sqlalchemy.URL, forward: bool) -> None:
    proxy = Proxy(url, forward=forward)
    database = PostgresDatabase(proxy.url, connections=2)
    runs: list[int] = []

    def work(conn: sqlalchemy.Connection) -> str:
        runs.append(1)
        conn.execute(text("INSERT INTO fact VALUES (1)"))
        return f"run {len(runs)}"

    assert database.run_write(lambda conn: conn.execute(text("SELECT 1")).scalar_one()) == 1
    proxy.armed.set()
    assert database.run_write(work) == ("run 1" if forward else "run 2")
    assert proxy.cut.is_set()
    assert facts(url) == [1]
    database.close()
    proxy.close()


def test_a_commit_of_which_nobody_knows_is_an_error_of_its_own(
    url: sqlalchemy.URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgrun, "RESOLVE_FOR", 0.5)
    proxy = Proxy(url, forward=True, closed_after=True)
    database = PostgresDatabase(proxy.url, connections=2)
    database.run_write(lambda conn: None)
    proxy.armed.set()
    with pytest.raises(StorageError, match="not known whether the transaction was committed"):
        database.run_write(lambda conn: conn.execute(text("INSERT INTO fact VALUES (1)")) and None)
    database.close()
    proxy.close()


def test_a_commit_that_is_found_not_carried_out_never_will_be(
    url: sqlalchemy.URL, database: PostgresDatabase
) -> None:
    """The server may still have the transaction open when we ask; asking ends the question for good."""
    database.run_write(lambda conn: None)
    undecided = pgrun._Undecided(None, "0" * 32, sqlalchemy.exc.OperationalError("", {}, Exception("lost")))
    assert not database._is_committed(undecided)
    assert not database._is_committed(undecided)
    late = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with late.connect() as conn:
        conn.execute(text("INSERT INTO fact VALUES (1)"))
        with pytest.raises(sqlalchemy.exc.IntegrityError):
            conn.execute(pgrun._MARK, {"id": undecided.mark})


def test_marks_are_forgotten_after_a_while(url: sqlalchemy.URL, database: PostgresDatabase) -> None:
    database.run_write(lambda conn: conn.execute(text("INSERT INTO fact VALUES (1)")) and None)
    database.run_write(
        lambda conn: conn.execute(text("UPDATE transaction_mark SET at = at - interval '2 hours'")) and None
    )
    database.forget_marks()
    left = database.run_read(
        lambda conn: conn.execute(text("SELECT count(*) FROM transaction_mark")).scalar_one()
    )
    assert left <= 2


def test_a_session_that_the_server_ends_is_replaced(url: sqlalchemy.URL, database: PostgresDatabase) -> None:
    runs: list[int] = []

    def work(conn: sqlalchemy.Connection) -> None:
        runs.append(int(conn.execute(text("SELECT pg_backend_pid()")).scalar_one()))
        conn.execute(text(f"INSERT INTO fact VALUES ({len(runs)})"))
        if len(runs) == 1:
            end_session(url, runs[0])
        conn.execute(text("SELECT 1"))

    database.run_write(work)
    assert facts(url) == [2]
    assert len(set(runs)) == 2


def end_session(url: sqlalchemy.URL, pid: int) -> None:
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as conn:
        conn.execute(text(f"SELECT pg_terminate_backend({pid}, 5000)"))


async def test_two_writes_that_wait_for_each_other_both_happen_in_the_end(url: sqlalchemy.URL) -> None:
    runner = await PostgresRunner.open(
        url, lambda conn: conn.execute(text("INSERT INTO fact VALUES (1), (2)")) and None, connections=2
    )
    both = threading.Barrier(2)
    met: list[int] = []

    def work(first: int, second: int) -> Callable[[sqlalchemy.Connection], None]:
        def run(conn: sqlalchemy.Connection) -> None:
            conn.execute(text(f"UPDATE fact SET n = n WHERE n = {first}"))
            if len(met) < 2:
                met.append(first)
                both.wait(LIMIT)
            conn.execute(text(f"UPDATE fact SET n = n WHERE n = {second}"))
            conn.execute(text(f"INSERT INTO fact VALUES ({first}0)"))

        return run

    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runner.write, work(1, 2))
            nursery.start_soon(runner.write, work(2, 1))
    await runner.aclose()
    assert facts(url) == [1, 2, 10, 20]


def test_what_the_function_raises_reaches_the_caller_and_nothing_is_kept(
    url: sqlalchemy.URL, database: PostgresDatabase
) -> None:
    def work(conn: sqlalchemy.Connection) -> None:
        conn.execute(text("INSERT INTO fact VALUES (1)"))
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        database.run_write(work)
    assert facts(url) == []


def test_a_reader_writes_nothing(url: sqlalchemy.URL, database: PostgresDatabase) -> None:
    with pytest.raises(StorageFault, match="read-only"):
        database.run_read(lambda conn: conn.execute(text("INSERT INTO fact VALUES (1)")))
    assert facts(url) == []


def test_a_session_has_deadlines_and_answers_only_what_is_on_disk(
    server: Database, url: sqlalchemy.URL
) -> None:
    careless = url.update_query_dict({"options": "-c synchronous_commit=off -c work_mem=5MB"})
    database = PostgresDatabase(careless, connections=1)

    def look(conn: sqlalchemy.Connection) -> dict[str, Any]:
        names = ("statement_timeout", "lock_timeout", "synchronous_commit", "work_mem")
        return {name: conn.execute(text(f"SHOW {name}")).scalar_one() for name in names}

    assert database.run_write(look) == {
        "statement_timeout": "30s",
        "lock_timeout": "10s",
        "synchronous_commit": "on",
        "work_mem": "5MB",
    }
    database.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"port": 1}, "start the database"),
        ({"database": "none"}, "queue.url"),
        ({"username": "nobody"}, "pg_hba.conf"),
    ],
)
def test_a_server_that_is_not_there_is_a_fault_with_a_remedy(
    url: sqlalchemy.URL, change: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgrun, "RETRY_FOR", 0.1)
    database = PostgresDatabase(url.set(**change), connections=1)
    with pytest.raises(StorageFault) as failure:
        database.run_write(lambda conn: None)
    assert said in failure.value.remedy
    assert not failure.value.final
    database.close()


def test_a_password_is_in_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgrun, "RETRY_FOR", 0.1)
    secret = sqlalchemy.make_url("postgresql+psycopg://u@127.0.0.1:1/d").set(password="hunter2")
    database = PostgresDatabase(secret, connections=1)
    with pytest.raises(StorageError) as failure:
        database.run_read(lambda conn: None)
    assert "hunter2" not in str(failure.value)


def test_a_lock_is_held_by_one_session_until_it_ends(database: PostgresDatabase) -> None:
    held = database.hold_lock(1, 2)
    assert held is not None
    assert database.hold_lock(1, 2) is None
    assert held.is_held()
    held.release()
    again = database.hold_lock(1, 2)
    assert again is not None
    again.release()


def test_a_lock_whose_session_was_ended_leaves_no_connection_open(
    database: PostgresDatabase, url: sqlalchemy.URL
) -> None:
    held = database.hold_lock(1, 2)
    assert held is not None
    driver = held.connection.connection.dbapi_connection
    assert driver is not None
    end_session(url, held.connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
    assert not held.is_held()
    held.release()
    assert driver.closed
    again = database.hold_lock(1, 2)
    assert again is not None
    again.release()
