"""TLS sessions as both kinds of hints keep them: one use of a ticket, sealed rows, nothing in clear."""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing
from dataclasses import replace

import pytest
import trio

from hints.check import MAX_SESSION
from hints.kinds import KINDS
from hints.memory import MAX_TICKETS, MemoryHints
from hints.prune import TLS_SESSION
from hints.records import LevelSeen, Reachability, SessionKey, TlsSession
from hints.seal import KeyUnusable, Sealer, load_key
from hints.show import Filter, rows
from hints.sql import SqlHints

START = 1_000_000.0
KEY = SessionKey("mx.example.org", 25, "mx.example.org", "dane-ee", "", "TLSv1.2", "mx")
SECRET = b"master secret of the session"


@pytest.fixture(params=["memory", "sql", "sql, flushed"])
async def hints(request, clock, tmp_path):
    if request.param == "memory":
        made = MemoryHints(clock=clock)
    else:
        made = SqlHints(f"sqlite:///{tmp_path}/hints.db", clock=clock, max_size=2**22, patience=10)
    made.eager = "flushed" in request.param  # type: ignore[attr-defined]
    yield made
    await made.aclose()


@pytest.fixture
async def stored(tmp_path, clock):
    """A file with one ticket in it, opened anew."""
    made: list[SqlHints] = []

    def open_hints() -> SqlHints:
        made.append(SqlHints(f"sqlite:///{tmp_path}/hints.db", clock=clock, max_size=2**22, patience=10))
        return made[-1]

    first = open_hints()
    first.keep_session(session(), source="relay", reason="test", now=START)
    await first.flush()
    yield open_hints
    for one in made:
        await one.aclose()


def session(octets=SECRET, version="TLSv1.3", key=KEY, saved_at=START, expires=START + 3600) -> TlsSession:
    return TlsSession(key, octets, (b"leaf", b"issuer"), b"staple", "dane-ee", version, saved_at, expires)


async def keep(hints, *several):
    for one in several:
        hints.keep_session(one, source="relay", reason="test", now=START)
        if hints.eager:
            await hints.flush()


def execute(path, statement, *values):
    with closing(sqlite3.connect(path / "hints.db")) as conn:
        found = conn.execute(statement, values).fetchall()
        conn.commit()
        return found


async def test_a_ticket_is_handed_out_once(hints):
    assert await hints.claim_session(KEY) is None
    await keep(hints, session())
    assert await hints.claim_session(KEY) == session()
    assert await hints.claim_session(KEY) is None


async def test_a_session_of_tls_1_2_stays_until_it_is_replaced(hints):
    await keep(hints, session(version="TLSv1.2"))
    assert await hints.claim_session(KEY) == await hints.claim_session(KEY) == session(version="TLSv1.2")
    await keep(hints, session(b"newer", "TLSv1.2"))
    assert await hints.claim_session(KEY) == session(b"newer", "TLSv1.2")
    await keep(hints, session())
    assert await hints.claim_session(KEY) == session()
    assert await hints.claim_session(KEY) is None


async def test_the_newest_tickets_are_kept_and_the_same_one_once(hints):
    several = [session(bytes([one]) * 9, saved_at=START - 10 + one) for one in range(MAX_TICKETS + 2)]
    await keep(hints, *several, several[-1])
    claimed = [await hints.claim_session(KEY) for _ in range(MAX_TICKETS + 1)]
    assert claimed == [*reversed(several[2:]), None]


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, host="mx2.example.org"),
        replace(KEY, port=587),
        replace(KEY, sni="mx2.example.org"),
        replace(KEY, level="encrypt"),
        replace(KEY, client_certificate="ab"),
        replace(KEY, minimum_version="TLSv1.3"),
        replace(KEY, greeted_as="another"),
    ],
)
async def test_every_part_of_the_key_counts(hints, other):
    await keep(hints, session())
    assert await hints.claim_session(other) is None
    assert await hints.claim_session(replace(KEY, host=KEY.host.upper())) == session()


async def test_a_session_past_its_time_is_not_offered(hints, clock):
    await keep(hints, session(version="TLSv1.2", expires=START + 1e9))
    clock.now += TLS_SESSION - 1
    kept = await hints.claim_session(KEY)
    assert kept is not None
    assert kept.expires == START + TLS_SESSION
    clock.now += 1
    assert await hints.claim_session(KEY) is None
    clock.now = START - 1  # a clock set back: saved in the future
    assert await hints.claim_session(KEY) is None


async def test_forgotten_sessions_are_not_offered(hints, clock):
    await keep(hints, session())
    hints.forget_sessions(KEY, now=START)
    assert await hints.claim_session(KEY) is None
    await hints.flush()
    assert await hints.claim_session(KEY) is None
    await keep(hints, session(b"new", saved_at=START))
    await hints.flush()
    assert await hints.claim_session(KEY) == session(b"new")


@pytest.mark.parametrize(
    "senseless",
    [
        session(b""),
        session(b"x" * (MAX_SESSION + 1)),
        session(version="SSLv3"),
        session(expires=START),
        session(saved_at=float("nan")),
        replace(session(), chain=()),
        replace(session(), chain=(b"x",) * 17),
        replace(session(), staple=b"x" * 10**6),
        session(key=replace(KEY, host="")),
        session(key=replace(KEY, port=0)),
        session(key=replace(KEY, level="x" * 999)),
    ],
)
async def test_sessions_that_make_no_sense_are_not_kept(hints, senseless):
    await keep(hints, senseless)
    await hints.flush()
    assert await hints.claim_session(KEY) is None
    assert await hints.claim_session(senseless.key) is None


async def test_the_best_level_is_remembered_through_a_drop(hints, clock):
    async def note(level):
        hints.note(LevelSeen("Example.org", "mx", level), source="s", reason="r", now=clock.now)
        if hints.eager:
            await hints.flush()

    assert await hints.best_level("example.org", "mx") is None
    for level, best in (("encrypt", "encrypt"), ("dane-ee", "dane-ee"), ("none", "dane-ee")):
        await note(level)
        assert await hints.best_level("EXAMPLE.org", "mx") == best
    assert await hints.best_level("other.example", "mx") is None
    clock.now += 50 * 86400
    await note("pkix")
    clock.now += 50 * 86400
    await note("encrypt")
    assert await hints.best_level("example.org", "mx") == "encrypt"


async def test_what_is_being_written_is_not_in_the_buffer_too(tmp_path, clock, monkeypatch):
    hints = SqlHints(f"sqlite:///{tmp_path}/hints.db", clock=clock, max_size=2**22, patience=10)
    hints.keep_session(session(), source="relay", reason="test", now=START)
    claimed: list[TlsSession | None] = []
    real = hints._file.write

    def write(*args, **more):
        trio.from_thread.run(claim)
        done = real(*args, **more)
        trio.from_thread.run(claim)
        return done

    async def claim():
        claimed.append(await hints.claim_session(KEY))

    monkeypatch.setattr(hints._file, "write", write)
    await hints.flush()
    await claim()
    assert claimed == [None, session(), None]
    await hints.aclose()


async def test_what_could_not_be_written_waits(tmp_path, clock):
    (tmp_path / "hints.db").mkdir()
    hints = SqlHints(f"sqlite:///{tmp_path}/hints.db", clock=clock, max_size=2**22, patience=10)
    hints.keep_session(session(), source="relay", reason="test", now=START)
    await hints.flush()
    assert await hints.claim_session(KEY) == session()
    await hints.aclose()


async def test_a_claim_that_nobody_waits_for_gives_the_ticket_back(stored, tmp_path):
    hints = stored()
    sealer = Sealer(load_key(tmp_path / "hints.key"))
    assert hints._file.claim(KEY, START, sealer, lambda: True) is None
    assert await hints.claim_session(KEY) == session()


async def test_another_writer_makes_a_claim_a_miss_and_nothing_worse(stored, tmp_path, caplog):
    hints = stored()
    await hints.look("mx", ("192.0.2.1",), 25)
    with closing(sqlite3.connect(tmp_path / "hints.db", isolation_level=None)) as conn:
        conn.execute("BEGIN IMMEDIATE")
        assert await hints.claim_session(KEY) is None
    assert await hints.claim_session(KEY) == session()
    assert caplog.records == []


async def test_nothing_secret_is_in_the_file_or_in_what_is_printed(stored, tmp_path):
    octets = b"".join(one.read_bytes() for one in tmp_path.iterdir())
    assert not [part for part in (SECRET, b"issuer", b"staple") if part in octets]
    assert SECRET.decode() not in repr(session())
    (row,) = rows(tmp_path / "hints.db", Filter("session"), START)
    assert set(row.values) == {*KINDS["session"].key, "version", "saved_at"}
    shown = execute(tmp_path, "SELECT * FROM hint_session")
    assert not [value for value in shown[0] if isinstance(value, bytes)]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("expires", START + 7200),
        ("saved_at", START - 1),
        ("version", "TLSv1.2"),
        ("ticket", "00"),
        ("sealed", b""),
        ("sealed", b"\0" * 200),
        ("sealed", "text"),
        ("sealed", b"\0" * 200_000),
        ("source", b"\xff"),
    ],
)
async def test_a_row_that_was_changed_is_not_offered(stored, tmp_path, column, value):
    execute(tmp_path, f"UPDATE tls_session SET {column} = ?", value)
    hints = stored()
    assert await hints.claim_session(KEY) is None
    assert hints.invalid == 1
    assert execute(tmp_path, "SELECT count(*) FROM tls_session") == [(0,)]


@pytest.mark.parametrize("column", KINDS["session"].key[:-1])
async def test_a_row_moved_to_another_key_is_not_offered(stored, tmp_path, column):
    value = 26 if column == "port" else "other"
    execute(tmp_path, f"UPDATE tls_session SET {column} = ?", value)
    hints = stored()
    assert await hints.claim_session(replace(KEY, **{column: value})) is None
    assert hints.invalid == 1


async def test_a_row_of_another_key_file_is_not_offered(stored, tmp_path):
    (tmp_path / "hints.key").unlink()
    hints = stored()
    assert await hints.claim_session(KEY) is None
    assert hints.invalid == 1


def test_the_key_file_is_private_and_made_once(tmp_path):
    path = tmp_path / "new" / "hints.key"
    key = load_key(path)
    assert load_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["hints.key"]


@pytest.mark.parametrize("spoil", ["mode", "short", "long", "link", "directory"])
async def test_a_key_file_that_cannot_be_trusted_is_said_once(tmp_path, clock, caplog, spoil):
    path = tmp_path / "hints.key"
    if spoil == "link":
        load_key(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    elif spoil == "directory":
        path.mkdir()
    else:
        path.write_bytes(b"x" * {"short": 31, "long": 33}.get(spoil, 32))
        os.chmod(path, 0o644 if spoil == "mode" else 0o600)
    with pytest.raises(KeyUnusable):
        load_key(path)
    hints = SqlHints(f"sqlite:///{tmp_path}/hints.db", clock=clock, max_size=2**22, patience=10)
    for _ in range(2):
        hints.keep_session(session(), source="relay", reason="test", now=START)
        hints.note(Reachability("mx", "192.0.2.1", 25, "no"), source="s", reason="r", now=START)
        await hints.flush()
    assert await hints.claim_session(KEY) is None
    assert execute(tmp_path, "SELECT failures FROM reachability") == [(2,)]
    assert len([one for one in caplog.records if "TLS sessions are not kept" in one.message]) == 1
    await hints.aclose()


async def test_uses_of_a_session_that_serves_several_times_are_counted(tmp_path, clock):
    hints = SqlHints(f"sqlite:///{tmp_path}/hints.db", clock=clock, max_size=2**22, patience=10)
    hints.keep_session(session(version="TLSv1.2"), source="relay", reason="test", now=START)
    await hints.flush()
    for _ in range(3):
        assert await hints.claim_session(KEY) is not None
    assert execute(tmp_path, "SELECT use_count FROM tls_session") == [(3,)]
    await hints.aclose()
