"""Content in chunks, one name per node, clocks and shippers: what nodes share beside the store's transactions."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
import sqlalchemy
import trio
from sqlalchemy import delete, func, select, update

from deliver.errors import StorageError
from deliver.message import MessageId
from deliver.pgrun import PostgresDatabase, PostgresRunner
from deliver.queue import chunks, cluster, schema, store
from deliver.queue.chunks import CHUNK, ChunkedContent, Chunks
from deliver.queue.cluster import Membership, clock_skew, open_cluster
from deliver.queue.content import ContentTooLarge, InlineContent
from deliver.queue.journal import Journal
from deliver.queue.schema import content_chunk, message, queue_version, recipient
from events import outbox, undelivered
from events.actions import parse_action
from events.catalogue import Event
from events.shipper import Shipper
from events.sql import Shipment, Unavailable
from tests.interop.peers.database import Database
from tests.interop.peers.factory import Factory
from tests.interop.peers.postgres import PostgresConfig, empty
from tests.interop.test_shared_queue import begin, lease
from tests.interop.waiting import until
from tests.unit.queue.values import NOW, envelope, proof

LIMIT = 20.0

pytestmark = pytest.mark.peers
ID = MessageId("m1")


@pytest.fixture
def database(postgres: Factory[PostgresConfig, Database]) -> Iterator[PostgresDatabase]:
    url = sqlalchemy.make_url(postgres(name="pgrun").url)
    empty(url)
    made = PostgresDatabase(url, connections=4)
    made.run_write(schema.migrate)
    yield made
    made.close()


@pytest.fixture
async def sql(database: PostgresDatabase) -> PostgresRunner:
    return PostgresRunner(database, connections=4)


def wall() -> float:
    return datetime.now(UTC).timestamp()


def sized(size: int) -> Any:
    made = envelope("m1")
    return type(made)(made.id, made.sender, made.recipients, size, False, NOW)


def count(database: PostgresDatabase) -> int:
    return database.run_read(
        lambda conn: conn.execute(select(func.count()).select_from(content_chunk)).scalar_one()
    )


@pytest.mark.parametrize("size", [1001, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
async def test_content_comes_out_as_it_went_in(
    sql: PostgresRunner, database: PostgresDatabase, size: int
) -> None:
    data, rng = Random(size).randbytes(size), Random(1)
    writer = Chunks(sql, lambda: NOW).writer(ID, inline_limit=1000, max_size=size)
    rest = memoryview(data)
    while rest:
        length = rng.randint(1, 100_000)
        await writer.write(bytes(rest[:length]))
        assert len(writer._buffer) < CHUNK
        rest = rest[length:]
    content = await writer.finish()
    assert isinstance(content, ChunkedContent)
    await sql.write(partial(store.accept, envelope=sized(size), content=content, events=(), now=NOW))
    assert await content.read(0, size) == data
    for _ in range(10):
        offset, length = rng.randint(0, size + 10), rng.randint(0, size)
        assert await content.read(offset, length) == data[offset : offset + length]


async def test_a_small_message_stays_in_its_row(sql: PostgresRunner, database: PostgresDatabase) -> None:
    writer = Chunks(sql, lambda: NOW).writer(ID, inline_limit=1000, max_size=2000)
    await writer.write(b"x" * 1000)
    assert await writer.finish() == InlineContent(b"x" * 1000)
    assert count(database) == 0


async def test_what_is_too_large_or_abandoned_leaves_nothing(
    sql: PostgresRunner, database: PostgresDatabase
) -> None:
    place = Chunks(sql, lambda: NOW)
    for end in ("too large", "abandoned"):
        writer = place.writer(ID, inline_limit=10, max_size=2 * CHUNK)
        await writer.write(b"x" * 2 * CHUNK)
        assert count(database) == 2
        if end == "abandoned":
            await writer.abandon()
        else:
            with pytest.raises(ContentTooLarge):
                await writer.write(b"x")
        assert count(database) == 0


async def test_a_message_whose_chunks_are_gone_is_not_accepted(
    sql: PostgresRunner, database: PostgresDatabase
) -> None:
    writer = Chunks(sql, lambda: NOW).writer(ID, inline_limit=10, max_size=9 * CHUNK)
    await writer.write(b"x" * (2 * CHUNK + 1))
    content = await writer.finish()
    database.run_write(
        lambda conn: conn.execute(delete(content_chunk).where(content_chunk.c.number == 1)) and None
    )
    with pytest.raises(StorageError, match="chunks of it are missing"):
        await sql.write(
            partial(store.accept, envelope=sized(content.size), content=content, events=(), now=NOW)
        )
    with pytest.raises(StorageError, match="chunks of it are missing"):
        await content.read(0, content.size)


async def test_the_sweep_takes_old_chunks_without_a_message_and_no_others(
    sql: PostgresRunner, database: PostgresDatabase
) -> None:
    for name, at in (("old", NOW - 100), ("new", NOW), ("m1", NOW - 100)):
        writer = Chunks(sql, lambda at=at: at).writer(MessageId(name), inline_limit=0, max_size=CHUNK)  # type: ignore[misc]
        await writer.write(b"x")
        content = await writer.finish()
    await sql.write(partial(store.accept, envelope=sized(1), content=content, events=(), now=NOW))
    assert database.run_write(lambda conn: chunks.sweep(conn, NOW - 50)) == 1
    left = database.run_read(lambda conn: set(conn.execute(select(content_chunk.c.message_id)).scalars()))
    assert left == {"new", "m1"}


async def test_a_message_that_is_just_being_accepted_is_not_swept(
    sql: PostgresRunner, database: PostgresDatabase
) -> None:
    writer = Chunks(sql, lambda: NOW - 100).writer(ID, inline_limit=0, max_size=CHUNK)
    await writer.write(b"x")
    content = await writer.finish()
    accept = partial(store.accept, envelope=sized(1), content=content, events=(), now=NOW)
    with ThreadPoolExecutor(2) as threads:
        accepting, commit = begin(database, threads, accept)
        assert database.run_write(lambda conn: chunks.sweep(conn, NOW)) == 0
        database.run_write(partial(chunks.drop_unaccepted, message_id=ID))
        commit.set()
        accepting.result(LIMIT)
    assert await content.read(0, 1) == b"x"


def membership(database: PostgresDatabase, directory: Path, **more: Any) -> Membership:
    fields = {
        "url": database._engine.url,
        "node": "a",
        "directory": directory,
        "now": wall,
        "connections": 2,
    }
    return Membership(**{**fields, **more})


async def test_one_process_per_name_one_name_per_process(
    database: PostgresDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    async with open_cluster(membership(database, tmp_path / "a")):
        with pytest.raises(StorageError, match="being node a: another process is that node"):
            async with open_cluster(membership(database, tmp_path / "b")):
                pass
        with pytest.raises(StorageError, match="another process owns it"):
            async with open_cluster(membership(database, tmp_path / "a", node="b")):
                pass
        async with open_cluster(membership(database, tmp_path / "a", node="a/1", number=1)) as shard:
            assert shard.node == "a/1"
    async with open_cluster(membership(database, tmp_path / "b")):
        pass


async def test_a_node_whose_name_another_has_taken_stands_still(
    database: PostgresDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "LOOK", 0.05)
    monkeypatch.setattr(cluster, "LINGER", 0.2)
    async with open_cluster(membership(database, tmp_path)) as shard:
        assert shard.keep is not None
        async with trio.open_nursery() as nursery:
            with waiting_for_the_name(database, "a") as taken:
                nursery.start_soon(shard.keep)
                await trio.to_thread.run_sync(end_session_that_holds_the_name, database)
                await trio.to_thread.run_sync(taken.wait, LIMIT)
                with trio.fail_after(LIMIT):
                    while shard.latch.fault is None:  # noqa: ASYNC110 (nothing tells of it)
                        await trio.sleep(0.02)
            nursery.cancel_scope.cancel()
        assert shard.latch.fault.final


@contextmanager
def waiting_for_the_name(database: PostgresDatabase, node: str) -> Iterator[threading.Event]:
    """Another session is the first in the queue for the node's lock; the event tells that it has it."""
    taken = threading.Event()
    lock = f"SELECT pg_advisory_lock({cluster.NODES}, {cluster._number(node)})"
    with database._engine.connect() as conn:

        def wait() -> None:
            conn.execute(sqlalchemy.text(lock))
            taken.set()

        thread = threading.Thread(target=wait)
        thread.start()
        try:
            until(lambda: lock_sessions(database, granted=False))
            yield taken
        finally:
            thread.join(LIMIT)
            conn.invalidate()


def lock_sessions(database: PostgresDatabase, *, granted: bool) -> list[int]:
    query = sqlalchemy.text("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted = :granted")
    return database.run_read(lambda conn: list(conn.execute(query, {"granted": granted}).scalars()))


def end_session_that_holds_the_name(database: PostgresDatabase) -> None:
    (holder,) = lock_sessions(database, granted=True)
    end = sqlalchemy.text("SELECT pg_terminate_backend(:holder, 5000)")
    assert database.run_read(lambda conn: conn.execute(end, {"holder": holder}).scalar_one())


async def test_a_node_with_a_wrong_clock_is_refused(database: PostgresDatabase, tmp_path: Path) -> None:
    for off in (-400.0, 400.0):
        wrong = membership(database, tmp_path, now=lambda off=off: wall() + off)
        with pytest.raises(StorageError, match=r"clock differs .* by (39|40)\d s"):
            async with open_cluster(wrong):
                pass
    async with open_cluster(membership(database, tmp_path)) as shard:
        assert abs(await clock_skew(shard, wall)) < 1


async def test_a_node_that_is_back_finds_its_journal(database: PostgresDatabase, tmp_path: Path) -> None:
    database.run_write(
        lambda conn: store.accept(conn, envelope("m1"), InlineContent(b"x"), [Event("msg:accept", NOW)], NOW)
    )
    (claimed,) = database.run_write(lambda conn: lease(conn, node="a"))
    journal = Journal(tmp_path / "cluster-0.journal")
    journal.note(proof(claimed, 0))
    journal.close()
    async with open_cluster(membership(database, tmp_path)):
        pass
    assert database.run_read(lambda conn: conn.execute(select(recipient.c.state)).scalar_one()) == "delivered"
    assert database.run_read(lambda conn: conn.execute(select(message.c.completed_at)).scalar_one())


async def test_tables_are_not_changed_under_nodes_that_know_only_the_old_ones(
    database: PostgresDatabase, tmp_path: Path
) -> None:
    """Such a node would send on without it what it does not know, such as REQUIRETLS."""

    def age(conn: sqlalchemy.Connection) -> None:
        conn.execute(sqlalchemy.text("ALTER TABLE message DROP COLUMN requires_tls"))
        conn.execute(update(queue_version).values(version=9))

    async with open_cluster(membership(database, tmp_path / "old")):
        database.run_write(age)
        with pytest.raises(StorageError, match=r"schema 9.*stop all nodes"):
            async with open_cluster(membership(database, tmp_path / "new", node="b")):
                pass
        assert database.run_read(schema.version_of) == 9
    async with open_cluster(membership(database, tmp_path / "new", node="b")):
        assert database.run_read(schema.version_of) == schema.VERSION


async def test_a_node_stands_still_when_a_newer_version_has_changed_the_tables(
    database: PostgresDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "LOOK", 0.05)
    async with open_cluster(membership(database, tmp_path)) as shard:
        assert shard.keep is not None
        newer = update(queue_version).values(version=schema.VERSION + 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shard.keep)
            await trio.to_thread.run_sync(database.run_write, lambda conn: conn.execute(newer) and None)
            with trio.fail_after(LIMIT):
                while shard.latch.fault is None:  # noqa: ASYNC110 (nothing tells of it)
                    await trio.sleep(0.02)
            nursery.cancel_scope.cancel()
        assert shard.latch.fault.final
        assert "newer version" in str(shard.latch.fault)
        database.run_write(
            lambda conn: conn.execute(update(queue_version).values(version=schema.VERSION)) and None
        )


def test_a_newer_schema_is_refused_and_left_alone(database: PostgresDatabase) -> None:
    database.run_write(
        lambda conn: conn.execute(update(queue_version).values(version=schema.VERSION + 1)) and None
    )
    with pytest.raises(StorageError, match="newer version"):
        database.run_write(schema.migrate)
    assert database.run_read(schema.version_of) == schema.VERSION + 1


def test_nodes_that_start_together_make_the_tables_once(database: PostgresDatabase) -> None:
    with database._engine.begin() as conn:
        for metadata in (schema.metadata, schema.shared, outbox.metadata):
            metadata.drop_all(conn)
    with ThreadPoolExecutor(4) as threads:
        for each in [threads.submit(database.run_write, schema.migrate) for _ in range(4)]:
            each.result(LIMIT)
    assert database.run_read(schema.version_of) == schema.VERSION


class Recorded:
    """In the place of the actions' databases: who shipped what, each after all have a batch."""

    def __init__(self, together: threading.Barrier | None = None) -> None:
        self.shipped: list[str] = []
        self._together = together

    def ship(self, action: object, batch: Any) -> Shipment:
        if self._together is not None:
            self._together.wait(LIMIT)
        self.shipped += [one.id for one in batch]
        return Shipment(tuple(batch))

    def close(self) -> None:
        pass


def events(conn: sqlalchemy.Connection, name: str, many: int) -> None:
    found = [Event("msg:accept", NOW + number, {"message_id": name}) for number in range(many)]
    outbox.append(conn, name, found, wanted=lambda event: ("a",))


def shipper(sql: PostgresRunner, databases: object) -> Shipper:
    action = parse_action("a", ["*"], "sqlite://", "SELECT 1")
    return Shipper(sql, [action], clock=lambda: NOW, databases=databases, shared=True)  # type: ignore[arg-type]


async def test_two_shippers_never_ship_the_same_event(
    sql: PostgresRunner, database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("events.shipper.FIRST_BATCH", 3)
    for number in range(2):
        database.run_write(lambda conn, number=number: events(conn, f"m{number}", 3))
    together = threading.Barrier(2)  # both have claimed before either acknowledges
    first, second = Recorded(together), Recorded(together)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shipper(sql, first).ship_once)
        nursery.start_soon(shipper(sql, second).ship_once)
    assert len(first.shipped) == len(second.shipped) == 3
    assert not set(first.shipped) & set(second.shipped)
    assert database.run_read(undelivered.waiting) == ()


async def test_later_events_of_a_message_wait_for_the_shipper_that_has_the_earlier(
    database: PostgresDatabase,
) -> None:
    database.run_write(lambda conn: events(conn, "m1", 2))
    claim = partial(outbox.claim, action="a", limit=1, now=NOW, lease=60.0)
    (first,) = database.run_write(claim)
    assert database.run_write(claim) == ()
    database.run_write(lambda conn: outbox.acknowledge(conn, "a", [first.seq]))
    assert [one.seq for one in database.run_write(claim)] == [first.seq + 1]


async def test_what_a_shipper_that_died_had_is_shipped_when_its_lease_is_over(
    database: PostgresDatabase,
) -> None:
    database.run_write(lambda conn: events(conn, "m1", 1))
    claim = partial(outbox.claim, action="a", limit=1, lease=60.0)
    assert len(database.run_write(partial(claim, now=NOW))) == 1
    assert database.run_write(partial(claim, now=NOW + 59)) == ()
    assert len(database.run_write(partial(claim, now=NOW + 61))) == 1


async def test_what_cannot_be_shipped_is_left_to_the_others_at_once(
    sql: PostgresRunner, database: PostgresDatabase
) -> None:
    class Down(Recorded):
        def ship(self, action: object, batch: Any) -> Shipment:
            raise Unavailable("down")

    database.run_write(lambda conn: events(conn, "m1", 2))
    assert (await shipper(sql, Down()).ship_once()).unavailable == ("a",)
    other = Recorded()
    assert (await shipper(sql, other).ship_once()).told == 2
