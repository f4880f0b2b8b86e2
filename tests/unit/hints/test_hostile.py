"""A hints file that was mutated, as a whole or row by row: deliveries go on, whatever is in it."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing, suppress

import pytest

from hints import file as hints_file, port
from hints.check import accept
from hints.kinds import KINDS, MIGRATIONS, VERSION
from hints.manage import check, count, forget, prune
from hints.port import AddressView
from hints.records import (
    EhloAnswer,
    EhloPhase,
    Feature,
    LevelSeen,
    Reachability,
    SessionKey,
    StsSeen,
    TlsSession,
    Word,
)
from hints.show import Filter, Unreadable, about, rows
from hints.sql import SqlHints
from hints.tables import KINDS as TABLES

NOW = 1_000_000.0
HOST, A = "mx.example.org", "192.0.2.1"
KEY = SessionKey(HOST, 25, HOST, "dane-ee", "", "TLSv1.2", "mx")
VALUES = (
    None,
    -1,
    0,
    2**62,
    1e300,
    float("inf"),
    "",
    "x",
    "\0",
    "9" * 5000,
    b"",
    b"\xff" * 99,
    "[]",
    "é\u202e",
)
NOTES = (
    EhloAnswer(A, 25, EhloPhase.TLS, "mx", ("SIZE 1", "PIPELINING")),
    Reachability(HOST, A, 25, "refused"),
    LevelSeen("example.org", HOST, "dane-ee"),
    Feature(HOST, A, 25, Word.CHUNKING, False),
    StsSeen("example.org", "1", "enforce", ("mx.example.org", "*.example.net"), 604_800, NOW),
)


def opened(path):
    return SqlHints(f"sqlite:///{path}", clock=lambda: NOW, max_size=2**22, patience=10)


async def fill(hints):
    for note in NOTES:
        hints.note(note, source="relay", reason="test", now=NOW)
    session = TlsSession(KEY, b"secret", (b"leaf",), None, "dane-ee", "TLSv1.3", NOW, NOW + 60)
    hints.keep_session(session, source="relay", reason="test", now=NOW)
    await hints.flush()


async def ask_for_a_policy(hints):
    """What was fetched, none, or that it is not known."""
    with suppress(port.Unreadable):
        policy = await hints.sts_policy("example.org")
        assert policy is None or accept(policy) == policy


async def use(path):
    """Everything that a delivery does with hints; nothing of it may raise."""
    hints = opened(path)
    (view,) = await hints.look(HOST, (A,), 25)
    assert isinstance(view, AddressView)
    await hints.best_level("example.org", HOST)
    await ask_for_a_policy(hints)
    claimed = await hints.claim_session(KEY)
    assert claimed is None or claimed.session == b"secret"
    await fill(hints)
    await hints.aclose()


def tools(path):
    """Everything that people do with it: an answer or Unreadable."""
    for act in (
        lambda: rows(path, Filter(expired=None), NOW),
        lambda: about(path, HOST, NOW),
        lambda: check(path, NOW),
        lambda: count(path, NOW),
        lambda: prune(path, NOW),
        lambda: forget(path, Filter(host=HOST)),
    ):
        with suppress(Unreadable):
            act()


@pytest.fixture
async def filled(tmp_path, monkeypatch):
    monkeypatch.setattr(hints_file, "PRUNE_PAUSE", 0)
    path = tmp_path / "hints.db"
    hints = opened(path)
    await fill(hints)
    await hints.aclose()
    return path


@pytest.mark.parametrize("seed", range(12))
async def test_a_mutated_file_costs_no_delivery(filled, seed):
    rng = random.Random(seed)
    content = bytearray(filled.read_bytes())
    if seed % 3 == 0:
        del content[rng.randrange(len(content)) :]
    else:
        for _ in range(rng.choice((1, 20, 2000))):
            content[rng.randrange(100 if seed % 3 == 1 else len(content))] = rng.randrange(256)
    filled.write_bytes(content)
    tools(filled)
    await use(filled)
    tools(filled)


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
async def test_mutated_rows_cost_no_delivery(filled, kind):
    original = filled.read_bytes()
    columns = (*kind.columns, *(("sealed",) if kind.name == "session" else ()))
    for number, column in enumerate(columns):
        for value in (VALUES * 4)[number * 3 : number * 3 + 3]:
            for suffix in ("-wal", "-shm"):
                filled.with_name(filled.name + suffix).unlink(missing_ok=True)
            filled.write_bytes(original)
            with closing(sqlite3.connect(filled)) as conn, suppress(sqlite3.IntegrityError):
                conn.execute(f"UPDATE {kind.table} SET {column} = ?", (value,))
                conn.commit()
            assert len(rows(filled, Filter(expired=None), NOW)) == 6
            hints = opened(filled)
            await hints.look(HOST, (A,), 25)
            await hints.best_level("example.org", HOST)
            await ask_for_a_policy(hints)
            claimed = await hints.claim_session(KEY)
            assert claimed is None or claimed.session == b"secret"
            await hints.aclose()


async def test_text_that_is_no_utf_8_spoils_its_own_row_only(filled):
    with closing(sqlite3.connect(filled)) as conn:
        conn.execute("UPDATE reachability SET last_error = CAST(x'ff' AS TEXT)")
        conn.commit()
    hints = opened(filled)
    (view,) = await hints.look(HOST, (A,), 25)
    assert (view.failures, len(view.ehlo), len(view.features)) == (0, 1, 1)
    assert [row.valid for row in rows(filled, Filter("reachability"), NOW)] == [False]
    await hints.aclose()


EARLIER = {
    1: "DROP TABLE feature; DROP TABLE tls_session; DROP INDEX reachability_address;"
    "DROP INDEX level_seen_host; ALTER TABLE level_seen DROP COLUMN best;"
    "ALTER TABLE level_seen DROP COLUMN best_at",
    2: "DROP TABLE sts_policy",
}  # what makes that version of the next


def test_every_earlier_version_is_brought_up_to_date():
    assert set(EARLIER) == set(MIGRATIONS) == set(range(1, VERSION))


@pytest.mark.parametrize("version", EARLIER)
async def test_an_earlier_version_becomes_this_one_with_its_rows(filled, version):
    with closing(sqlite3.connect(filled)) as conn:
        for kind in KINDS:
            conn.execute(f"DROP VIEW hint_{kind}")
        for step in range(VERSION - 1, version - 1, -1):
            conn.executescript(EARLIER[step])
        conn.execute(f"PRAGMA user_version={version}")
    with pytest.raises(Unreadable, match=f"brings it to version {VERSION}"):
        rows(filled, Filter(), NOW)
    hints = opened(filled)
    assert (await hints.look(HOST, (A,), 25))[0].failures == 1
    assert await hints.best_level("example.org", HOST) == "dane-ee"
    assert await hints.sts_policy("example.org") is None
    await fill(hints)
    assert await hints.sts_policy("example.org") == NOTES[-1]
    await hints.aclose()
    with closing(sqlite3.connect(filled)) as conn:
        assert conn.execute("PRAGMA user_version").fetchone() == (VERSION,)
        assert conn.execute("SELECT level, best FROM hint_level").fetchall() == [("dane-ee", "dane-ee")]
        assert conn.execute("SELECT domain, mode FROM hint_sts").fetchall() == [("example.org", "enforce")]
    assert [one.name for one in filled.parent.iterdir() if "version" in one.name] == []


def test_the_names_for_people_are_those_of_the_tables():
    assert list(KINDS) == list(TABLES)
    for name, kind in KINDS.items():
        table = TABLES[name]
        assert kind.table == table.name
        assert kind.key == tuple(column.name for column in table.primary_key)
        assert {*kind.columns} == {column.name for column in table.c} - {"sealed"}
