"""How SQLite finds recipients: by indexes that know nothing of what is over, or by their message."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing

import pytest
from sqlalchemy import Connection

from deliver.queue import changes, choosing, claiming, due, freeze, heads, hold, misdated, recovery, store
from deliver.queue.browse import SORTS, _listing
from deliver.queue.layout import State
from deliver.queue.reading import looking
from deliver.queue.schema import recipient
from deliver.queue.selection import Selection
from deliver.queue.shard import open_shard
from deliver.queue.statement import Statement
from tests.unit.queue.values import NOW, Recorder, accept, claim

DUE = "USING INDEX recipient_due (state=? AND domain=? AND next_attempt<?)"
EARLIEST = "USING COVERING INDEX recipient_due (state=? AND domain=?)"
OF_MESSAGE = "recipient USING INDEX sqlite_autoindex_recipient_1 (message_id=?"
KEYS = [hold.Key("m1", 0), hold.Key("m2", 0)]
VALUES = {
    "domain": "example.org",
    "now": NOW,
    "sender": "s",
    "behind": "r",
    "most": 9,
    "of": "m1",
    "by": 7,
    "domains": '["example.org"]',
    "at": NOW,
}


def plans(conn: Connection, work: Callable[[], object]) -> list[str]:
    """Those of the statements about recipients that are run meanwhile, with their values."""
    driver = conn.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    seen: list[str] = []
    driver.set_trace_callback(seen.append)
    work()
    driver.set_trace_callback(None)
    found = []
    for sql in seen:
        if "recipient" in sql and not sql.startswith(("--", "INSERT INTO recipient")):
            with closing(driver.execute(f"EXPLAIN QUERY PLAN {sql}")) as rows:
                found.append("\n".join(row[3] for row in rows))
    return found


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (choosing._FIRST_SENDER, "USING COVERING INDEX recipient_turn (state=? AND domain=?)"),
        (choosing._SENDER_BEHIND, "USING COVERING INDEX recipient_turn (state=? AND domain=? AND sender>?)"),
        (choosing._OLDEST, DUE),
        (
            choosing._OLDEST_OF_SENDER,
            "INDEX recipient_turn (state=? AND domain=? AND sender=? AND next_attempt<?)",
        ),
        (heads._HEADS, "INDEX recipient_turn (state=? AND domain=? AND sender=? AND next_attempt<?)"),
        (freeze._DUE_OF_DOMAIN, DUE),
        (due._EARLIEST, EARLIEST),
        (due._SERVED, EARLIEST),
        (due._DUE_AGAIN, EARLIEST),
        (claiming._DUE_OF_MESSAGE, OF_MESSAGE),
        (store._RELEASE, OF_MESSAGE),
    ],
)
def test_a_claim_finds_what_is_queued_by_its_index(conn: Connection, statement: Statement, expected: str):
    (plan,) = plans(conn, lambda: statement.all(conn, **VALUES))
    assert expected in plan
    assert "SCAN recipient" not in plan


def test_what_has_a_key_is_found_by_its_message(conn: Connection):
    for name in ("m1", "m2", "m3"):
        accept(conn, name)
    claimed = claim(conn, limit=1, now=NOW)

    def work() -> None:
        hold.hold(conn, KEYS, reason="r", until=None, now=NOW, append=Recorder())
        changes.release(conn, KEYS, NOW, append=Recorder())
        changes.retry(conn, KEYS, NOW)
        changes.bounce(conn, KEYS, NOW, reason="r", append=Recorder())
        hold.set_aside(conn, "m3", recipient.c.domain == "example.org", "w", NOW, Recorder())

    assert len(claimed) == 1
    keyed = [plan for plan in plans(conn, work) if EARLIEST not in plan]
    assert len(keyed) > 8
    assert all(OF_MESSAGE in plan for plan in keyed)


def test_a_start_and_a_clock_set_right_read_only_what_is_open(conn: Connection):
    def work() -> None:
        recovery.recover(conn, NOW, ())
        misdated.find(conn, NOW, NOW + 1, everywhere=True)

    found = plans(conn, work)
    assert len(found) == 3
    assert all("INDEX recipient_due (state=?" in plan for plan in found)


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize(
    "selection", [Selection(), Selection(states=(State.HELD,)), Selection(states=(State.HELD, State.QUEUED))]
)
async def test_no_listing_reads_what_is_over(tmp_path, selection: Selection, sort: str):
    async with open_shard(tmp_path, 0, NOW):
        with looking(tmp_path / "shard-0.db") as reader:
            sql, values = _listing(selection, NOW, sort, 9, reader.row_name)
            plan = "\n".join(row.detail for row in reader.rows(f"EXPLAIN QUERY PLAN {sql}", values))
    if SORTS[sort].of_message:
        assert f"SCAN message USING INDEX message_by_{sort}\nSEARCH {OF_MESSAGE}" in plan
    else:
        assert "INDEX recipient_due (state=?)" in plan
    assert "SCAN recipient" not in plan
