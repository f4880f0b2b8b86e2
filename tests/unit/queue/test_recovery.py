"""Start-up after a crash, expired leases, and the ownership of a shard."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy import select

from deliver.errors import StorageError
from deliver.message import MessageId
from deliver.queue import due, recovery, schema, store
from deliver.queue.content import SpoolContent
from deliver.queue.journal import Journal, Proof
from deliver.queue.schema import attempt
from deliver.queue.shard import free_octets, open_shard
from deliver.smtp.reply import Reply
from deliver.sqlrun import Database
from tests.unit.queue.values import NOW, Recorder, accept, claim, envelope, rows, states

OK = Reply(250, ("2.0.0 queued",))


def proof(claimed: store.Claim, *ordinals: int) -> Proof:
    return Proof(claimed.attempt_id, claimed.envelope.id, ordinals, OK)


def test_an_interrupted_attempt_is_in_doubt_and_due_at_its_pessimistic_next_attempt(conn):
    accept(conn, "m1")
    claim(conn)
    found = recovery.recover(conn, NOW + 10, (), Recorder())
    assert (found.interrupted, found.delivered) == (1, 0)
    (row,) = rows(conn)
    assert (row.state, row.in_doubt, row.attempts, row.next_attempt) == ("queued", 1, 1, NOW + 300)
    assert '"in_doubt":true' in row.last_outcome
    assert due.next_due(conn) == NOW + 300
    assert conn.execute(select(attempt.c.result)).scalar_one() == "interrupted"
    assert claim(conn, now=NOW + 300)[0].number == 2


def test_what_the_journal_proves_is_delivered_with_its_event(conn):
    accept(conn, "m1", "b@example.org", "c@example.org")
    (claimed,) = claim(conn)
    recorder = Recorder()
    found = recovery.recover(conn, NOW + 10, [proof(claimed, 0)], recorder)
    assert (found.interrupted, found.delivered) == (1, 1)
    assert states(conn) == {"b@example.org": "delivered", "c@example.org": "queued"}
    assert recorder.names() == ["msg:delivery"]
    assert recorder.events[0][1].problems() == ()
    assert recorder.events[0][1].fields["event_data"] == "250 2.0.0 queued"


def test_a_message_that_the_journal_finishes_is_complete_and_its_file_removable(conn, tmp_path):
    store.accept(conn, envelope("m1"), SpoolContent(tmp_path, "m1.eml", 9), (), NOW)
    (claimed,) = claim(conn)
    recorder = Recorder()
    found = recovery.recover(conn, NOW + 10, [proof(claimed, 0)], recorder)
    assert found.removable == ("m1.eml",)
    assert recorder.names() == ["msg:delivery", "msg:complete"]


def test_a_proof_counts_although_the_claim_was_lost_with_the_power(conn):
    """Claims are committed without fsync: after a power loss the recipient may be queued again."""
    accept(conn, "m1")
    lost = Proof(77, MessageId("m1"), (0,), OK)
    recovery.recover(conn, NOW, [lost], Recorder())
    assert states(conn) == {"b@example.org": "delivered"}
    assert due.next_due(conn) is None


def test_replaying_twice_changes_nothing(conn):
    accept(conn, "m1")
    (claimed,) = claim(conn)
    recovery.recover(conn, NOW, [proof(claimed, 0)], Recorder())
    recorder = Recorder()
    again = recovery.recover(conn, NOW, [proof(claimed, 0)], recorder)
    assert (again.interrupted, again.delivered, recorder.names()) == (0, 0, [])


def test_a_proof_of_an_unknown_message_is_ignored(conn):
    recorder = Recorder()
    recovery.recover(conn, NOW, [Proof(1, MessageId("none"), (0,), OK)], recorder)
    assert recorder.names() == []


def test_only_expired_leases_are_reclaimed(conn):
    accept(conn, "m1")
    accept(conn, "m2")
    (early,) = claim(conn, limit=1)
    (late,) = claim(conn, now=NOW + 500, limit=1)
    assert not recovery.any_expired(conn, early.lease_until)
    assert recovery.any_expired(conn, early.lease_until + 1)
    found = recovery.reclaim(conn, early.lease_until + 1, (), Recorder())
    assert found.interrupted == 1
    assert {row.message_id: row.state for row in rows(conn)} == {
        early.envelope.id: "queued",
        late.envelope.id: "leased",
    }


def test_reclaiming_uses_the_proofs_of_expired_attempts_only(conn):
    accept(conn, "m1")
    accept(conn, "m2")
    (early,) = claim(conn, limit=1)
    (late,) = claim(conn, now=NOW + 500, limit=1)
    recovery.reclaim(conn, early.lease_until + 1, [proof(early, 0), proof(late, 0)], Recorder())
    assert {row.message_id: row.state for row in rows(conn)} == {
        early.envelope.id: "delivered",
        late.envelope.id: "leased",
    }


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
