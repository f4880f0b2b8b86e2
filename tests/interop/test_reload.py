"""SIGHUP to the real relay: new settings hold, bad ones are refused, and no client notices."""

from __future__ import annotations

import signal
import smtplib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.internet import LiveInternet
from tests.interop.relayprocess import CONTENT, Relay
from tests.interop.service import START


class Configured(Relay):
    """A relay with a file of settings beside its options."""

    def __init__(self, live: LiveInternet, directory: Path) -> None:
        super().__init__(live, directory)
        self.file = directory.parent / "outrider.toml"
        self.options = [option for option in self.options if not option.startswith("relay.listen")]
        self.first, self.second = free_port(), free_port()
        self.write(self.first)

    def write(self, *ports: int, more: str = "") -> None:
        listen = ", ".join(f'"127.0.0.1:{port}"' for port in ports)
        self.file.write_text(f"[relay]\nlisten = [{listen}]\n{more}")

    def hang_up(self, expected: str) -> None:
        """SIGHUP, and what the log must say to it."""
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)
        self.wait_for(expected)

    def command(self, *verb: str) -> list[str]:
        python, *rest = super().command(*verb)
        return [python, *rest[:2], "--config", str(self.file), *rest[2:]]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Configured]:
    with LiveInternet() as live:
        relay = Configured(live, tmp_path / "state")
        relay.start()
        yield relay
        if relay.process is not None and relay.process.poll() is None:
            relay.kill()


def smtp(port: int) -> smtplib.SMTP:
    return smtplib.SMTP("127.0.0.1", port, "client.test", timeout=START)


def test_listeners_come_and_go_and_those_that_stay_keep_their_clients(relay: Configured) -> None:
    with smtp(relay.first) as client:
        relay.write(relay.first, relay.second)
        relay.hang_up("reloaded")
        assert client.noop()[0] == 250
        with smtp(relay.second) as other:
            relay.write(relay.second)
            relay.hang_up("reloaded")
            assert client.sendmail("me@sender.test", ["a@dane-ee.test"], CONTENT) == {}
            assert other.noop()[0] == 250
            with pytest.raises(OSError):
                smtp(relay.first)
    relay.wait_for("delivered")
    assert relay.terminate() == 0


def test_new_limits_hold_for_the_next_client(relay: Configured) -> None:
    with smtp(relay.first) as before:
        before.ehlo()
        relay.write(relay.first, more='max_message_size = "1kB"\n')
        relay.hang_up("reloaded")
        with smtp(relay.first) as after:
            after.ehlo()
            assert after.esmtp_features["size"] == "1000"
        assert before.esmtp_features["size"] != "1000"
        assert before.sendmail("me@sender.test", ["a@dane-ee.test"], b"x\r\n" * 1000) == {}


def test_new_policy_holds_for_the_next_delivery(relay: Configured) -> None:
    relay.write(relay.first, more='[[rule]]\ndomains = ["plain.test"]\ntls = { level = "verify" }\n')
    relay.submit("a@plain.test")
    relay.wait_for("delivered")
    relay.hang_up("reloaded")
    relay.submit("b@plain.test")
    assert relay.wait_for("deferred")["to"] == "b@plain.test"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('[dns]\ntimeout = "soon"\n', "dns.timeout"),
        ("[dns\n", "TOML"),
        ('[dns]\ntrust_anchors = "/nonexistent"\n[queue]\nworkers = 0\n', "queue.workers"),
    ],
)
def test_bad_settings_are_refused_and_the_old_ones_stay(relay: Configured, more: str, said: str) -> None:
    relay.write(relay.second, more=more)
    relay.hang_up("new settings refused")
    assert any(said in str(line["message"]) for line in relay.lines)
    relay.submit("a@dane-ee.test")
    relay.wait_for("delivered")


def test_a_port_that_is_taken_refuses_the_whole_change(relay: Configured) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        relay.write(int(taken.getsockname()[1]), relay.second, more='max_message_size = "1kB"\n')
        relay.hang_up("new settings refused")
    with smtp(relay.first) as client:
        client.ehlo()
        assert client.esmtp_features["size"] != "1000"
    with pytest.raises(OSError):
        smtp(relay.second)
    relay.write(relay.first, relay.second)
    relay.hang_up("reloaded")
    with smtp(relay.second) as client:
        assert client.noop()[0] == 250
