"""The hints file: shared, disposable, bounded, and never in the way."""

from __future__ import annotations

import fcntl
import os
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
from hints.port import AddressView
from hints.prune import PRUNE_EVERY, REACHED
from hints.records import EhloAnswer, EhloPhase, LevelSeen, Reachability
from hints.sql import SqlHints
from hints.tables import VERSION

A, HOST = "192.0.2.1", "mx.example.org"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "hints.db"


@pytest.fixture
async def opened(path, clock):
    made: list[SqlHints] = []

    def open_hints(max_size: int = 2**22, patience: float = 10) -> SqlHints:
        made.append(SqlHints(f"sqlite:///{path}", clock=clock, max_size=max_size, patience=patience))
        return made[-1]

    yield open_hints
    for hints in made:
        await hints.aclose()


def execute(path, statement, *values):
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute(statement, values).fetchall()
        connection.commit()
        return found


def fail(hints, clock, address=A, error="refused"):
    hints.note(Reachability(HOST, address, 25, error), source="relay", reason="connect", now=clock.now)


async def failures(hints, address=A) -> int:
    return (await hints.look(HOST, (address,), 25))[0].failures


def set_aside(path) -> list[str]:
    return sorted(one.name for one in path.parent.iterdir() if "corrupt" in one.name or "version" in one.name)


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
    clock.now += sql.CACHE_SECONDS
    assert await failures(two) == 1
    fail(two, clock)
    await two.flush()
    clock.now += sql.CACHE_SECONDS
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


@pytest.mark.parametrize(
    "content", [b"no database at all, for certain" * 100, b"SQLite format 3\0" + b"\xff" * 8000]
)
async def test_a_damaged_file_is_set_aside_once_and_mail_goes_on(opened, path, clock, caplog, content):
    path.parent.mkdir()
    path.write_bytes(content)
    one, two = opened(), opened()
    assert await failures(one) == 0
    fail(one, clock)
    await one.flush()
    assert await failures(two) == 1
    assert set_aside(path) == ["hints.db.corrupt-1000000"]
    assert len([record for record in caplog.records if "set aside" in record.message]) == 1


async def test_damage_while_running_is_repaired(opened, path, clock, caplog):
    hints, other = opened(), opened()
    for number in range(1, 200):
        fail(hints, clock, f"192.0.2.{number}", "x" * 400)
    await hints.flush()
    await other.look(HOST, (A,), 25)
    await hints.aclose()
    await other.aclose()  # the WAL is folded into the file
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (path.stat().st_size - 4096))
    hints = opened()
    clock.now += 60
    await hints.look(HOST, tuple(f"192.0.2.{number}" for number in range(1, 60)), 25)
    fail(hints, clock, "192.0.2.250")
    await hints.flush()
    assert await failures(hints, "192.0.2.250") == 1
    assert len(set_aside(path)) == 1


async def test_missing_tables_are_damage(opened, path, clock):
    hints = opened()
    await hints.flush()
    await hints.aclose()
    execute(path, "DROP TABLE reachability")
    execute(path, "CREATE TABLE reachability (host TEXT)")
    again = opened()
    fail(again, clock)
    await again.flush()
    assert await failures(again) == 1
    assert len(set_aside(path)) == 1


async def test_another_version_is_set_aside(opened, path, clock, caplog):
    hints = opened()
    fail(hints, clock)
    await hints.aclose()
    execute(path, f"PRAGMA user_version={VERSION + 7}")
    again = opened()
    assert await failures(again) == 0
    assert set_aside(path) == [f"hints.db.version-{VERSION + 7}-1000000"]
    assert f"it is of version {VERSION + 7}" in caplog.text


async def test_copies_do_not_pile_up(opened, path, clock):
    path.parent.mkdir()
    for _ in range(6):
        path.write_bytes(b"damaged, but not empty" * 50)
        clock.now += 1000
        await opened().look(HOST, (A,), 25)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    assert len([name for name in set_aside(path) if not name.endswith(("-wal", "-shm"))]) == 3


async def test_a_database_of_something_else_is_left_alone(opened, path, clock, caplog):
    path.parent.mkdir()
    execute(path, "CREATE TABLE message (id TEXT)")
    before = path.read_bytes()
    hints = opened()
    fail(hints, clock)
    await hints.flush()
    assert await failures(hints) == 1  # what this process noted itself
    assert path.read_bytes() == before
    assert set_aside(path) == []
    assert "left alone" in caplog.text


async def test_a_file_replaced_by_another_process_is_noticed(opened, path, clock):
    hints = opened()
    fail(hints, clock)
    await hints.flush()
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    fail(hints, clock)
    await hints.flush()
    assert execute(path, "SELECT failures FROM reachability") == [(1,)]


async def test_trouble_is_said_once_and_tried_again_later(opened, path, clock, caplog):
    path.mkdir(parents=True)  # a directory in its place: cannot be opened, by root neither
    hints = opened()
    for _ in range(5):
        fail(hints, clock)
        await hints.flush()
        assert await failures(hints) >= 1
        clock.now += sql.RETRY
    assert len([record for record in caplog.records if "mail goes on without hints" in record.message]) == 1
    path.rmdir()
    await hints.flush()
    assert execute(path, "SELECT failures FROM reachability") == [(5,)]


async def test_a_locked_file_costs_a_look_its_patience_only(opened, path, clock):
    ready = opened()
    await ready.flush()
    hints = opened(patience=0.05)
    lock = os.open(f"{path}.lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        with trio.fail_after(1):
            assert await hints.look(HOST, (A,), 25) == (AddressView(A),)
    finally:
        os.close(lock)


async def test_readers_do_not_wait_for_a_writer(opened, path, clock):
    hints = opened()
    fail(hints, clock)
    await hints.flush()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        assert await failures(hints) == 1


async def test_a_file_locked_by_a_writer_keeps_the_notes(opened, path, clock, caplog):
    hints = opened()
    await hints.flush()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        fail(hints, clock)
        await hints.flush()
        assert "locked" in caplog.text
    clock.now += sql.RETRY
    await hints.flush()
    assert execute(path, "SELECT failures FROM reachability") == [(1,)]


async def test_the_size_is_bounded_and_a_full_file_makes_room(opened, path, clock, caplog):
    size = 64 * 4096
    hints = opened(max_size=size)
    line = "X" * 500
    for number in range(60):
        clock.now += sql.RETRY
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
    clock.now += sql.RETRY
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


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("failures", -1),
        ("failures", "many"),
        ("last_error", "x" * 501),
        ("last_error", b"\xff"),
        ("last_error", "a\x1b[2J"),
        ("last_failure", "yesterday"),
        ("last_failure", 9e99),
        ("last_success", -1.0),
        ("source", "s" * 33),
        ("expires", 9e99),
        ("first_seen", float("inf")),
        ("use_count", 2**40),
    ],
)
async def test_rows_that_make_no_sense_are_not_believed(opened, path, clock, caplog, column, value):
    hints = opened()
    fail(hints, clock)
    await hints.flush()
    execute(path, f"UPDATE reachability SET {column} = ?", value)
    assert await failures(hints) == 0
    assert hints.invalid == 1
    assert "make no sense" in caplog.text


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("keywords", "not json"),
        ("keywords", '{"a": 1}'),
        ("keywords", "[1]"),
        ("keywords", "[" * 5000),
        ("keywords", '["' + "x" * 513 + '"]'),
        ("keywords", '["A\\u0000"]'),
        ("keywords", "[" + ",".join(['"A"'] * 65) + "]"),
        ("keywords", " " * 10**6),
        ("greeted_as", "x" * 256),
    ],
)
async def test_answers_that_make_no_sense_are_not_believed(opened, path, clock, column, value):
    hints = opened()
    note = EhloAnswer(A, 25, EhloPhase.CLEAR, "mx", ("SIZE",))
    hints.note(note, source="relay", reason="EHLO", now=clock.now)
    await hints.flush()
    execute(path, f"UPDATE ehlo_answer SET {column} = ?", value)
    assert (await hints.look(HOST, (A,), 25))[0].ehlo == ()
    assert hints.invalid == 1


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
    clock.now += sql.CACHE_SECONDS
    assert await hints.best_level("example.org", HOST) == "pkix"
    hints.note(LevelSeen("example.org", HOST, "dane-ee"), source="relay", reason="test", now=clock.now)
    assert await hints.best_level("example.org", HOST) == "dane-ee"
    await hints.flush()
    assert await hints.best_level("example.org", HOST) == "dane-ee"


READ_ONLY = """
import os, sys, trio
from hints.records import Reachability
from hints.sql import SqlHints
async def use(path):
    hints = SqlHints(f"sqlite:///{path}", clock=lambda: 1e6, max_size=2**22, patience=10)
    hints.note(Reachability("mx.example.org", "192.0.2.1", 25, None), source="send", reason="test", now=1e6)
    await hints.flush()
    await hints.flush()
    print(len(await hints.look("mx.example.org", ["192.0.2.1"], 25)))
    await hints.aclose()
trio.run(use, sys.argv[2])  # loads every module while they can be read
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
trio.run(use, sys.argv[1])
"""


async def test_a_file_that_may_only_be_read_is_said_once_and_nothing_stops(opened, path, clock):
    hints = opened()
    fail(hints, clock)
    await hints.flush()
    await hints.aclose()
    for place, mode in (
        (path, 0o444),
        (path.parent, 0o555),
        *((up, 0o755) for up in list(path.parents)[1:4]),
    ):
        place.chmod(mode)
    root = Path(__file__).parents[3]
    ran = await trio.run_process(
        [sys.executable, "-c", READ_ONLY, str(path), str(path.parent.parent / "other.db")],
        capture_stdout=True,
        capture_stderr=True,
        env={**os.environ, "PYTHONPATH": str(root)},
        cwd=root,
        check=False,
    )
    assert (ran.returncode, ran.stdout.decode().strip()) == (0, "1\n1"), ran.stderr.decode()
    assert len(ran.stderr.decode().splitlines()) == 1


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
    read = HintsFile.read
    monkeypatch.setattr(HintsFile, "read", lambda *asked: reads.append(asked) or read(*asked))
    for _ in range(3):
        fail(hints, clock)
        await hints.flush()
    assert await failures(hints) == 4
    assert not reads
    fail(other, clock)
    await other.flush()
    assert await failures(hints) == 4, "cached"
    clock.now += sql.CACHE_SECONDS
    assert await failures(hints) == 5, "what another process learned is seen after a while"
    assert reads
