"""Who shares a COMMIT, how long one waits for company, and on which thread statements run."""

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

from deliver import diskwatch, groupcommit, sqlrun
from deliver.errors import StorageError
from deliver.groupcommit import SqlRunner


def create(conn: Connection) -> None:
    conn.execute(text("CREATE TABLE t (x INTEGER PRIMARY KEY)"))


def put(x: int):
    return lambda conn: conn.execute(text("INSERT INTO t VALUES (:x)"), {"x": x})


def numbers(conn: Connection) -> list[int]:
    return list(conn.execute(text("SELECT x FROM t ORDER BY x")).scalars())


def whose_thread(conn: Connection) -> int:
    return threading.get_ident()


@pytest.fixture
async def runner(tmp_path: Path):
    opened = await SqlRunner.open(tmp_path / "a.db", create)
    yield opened
    await opened.aclose()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a COMMIT took long."""
    monkeypatch.setattr(groupcommit, "LEAST", 60.0)


async def test_writes_with_patience_share_the_commit_of_one_without(runner, patient):
    before = runner.commits
    async with trio.open_nursery() as nursery:
        for x in range(5):
            nursery.start_soon(lambda x=x: runner.write(put(x), patience=60))
        await trio.testing.wait_all_tasks_blocked()
        assert runner.commits == before
        await runner.write(put(9))
    assert runner.commits == before + 1
    assert await runner.read(numbers) == [0, 1, 2, 3, 4, 9]


async def test_patience_ends(runner):
    with trio.fail_after(10):
        await runner.write(put(1), patience=0.01)
        async with trio.open_nursery() as nursery:
            for x in range(2, 30):
                nursery.start_soon(lambda x=x: runner.write(put(x), patience=x / 1000))
    assert await runner.read(numbers) == list(range(1, 30))


async def test_a_patient_write_that_is_cancelled_leaves_nobody_behind(runner, patient):
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(0.01):
            await runner.write(put(1), patience=60)
        nursery.start_soon(runner.write, put(2))
        await runner.write(put(3), patience=0.01)
    assert await runner.read(numbers) == [2, 3]


async def test_one_keeps_the_time_for_all_that_wait_for_company(runner, patient, monkeypatch, mock_clock):
    clocks = []
    move_on_at = trio.move_on_at
    monkeypatch.setattr(trio, "move_on_at", lambda at: clocks.append(at) or move_on_at(at))
    async with trio.open_nursery() as nursery:
        for x in range(5):
            nursery.start_soon(lambda x=x: runner.write(put(x), patience=60))
        await trio.testing.wait_all_tasks_blocked()
        before = runner.commits
        mock_clock.jump(60)
    assert runner.commits == before + 1
    assert clocks == [60]
    assert await runner.read(numbers) == [0, 1, 2, 3, 4]


async def test_when_who_keeps_the_time_is_cancelled_another_one_does(runner, patient, mock_clock):
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as given_up:
            async with trio.open_nursery() as hasty:
                hasty.start_soon(lambda: runner.write(put(1), patience=10))
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(lambda: runner.write(put(2), patience=20))
                await trio.testing.wait_all_tasks_blocked()
                given_up.cancel()
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(20)
    assert await runner.read(numbers) == [2]


async def test_what_comes_while_a_batch_runs_has_its_time_kept_afterwards(runner, patient, mock_clock):
    go = threading.Event()
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as before:
            before.start_soon(runner.write, lambda conn: go.wait(10))
            await trio.testing.wait_all_tasks_blocked()
            for x in (3, 1, 2):
                nursery.start_soon(lambda x=x: runner.write(put(x), patience=10 * x))
            await trio.testing.wait_all_tasks_blocked()
            go.set()
        await trio.testing.wait_all_tasks_blocked()
        assert await runner.read(numbers) == []
        mock_clock.jump(10)
    assert await runner.read(numbers) == [1, 2, 3]


async def test_who_is_to_keep_the_time_may_be_taken_along_at_once(runner, patient):
    go = threading.Event()

    async def two_in_a_row() -> None:
        await runner.write(lambda conn: go.wait(10))
        await runner.write(put(2))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(two_in_a_row)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(lambda: runner.write(put(1), patience=60))
        await trio.testing.wait_all_tasks_blocked()
        go.set()
    assert await runner.read(numbers) == [1, 2]


async def test_a_write_that_needs_no_fsync_does_not_hurry_one_that_waits_for_company(runner, patient):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: runner.write(put(1), patience=60))
        await trio.testing.wait_all_tasks_blocked()
        await runner.write(put(2), durable=False)
        assert await runner.read(numbers) == [2]
        await runner.write(put(3))
    assert await runner.read(numbers) == [1, 2, 3]


async def test_nobody_waits_much_longer_for_company_than_a_commit_takes(runner, monkeypatch):
    with trio.fail_after(10):
        await runner.write(put(1), patience=60)
    monkeypatch.setattr(runner, "_cost", 12.0)
    with trio.move_on_after(0.05) as scope:
        await runner.write(put(2), patience=60)
    assert scope.cancelled_caught
    assert await runner.read(numbers) == [1]


async def test_what_a_commit_takes_is_measured(runner):
    for x in range(3):
        await runner.write(put(x))
    assert 0 < runner._cost < 5


async def test_statements_of_brief_writes_run_on_the_loop_s_thread(runner):
    assert await runner.write(whose_thread, brief=True) == threading.get_ident()
    assert await runner.write(whose_thread) != threading.get_ident()


async def test_with_one_that_is_not_brief_the_batch_runs_in_a_worker(runner, patient):
    seen = []

    async def look() -> None:
        seen.append(await runner.write(whose_thread, patience=60, brief=True))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        await trio.testing.wait_all_tasks_blocked()
        seen.append(await runner.write(whose_thread))
    assert len(set(seen)) == 1
    assert threading.get_ident() not in seen


async def test_a_large_batch_runs_in_a_worker(runner, monkeypatch):
    monkeypatch.setattr(groupcommit, "HERE", 0)
    assert await runner.write(whose_thread, brief=True) != threading.get_ident()


async def test_where_statements_wait_for_the_disk_batches_run_in_a_worker_for_a_while(
    runner, monkeypatch, mock_clock
):
    monkeypatch.setattr(diskwatch, "WAITED", -1.0)  # whatever they waited is too long
    assert await runner.write(whose_thread, brief=True) == threading.get_ident()
    assert await runner.write(whose_thread, brief=True) != threading.get_ident()
    mock_clock.jump(diskwatch.SLOW_FOR)
    assert await runner.write(whose_thread, brief=True) == threading.get_ident()


async def test_the_loop_does_not_wait_for_another_process_that_holds_the_file(runner, tmp_path):
    other = sqlite3.connect(tmp_path / "a.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threads = []

    async def write() -> None:
        threads.append(await runner.write(whose_thread, brief=True))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()  # the loop is free while the write waits
        assert not threads
        other.execute("ROLLBACK")
    other.close()
    assert threads[0] != threading.get_ident()
    assert await runner.write(whose_thread, brief=True) == threading.get_ident()


async def test_a_brief_write_that_fails_does_not_fail_its_neighbours(runner, patient):
    await runner.write(put(1))
    raised = []

    async def again() -> None:
        try:
            await runner.write(put(1), patience=60, brief=True)
        except IntegrityError as error:
            raised.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(again)
        await trio.testing.wait_all_tasks_blocked()
        await runner.write(put(2), brief=True)
    assert len(raised) == 1
    assert await runner.read(numbers) == [1, 2]


async def test_what_need_not_be_durable_is_committed_without_a_thread(runner, monkeypatch):
    def in_a_thread(*args, **more):
        raise AssertionError("a thread was asked for")

    with monkeypatch.context() as patched:
        patched.setattr(trio.to_thread, "run_sync", in_a_thread)
        await runner.write(put(1), durable=False, brief=True)
    assert await runner.read(numbers) == [1]


async def test_only_durable_commits_move_the_wal_into_the_file(runner):
    def pages(conn: Connection) -> int:
        return int(conn.execute(text("PRAGMA wal_autocheckpoint")).scalar_one())

    assert await runner.write(pages, durable=False, brief=True) == 0
    assert await runner.write(pages, brief=True) == sqlrun.WAL_PAGES


async def test_what_takes_the_loop_too_long_runs_in_a_worker_for_a_while(runner, monkeypatch):
    monkeypatch.setattr(diskwatch, "LONG", -1.0)
    assert await runner.write(whose_thread, brief=True) == threading.get_ident()
    assert await runner.write(whose_thread, brief=True) != threading.get_ident()


async def test_an_interruption_leaves_no_transaction_open(runner, tmp_path, monkeypatch):
    def no_thread(*args, **more):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(trio.to_thread, "run_sync", no_thread)
        with pytest.raises(RuntimeError):
            await runner.write(put(1), brief=True)
    other = sqlite3.connect(tmp_path / "a.db", isolation_level=None, timeout=0)
    other.execute("BEGIN IMMEDIATE")
    other.execute("ROLLBACK")
    other.close()
    await runner.write(put(2), brief=True)
    assert await runner.read(numbers) == [2]


async def test_after_a_failed_commit_other_processes_are_waited_for_again(runner, tmp_path):
    later = "CREATE TABLE later (y REFERENCES t(x) DEFERRABLE INITIALLY DEFERRED)"
    await runner.write(lambda conn: conn.execute(text(later)) and None)
    with pytest.raises(StorageError):  # of COMMIT
        await runner.write(lambda conn: conn.execute(text("INSERT INTO later VALUES (99)")), brief=True)
    other = sqlite3.connect(tmp_path / "a.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runner.write, put(1))
        await trio.testing.wait_all_tasks_blocked()
        other.execute("ROLLBACK")
    other.close()
    assert await runner.read(numbers) == [1]


async def test_in_a_worker_the_wal_is_moved_into_the_file_also_without_fsync(runner):
    def pages(conn: Connection) -> int:
        return int(conn.execute(text("PRAGMA wal_autocheckpoint")).scalar_one())

    assert await runner.write(pages, durable=False) == sqlrun.WAL_PAGES


async def test_joint_writes_that_may_be_undone_come_before_the_others(runner, patient):
    order = []

    class Plain(sqlrun.Joint[None]):
        @classmethod
        def together(cls, conn, writes):
            order.append(cls.__name__)
            return [None] * len(writes)

    class Doubtful(Plain):
        doubtful = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: runner.write(Plain(), patience=60))
        await trio.testing.wait_all_tasks_blocked()
        await runner.write(Doubtful())
    assert order == ["Doubtful", "Plain"]


async def test_what_cannot_be_opened_leaves_no_descriptor(tmp_path):
    def refuse(conn: Connection) -> None:
        raise ValueError

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    for attempt in range(3):
        with pytest.raises(ValueError):
            await SqlRunner.open(tmp_path / "a.db", refuse)
        if not attempt:
            before = descriptors()  # of threads and the loop
    assert descriptors() == before


@pytest.mark.parametrize(
    ("first", "waiting", "along"),
    [
        ((True, 0), [(True, 9), (False, 0)], [0, 1]),  # there is an fsync: all go along
        ((False, 0), [(True, 9), (False, 0)], [1]),  # none: who waits for company to share one waits on
        ((False, 0), [(True, 9), (True, 5)], [0, 1]),  # one of them waits no longer
        ((True, 0), [(False, 0)] * (groupcommit.MAX_BATCH + 1), list(range(groupcommit.MAX_BATCH - 1))),
    ],
)
def test_who_goes_along(
    first: tuple[bool, float], waiting: list[tuple[bool, float]], along: list[int]
) -> None:
    def write(durable: bool, deadline: float) -> sqlrun.Write[object]:
        made = sqlrun.Write(numbers, durable)
        made.deadline = deadline
        return made

    leader, others = write(*first), [write(*each) for each in waiting]
    assert groupcommit.batch_of(leader, others, 5.0) == [leader, *[others[place] for place in along]]
