"""kill -9 to the real relay while 20 clients hand mail over, again and again: what it answered with 250 arrives.

A message arrives twice only where an attempt was in doubt: the relay died between the content and its own commit.
"""

from __future__ import annotations

import contextlib
import os
import signal
import smtplib
import socket
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from random import Random

import pytest

from tests.conftest import soaking
from tests.internet import LiveInternet
from tests.interop.relayprocess import Relay
from tests.interop.service import ROOT, START
from tests.interop.test_workers import children

CLIENTS = 20
MESSAGES, KILLS, PATIENCE = (5000, 40, 1200.0) if soaking(os.environ) else (60, 3, 50.0)


class Clients:
    """Twenty clients that hand over until they are told to stop; `accepted` was answered with 250."""

    def __init__(self, relay: Quiet, domains: Sequence[str] = ("plain.test",)) -> None:
        self._relay = relay
        self._domains = domains
        self._numbers = count()
        self._lock = threading.Lock()
        self.accepted: set[str] = set()
        self.up = threading.Event()
        self.over = threading.Event()
        self.enough = threading.Event()
        self._threads = [threading.Thread(target=self._hand_over, daemon=True) for _ in range(CLIENTS)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.up.set()
        for thread in self._threads:
            thread.join(START)

    def _hand_over(self) -> None:
        while self.up.wait() and not self.over.is_set():
            try:
                with smtplib.SMTP("127.0.0.1", self._relay.port, "client.test", timeout=START) as client:
                    for _ in range(5):
                        self._one(client)
            except (OSError, smtplib.SMTPException):
                time.sleep(0.01)  # it was killed: no reply, no promise

    def _one(self, client: smtplib.SMTP) -> None:
        with self._lock:
            number = next(self._numbers)
        name, domain = f"n{number}", self._domains[number % len(self._domains)]
        client.sendmail("me@sender.test", [f"{name}@{domain}"], f"Subject: {name}\r\n\r\nhello\r\n".encode())
        with self._lock:
            self.accepted.add(name)
            if len(self.accepted) >= MESSAGES:
                self.enough.set()
                self.over.set()


class Quiet(Relay):
    """A relay on a port of its own whose log nobody reads."""

    def __init__(self, live: LiveInternet, directory: Path) -> None:
        super().__init__(live, directory)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        self.options += [f'relay.listen=["127.0.0.1:{self.port}"]', "log.level=error", "events.schema=none"]

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        with (self.directory.parent / "relay.log").open("ab") as log:
            self.process = subprocess.Popen(self.command("relay"), stderr=log, cwd=ROOT)
        deadline = time.monotonic() + START
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), START).close()
            except OSError:
                assert time.monotonic() < deadline, "it does not start"
                assert self.process.poll() is None, "it ended"
                time.sleep(0.02)
            else:
                return

    def said(self) -> str:
        """The end of its log."""
        return (self.directory.parent / "relay.log").read_text()[-4000:]

    def end(self, how: signal.Signals) -> int:
        """Send a signal and wait for the end; the exit status."""
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(START)


@pytest.fixture
def live() -> Iterator[LiveInternet]:
    with LiveInternet() as live:
        yield live


@pytest.fixture
def relay(live: LiveInternet, tmp_path: Path) -> Iterator[Quiet]:
    relay = Quiet(live, tmp_path / "state")
    yield relay
    if relay.process is not None and relay.process.poll() is None:
        relay.process.kill()
        relay.process.wait(START)


@pytest.mark.timeout(3600 if soaking(os.environ) else 120)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_what_was_answered_with_250_arrives_however_often_the_relay_ends(
    relay: Quiet, live: LiveInternet, how: signal.Signals
) -> None:
    rng = Random(7)
    with Clients(relay) as clients:
        for _ in range(KILLS):
            relay.start()
            clients.up.set()
            clients.enough.wait(rng.uniform(0.05, 1.0))
            assert relay.end(how) == (0 if how is signal.SIGTERM else -how), relay.said()
            clients.up.clear()
        relay.start()
        clients.up.set()
        assert clients.enough.wait(PATIENCE), f"only {len(clients.accepted)} were accepted"
    live.wait_until(lambda world: clients.accepted <= set(arrived(live)), PATIENCE)
    relay.end(signal.SIGTERM)
    twice = {name for name, times in arrived(live).items() if times > 1}
    assert twice <= in_doubt(relay), "a second copy without doubt"


@pytest.mark.timeout(3600 if soaking(os.environ) else 120)
def test_what_was_answered_with_250_arrives_however_often_workers_end_or_stand_still(
    relay: Quiet, live: LiveInternet
) -> None:
    """Half of the mail is for the domains of the other worker, and crosses before it is answered."""
    rng = Random(7)
    relay.options[relay.options.index("relay.workers=1")] = "relay.workers=2"
    relay.options.append("pool.idle=0s")  # so that no domain ever stays where it comes
    with Clients(relay, domains=("plain.test", "dane-ee.test")) as clients:
        relay.start()
        clients.up.set()
        for turn in range(KILLS):
            clients.enough.wait(rng.uniform(0.5, 1.5))
            worker = rng.choice(running(relay))
            with contextlib.suppress(ProcessLookupError):  # it has ended, and nobody has noticed yet
                os.kill(worker, signal.SIGKILL if turn % 2 else signal.SIGSTOP)
                if not turn % 2:
                    clients.enough.wait(rng.uniform(0.5, 5.0))
                    os.kill(worker, signal.SIGCONT)
        assert clients.enough.wait(PATIENCE), f"only {len(clients.accepted)} were accepted"
    live.wait_until(lambda world: clients.accepted <= set(arrived(live)), PATIENCE)
    assert relay.end(signal.SIGTERM) == 0, relay.said()
    twice = {name for name, times in arrived(live).items() if times > 1}
    assert twice <= in_doubt(relay), "a second copy without doubt"


def running(relay: Quiet) -> list[int]:
    """The processes of the workers, once there are any: who keeps dying is started again after a minute."""
    assert relay.process is not None
    deadline = time.monotonic() + 60 + START
    while not (found := children(relay.process.pid)):
        assert time.monotonic() < deadline, "no worker comes back"
        time.sleep(0.02)
    return found


def in_doubt(relay: Quiet) -> set[str]:
    """Who has had an attempt after which the server may have held the message."""
    found: set[str] = set()
    for shard in (relay.directory / "queue").glob("shard-*.db"):
        with contextlib.closing(sqlite3.connect(shard)) as queue:
            found |= {
                name for (name,) in queue.execute("SELECT local_part FROM recipient WHERE in_doubt > 0")
            }
    return found


def arrived(live: LiveInternet) -> Counter[str]:
    """How often each message arrived, by its recipient."""
    return Counter(
        recipient.partition("@")[0]
        for message in tuple(live.world.messages)
        for recipient in message.recipients
    )
