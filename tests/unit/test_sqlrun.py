"""Group commit, savepoints, cancellation and the errors of SQLite."""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path

import pytest
import trio
import trio.testing
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from deliver.errors import StorageError
from deliver.groupcommit import MAX_BATCH, SqlRunner
from deliver.sqlrun import Database, InlineRunner, Sql, Write


def create(conn: Connection) -> None:
    conn.execute(text("CREATE TABLE t (x INTEGER PRIMARY KEY)"))


def put(x: int):
    return lambda conn: conn.execute(text("INSERT INTO t VALUES (:x)"), {"x": x})


def numbers(conn: Connection) -> list[int]:
    return list(conn.execute(text("SELECT x FROM t ORDER BY x")).scalars())


@pytest.fixture
async def runner(tmp_path: Path):
    opened = await SqlRunner.open(tmp_path / "queue" / "a.db", create)
    yield opened
    await opened.aclose()


async def test_a_write_is_seen_by_readers_and_by_other_processes_after_it_returned(runner, tmp_path):
    await runner.write(put(1))
    assert await runner.read(numbers) == [1]
    other = sqlite3.connect(tmp_path / "queue" / "a.db")
    assert other.execute("SELECT x FROM t").fetchall() == [(1,)]
    other.close()


async def test_files_are_private(runner, tmp_path):
    await runner.write(put(1))
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "queue").iterdir()}
    assert modes == {"a.db": 0o600, "a.db-wal": 0o600, "a.db-shm": 0o600}
    assert (tmp_path / "queue").stat().st_mode & 0o777 == 0o700


async def test_an_existing_database_that_others_may_read_is_closed_to_them(tmp_path):
    (tmp_path / "a.db").touch(mode=0o644)
    opened = await SqlRunner.open(tmp_path / "a.db", create)
    assert (tmp_path / "a.db").stat().st_mode & 0o777 == 0o600
    await opened.aclose()


async def test_writes_that_arrive_together_share_commits(runner):
    before = runner.commits
    async with trio.open_nursery() as nursery:
        for x in range(100):
            nursery.start_soon(runner.write, put(x))
    assert runner.commits - before <= 3
    assert await runner.read(numbers) == list(range(100))


async def test_a_flood_is_committed_in_bounded_batches(runner):
    before = runner.commits
    async with trio.open_nursery() as nursery:
        for x in range(3 * MAX_BATCH):
            nursery.start_soon(runner.write, put(x))
    assert runner.commits - before >= 3
    assert len(await runner.read(numbers)) == 3 * MAX_BATCH


async def test_one_failing_write_does_not_fail_its_neighbours(runner):
    await runner.write(put(5))
    failures = []

    async def write(x: int) -> None:
        try:
            await runner.write(put(x))
        except IntegrityError:
            failures.append(x)

    async with trio.open_nursery() as nursery:
        for x in range(10):
            nursery.start_soon(write, x)
    assert failures == [5]
    assert await runner.read(numbers) == list(range(10))


async def test_only_where_one_fails_the_others_run_again(runner):
    ran: list[int] = []

    def write(x: int):
        def once(conn: Connection) -> None:
            ran.append(x)
            if x == 2:
                raise LookupError("a bug")
            put(x)(conn)

        return Write(once, True)

    for numbers_of, expected in (((0, 1), [0, 1]), ((2,), [2]), ((3, 2, 4), [3, 2, 3, 2, 4])):
        ran.clear()
        batch = [write(x) for x in numbers_of]
        await trio.to_thread.run_sync(runner._database.run_batch, batch)
        assert ran == expected
    assert await runner.read(numbers) == [0, 1, 3, 4]


async def test_savepoints_leave_no_copies_of_mail_in_files(runner):
    """SQLite keeps what a savepoint may have to undo; beyond 64 KiB in a file, if it is not told otherwise."""
    found: list[str] = []
    await runner.write(lambda conn: conn.execute(text("CREATE TABLE mail (x INTEGER PRIMARY KEY, content)")))
    pages = [{"x": x, "content": "x" * 4000} for x in range(200)]
    await runner.write(lambda conn: conn.execute(text("INSERT INTO mail VALUES (:x, :content)"), pages))

    def change(conn: Connection) -> None:
        conn.execute(text("UPDATE mail SET content = upper(content)"))
        links = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
        found.extend(os.readlink(link) for link in links if os.path.islink(link))

    def fail(conn: Connection) -> None:
        raise LookupError("so that savepoints are used")

    await trio.to_thread.run_sync(runner._database.run_batch, [Write(fail, True), Write(change, True)])
    assert any("a.db-wal" in name for name in found)
    assert [name for name in found if "etilqs" in name] == []


async def test_what_a_failing_write_did_is_undone(runner):
    def half(conn: Connection) -> None:
        put(1)(conn)
        raise LookupError("half way")

    with pytest.raises(LookupError):
        await runner.write(half)
    assert await runner.read(numbers) == []


async def test_what_a_reader_writes_is_not_kept(runner):
    await runner.read(put(1))
    assert await runner.read(numbers) == []


async def test_a_started_write_is_not_cancelled_and_its_value_is_returned(runner):
    started, release = threading.Event(), threading.Event()

    def slow(conn: Connection) -> str:
        started.set()
        assert release.wait(10)
        put(1)(conn)
        return "written"

    values = []
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def write() -> None:
                values.append(await runner.write(slow))

            nursery.start_soon(write)
            await trio.to_thread.run_sync(started.wait)
            scope.cancel()
            release.set()
    assert values == ["written"]
    assert await runner.read(numbers) == [1]


async def test_a_waiting_write_is_withdrawn_and_the_others_go_on(runner):
    started, release = threading.Event(), threading.Event()

    def slow(conn: Connection) -> None:
        started.set()
        assert release.wait(10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(runner.write, slow)
        await trio.to_thread.run_sync(started.wait)
        withdrawn = trio.CancelScope()

        async def cancelled() -> None:
            with withdrawn:
                await runner.write(put(1))

        nursery.start_soon(cancelled)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(runner.write, put(2))
        await trio.testing.wait_all_tasks_blocked()
        withdrawn.cancel()
        await trio.testing.wait_all_tasks_blocked()
        release.set()
    assert withdrawn.cancelled_caught
    assert await runner.read(numbers) == [2]


async def test_leadership_is_handed_over_when_the_next_leader_is_cancelled(tmp_path, monkeypatch):
    """The first waiting write is cancelled, and told to lead before it has noticed."""
    runner = SqlRunner(Database(tmp_path / "a.db"))
    await runner.write(create)
    scopes = [trio.CancelScope() for _ in range(3)]

    async def write(x: int) -> None:
        with scopes[x]:
            await runner.write(put(x))

    queued = trio.Event()

    async def in_this_task(work, *args, limiter=None):
        await queued.wait()
        work(*args)
        scopes[0].cancel()

    with monkeypatch.context() as patched, trio.fail_after(5):
        patched.setattr(trio.to_thread, "run_sync", in_this_task)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runner.write, put(9))
            await trio.testing.wait_all_tasks_blocked()
            for x in range(3):
                nursery.start_soon(write, x)
                await trio.testing.wait_all_tasks_blocked()
            queued.set()
    assert await runner.read(numbers) == [1, 2, 9]
    assert scopes[0].cancelled_caught
    await runner.aclose()


async def test_claims_are_not_fsynced_and_a_durable_neighbour_makes_the_batch_durable(runner):
    def level(conn):
        return conn.exec_driver_sql("PRAGMA synchronous").scalar_one()

    assert await runner.write(level, durable=False) == 1
    assert await runner.write(level) == 2
    database = runner._database
    batch = [Write(level, False), Write(level, True)]
    await trio.to_thread.run_sync(database.run_batch, batch)
    assert [write.result() for write in batch] == [2, 2]


@pytest.mark.parametrize("place", ["/proc/outrider/a.db", "{file}/a.db"])
async def test_a_directory_that_cannot_be_made_is_a_storage_error(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"creating .*a.db: .*make the directory exist"):
        await SqlRunner.open(Path(place.format(file=tmp_path / "file")), create)


async def test_a_file_that_is_no_database_is_a_storage_error_and_stays(tmp_path):
    path = tmp_path / "a.db"
    path.write_bytes(b"not a database, but somebody's precious text" * 100)
    before = path.read_bytes()
    with pytest.raises(StorageError, match=r"not a database.*move it away"):
        await SqlRunner.open(path, create)
    assert path.read_bytes() == before


@pytest.mark.parametrize("brief", [False, True])
async def test_a_full_disk_fails_the_batch_with_its_remedy_and_the_file_stays_usable(
    runner, monkeypatch, brief
):
    monkeypatch.setattr("deliver.diskwatch.WAITED", 60.0)  # however slow the disk is
    threads: list[int] = []

    def fill(conn: Connection) -> None:
        threads.append(threading.get_ident())
        conn.execute(text("INSERT INTO big VALUES (zeroblob(1000000))"))

    await runner.write(put(1))
    await runner.write(lambda conn: conn.execute(text("CREATE TABLE big (data BLOB)")))
    pages = await runner.write(lambda conn: conn.exec_driver_sql("PRAGMA page_count").scalar_one())

    def limit(conn: Connection) -> None:
        conn.exec_driver_sql(f"PRAGMA max_page_count={pages + 2}")

    await runner.write(limit)
    with pytest.raises(StorageError, match=r"full.*free disk space"):
        await runner.write(fill, brief=brief)
    assert {each == threading.get_ident() for each in threads} == {brief}
    await runner.write(put(2), brief=brief)
    assert await runner.read(numbers) == [1, 2]


async def test_a_locked_file_is_a_storage_error(tmp_path, monkeypatch):
    monkeypatch.setattr("deliver.sqlrun.BUSY_MS", 10)
    runner = await SqlRunner.open(tmp_path / "a.db", create)
    other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match=r"locked.*find the process"):
        await runner.write(put(1))
    other.execute("ROLLBACK")
    other.close()
    await runner.write(put(2))
    assert await runner.read(numbers) == [2]
    await runner.aclose()


async def test_a_process_that_opens_the_file_beside_the_first_waits_for_it(tmp_path):
    path = tmp_path / "a.db"
    first = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    first.execute("BEGIN IMMEDIATE")  # as its migration does, before the file is in WAL mode

    def end() -> None:
        first.execute("ROLLBACK")
        first.close()

    ending = threading.Timer(0.2, end)
    ending.start()
    runner = await SqlRunner.open(path, create)
    ending.join()
    await runner.write(put(1))
    assert await runner.read(numbers) == [1]
    await runner.aclose()


def test_a_transaction_that_was_lost_fails_every_write_of_the_batch(tmp_path):
    database = Database(tmp_path / "a.db")
    database.run_batch([Write(create, True)])

    def lose(conn: Connection) -> None:
        conn.exec_driver_sql("ROLLBACK")  # what SQLite does by itself when the disk is full
        raise sqlite3.OperationalError("database or disk is full")

    batch = [Write(put(1), True), Write(lose, True), Write(put(2), True)]
    database.run_batch(batch)
    for write in batch:
        with pytest.raises(StorageError, match="disk is full"):
            write.result()
    assert database.run_read(numbers) == []
    database.close()


def test_a_write_that_was_never_run_has_no_value():
    async def main() -> None:
        with pytest.raises(StorageError, match="interrupted"):
            Write(create, True).result()

    trio.run(main)


@pytest.mark.parametrize("where", ["memory", "file"])
async def test_the_inline_runner_keeps_the_contract(tmp_path, where, autojump_clock):
    runner: Sql = InlineRunner(None if where == "memory" else tmp_path / "a.db", create)
    await runner.write(put(1))
    with pytest.raises(IntegrityError):
        await runner.write(put(1))
    await runner.write(put(2), durable=False)
    assert await runner.read(numbers) == [1, 2]
    await runner.aclose()


def test_no_descriptor_leaks(tmp_path):
    """Descriptors are closed again."""
    before = len(os.listdir("/proc/self/fd"))
    for index in range(5):
        Database(tmp_path / f"{index}.db").close()
    assert len(os.listdir("/proc/self/fd")) == before
