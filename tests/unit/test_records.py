"""What the doors put down: deliveries that end side by side share a COMMIT."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing
from sqlalchemy import select

from deliver import groupcommit
from deliver.groupcommit import SqlRunner
from deliver.net.clock import WallClock
from deliver.records import Records
from deliver.settings import Settings
from events import outbox
from events.catalogue import Event
from tests.unit.queue.values import envelope


async def test_deliveries_that_end_side_by_side_share_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groupcommit, "LEAST", 60.0)
    monkeypatch.setattr("deliver.records.COMPANY", 60.0)
    records = await Records.open(Settings(state_dir=str(tmp_path)), outbox.append, WallClock())
    assert isinstance(records.sql, SqlRunner)
    before, told = records.sql.commits, []
    records.committed = lambda: told.append(1)

    async def settle(number: int, *, in_company: bool) -> None:
        mail = envelope(f"m{number}", "a@one.test")
        event = Event("msg:delivery", 1.0, {"message_id": mail.id})
        await records.settle(None, number, mail, (), (event,), in_company=in_company)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(lambda number=number: settle(number, in_company=True))
        await trio.testing.wait_all_tasks_blocked()
        assert not told, "nobody is answered before the commit"
        await settle(3, in_company=False)
    assert (records.sql.commits - before, len(told)) == (1, 4)
    found = await records.sql.read(
        lambda conn: conn.execute(select(outbox.event_outbox.c.message_id)).scalars().all()
    )
    assert sorted(found) == ["m0", "m1", "m2", "m3"]
    await records.aclose()
