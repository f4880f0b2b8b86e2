"""MTA-STS policies in a file that is shared, locked, damaged or full: none is missed in silence."""

from __future__ import annotations

import sqlite3
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
import trio

from hints import port, sql
from hints.check import MAX_POLICY_AGE
from hints.engine import Busy
from hints.policies import HUNG_PAUSE
from hints.port import Unreadable
from hints.prune import PRUNE_EVERY
from hints.records import EhloAnswer, EhloPhase
from hints.trouble import RETRY
from tests.unit.hints.hintsfile import DOMAIN, WEEK, execute, fail, seen, set_aside, tell


async def test_it_outlives_the_process(opened, clock):
    one = opened()
    tell(one, clock, seen(clock.now))
    await one.aclose()
    clock.now += WEEK - 1
    assert await opened().sts_policy(DOMAIN) == seen(clock.now - WEEK + 1)


async def test_users_of_one_file_see_each_others_policies_at_once(opened, clock):
    one, two = opened(), opened()
    assert await two.sts_policy(DOMAIN) is None
    tell(one, clock, seen(clock.now))
    await one.flush()
    assert await two.sts_policy(DOMAIN) == seen(clock.now)
    clock.now += 1
    tell(two, clock, seen(clock.now, id="2"))
    await two.flush()
    assert await one.sts_policy(DOMAIN) == seen(clock.now, id="2")


async def test_another_process_reads_it(opened, path, clock):
    hints = opened()
    tell(hints, clock, seen(clock.now))
    await hints.flush()
    program = """
import sys, trio
from hints.sql import SqlHints
async def main():
    hints = SqlHints(sys.argv[1], clock=lambda: 1000000.0, max_size=2**22)
    print((await hints.sts_policy("example.org")).id)
    await hints.aclose()
trio.run(main)
"""
    command = [sys.executable, "-c", program, f"sqlite:///{path}"]
    done = await trio.run_process(command, cwd=Path(__file__).parents[3], capture_stdout=True)
    assert done.stdout.decode().strip() == "20240101T000000"


async def test_a_note_taken_while_the_file_is_read_counts(opened, clock, monkeypatch):
    hints = opened()
    await hints.flush()
    real = hints._file.policy

    def read(*asked):
        found = real(*asked)
        trio.from_thread.run_sync(tell, hints, clock, seen(clock.now))
        return found

    monkeypatch.setattr(hints._file, "policy", read)
    assert await hints.sts_policy(DOMAIN) == seen(clock.now)


async def test_a_policy_finds_room_where_other_notes_wait(opened, clock, monkeypatch):
    monkeypatch.setattr(sql, "MAX_BUFFER", 3)
    monkeypatch.setattr(sql, "MAX_SPARED", 1)
    hints = opened()
    for _ in range(4):
        fail(hints, clock)
    tell(hints, clock, seen(clock.now), seen(clock.now, domain="example.net"))
    assert hints.dropped == 2
    assert await hints.sts_policy(DOMAIN) == seen(clock.now)
    await hints.flush()
    assert await hints.sts_policy(DOMAIN) == seen(clock.now)
    assert await hints.sts_policy("example.net") is None


async def test_a_file_that_is_missing_or_was_damaged_holds_none(opened, path, clock):
    path.parent.mkdir()
    path.write_bytes(b"no database at all, for certain" * 100)
    assert await opened().sts_policy(DOMAIN) is None
    assert len(set_aside(path)) == 1
    path.unlink()
    assert await opened().sts_policy(DOMAIN) is None


async def test_a_file_that_cannot_be_opened_is_no_answer(opened, path, clock, caplog):
    path.mkdir(parents=True)  # a directory in its place: cannot be opened, by root neither
    hints = opened()
    with pytest.raises(Unreadable, match="cannot be read"):
        await hints.sts_policy(DOMAIN)
    with pytest.raises(Unreadable, match="left alone for a minute: "):
        await hints.sts_policy(DOMAIN)
    tell(hints, clock, seen(clock.now))
    assert await hints.sts_policy(DOMAIN) == seen(clock.now), "what this process knows itself"
    assert len([one for one in caplog.records if "policies is not known" in one.message]) == 1
    path.rmdir()
    clock.now += RETRY
    assert await hints.sts_policy("example.net") is None


async def test_a_clock_that_is_set_back_does_not_prolong_the_pause(opened, path, clock):
    path.mkdir(parents=True)
    hints = opened()
    with pytest.raises(Unreadable):
        await hints.sts_policy(DOMAIN)
    path.rmdir()
    clock.now -= 1
    assert await hints.sts_policy(DOMAIN) is None


async def test_a_file_that_is_written_again_is_read_again(opened, path, clock):
    path.mkdir(parents=True)
    hints = opened()
    with pytest.raises(Unreadable):
        await hints.sts_policy(DOMAIN)
    path.rmdir()
    fail(hints, clock)
    await hints.flush()
    assert await hints.sts_policy(DOMAIN) is None


async def test_an_unexpected_error_is_no_answer(opened, clock, monkeypatch):
    hints = opened()

    def broken(*asked):
        raise RuntimeError("unexpected")

    monkeypatch.setattr(hints._file, "policy", broken)
    with pytest.raises(Unreadable, match="unexpected"):
        await hints.sts_policy(DOMAIN)


async def test_a_file_that_is_not_read_in_time_is_no_answer(opened, clock, monkeypatch):
    monkeypatch.setattr(port, "STS_PATIENCE", 0.05)
    other, hints = opened(), opened()
    tell(other, clock, seen(clock.now))
    await other.flush()
    go_on, real = threading.Event(), hints._file.policy

    def slow(*asked):
        go_on.wait(10)
        return real(*asked)

    monkeypatch.setattr(hints._file, "policy", slow)
    with pytest.raises(Unreadable, match="not read within"):
        await hints.sts_policy(DOMAIN)
    with pytest.raises(Unreadable, match="just now"):
        await hints.sts_policy(DOMAIN)
    go_on.set()
    monkeypatch.setattr(port, "STS_PATIENCE", 10)
    clock.now += HUNG_PAUSE
    assert await hints.sts_policy(DOMAIN) == seen(clock.now - HUNG_PAUSE), (
        "after a short while it is read again"
    )


def test_patience_is_longer_than_that_of_advice():
    assert port.STS_PATIENCE == 2.0 > port.PATIENCE


async def test_a_locked_file_is_waited_for(opened, clock, monkeypatch):
    hints = opened()
    tell(hints, clock, seen(clock.now))
    await hints.flush()
    asked, real = [], hints._file.policy

    def locked(*parts):
        asked.append(parts)
        if len(asked) < 3:
            raise Busy("database is locked")
        return real(*parts)

    monkeypatch.setattr(hints._file, "policy", locked)
    assert await hints.sts_policy(DOMAIN) == seen(clock.now)
    assert len(asked) == 3


async def test_a_file_that_stays_locked_is_no_answer(opened, clock, monkeypatch):
    monkeypatch.setattr(port, "STS_PATIENCE", 0.2)
    hints = opened()
    tell(hints, clock, seen(clock.now))
    await hints.flush()
    real = hints._file.policy

    def locked(*_):
        raise Busy("database is locked")

    monkeypatch.setattr(hints._file, "policy", locked)
    with pytest.raises(Unreadable, match="not read within"):
        await hints.sts_policy(DOMAIN)
    monkeypatch.setattr(hints._file, "policy", real)
    assert await hints.sts_policy(DOMAIN) == seen(clock.now), "what passes makes no pause"


async def test_a_file_that_cannot_be_written_is_read(opened, path, clock, caplog):
    hints = opened()
    tell(hints, clock, seen(clock.now))
    await hints.flush()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        fail(hints, clock)
        await hints.flush()
        assert "locked" in caplog.text
        assert await hints.sts_policy(DOMAIN) == seen(clock.now)


async def test_a_full_file_loses_policies_last(opened, path, clock, caplog):
    hints = opened(max_size=64 * 4096)
    tell(hints, clock, seen(clock.now, max_age=MAX_POLICY_AGE))
    line = "X" * 500
    for number in range(60):
        clock.now += RETRY
        for place in range(1, 20):
            answer = EhloAnswer(f"192.0.2.{number + 1}", place, EhloPhase.TLS, "mx", (line,) * 4)
            hints.note(answer, source="relay", reason="test", now=clock.now)
        await hints.flush()
    assert "full" in caplog.text
    assert (await hints.look("mx", ("192.0.2.1",), 1))[0].ehlo == ()
    assert execute(path, "SELECT domain FROM sts_policy") == [(DOMAIN,)]
    assert (await hints.sts_policy(DOMAIN)).id == "20240101T000000"


async def test_advice_that_finds_no_room_keeps_no_policy_out(opened, path, clock):
    hints = opened(max_size=64 * 4096)
    tell(hints, clock, seen(clock.now))
    await hints.flush()
    for place in range(1, 400):
        answer = EhloAnswer("192.0.2.1", place, EhloPhase.TLS, "mx", ("X" * 500,) * 4)
        hints.note(answer, source="relay", reason="test", now=clock.now)
    tell(hints, clock, seen(clock.now, domain="example.net"))
    for _ in range(5):
        await hints.flush()
        clock.now += RETRY
    assert execute(path, "SELECT domain FROM sts_policy ORDER BY domain") == [("example.net",), (DOMAIN,)]
    assert execute(path, "SELECT count(*) FROM ehlo_answer") == [(0,)]


async def test_a_file_full_of_policies_loses_those_that_end_first(opened, path, clock, caplog):
    hints = opened(max_size=64 * 4096)
    fail(hints, clock)
    patterns = tuple(f"mx{number}.a-name-of-some-length.example.org" for number in range(90))
    for number in range(120):
        clock.now += RETRY
        tell(
            hints,
            clock,
            seen(clock.now, domain=f"d{number}.example", patterns=patterns, max_age=WEEK - number * 1000),
        )
        await hints.flush()
    clock.now += RETRY
    await hints.flush()
    assert "full" in caplog.text
    assert path.stat().st_size <= 64 * 4096
    assert execute(path, "SELECT count(*) FROM reachability") == [(0,)], "advice goes first"
    left = [domain for (domain,) in execute(path, "SELECT domain FROM sts_policy ORDER BY expires DESC")]
    assert left[0] == "d0.example"
    assert len(left) < 120


async def test_long_policies_that_last_do_not_drive_out_short_ones(opened, path, clock):
    hints = opened(max_size=64 * 4096)
    tell(hints, clock, seen(clock.now))
    patterns = tuple(f"mx{number}.a-name-of-some-length.example.org" for number in range(90))
    for number in range(120):
        clock.now += RETRY
        longest = seen(clock.now, domain=f"d{number}.example", patterns=patterns, max_age=MAX_POLICY_AGE)
        tell(hints, clock, longest)
        await hints.flush()
    assert execute(path, "SELECT count(*) FROM sts_policy")[0][0] < 120
    assert (await hints.sts_policy(DOMAIN)).id == "20240101T000000"


async def test_what_ended_is_deleted_now_and_then(opened, path, clock):
    hints = opened()
    tell(hints, clock, seen(clock.now, max_age=60))
    await hints.flush()
    clock.now += PRUNE_EVERY
    await hints.flush()
    assert execute(path, "SELECT count(*) FROM sts_policy") == [(0,)]


async def test_the_row_says_what_was_fetched(opened, path, clock):
    hints = opened()
    tell(hints, clock, seen(clock.now - 5))
    await hints.flush()
    columns = "domain, id, mode, patterns, max_age, fetched_at, source, last_seen, expires"
    assert execute(path, f"SELECT {columns} FROM sts_policy") == [
        (
            *(DOMAIN, "20240101T000000", "enforce", '["mx.example.org", "*.example.net"]', WEEK),
            *(clock.now - 5, "relay", clock.now, clock.now - 5 + WEEK),
        )
    ]
    assert execute(path, "SELECT fetched_at FROM hint_sts") == [("1970-01-12 13:46:35",)]
