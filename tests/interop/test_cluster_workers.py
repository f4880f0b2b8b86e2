"""Two nodes with two workers each on one PostgreSQL: what the end of a worker means for its node and the other."""

from __future__ import annotations

import contextlib
import os
import signal
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
    holders,
    in_doubt,
    members,
    pause,
    two_nodes,
)
from tests.interop.peers.database import Database
from tests.interop.peers.factory import Factory
from tests.interop.peers.postgres import PostgresConfig
from tests.interop.service import START
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


@pytest.fixture
def pairs(nodes: tuple[Node, Node]) -> Iterator[tuple[Node, Node]]:
    """The same nodes with two workers each."""
    for node in nodes:
        node.options += ["relay.workers=2", "queue.connections=4"]
    yield nodes
    for pid in [pid for node in nodes for pid in (node.workers() if node.process else [])]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # the supervisor could not tell them to stop


def test_a_worker_is_killed_and_its_node_goes_on(
    live: LiveInternet, pairs: tuple[Node, Node], database: sqlalchemy.Engine
) -> None:
    """Its attempts are ended when it is started again, by its own name; nobody waits for a lease."""
    live.behave("mx.plain.test", Behaviour(replies={"DOT": Silence()}))
    for node in pairs:
        node.options.append("delivery.deadline=40s")
        node.start()
    until(lambda: members(database) == 4)
    pairs[0].submit("a@plain.test")
    live.wait_until(lambda world: bool(world.server("mx.plain.test").received), START)
    (holder,) = holders(database)
    name, _, number = holder.partition("/")
    node = pairs[name == "node-b"]
    before = sorted(node.workers())  # in the order in which they were forked
    victim = before[int(number or "0")]
    os.kill(victim, signal.SIGKILL)
    live.behave("mx.plain.test", Behaviour())
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
            # one that has died often is started again only after a while
            until(lambda node=node: len(node.workers()) == 2, node.said, limit=PATIENCE)  # type: ignore[misc]
            os.kill(rng.choice(node.workers()), signal.SIGKILL)
        assert ours.enough.wait(PATIENCE), pairs[0].said()
        assert theirs.enough.wait(PATIENCE), pairs[1].said()
    check(live, database, ours.accepted | theirs.accepted)
    for node in pairs:
        assert node.end(signal.SIGTERM) == 0, node.said()


def test_a_worker_that_keeps_dying_is_stood_in_for_and_each_event_arrives_once(
    live: LiveInternet, pairs: tuple[Node, Node], database: sqlalchemy.Engine
) -> None:
    """Another worker of its node takes its place meanwhile: its attempts, its reports, its share of the events."""
    node = pairs[0]
    with database.begin() as conn:
        conn.execute(text("DROP TABLE IF EXISTS told"))
        conn.execute(text("CREATE TABLE told (id text, name text)"))
    url = database.url.render_as_string()
    slowly = "INSERT INTO told SELECT :event_id, :event_name FROM pg_sleep(0.01)"
    node.options.append(
        f'events.action=[{{name="told", events=["msg:*"], database="{url}", sql="{slowly}"}}]'
    )
    node.options.append("log.level=info")
    node.start()
    first = node.workers()[0]
    for _ in range(4):  # after the fourth time it is not started again for some seconds
        victim = until(lambda: sum(node.workers()) - first)  # 0 while there is none
        os.kill(victim, signal.SIGKILL)
        until(lambda: victim not in node.workers())  # noqa: B023 (called at once)
    until(lambda: members(database) == 2 and node.workers() == [first], node.said)  # one process is both
    with Clients(node, MESSAGES) as clients:
        assert clients.enough.wait(PATIENCE), node.said()
    check(live, database, clients.accepted)
    complete = text("SELECT count(DISTINCT id) FROM told WHERE name = 'msg:complete'")
    with database.connect() as conn:
        until(lambda: conn.execute(complete).scalar_one() == len(clients.accepted), node.said, limit=PATIENCE)
    until(lambda: len(node.workers()) == 2)
    assert node.end(signal.SIGTERM) == 0, node.said()
    with database.connect() as conn:
        twice = text("SELECT id, name, count(*) FROM told GROUP BY id, name HAVING count(*) > 1")
        assert conn.execute(twice).all() == []
