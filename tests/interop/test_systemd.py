"""The relay under something that behaves as systemd does: passed sockets, readiness, reload, watchdog, stop."""

from __future__ import annotations

import shlex
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.internet import LiveInternet
from tests.interop.relayprocess import Relay
from tests.interop.service import ROOT, START, environment


class Unit(Relay):
    """A relay that systemd starts with a socket of its own; `heard` is where it tells how it is."""

    def __init__(self, live: LiveInternet, directory: Path, workers: int) -> None:
        super().__init__(live, directory)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listening.getsockname()[1])
        self.live = live
        self.heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.heard.bind(str(directory.parent / "notify"))
        self.heard.settimeout(START)
        self.options = [option for option in self.options if not option.startswith("relay.listen")]
        self.options += [f'relay.listen=["127.0.0.1:{self.port}"]', f"relay.workers={workers}"]

    def start(self) -> None:
        """As systemd does it: the socket is number 3, LISTEN_PID is the process itself."""
        number = self.listening.fileno()
        script = f"LISTEN_PID=$$ exec {shlex.join(self.command('relay'))} 3<&{number}"
        told = {
            **environment(),
            "LISTEN_FDS": "1",
            "NOTIFY_SOCKET": str(self.heard.getsockname()),
            "WATCHDOG_USEC": "600000",
        }
        self.process = subprocess.Popen(
            ["/bin/bash", "-c", script],
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=ROOT,
            env=told,
            pass_fds=(number,),
        )

    def hears(self, word: str) -> list[str]:
        """Wait for a message with this line; all its lines."""
        while word not in (lines := self.heard.recv(4096).decode().split("\n")):
            pass
        return lines

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)


@pytest.fixture(params=[1, 2], ids=["one process", "two workers"])
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Unit]:
    with LiveInternet() as live:
        unit = Unit(live, tmp_path / "state", request.param)
        try:
            unit.start()
            yield unit
        finally:
            unit.kill()
            unit.listening.close()
            unit.heard.close()


def test_a_life_under_systemd(unit: Unit) -> None:
    unit.hears("READY=1")
    unit.submit("a@plain.test")
    unit.live.wait_for_messages(1, START)
    for _ in range(3):
        unit.hears("WATCHDOG=1")
    unit.signal(signal.SIGHUP)
    assert any(line.startswith("MONOTONIC_USEC=") for line in unit.hears("RELOADING=1"))
    unit.hears("READY=1")
    unit.signal(signal.SIGTERM)
    unit.hears("STOPPING=1")
    assert unit.process is not None
    assert unit.process.wait(START) == 0


def test_the_watchdog_is_not_told_while_nothing_moves(unit: Unit) -> None:
    unit.hears("READY=1")
    unit.hears("WATCHDOG=1")
    unit.signal(signal.SIGSTOP)
    unit.heard.setblocking(False)
    while True:
        try:
            unit.heard.recv(4096)
        except BlockingIOError:
            break
    unit.heard.settimeout(1.5)
    with pytest.raises(TimeoutError):
        unit.heard.recv(4096)
    unit.heard.settimeout(START)
    unit.signal(signal.SIGCONT)
    unit.hears("WATCHDOG=1")
