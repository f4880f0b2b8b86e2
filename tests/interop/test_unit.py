"""The shipped units under a real systemd: sandbox, readiness, reload, restart, watchdog, socket activation, stop."""

from __future__ import annotations

import os
import signal
import smtplib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.internet import Behaviour, LiveInternet, Silence
from tests.interop.frontdoor import Papers
from tests.interop.peers.address import own_address
from tests.interop.peers.programs import PeerMissing
from tests.interop.relayprocess import CONTENT
from tests.interop.service import START
from tests.interop.servicemanager import ServiceManager
from tests.interop.test_tls_server import named, trusting
from tests.interop.waiting import until

PORT = 25  # only with CAP_NET_BIND_SERVICE
LARGE = b"Subject: large\r\n\r\n" + (b"x" * 76 + b"\r\n") * 3000


@pytest.fixture
def manager(scratch: Path, tmp_path: Path) -> Iterator[ServiceManager]:
    directory = scratch / tmp_path.name
    directory.mkdir(mode=0o755)
    try:
        with ServiceManager(directory) as manager:
            yield manager
    except PeerMissing as missing:
        pytest.skip(str(missing))


class Unit:
    """The service with settings for the miniature Internet, on port 25 of an address of its own."""

    def __init__(self, manager: ServiceManager, live: LiveInternet) -> None:
        self.manager = manager
        self.live = live
        self.address = own_address(PORT)
        self.anchor = live.world.write_trust_anchor(manager.etc)
        Path(self.anchor).chmod(0o644)
        self.write()

    def write(self, relay: str = "") -> None:
        """The settings; `relay` are more keys of that section."""
        settings = self.manager.etc / "outrider.toml"
        settings.write_text(
            f"""\
state_dir = "/var/lib/outrider"
[dns]
resolvers = ["{self.live.world.resolver.endpoint}"]
trust_anchors = "/etc/outrider/{Path(self.anchor).name}"
[delivery]
port = {self.live.world.port}
helo = "relay.sender.test"
[relay]
listen = ["{self.address}:{PORT}"]
{relay}
[queue]
retry = ["1s"]
[log]
format = "json"
"""
        )
        settings.chmod(0o644)

    def submit(self, recipient: str, content: bytes = CONTENT) -> None:
        with smtplib.SMTP(self.address, PORT, "client.test", timeout=START) as client:
            assert client.sendmail("me@sender.test", [recipient], content) == {}

    def kernel_says(self, name: str) -> list[str]:
        """A line of /proc/PID/status of the main process."""
        status = Path(f"/proc/{self.manager.main_pid()}/status").read_text().splitlines()
        return next(line.split()[1:] for line in status if line.startswith(f"{name}:"))


def answers(address: str) -> bool:
    """Whether anything listens there."""
    try:
        socket.create_connection((address, PORT), START).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.fixture
def unit(manager: ServiceManager, live: LiveInternet) -> Unit:
    return Unit(manager, live)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_shipped_unit(unit: Unit, live: LiveInternet, workers: int) -> None:
    manager = unit.manager
    unit.write(f"workers = {workers}")
    manager.systemctl("start", "outrider.service")
    assert manager.property("ActiveState") == "active"
    assert manager.property("StatusText") == ("2 workers" if workers == 2 else "serving")
    uid = int(unit.kernel_says("Uid")[0])
    assert 61184 <= uid <= 65519, "nobody that exists"
    assert unit.kernel_says("NoNewPrivs") == ["1"]
    assert unit.kernel_says("Seccomp") == ["2"]
    assert unit.kernel_says("CapEff") == [f"{1 << 10:016x}"], "CAP_NET_BIND_SERVICE alone"
    unit.submit("a@dane-ee.test")
    unit.submit("b@plain.test", LARGE)
    live.wait_for_messages(2, START)
    assert {len(each.content) > len(LARGE) for each in live.world.messages} == {False, True}
    before = unit.address
    unit.address = own_address(PORT)
    unit.write(f"workers = {workers}")
    manager.systemctl("reload", "outrider.service")
    until(lambda: not answers(before), manager.said)  # ExecReload only sends the signal
    until(lambda: manager.property("ActiveState") == "active", manager.said)
    unit.submit("c@plain.test")
    live.wait_for_messages(3, START)
    manager.systemctl("stop", "outrider.service")
    assert manager.property("Result") == "success"
    assert manager.property("NRestarts") == "0"
    assert "Traceback" not in manager.said()


def test_a_key_that_only_root_can_read_comes_as_a_credential(unit: Unit, live: LiveInternet) -> None:
    manager, papers = unit.manager, Papers(unit.manager.etc)
    papers.issue("mail", "relay.test")
    (manager.etc / "mail.key").chmod(0o600)
    certificate = '[[relay.tls.certificate]]\nchain_file = "/etc/outrider/mail.pem"\nkey_file = '
    unit.write(f'{certificate}"/etc/outrider/mail.key"\n')
    manager.fails("start", "outrider.service")
    assert "/etc/outrider/mail.key" in manager.said()
    unit.write(f'{certificate}"credential:mail.key"\n')
    manager.drop_in("outrider.service", "[Service]\nLoadCredential=mail.key:/etc/outrider/mail.key\n")
    manager.systemctl("daemon-reload")
    manager.systemctl("start", "outrider.service")
    with smtplib.SMTP(unit.address, PORT, "client.test", timeout=START) as client:
        client.starttls(context=named(trusting(papers)))
        assert client.sendmail("me@sender.test", ["a@plain.test"], CONTENT) == {}
    live.wait_for_messages(1, START)
    manager.systemctl("stop", "outrider.service")


def test_settings_that_are_wrong_keep_it_from_starting(unit: Unit) -> None:
    unit.write('max_conections = "many"')
    assert "control process exited with error code" in unit.manager.fails("start", "outrider.service")
    assert "max_conections" in unit.manager.said()
    assert unit.manager.property("ExecMainPID") == "0", "the relay itself was never started"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hanging"])
def test_it_is_started_again_and_keeps_its_mail(
    unit: Unit, live: LiveInternet, number: signal.Signals
) -> None:
    manager = unit.manager
    manager.drop_in("outrider.service", "[Service]\nRestartSec=100ms\nWatchdogSec=2s\n")
    manager.systemctl("daemon-reload")
    manager.systemctl("start", "outrider.service")
    live.behave("mx.plain.test", Behaviour(replies={"MAIL": Silence()}))
    unit.submit("a@plain.test")
    os.kill(manager.main_pid(), number)  # systemd's watchdog ends what only hangs
    until(lambda: manager.property("NRestarts") == "1")
    live.behave("mx.plain.test", Behaviour())
    live.wait_for_messages(1, START)
    until(lambda: manager.property("ActiveState") == "active", manager.said)
    manager.systemctl("stop", "outrider.service")
    assert manager.property("Result") == "success"


def test_the_socket_unit_takes_connections_before_the_relay_runs(unit: Unit, live: LiveInternet) -> None:
    manager = unit.manager
    manager.drop_in("outrider.socket", f"[Socket]\nListenStream=\nListenStream={unit.address}:{PORT}\n")
    manager.systemctl("daemon-reload")
    manager.systemctl("start", "outrider.socket")
    assert manager.property("ActiveState") == "inactive"
    unit.submit("a@plain.test")
    until(lambda: manager.property("ActiveState") == "active", manager.said)
    manager.systemctl("stop", "outrider.service")
    with socket.create_connection((unit.address, PORT), START) as waiting:
        greeting = waiting.recv(4096)
    assert greeting.startswith(b"220 ")
    live.wait_for_messages(1, START)
    manager.systemctl("stop", "outrider.socket", "outrider.service")
