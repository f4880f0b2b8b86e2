"""Two relays on one PostgreSQL, as real processes: what either answered with 250 arrives, though one dies or the database does.

A message arrives twice only where an attempt was in doubt.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import smtplib
import subprocess
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import text

from deliver.queue import cluster, schema
from events import outbox
from tests.conftest import soaking
from tests.durability.test_kill_relay import Quiet, arrived
from tests.internet import Behaviour, LiveInternet, Silence
from tests.interop.peers.database import Database
from tests.interop.peers.factory import Factory
from tests.interop.peers.postgres import PostgresConfig
from tests.interop.test_relay import ROOT, START, behave
from tests.interop.test_workers import children
from tests.interop.waiting import until

CLIENTS = 10  # of each node
MESSAGES, KILLS, PATIENCE = (3000, 30, 1200.0) if soaking(os.environ) else (60, 3, 60.0)

pytestmark = [
    pytest.mark.peers,
    pytest.mark.xdist_group("postgres"),
    pytest.mark.timeout(3600 if soaking(os.environ) else 180),
]


class Node(Quiet):
    """A relay whose queue is in PostgreSQL. Leases are short: 4 s, and 1 s more for the others."""

    def __init__(self, live: LiveInternet, directory: Path, url: str) -> None:
        super().__init__(live, directory)
        self.options += [
            f"queue.url={url}",
            f"queue.node={directory.name}",
            "queue.connections=5",
            "delivery.deadline=3s",
            "queue.delay_warning=[]",
        ]

    def start(self) -> None:
        """Start it and wait until it takes mail: the queue is open only behind the listening socket."""
        super().start()
        with smtplib.SMTP("127.0.0.1", self.port, "client.test", timeout=START):
            pass

    def workers(self) -> list[int]:
        """The processes of its workers, where it has several."""
        assert self.process is not None
        return children(self.process.pid)

    def document(self, *verb: str) -> Any:
        """The one JSON document that a verb prints."""
        return json.loads(self.tool(*verb, "--json", check=False).stdout)

    def tool(self, *verb: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Run a verb with this node's settings, to its end."""
        command = self._command(*verb)
        return subprocess.run(command, capture_output=True, timeout=2 * START, check=check, cwd=ROOT)


@pytest.fixture(scope="module")
def server(postgres: Factory[PostgresConfig, Database]) -> Database:
    return postgres(name="cluster")


@pytest.fixture
def database(server: Database) -> Iterator[sqlalchemy.Engine]:
    """An empty one, made anew for each test."""
    engine = sqlalchemy.create_engine(server.url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as conn:
        for metadata in (schema.metadata, schema.shared, outbox.metadata):
            metadata.drop_all(conn)
    yield engine
    engine.dispose()


@pytest.fixture
def live() -> Iterator[LiveInternet]:
    with LiveInternet() as live:
        yield live


@pytest.fixture
def pairs(nodes: tuple[Node, Node]) -> Iterator[tuple[Node, Node]]:
    """The same nodes with two workers each."""
    for node in nodes:
        node.options += ["relay.workers=2", "queue.connections=4"]
    yield nodes
    for pid in [pid for node in nodes for pid in (node.workers() if node.process else [])]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # the supervisor could not tell them to stop


@pytest.fixture
def nodes(live: LiveInternet, tmp_path: Path, database: sqlalchemy.Engine) -> Iterator[tuple[Node, Node]]:
    url = database.url.render_as_string()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    both = (Node(live, tmp_path / "a" / "node-a", url), Node(live, tmp_path / "b" / "node-b", url))
    yield both
    for node in both:
        if node.process is not None and node.process.poll() is None:
            node.process.kill()
            node.process.wait(START)


class Clients:
    """Clients of one node that hand over until all have enough; `accepted` was answered with 250."""

    numbers = count()

    def __init__(self, node: Node, wanted: int) -> None:
        self._node = node
        self._wanted = wanted
        self._lock = threading.Lock()
        self.accepted: set[str] = set()
        self.enough = threading.Event()
        self._threads = [threading.Thread(target=self._hand_over, daemon=True) for _ in range(CLIENTS)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.enough.set()
        for thread in self._threads:
            thread.join(START)

    def _hand_over(self) -> None:
        while not self.enough.is_set():
            try:
                with smtplib.SMTP("127.0.0.1", self._node.port, "client.test", timeout=START) as client:
                    for _ in range(5):
                        self._one(client)
            except (OSError, smtplib.SMTPException):
                self.enough.wait(0.02)  # no reply, no promise

    def _one(self, client: smtplib.SMTP) -> None:
        with self._lock:
            name = f"n{next(self.numbers)}"
        content = f"Subject: {name}\r\n\r\nhello\r\n".encode()
        client.sendmail("me@sender.test", [f"{name}@plain.test", f"{name}@dane-ee.test"], content)
        with self._lock:
            self.accepted.add(name)
            if len(self.accepted) >= self._wanted:
                self.enough.set()


def pause(seconds: float) -> None:
    """Let the others work."""
    threading.Event().wait(seconds)


def bring_back(server: Database, database: sqlalchemy.Engine) -> None:
    """Start the database, and wait until it works; what the kill left behind may keep it from it for a moment."""
    deadline = time.monotonic() + START
    server.start()
    while time.monotonic() < deadline:
        if server.process.child.poll() is not None:
            server.start()
        try:
            database.connect().close()
        except sqlalchemy.exc.OperationalError:
            pause(0.1)
        else:
            return
    raise AssertionError("the database does not come back")


def in_doubt(database: sqlalchemy.Engine) -> set[str]:
    """Recipients who had an attempt after which the server may have held the message."""
    with database.connect() as conn:
        found = conn.execute(text("SELECT local_part || '@' || domain FROM recipient WHERE in_doubt > 0"))
        return set(found.scalars())


def members(database: sqlalchemy.Engine) -> int:
    """How many processes hold the lock of a node's name."""
    with database.connect() as conn:
        query = text(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = :nodes AND granted"
        )
        return int(conn.execute(query, {"nodes": cluster.NODES}).scalar_one())


def holders(database: sqlalchemy.Engine) -> set[str]:
    """The nodes that have attempts under way."""
    with database.connect() as conn:
        return set(conn.execute(text("SELECT node FROM attempt WHERE ended_at IS NULL")).scalars())


def recipients(live: LiveInternet) -> list[str]:
    return [each for message in tuple(live.world.messages) for each in message.recipients]


def check(live: LiveInternet, database: sqlalchemy.Engine, accepted: set[str]) -> None:
    """Everything arrives, and what arrives twice was in doubt; nothing stays behind."""
    live.wait_until(lambda world: accepted <= set(arrived(live)), PATIENCE)
    wanted = {f"{name}@{domain}" for name in accepted for domain in ("plain.test", "dane-ee.test")}
    live.wait_until(lambda world: wanted <= set(recipients(live)), PATIENCE)
    until(lambda: waiting(database) == [], lambda: waiting(database), limit=PATIENCE)
    everybody = recipients(live)
    twice = {each for each in everybody if everybody.count(each) > 1}
    assert twice <= in_doubt(database), "a second copy without doubt"


def waiting(database: sqlalchemy.Engine) -> list[tuple[object, ...]]:
    """What is not over yet: messages, and what they still have."""
    with database.connect() as conn:
        rows = conn.execute(
            text(
                "SELECT message_id, local_part, domain, state, next_attempt FROM recipient WHERE state IN ('queued', 'leased')"
            )
        )
        found = [tuple(row) for row in rows]
        rows = conn.execute(text("SELECT id FROM message WHERE completed_at IS NULL OR content IS NOT NULL"))
        return found + [tuple(row) for row in rows]


def test_of_two_nodes_one_dies_and_the_other_delivers_what_it_had(
    live: LiveInternet, nodes: tuple[Node, Node], database: sqlalchemy.Engine
) -> None:
    first, second = nodes
    behave(live, "mx.plain.test", Behaviour(replies={"DOT": Silence()}))
    first.start()
    first.submit("a@plain.test")
    live.wait_until(lambda world: bool(world.server("mx.plain.test").received), START)
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    behave(live, "mx.plain.test", Behaviour())
    second.start()
    live.wait_for_messages(1, START)
    assert second.end(signal.SIGTERM) == 0, second.said()
    assert in_doubt(database) == {"a@plain.test"}


def test_nodes_that_are_killed_again_and_again_lose_nothing(
    live: LiveInternet, nodes: tuple[Node, Node], database: sqlalchemy.Engine
) -> None:
    rng = Random(11)
    for node in nodes:
        node.start()
    with Clients(nodes[0], MESSAGES // 2) as ours, Clients(nodes[1], MESSAGES // 2) as theirs:
        for kill in range(KILLS):
            victim = nodes[kill % 2]
            pause(rng.uniform(0.2, 1.0))
            assert victim.end(signal.SIGKILL) == -signal.SIGKILL, victim.said()
            victim.start()
        assert ours.enough.wait(PATIENCE), nodes[0].said()
        assert theirs.enough.wait(PATIENCE), nodes[1].said()
    check(live, database, ours.accepted | theirs.accepted)
    for node in nodes:
        assert node.end(signal.SIGTERM) == 0, node.said()


def test_a_node_that_never_comes_back_is_taken_over(
    live: LiveInternet, nodes: tuple[Node, Node], database: sqlalchemy.Engine
) -> None:
    first, second = nodes
    for node in nodes:
        node.start()
    with Clients(first, MESSAGES // 2) as ours, Clients(second, MESSAGES // 2) as theirs:
        pause(0.5)
        first.end(signal.SIGKILL)
        ours.enough.set()
        assert theirs.enough.wait(PATIENCE), second.said()
    check(live, database, ours.accepted | theirs.accepted)
    assert second.end(signal.SIGTERM) == 0, second.said()


def test_a_worker_is_killed_and_its_node_goes_on(
    live: LiveInternet, pairs: tuple[Node, Node], database: sqlalchemy.Engine
) -> None:
    """Its attempts are ended when it is started again, by its own name; nobody waits for a lease."""
    behave(live, "mx.plain.test", Behaviour(replies={"DOT": Silence()}))
    for node in pairs:
        node.options.append("delivery.deadline=40s")
        node.start()
    assert members(database) == 4
    pairs[0].submit("a@plain.test")
    live.wait_until(lambda world: bool(world.server("mx.plain.test").received), START)
    (holder,) = holders(database)
    name, _, number = holder.partition("/")
    node = pairs[name == "node-b"]
    before = sorted(node.workers())  # in the order in which they were forked
    victim = before[int(number or "0")]
    os.kill(victim, signal.SIGKILL)
    behave(live, "mx.plain.test", Behaviour())
    live.wait_for_messages(1, START)
    until(lambda: len(set(node.workers()) - {victim}) == 2)
    assert set(before) - {victim} < set(node.workers()), "the other one was not disturbed"
    check(live, database, set())
    assert in_doubt(database) == {"a@plain.test"}
    with database.connect() as conn:
        ended = text("SELECT ended_at < lease_until FROM attempt WHERE node = :node ORDER BY id LIMIT 1")
        assert conn.execute(ended, {"node": holder}).scalar_one() is True
    for each in pairs:
        assert each.end(signal.SIGTERM) == 0, each.said()


def test_workers_that_are_killed_again_and_again_lose_nothing(
    live: LiveInternet, pairs: tuple[Node, Node], database: sqlalchemy.Engine
) -> None:
    rng = Random(13)
    for node in pairs:
        node.start()
    with Clients(pairs[0], MESSAGES // 2) as ours, Clients(pairs[1], MESSAGES // 2) as theirs:
        for kill in range(KILLS):
            node = pairs[kill % 2]
            pause(rng.uniform(0.2, 1.0))
            until(lambda node=node: len(node.workers()) == 2)  # type: ignore[misc]
            os.kill(rng.choice(node.workers()), signal.SIGKILL)
        assert ours.enough.wait(PATIENCE), pairs[0].said()
        assert theirs.enough.wait(PATIENCE), pairs[1].said()
    check(live, database, ours.accepted | theirs.accepted)
    for node in pairs:
        assert node.end(signal.SIGTERM) == 0, node.said()


def test_the_database_is_killed_under_load_and_nothing_is_lost(
    live: LiveInternet, nodes: tuple[Node, Node], database: sqlalchemy.Engine, server: Database
) -> None:
    rng = Random(12)
    for node in nodes:
        node.start()
    with Clients(nodes[0], MESSAGES // 2) as ours, Clients(nodes[1], MESSAGES // 2) as theirs:
        for _ in range(KILLS):
            pause(rng.uniform(0.3, 1.0))
            server.kill()
            pause(rng.uniform(0.2, 1.0))
            bring_back(server, database)
        assert ours.enough.wait(PATIENCE), nodes[0].said()
        assert theirs.enough.wait(PATIENCE), nodes[1].said()
    check(live, database, ours.accepted | theirs.accepted)
    for node in nodes:
        assert node.end(signal.SIGTERM) == 0, node.said()


def test_a_large_message_goes_through_the_database_unchanged_and_leaves_nothing(
    live: LiveInternet, nodes: tuple[Node, Node], database: sqlalchemy.Engine
) -> None:
    first, second = nodes
    first.start()
    content = b"Subject: large\r\n\r\n" + Random(1).randbytes(700_000).hex().encode()
    content = b"\r\n".join(content[start : start + 900] for start in range(0, len(content), 900)) + b"\r\n"
    behave(live, "mx.plain.test", Behaviour(replies={"MAIL": "451 4.3.0 later"}))
    with smtplib.SMTP("127.0.0.1", first.port, "client.test", timeout=START) as client:
        assert client.sendmail("me@sender.test", ["a@plain.test"], content) == {}
    with database.connect() as conn:
        assert conn.execute(
            text("SELECT max(octet_length(data)), count(*) > 4 FROM content_chunk")
        ).one() == (
            256 * 1024,
            True,
        )
        assert conn.execute(text("SELECT content, spool_name FROM message")).one() == (None, None)
    assert first.end(signal.SIGTERM) == 0, first.said()
    (exported,) = second.ask("queue", "export", "--recipient", "a@plain.test")
    assert base64.b64decode(exported["content"]).endswith(content[20:])
    behave(live, "mx.plain.test", Behaviour())
    second.start()
    live.wait_for_messages(1, START)
    assert live.world.messages[0].content.endswith(content[20:])
    check(live, database, set())
    with database.connect() as conn:
        assert conn.execute(text("SELECT count(*) FROM content_chunk")).scalar_one() == 0
    assert second.end(signal.SIGTERM) == 0, second.said()


def test_the_tools_work_on_the_shared_queue(
    live: LiveInternet, nodes: tuple[Node, Node], database: sqlalchemy.Engine
) -> None:
    first, second = nodes
    behave(live, "mx.plain.test", Behaviour(replies={"MAIL": "451 4.3.0 later"}))
    for node in nodes:
        node.options.append('queue.retry=["1h"]')
    first.start()
    first.submit("a@plain.test")
    first.submit("b@plain.test")
    until(lambda: {row["attempts"] for row in second.ask("queue", "list")} == {1})
    rows = second.ask("queue", "list")
    assert sorted(row["recipient"] for row in rows) == ["a@plain.test", "b@plain.test"]
    held = next(row["id"] for row in rows if row["recipient"] == "a@plain.test")
    assert second.document("queue", "hold", held)["changed"] == 1
    assert second.document("queue", "show", held)["recipients"][0]["state"] == "held"
    (by_state,) = [row for row in second.ask("queue", "summary", "--by", "state") if row["name"] == "held"]
    assert by_state["total"] == 1
    behave(live, "mx.plain.test", Behaviour())
    assert second.document("queue", "retry", "--all", "--yes")["held"] == 1
    live.wait_for_messages(1, START)
    assert second.document("queue", "release", held)["changed"] == 1
    live.wait_for_messages(2, START)
    second.tool("queue", "freeze", "domain", "plain.test", "--reason", "test")
    first.submit("c@plain.test")
    assert second.ask("queue", "freeze", "list")[0]["pattern"] == "plain.test"
    second.tool("queue", "thaw", "1")
    live.wait_for_messages(3, START)
    assert second.ask("events", "dead") == []
    assert first.end(signal.SIGTERM) == 0, first.said()


def test_mail_that_waits_in_sqlite_is_not_forgotten(live: LiveInternet, nodes: tuple[Node, Node]) -> None:
    first, _ = nodes
    shared = first.options
    first.options = [each for each in shared if not each.startswith("queue.url")]
    behave(live, "mx.plain.test", Behaviour(replies={"MAIL": "451 4.3.0 later"}))
    first.start()
    first.submit("a@plain.test")
    assert first.end(signal.SIGTERM) == 0, first.said()
    first.options = shared
    ran = first.tool("relay", check=False)
    assert ran.returncode == 75
    assert "1 messages still wait" in ran.stderr.decode()
