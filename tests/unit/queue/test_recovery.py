"""Start-up after a crash, expired leases, and the ownership of a shard."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy

from deliver.errors import StorageError
from deliver.message import MessageId
from deliver.queue import schema, store
from deliver.queue.content import SpoolContent
from deliver.queue.journal import Journal
from deliver.queue.shard import free_octets, open_shard
from deliver.sqlrun import Database
from tests.unit.queue.values import CONTENT, NOW, accept, claim, envelope, proof, states


def test_a_newer_schema_is_refused_and_left_alone(tmp_path):
    database = Database(tmp_path / "a.db")
    engine = database._writer
    with engine.begin() as conn:
        schema.migrate(conn)
        conn.exec_driver_sql("PRAGMA user_version=99")
    with (
        engine.begin() as conn,
        pytest.raises(StorageError, match=r"newer version.*schema 99.*start the newer"),
    ):
        schema.migrate(conn)
    with engine.connect() as conn:
        assert conn.exec_driver_sql("PRAGMA user_version").scalar_one() == 99
        assert sqlalchemy.inspect(conn).has_table("message")
    database.close()


def test_migrating_again_is_no_change(conn):
    accept(conn, "m1")
    schema.migrate(conn)
    assert states(conn) == {"b@example.org": "queued"}


async def test_a_shard_has_one_owner(tmp_path: Path):
    async with open_shard(tmp_path / "queue", 0, NOW):
        with pytest.raises(StorageError, match="another process owns it"):
            async with open_shard(tmp_path / "queue", 0, NOW):
                pass
        async with open_shard(tmp_path / "queue", 1, NOW):
            pass
    async with open_shard(tmp_path / "queue", 0, NOW):
        pass


async def test_opening_a_shard_replays_the_journal_and_sweeps_the_spool(tmp_path: Path, caplog):
    directory = tmp_path / "queue"
    async with open_shard(directory, 0, NOW) as shard:
        await shard.sql.write(lambda conn: accept(conn, "m1", "b@example.org", "c@example.org"))
        gone = envelope("m2", "z@example.net")
        await shard.sql.write(
            lambda conn: store.accept(conn, gone, SpoolContent(shard.spool, "m2.eml", 9), (), NOW)
        )
        claims = await shard.sql.write(claim)
        (claimed,) = (each for each in claims if each.envelope.id == "m1")
    Journal(directory / "shard-0.journal").note(proof(claimed, 0))
    shard.spool.mkdir()
    (shard.spool / "orphan.part").touch()
    with caplog.at_level(logging.INFO):
        async with open_shard(directory, 0, NOW + 10) as shard:
            found = await shard.sql.read(states)
            assert shard.journal.proofs() == ()
    assert found == {"b@example.org": "delivered", "c@example.org": "queued", "z@example.net": "queued"}
    assert "2 attempts were interrupted; the journal proves 1 deliveries" in caplog.text
    assert "m2.eml is gone; its message is held" in caplog.text
    assert not (shard.spool / "orphan.part").exists()
    assert (directory / "shard-0.journal").stat().st_size == 0


async def test_the_journal_stays_when_its_replay_cannot_be_committed(tmp_path: Path):
    directory = tmp_path / "queue"
    async with open_shard(directory, 0, NOW) as shard:
        await shard.sql.write(lambda conn: accept(conn, "m1"))
        (claimed,) = await shard.sql.write(claim)
    Journal(directory / "shard-0.journal").note(proof(claimed, 0))

    def refuse(conn, message_id, events):
        raise StorageError("appending", "the disk is full")

    with pytest.raises(StorageError, match="the disk is full"):
        async with open_shard(directory, 0, NOW, append=refuse):
            pass
    async with open_shard(directory, 0, NOW) as shard:
        assert await shard.sql.read(states) == {"b@example.org": "delivered"}


async def test_an_unusable_directory_is_a_storage_error(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="creating"):
        async with open_shard(tmp_path / "file" / "queue", 0, NOW):
            pass


def test_free_space_is_known_or_said(tmp_path: Path):
    assert free_octets(tmp_path) > 0
    with pytest.raises(StorageError, match="looking at"):
        free_octets(tmp_path / "none")


async def test_a_replaced_database_does_not_cost_the_mail_in_the_spool(tmp_path: Path, caplog):
    directory = tmp_path / "queue"
    async with open_shard(directory, 0, NOW) as shard:
        for name in ("big", "over"):
            taken = shard.writer(MessageId(name), inline_limit=10, max_size=10**6)
            await taken.write(CONTENT)
            stored = await taken.finish()
            made = envelope(name)
            await shard.sql.write(partial(store.accept, envelope=made, content=stored, events=(), now=NOW))
    spool = directory / "spool-0"
    async with open_shard(directory, 0, NOW) as shard:  # the end of one was committed, its file not removed
        await shard.sql.write(
            lambda conn: (
                conn.exec_driver_sql(
                    "UPDATE message SET completed_at = 1, spool_name = NULL WHERE id = 'over'"
                )
                and None
            )
        )
    async with open_shard(directory, 0, NOW):
        assert [path.name for path in spool.iterdir()] == ["big.eml"]
    for path in directory.glob("shard-0.db*"):
        path.unlink()
    async with open_shard(directory, 0, NOW):
        pass
    assert (spool / "lost" / "big.eml").read_bytes() == CONTENT
    assert "unknown to the queue's database" in caplog.text
