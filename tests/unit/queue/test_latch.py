"""A storage that fails makes the queue stand still, and says so once."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import trio
from sqlalchemy import Connection, select, text

from deliver.errors import StorageError, StorageFault
from deliver.queue.intake import QueueIntake
from deliver.queue.latch import Latch, LatchedSql, probe, unlatch
from deliver.queue.schema import destination
from deliver.queue.shard import Shard, open_shard
from tests.unit.queue.test_runner import House
from tests.unit.queue.values import NOW, Recorder, accept, states

FULL = StorageFault("writing", "the disk is full", "free disk space")
BROKEN = StorageFault("writing", "disk I/O error", "check the disk", final=True)


async def limit_pages(shard: Shard, more: int) -> None:
    """The database may grow by that many pages; SQLite itself says that it is full then."""

    def limit(conn: Connection) -> None:
        pages = conn.exec_driver_sql("PRAGMA page_count").scalar_one()
        conn.exec_driver_sql(f"PRAGMA max_page_count={pages + more}")

    assert isinstance(shard.sql, LatchedSql)
    await shard.sql.inner.write(limit)


def fill(conn: Connection) -> None:
    conn.execute(text("CREATE TABLE IF NOT EXISTS ballast (data BLOB)"))
    conn.execute(text("INSERT INTO ballast VALUES (zeroblob(1000000))"))


async def test_a_full_database_stands_still_until_it_can_be_written(tmp_path: Path, caplog) -> None:
    async with open_shard(tmp_path, 0, NOW) as shard:
        await shard.sql.write(lambda conn: accept(conn, "m1"))
        await limit_pages(shard, 2)
        with pytest.raises(StorageFault, match="full"):
            await shard.sql.write(fill)
        with pytest.raises(StorageError, match="stands still"):
            await shard.sql.write(lambda conn: accept(conn, "m2"))
        assert await shard.sql.read(states) == {"b@example.org": "queued"}
        intake = QueueIntake(shard, Recorder(), lambda: None, inline_limit=100, max_size=0, min_free=0)
        assert not await intake.check_space(1)
        mended = trio.Event()
        await limit_pages(shard, 10_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: unlatch(shard, mended=mended.set, every=0.01))
            with trio.fail_after(10):
                await mended.wait()
            nursery.cancel_scope.cancel()
        assert await intake.check_space(1)
        await shard.sql.write(lambda conn: accept(conn, "m2"))
    halts = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert len(halts) == 1
    assert "stands still" in halts[0].getMessage()
    assert "goes on" in caplog.text


async def test_a_probe_leaves_nothing_behind(tmp_path: Path) -> None:
    async with open_shard(tmp_path, 0, NOW) as shard:
        await shard.sql.write(probe)
        found = await shard.sql.read(lambda conn: conn.execute(select(destination)).all())
        assert found == []


async def test_an_io_error_needs_a_restart(tmp_path: Path) -> None:
    mended: list[bool] = []
    async with open_shard(tmp_path, 0, NOW) as shard:
        shard.latch.note(BROKEN)
        with trio.move_on_after(0.1):
            await unlatch(shard, mended=lambda: mended.append(True), every=0.01)
        shard.latch.open()
        assert shard.latch.fault is BROKEN
        with pytest.raises(StorageError, match="stands still"):
            await shard.sql.write(lambda conn: None)
    assert mended == []
    async with open_shard(tmp_path, 0, NOW) as shard:
        await shard.sql.write(lambda conn: accept(conn, "m1"))


def test_a_fault_that_gets_worse_stays_worse() -> None:
    latch = Latch()
    latch.note(StorageError("writing", "locked"))
    assert latch.fault is None, "what passes by itself does not stop the queue"
    latch.note(FULL)
    latch.note(BROKEN)
    latch.note(FULL)
    assert latch.fault is BROKEN


async def test_the_runner_claims_nothing_meanwhile_and_goes_on_afterwards(autojump_clock, tmp_path) -> None:
    house = House(tmp_path)
    latch = house.runner._shard.latch
    await house.accept("m1")
    latch.note(FULL)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.runner.run)
        await trio.sleep(30)
        assert house.calls == []
        latch.open()
        await trio.sleep(5)
        assert len(house.calls) == 1
        nursery.cancel_scope.cancel()
    house.journal.close()
