"""The hints file: shared, disposable, bounded, and never in the way."""

from __future__ import annotations

import sqlite3
import stat
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
import trio

from hints import sql
from hints.file import HintsFile
from hints.location import file_of
from hints.memory import fold
from hints.prune import PRUNE_EVERY, REACHED
from hints.recent import CACHE_SECONDS
from hints.records import EhloAnswer, EhloPhase, LevelSeen
from hints.tables import VERSION
from hints.trouble import RETRY
from tests.unit.hints.hintsfile import HOST, A, execute, fail, failures, set_aside


async def test_the_file_is_private_and_wal_and_versioned(opened, path, clock):
    hints = opened()
    fail(hints, clock)
    await hints.flush()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert execute(path, "PRAGMA journal_mode") == [("wal",)]
    assert execute(path, "PRAGMA user_version") == [(VERSION,)]
    wal = path.with_name("hints.db-wal")
    assert stat.S_IMODE(wal.stat().st_mode) == 0o600


async def test_a_file_that_others_may_read_is_made_private(opened, path, clock):
    path.parent.mkdir()
    path.touch(0o644)
    hints = opened()
    await hints.flush()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_rows_say_who_learned_what_and_when(opened, path, clock):
    hints = opened()
    fail(hints, clock)
    hints.note(LevelSeen("Example.org", HOST, "dane-ee"), source="send", reason="TLS judged", now=clock.now)
    await hints.flush()
    clock.now += 5
    fail(hints, clock)
    await hints.flush()
    columns = "failures, source, reason, first_seen, last_seen"
    assert execute(path, f"SELECT {columns} FROM reachability") == [
        (2, "relay", "connect", 1_000_000.0, 1_000_005.0)
    ]
    assert execute(path, "SELECT domain, level, source FROM level_seen") == [
        ("example.org", "dane-ee", "send")
    ]


async def test_consultations_are_counted(opened, path, clock):
    hints = opened()
    fail(hints, clock)
    await hints.flush()
    for _ in range(3):
        await hints.look(HOST, (A,), 25)
    await hints.flush()
    await hints.flush()
    assert execute(path, "SELECT use_count FROM reachability") == [(3,)]


async def test_two_users_of_one_file_learn_from_each_other(opened, clock):
    one, two = opened(), opened()
    assert await failures(two) == 0
    fail(one, clock)
    await one.flush()
    assert await failures(two) == 0  # cached
    clock.now += CACHE_SECONDS
    assert await failures(two) == 1
    fail(two, clock)
    await two.flush()
    clock.now += CACHE_SECONDS
    assert await failures(one) == 2


async def test_several_processes_write_at_once(path, clock, opened):
    program = """
import sys, trio
from hints.records import Reachability
from hints.sql import SqlHints
async def main():
    hints = SqlHints(sys.argv[1], clock=lambda: 1000000.0, max_size=2**22)
    for number in range(20):
        hints.note(Reachability("mx.example.org", "192.0.2.1", 25, "no"), source="p", reason="r", now=1000000.0)
        await hints.flush()
    await hints.aclose()
trio.run(main)
"""
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", program, f"sqlite:///{path}"]

    async def run_one() -> None:
        done = await trio.run_process(command, cwd=root, capture_stderr=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(run_one)
    assert await failures(opened()) == 80
    assert set_aside(path) == []


async def test_readers_do_not_wait_for_a_writer(opened, path, clock):
    hints = opened()
    fail(hints, clock)
    await hints.flush()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        assert await failures(hints) == 1


async def test_the_size_is_bounded_and_a_full_file_makes_room(opened, path, clock, caplog):
    size = 64 * 4096
    hints = opened(max_size=size)
    line = "X" * 500
    for number in range(60):
        clock.now += RETRY
        for port in range(1, 20):
            hints.note(
                EhloAnswer(f"192.0.2.{number + 1}", port, EhloPhase.TLS, "mx", (line,) * 4),
                source="relay",
                reason="test",
                now=clock.now,
            )
        await hints.flush()
    assert path.stat().st_size <= size
    assert "full" in caplog.text
    clock.now += RETRY
    await hints.flush()
    newest = (await hints.look(HOST, ("192.0.2.60",), 19))[0]
    assert newest.ehlo != ()


async def test_expired_rows_are_deleted_now_and_then(opened, path, clock):
    hints = opened()
    fail(hints, clock)
    await hints.flush()
    clock.now += max(REACHED, PRUNE_EVERY)
    await hints.flush()
    assert execute(path, "SELECT count(*) FROM reachability") == [(0,)]


async def test_the_buffer_is_bounded(opened, clock, monkeypatch):
    monkeypatch.setattr(sql, "MAX_BUFFER", 3)
    hints = opened()
    for _ in range(5):
        fail(hints, clock)
    assert hints.dropped == 2
    assert await failures(hints) == 3


async def test_a_read_that_began_before_a_write_is_not_cached_after_it(opened, clock, monkeypatch):
    hints = opened()
    await hints.flush()
    started, go_on = threading.Event(), threading.Event()
    real = hints._file.read

    def slow(*asked):
        views = real(*asked)
        started.set()
        go_on.wait(10)
        return views

    monkeypatch.setattr(hints._file, "read", slow)
    monkeypatch.setattr(hints._file, "read_now", lambda *asked: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hints.look, HOST, (A,), 25)
        await trio.to_thread.run_sync(started.wait)
        fail(hints, clock)
        await hints.flush()
        go_on.set()
    monkeypatch.setattr(hints._file, "read", real)
    assert await failures(hints) == 1


async def test_run_flushes_now_and_then(opened, path, clock, mock_clock):
    mock_clock.rate = 1000.0
    hints = opened(patience=1e6)
    fail(hints, clock)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hints.run)
        while hints._buffer:  # noqa: ASYNC110 (a worker thread empties it)
            await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert execute(path, "SELECT failures FROM reachability") == [(1,)]


async def test_closing_writes_what_is_buffered_also_when_cancelled(opened, path, clock):
    hints = opened()
    fail(hints, clock)
    with trio.CancelScope() as scope:
        scope.cancel()
        await hints.aclose()
    assert execute(path, "SELECT failures FROM reachability") == [(1,)]


@pytest.mark.parametrize("url", ["memory", "postgresql://x/y", "sqlite://", "sqlite:///:memory:"])
def test_only_sqlite_files_are_accepted(url):
    with pytest.raises(ValueError):
        file_of(url)


async def test_the_best_level_is_read_once_for_a_while(opened, path, clock):
    hints = opened()
    hints.note(LevelSeen("example.org", HOST, "encrypt"), source="relay", reason="test", now=clock.now)
    await hints.flush()
    assert await hints.best_level("example.org", HOST) == "encrypt"
    execute(path, "UPDATE level_seen SET best = 'pkix'")  # another process
    assert await hints.best_level("example.org", HOST) == "encrypt"
    clock.now += CACHE_SECONDS
    assert await hints.best_level("example.org", HOST) == "pkix"
    hints.note(LevelSeen("example.org", HOST, "dane-ee"), source="relay", reason="test", now=clock.now)
    assert await hints.best_level("example.org", HOST) == "dane-ee"
    await hints.flush()
    assert await hints.best_level("example.org", HOST) == "dane-ee"


async def test_a_note_that_is_not_written_yet_is_folded_in_once(opened, clock, monkeypatch):
    hints = opened()
    folded = []
    monkeypatch.setattr(sql, "fold", lambda *parts: folded.append(parts) or fold(*parts))
    for _ in range(50):
        fail(hints, clock)
        await hints.look(HOST, (A,), 25)
    assert await failures(hints) == 50
    assert len(folded) == 50, "the work of a busy hour must not grow with its square"
    await hints.flush()
    fail(hints, clock)
    assert await failures(hints) == 51
    other = (await hints.look("other.example.org", (A,), 25))[0]
    assert other.failures == 0, "another host's notes are not its own"


async def test_what_was_written_is_known_without_reading_it_again(opened, clock, monkeypatch):
    hints, other = opened(), opened()
    fail(hints, clock)
    await hints.flush()
    assert await failures(hints) == 1
    reads = []
    read = HintsFile.read_now
    monkeypatch.setattr(HintsFile, "read_now", lambda *asked: reads.append(asked) or read(*asked))
    for _ in range(3):
        fail(hints, clock)
        await hints.flush()
    assert await failures(hints) == 4
    assert not reads
    fail(other, clock)
    await other.flush()
    assert await failures(hints) == 4, "cached"
    clock.now += CACHE_SECONDS
    assert await failures(hints) == 5, "what another process learned is seen after a while"
    assert reads
