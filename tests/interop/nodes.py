"""Relays that share a queue on PostgreSQL, as real processes, for tests: nodes, their clients, what is in the database."""

from __future__ import annotations

import json
import os
import smtplib
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import text

from deliver.queue import cluster
from tests.conftest import soaking
from tests.durability.test_kill_relay import Quiet, arrived
from tests.internet import LiveInternet
from tests.interop.peers.database import Database
from tests.interop.peers.postgres import empty
from tests.interop.service import ROOT, START
from tests.interop.test_workers import children
from tests.interop.waiting import until

CLIENTS = 10  # of each node
MESSAGES, KILLS, PATIENCE = (3000, 30, 1200.0) if soaking(os.environ) else (60, 3, 60.0)


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

    def document(self, *verb: str, status: int = 0) -> Any:
        """The one JSON document that a verb prints."""
        return json.loads(self.run(*verb, "--json", status=status).stdout)

    def tool(self, *verb: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Run a verb with this node's settings, to its end."""
        command = self.command(*verb)
        return subprocess.run(command, capture_output=True, timeout=2 * START, check=check, cwd=ROOT)


@contextmanager
def emptied(server: Database) -> Iterator[sqlalchemy.Engine]:
    """The database, with nothing left of other tests."""
    empty(server.url)
    engine = sqlalchemy.create_engine(server.url, poolclass=sqlalchemy.NullPool)
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def two_nodes(
    live: LiveInternet, directory: Path, database: sqlalchemy.Engine
) -> Iterator[tuple[Node, Node]]:
    """Not started yet; at the end nothing runs."""
    url = database.url.render_as_string()
    for name in ("a", "b"):
        (directory / name).mkdir()
    both = (Node(live, directory / "a" / "node-a", url), Node(live, directory / "b" / "node-b", url))
    try:
        yield both
    finally:
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


def check(live: LiveInternet, database: sqlalchemy.Engine, accepted: set[str]) -> None:
    """Everything arrives, and what arrives twice was in doubt; nothing stays behind."""
    live.wait_until(lambda world: accepted <= set(arrived(live)), PATIENCE)
    wanted = {f"{name}@{domain}" for name in accepted for domain in ("plain.test", "dane-ee.test")}
    live.wait_until(lambda world: wanted <= set(live.recipients()), PATIENCE)
    until(lambda: waiting(database) == [], lambda: waiting(database), limit=PATIENCE)
    everybody = live.recipients()
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
