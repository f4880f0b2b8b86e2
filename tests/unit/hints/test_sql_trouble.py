"""A hints file that is damaged, locked, replaced, full of nonsense or may not be written: mail goes on."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
import trio

from hints.port import AddressView
from hints.records import EhloAnswer, EhloPhase
from hints.tables import VERSION
from hints.trouble import RETRY
from tests.unit.hints.hintsfile import HOST, A, execute, fail, failures, set_aside


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
        clock.now += RETRY
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


async def test_a_file_locked_by_a_writer_keeps_the_notes(opened, path, clock, caplog):
    hints = opened()
    await hints.flush()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        fail(hints, clock)
        await hints.flush()
        assert "locked" in caplog.text
    clock.now += RETRY
    await hints.flush()
    assert execute(path, "SELECT failures FROM reachability") == [(1,)]


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


async def test_what_is_read_too_late_for_one_look_is_there_for_the_next(opened, clock, monkeypatch):
    ready = opened()
    fail(ready, clock)
    await ready.flush()
    hints = opened(patience=0.05)
    go_on, reads, read = threading.Event(), [], hints._file.read

    def slow_read(*asked):
        reads.append(asked)
        go_on.wait(10)
        return read(*asked)

    monkeypatch.setattr(hints._file, "read", slow_read)
    monkeypatch.setattr(hints, "_readers", trio.CapacityLimiter(1))
    assert await hints.look(HOST, (A,), 25) == (AddressView(A),)
    go_on.set()
    with trio.fail_after(10):
        async with hints._readers:  # once the reader is free again
            assert await failures(hints) == 1
    assert len(reads) == 1
