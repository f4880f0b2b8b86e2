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
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import sqlalchemy
from sqlalchemy import text

from tests.conftest import soaking
from tests.internet import Behaviour, LiveInternet, Silence
from tests.interop.nodes import (
    KILLS,
    MESSAGES,
    PATIENCE,
    Clients,
    Node,
    check,
    emptied,
    in_doubt,
    pause,
    two_nodes,
)
from tests.interop.peers.database import Database
from tests.interop.peers.factory import Factory
from tests.interop.peers.postgres import PostgresConfig
from tests.interop.service import START
from tests.interop.test_front_size import SENDERS, SlowHops, exchange_large_mail
from tests.interop.waiting import until

pytestmark = [
    pytest.mark.peers,
    pytest.mark.timeout(3600 if soaking(os.environ) else 180),
]


@pytest.fixture(scope="module")
def server(postgres: Factory[PostgresConfig, Database]) -> Database:
    return postgres(name="cluster")


@pytest.fixture
def database(server: Database) -> Iterator[sqlalchemy.Engine]:
    with emptied(server) as engine:
        yield engine


@pytest.fixture
def nodes(live: LiveInternet, tmp_path: Path, database: sqlalchemy.Engine) -> Iterator[tuple[Node, Node]]:
    with two_nodes(live, tmp_path, database) as both:
        yield both


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


def test_of_two_nodes_one_dies_and_the_other_delivers_what_it_had(
    live: LiveInternet, nodes: tuple[Node, Node], database: sqlalchemy.Engine
) -> None:
    first, second = nodes
    live.behave("mx.plain.test", Behaviour(replies={"DOT": Silence()}))
    first.start()
    first.submit("a@plain.test")
    live.wait_until(lambda world: bool(world.server("mx.plain.test").received), START)
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    live.behave("mx.plain.test", Behaviour())
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
    live.behave("mx.plain.test", Behaviour(replies={"MAIL": "451 4.3.0 later"}))
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
    live.behave("mx.plain.test", Behaviour())
    second.start()
    live.wait_for_messages(1, START)
    assert live.world.messages[0].content.endswith(content[20:])
    check(live, database, set())
    with database.connect() as conn:
        assert conn.execute(text("SELECT count(*) FROM content_chunk")).scalar_one() == 0
    assert second.end(signal.SIGTERM) == 0, second.said()


def test_the_journal_of_a_process_that_there_was_once_is_replayed(
    live: LiveInternet, nodes: tuple[Node, Node]
) -> None:
    node, _ = nodes
    journal = node.directory / "queue" / "cluster-1.journal"
    journal.parent.mkdir(parents=True)
    journal.write_text("the proof of a delivery\n")
    node.start()
    until(lambda: not journal.stat().st_size)
    node.submit("a@plain.test")
    live.wait_for_messages(1, START)
    assert node.end(signal.SIGTERM) == 0, node.said()


def test_much_mail_in_flight_is_not_as_much_memory(live: LiveInternet, nodes: tuple[Node, Node]) -> None:
    nodes[0].options += ["relay.workers=1", "delivery.deadline=10m"]
    with contextlib.closing(SlowHops(SENDERS)) as hops:
        exchange_large_mail(nodes[0], hops)


def test_the_tools_work_on_the_shared_queue(
    live: LiveInternet, nodes: tuple[Node, Node], database: sqlalchemy.Engine
) -> None:
    first, second = nodes
    live.behave("mx.plain.test", Behaviour(replies={"MAIL": "451 4.3.0 later"}))
    for node in nodes:
        node.options.append('queue.retry=["1h"]')
    first.start()
    first.submit("a@plain.test")
    first.submit("b@plain.test")
    until(lambda: {row["attempts"] for row in second.ask("queue", "list")} == {1})
    rows = [json.loads(line) for line in second.tool("queue", "list", "--json").stdout.splitlines()]
    assert sorted(row["recipient"] for row in rows) == ["a@plain.test", "b@plain.test"]
    held = next(row["id"] for row in rows if row["recipient"] == "a@plain.test")
    assert second.document("queue", "hold", held)["changed"] == 1
    assert second.document("queue", "show", held)["recipients"][0]["state"] == "held"
    (by_state,) = [row for row in second.ask("queue", "summary", "--by", "state") if row["name"] == "held"]
    assert by_state["total"] == 1
    live.behave("mx.plain.test", Behaviour())
    assert second.document("queue", "retry", "--all", "--yes", status=75)["held"] == 1
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
    live.behave("mx.plain.test", Behaviour(replies={"MAIL": "451 4.3.0 later"}))
    first.start()
    first.submit("a@plain.test")
    assert first.end(signal.SIGTERM) == 0, first.said()
    first.options = shared
    ran = first.tool("relay", check=False)
    assert ran.returncode == 75
    assert "1 messages still wait" in ran.stderr.decode()
