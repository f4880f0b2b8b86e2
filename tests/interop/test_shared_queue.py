"""The store's transactions side by side on one PostgreSQL: races of nodes, one by one and all at once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from random import Random
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Connection, select, text

from deliver.message import MessageId
from deliver.pgrun import PostgresDatabase
from deliver.queue import browse, changes, choosing, due, freeze, recovery, reports, schema, store
from deliver.queue.changes import Changed
from deliver.queue.claiming import Claim
from deliver.queue.content import InlineContent
from deliver.queue.hold import Key
from deliver.queue.reading import Connected, looking, reading
from deliver.queue.rule import listed
from deliver.queue.schedule import Settlement
from deliver.queue.schema import State, destination, message, recipient
from deliver.queue.selection import Selection
from deliver.queue.statement import Statement
from deliver.queue.summary import summary
from events import outbox
from events.catalogue import Event
from tests.interop.peers.database import Database
from tests.interop.peers.factory import Factory
from tests.interop.peers.postgres import PostgresConfig, empty
from tests.unit.queue.values import DEFERRED, DELIVERED, FAILED, NOW, RETRY, Recorder, Room, envelope, proof

LIMIT = 20.0  # seconds

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def server(postgres: Factory[PostgresConfig, Database]) -> Database:
    return postgres(name="pgrun")


@pytest.fixture
def database(server: Database) -> Iterator[PostgresDatabase]:
    empty(server.url)
    made = PostgresDatabase(sqlalchemy.make_url(server.url), connections=8)
    made.run_write(schema.migrate)
    yield made
    made.close()


def test_events_are_acknowledged_beyond_31_bits(database: PostgresDatabase) -> None:
    last = (1 << 31) - 2

    def acknowledged(conn: Connection) -> int:
        conn.execute(text(f"ALTER SEQUENCE event_outbox_seq_seq RESTART WITH {last}"))
        outbox.append(conn, "m1", [Event("msg:accept", NOW, {}) for _ in range(4)])
        waiting = outbox.pending(conn, outbox.DEFAULT_ACTION, 10, now=NOW)
        assert [each.seq for each in waiting] == list(range(last, last + 4))
        outbox.acknowledge(conn, outbox.DEFAULT_ACTION, [each.seq for each in waiting])
        return len(outbox.pending(conn, outbox.DEFAULT_ACTION, 10, now=NOW))

    assert database.run_write(acknowledged) == 0


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def put(conn: Connection, name: str, *to: str) -> None:
    store.accept(conn, envelope(name, *to), InlineContent(b"x"), [Event("msg:accept", NOW)], NOW)


def lease(conn: Connection, now: float = NOW, limit: int = 10, node: str = "a") -> tuple[Claim, ...]:
    from deliver.queue import claiming

    return claiming.claim(
        conn, now=now, limit=limit, lease=100.0, retry=RETRY, admission=Room(100), node=node
    )


def finish(conn: Connection, claimed: Claim, outcome: Any = DELIVERED, append: Any = outbox.append) -> Any:
    again = NOW + 60 if outcome is DEFERRED else None
    settlements = tuple(Settlement(each, outcome, again) for each in claimed.recipients)
    return store.settle(conn, claimed, settlements, events=(), now=NOW, append=append)


def begin(
    database: PostgresDatabase, threads: ThreadPoolExecutor, fn: Callable[[Connection], Any]
) -> tuple[Future[Any], threading.Event]:
    """Run `fn` in a transaction of its own that stays open until the event is set."""
    ran, go_on = threading.Event(), threading.Event()

    def work(conn: Connection) -> Any:
        value = fn(conn)
        ran.set()
        assert go_on.wait(LIMIT)
        return value

    future = threads.submit(database.run_write, work)
    assert ran.wait(LIMIT), future.result(0)
    return future, go_on


def blocked(database: PostgresDatabase, *futures: Future[Any]) -> None:
    """Return when some session waits for a lock; none of the futures is to be done before."""
    query = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    for _ in range(int(LIMIT * 50)):
        if database.run_read(lambda conn: conn.execute(query).scalar_one()):
            return
        for future in futures:
            assert not future.done(), future.result()
        threading.Event().wait(0.02)
    raise AssertionError("nobody waits")


def test_what_is_accepted_while_the_last_mail_of_a_domain_is_settled_is_not_stranded(
    database: PostgresDatabase, threads: ThreadPoolExecutor
) -> None:
    database.run_write(lambda conn: put(conn, "m1"))
    (claimed,) = database.run_write(lease)
    accepting, commit = begin(database, threads, lambda conn: put(conn, "m2"))
    settling = threads.submit(database.run_write, lambda conn: finish(conn, claimed, DEFERRED))
    blocked(database, settling)
    commit.set()
    accepting.result(LIMIT)
    settling.result(LIMIT)
    assert database.run_read(due.next_due) == NOW
    assert [each.envelope.id for each in database.run_write(lease)] == ["m2"]


def test_the_last_two_domains_of_a_message_settled_at_once_end_it_once(
    database: PostgresDatabase, threads: ThreadPoolExecutor
) -> None:
    database.run_write(lambda conn: put(conn, "m1", "x@a.example", "x@b.example"))
    first, second = database.run_write(lease)
    recorder = Recorder()
    one, commit = begin(database, threads, lambda conn: finish(conn, first, append=recorder))
    other = threads.submit(database.run_write, lambda conn: finish(conn, second, append=recorder))
    blocked(database)
    commit.set()
    assert [one.result(LIMIT).completed, other.result(LIMIT).completed] == [False, True]
    assert recorder.names() == ["msg:complete"]


def test_claims_at_once_take_different_mail_and_wait_for_nobody(
    database: PostgresDatabase, threads: ThreadPoolExecutor
) -> None:
    for name in ("a", "b"):
        database.run_write(lambda conn, name=name: put(conn, name, f"x@{name}.example"))
    first, commit = begin(database, threads, lambda conn: lease(conn, limit=1))
    assert [each.envelope.id for each in database.run_write(lease)] == ["b"]
    commit.set()
    assert [each.envelope.id for each in first.result(LIMIT)] == ["a"]
    assert database.run_write(lease) == ()


def test_a_claim_passes_over_mail_that_a_tool_is_busy_with(
    database: PostgresDatabase, threads: ThreadPoolExecutor
) -> None:
    database.run_write(lambda conn: put(conn, "m1"))
    hold = partial(
        changes.hold_back, keys=[Key("m1", 0)], now=NOW, reason="r", until=None, append=outbox.append
    )
    held, commit = begin(database, threads, hold)
    assert database.run_write(lease) == ()
    commit.set()
    assert held.result(LIMIT).changed == 1
    assert database.run_write(lease) == ()


def test_a_tool_leaves_alone_what_was_claimed_while_it_waited(
    database: PostgresDatabase, threads: ThreadPoolExecutor
) -> None:
    database.run_write(lambda conn: put(conn, "m1"))
    claiming, commit = begin(database, threads, lease)
    remove = partial(changes.remove, keys=[Key("m1", 0)], now=NOW, reason="r", append=outbox.append)
    removing = threads.submit(database.run_write, remove)
    blocked(database)
    commit.set()
    (claimed,) = claiming.result(LIMIT)
    assert removing.result(LIMIT) == Changed(busy=1)
    assert database.run_write(lambda conn: finish(conn, claimed)).stale == ()


def test_two_nodes_release_what_is_due_only_once(
    database: PostgresDatabase, threads: ThreadPoolExecutor
) -> None:
    database.run_write(lambda conn: put(conn, "m1"))
    hold = partial(
        changes.hold_back, keys=[Key("m1", 0)], now=NOW, reason="r", until=NOW + 1, append=outbox.append
    )
    database.run_write(hold)
    release = partial(changes.release_due, now=NOW + 2, append=outbox.append)
    first, commit = begin(database, threads, release)
    second = threads.submit(database.run_write, release)
    blocked(database)
    commit.set()
    assert (first.result(LIMIT), second.result(LIMIT)) == (1, 0)


def test_two_nodes_write_one_report_and_a_failure_meanwhile_is_told_too(
    database: PostgresDatabase, threads: ThreadPoolExecutor
) -> None:
    database.run_write(lambda conn: put(conn, "m1", "x@a.example", "x@b.example"))
    first, second = database.run_write(lease)
    database.run_write(lambda conn: finish(conn, first, FAILED))
    told: list[int] = []

    def write(conn: Connection) -> Any:
        return reports.write(
            conn,
            MessageId("m1"),
            lambda _, entries: told.append(len(entries)),  # type: ignore[func-returns-value]
            now=NOW,
            expire=1.0,
            per_sender=0,
        )

    writing, commit = begin(database, threads, write)
    failing = threads.submit(database.run_write, lambda conn: finish(conn, second, FAILED))
    again = threads.submit(database.run_write, write)
    blocked(database)
    commit.set()
    for each in (writing, failing, again):
        each.result(LIMIT)
    database.run_write(write)
    assert sum(told) == 2


def test_attempts_of_a_dead_node_are_ended_once(
    database: PostgresDatabase, threads: ThreadPoolExecutor
) -> None:
    database.run_write(lambda conn: put(conn, "m1"))
    (claimed,) = database.run_write(lambda conn: lease(conn, node="dead"))
    reclaim = partial(recovery.reclaim, now=claimed.lease_until + 11, node="a", courtesy=10.0)
    first, commit = begin(database, threads, reclaim)
    second = threads.submit(database.run_write, reclaim)
    blocked(database)
    commit.set()
    assert first.result(LIMIT).interrupted + second.result(LIMIT).interrupted == 1
    assert database.run_read(lambda conn: conn.execute(select(recipient.c.in_doubt)).scalar_one()) == 1


def test_the_own_node_takes_back_at_once_and_others_after_a_courtesy(database: PostgresDatabase) -> None:
    database.run_write(lambda conn: put(conn, "m1"))
    (claimed,) = database.run_write(lambda conn: lease(conn, node="a"))
    just_over = claimed.lease_until + 1
    seen = {
        node: database.run_read(partial(recovery.any_expired, now=just_over, node=node, courtesy=10.0))
        for node in ("a", "b")
    }
    assert seen == {"a": True, "b": False}


def test_a_node_that_is_back_ends_its_own_attempts_only(database: PostgresDatabase) -> None:
    for name in ("m1", "m2", "m3"):
        database.run_write(lambda conn, name=name: put(conn, name, f"x@{name}.example"))
    ours = database.run_write(lambda conn: lease(conn, limit=2, node="a"))
    (theirs,) = database.run_write(lambda conn: lease(conn, node="b"))
    proofs = [proof(ours[0], 0)]
    found = database.run_write(lambda conn: recovery.rejoin(conn, NOW, proofs, "a"))
    assert (found.interrupted, found.delivered) == (2, 1)
    states = database.run_read(
        lambda conn: dict(conn.execute(select(recipient.c.message_id, recipient.c.state)).all())
    )
    assert states == {
        ours[0].envelope.id: "delivered",
        ours[1].envelope.id: "queued",
        theirs.envelope.id: "leased",
    }  # fmt: skip


def test_a_proof_that_could_not_be_recorded_counts_although_another_node_took_over(
    database: PostgresDatabase,
) -> None:
    database.run_write(lambda conn: put(conn, "m1"))
    (claimed,) = database.run_write(lambda conn: lease(conn, node="a"))
    late = claimed.lease_until + 100
    assert database.run_write(partial(recovery.reclaim, now=late, node="b")).interrupted == 1
    found = database.run_write(
        partial(
            recovery.reclaim,
            now=late,
            proofs=[proof(claimed, 0)],
            node="a",
            left_over=frozenset({claimed.attempt_id}),
        )
    )
    assert found.delivered == 1
    assert database.run_write(lambda conn: lease(conn, late + 1000)) == ()


def test_people_read_a_shared_queue_as_they_read_a_file(database: PostgresDatabase, server: Database) -> None:
    database.run_write(lambda conn: put(conn, "m1", "a@d1.test", "b@x.d2.test"))
    database.run_write(lambda conn: put(conn, "m2", "c@d1.test"))
    size = message.update().where(message.c.id == "m2").values(size=10**6, received_at=NOW - 60, content=None)
    database.run_write(lambda conn: conn.execute(size))
    pieces = [{"message_id": "m2", "number": n, "data": b"x", "written_at": NOW} for n in range(3)]
    database.run_write(lambda conn: conn.execute(schema.content_chunk.insert(), pieces))
    rule = partial(freeze.add, kind=freeze.Kind.SENDER, pattern="%@a_b.test", reason="x", until=None, now=NOW)
    database.run_write(rule)
    with looking(sqlalchemy.make_url(server.url)) as reader:
        for sort, found in (
            ("age", ["m2", "m1", "m1"]),
            ("size", ["m2", "m1", "m1"]),
            ("domain", ["d1.test", "d1.test", "x.d2.test"]),
            ("next", ["m1", "m1", "m2"]),
            ("tries", ["m1", "m1", "m2"]),
        ):
            page = browse.waiting(reader, Selection(), now=NOW, sort=sort)
            assert [row.domain if sort == "domain" else row.id for row in browse.merged(page, sort)] == found
        for selection, found in (
            (Selection(domain="*.d2.test"), ["m1"]),
            (Selection(sender="sender.example", larger_than=1000), ["m2"]),
            (Selection(ids=("m2", "m7"), older_than=30.0), ["m2"]),
            (Selection(text="%"), []),
            (Selection(recipient="c@d1.test", states=(State.QUEUED,)), ["m2"]),
        ):
            assert [row.id for row in browse.waiting(reader, selection, now=NOW)] == found
        assert browse.counts(reader) == browse.Counts(messages=2, queued=3, leased=0)
        keys = [Key("m1", 0), Key("m1", 1), Key("m2", 7)]
        assert [row["recipient"] for row in browse.named(reader, keys)] == ["a@d1.test", "b@x.d2.test"]
        assert {row.name: row.total for row in summary(reader, Selection(), "sender", NOW)} == {
            "sender.example": 3
        }
        shown = browse.show(reader, "m1")
        assert shown is not None
        assert [each.address for each in shown.recipients] == ["a@d1.test", "b@x.d2.test"]
        assert shown.stored == "in the database"
        chunked = browse.show(reader, "m2")
        assert chunked is not None
        assert chunked.stored == "in the database, in 3 chunks"
        assert [each.pattern for each in listed(reader)] == ["%@a_b.test"]
    with reading(sqlalchemy.make_url(server.url)) as conn:
        assert browse.matching(Connected(conn), Selection(sender="*.example", domain="d1.test"), NOW) == [
            Key("m1", 0),
            Key("m2", 0),
        ]
        (frozen,) = freeze.rules(conn)
        assert freeze.frozen(conn, frozen) == []


def test_a_shared_queue_of_an_older_version_gets_the_indexes(database: PostgresDatabase) -> None:
    def age(conn: Connection) -> None:
        for name in ("message_by_age", "message_by_size", "message_completed"):
            conn.execute(text(f"DROP INDEX {name}"))
        conn.execute(text("CREATE INDEX message_completed ON message (completed_at)"))
        for name, columns in (("due", "next_attempt"), ("turn", "sender, next_attempt")):
            conn.execute(text(f"DROP INDEX recipient_{name}"))
            conn.execute(text(f"CREATE INDEX recipient_{name} ON recipient (state, domain, {columns})"))
        conn.execute(text("ALTER TABLE message ALTER COLUMN size TYPE INTEGER"))
        conn.execute(text("ALTER TABLE message DROP COLUMN requires_tls"))
        conn.execute(schema.queue_version.update().values(version=6))

    def indexes(conn: Connection) -> dict[str, str]:
        of = "tablename IN ('message', 'recipient')"
        found = conn.execute(text(f"SELECT indexname, indexdef FROM pg_indexes WHERE {of}"))
        return {row.indexname: row.indexdef for row in found}

    new = database.run_read(indexes)
    assert {"message_by_age", "message_by_size"} <= set(new)
    database.run_write(age)
    database.run_write(schema.migrate)
    assert database.run_read(indexes) == new
    of_size = text(
        "SELECT data_type FROM information_schema.columns WHERE table_name = 'message' AND column_name = 'size'"
    )
    assert database.run_read(lambda conn: conn.execute(of_size).scalar_one()) == "bigint"


@pytest.mark.parametrize(
    "statement", [choosing._SENDER_BEHIND, choosing._OLDEST, due._EARLIEST, freeze._DUE_OF_DOMAIN]
)
def test_the_indexes_of_what_is_open_are_used(database: PostgresDatabase, statement: Statement) -> None:
    values = {"domain": "d.test", "of": "d.test", "now": NOW, "behind": "s", "most": 9}

    def plan(conn: Connection) -> str:
        conn.execute(text("SET LOCAL enable_seqscan = off"))  # it has no rows
        sql = statement._clause.compile(conn, compile_kwargs={"render_postcompile": True})
        wanted = {name: values[name] for name in sql.params if name in values}
        explained = conn.exec_driver_sql(f"EXPLAIN {sql}", {**sql.params, **wanted})
        return "\n".join(explained.scalars())

    found = database.run_write(plan)
    assert " using recipient_" in found  # which of them depends on the rows
    assert "using recipient_pkey" not in found


def test_many_nodes_at_once_deliver_everything_once_and_strand_nothing(
    database: PostgresDatabase, threads: ThreadPoolExecutor
) -> None:
    total, domains = 60, [f"d{number}.example" for number in range(5)]
    seen: Counter[tuple[str, str]] = Counter()
    lock = threading.Lock()
    accepted = threading.Event()

    def take_mail(node: int) -> None:
        rng = Random(node)
        for number in range(total // 2):
            to = [f"x{index}@{domain}" for index, domain in enumerate(rng.sample(domains, 3))]
            database.run_write(lambda conn, number=number, to=to: put(conn, f"n{node}-{number}", *to))

    def deliver(node: int) -> None:
        rng = Random(100 + node)
        idle = 0
        while idle < 20:
            claims = database.run_write(lambda conn: lease(conn, limit=4, node=f"node{node}"))
            idle = 0 if claims else idle + accepted.is_set()
            for claimed in claims:
                outcome = rng.choice([DELIVERED, DELIVERED, DEFERRED])
                database.run_write(lambda conn, claimed=claimed, o=outcome: finish(conn, claimed, o))
                if outcome is DELIVERED:
                    with lock:
                        seen[claimed.envelope.id, claimed.domain] += 1
            check(database)
        # what was deferred
        while claims := database.run_write(lambda conn: lease(conn, NOW + 61, node=f"node{node}")):
            for claimed in claims:
                database.run_write(lambda conn, claimed=claimed: finish(conn, claimed))
                with lock:
                    seen[claimed.envelope.id, claimed.domain] += 1

    takers = [threads.submit(take_mail, node) for node in range(2)]
    deliverers = [threads.submit(deliver, node) for node in range(3)]
    for each in takers:
        each.result(60)
    accepted.set()
    for each in deliverers:
        each.result(60)
    assert len(seen) == 3 * total
    assert set(seen.values()) == {1}
    rest = database.run_read(
        lambda conn: conn.execute(select(message.c.id).where(message.c.completed_at.is_(None))).all()
    )
    assert rest == []


def check(database: PostgresDatabase) -> None:
    """The invariant of the table of destinations: no queued recipient is due before its domain is."""
    stranded = (
        select(recipient.c.message_id)
        .outerjoin(destination, destination.c.domain == recipient.c.domain)
        .where(
            recipient.c.state == "queued",
            destination.c.due.is_(None) | (destination.c.due > recipient.c.next_attempt),
        )
    )
    assert database.run_read(lambda conn: conn.execute(stranded).all()) == []
