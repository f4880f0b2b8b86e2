"""The relay as a real process: what it answered with 250 survives kill -9; it stops when told; it says what is wrong."""

from __future__ import annotations

import json
import os
import select
import signal
import smtplib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.internet import Behaviour, LiveInternet, Silence

ROOT = Path(__file__).parents[2]
START = 30  # seconds
CONTENT = b"Subject: keep me\r\n\r\n.a dot\r\nlast\r\n"


class Relay:
    """`outrider relay` on the miniature Internet, with a state directory of its own."""

    def __init__(self, live: LiveInternet, directory: Path) -> None:
        world = live.world
        self.port = 0
        self.directory = directory
        self.options = [
            f'dns.resolvers=["{world.resolver.endpoint}"]',
            f"dns.trust_anchors={world.write_trust_anchor(directory.parent)}",
            f"state_dir={directory}",
            f"delivery.port={world.port}",
            "delivery.helo=relay.sender.test",
            'relay.listen=["127.0.0.1:0"]',
            'queue.retry=["1s"]',
            "queue.lease_margin=1s",
            "log.format=json",
        ]
        self.process: subprocess.Popen[bytes] | None = None
        self.lines: list[dict[str, Any]] = []

    def start(self) -> None:
        """Start it and wait until it listens."""
        self.process = subprocess.Popen(
            self._command("relay"), stderr=subprocess.PIPE, bufsize=0, cwd=ROOT, env=_environment()
        )
        self.port = int(str(self.wait_for("listening")["on"]).rpartition(":")[2])

    def wait_for(self, message: str) -> dict[str, Any]:
        """The next log line with this message."""
        while (read := self.next_line(f"no {message!r} in the log"))["message"] != message:
            pass
        return read

    def next_line(self, otherwise: str = "the log is silent") -> dict[str, Any]:
        """The next line of the log."""
        assert self.process is not None
        assert self.process.stderr is not None
        if select.select([self.process.stderr], [], [], START)[0] and (
            line := self.process.stderr.readline()
        ):
            self.lines.append(json.loads(line))
            return dict(self.lines[-1])
        raise AssertionError(f"{otherwise}: {self.lines}")

    def kill(self) -> None:
        """kill -9, as the kernel would when memory runs out."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(START)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def terminate(self) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(START)
        assert self.process.stderr is not None
        self.lines += [json.loads(line) for line in self.process.stderr]
        self.process.stderr.close()
        return status

    def submit(self, *recipients: str) -> None:
        """Hand over a message; returns when it was answered with 250."""
        with smtplib.SMTP("127.0.0.1", self.port, "client.test", timeout=START) as client:
            assert client.sendmail("me@sender.test", recipients, CONTENT) == {}

    def ask(self, *verb: str) -> Any:
        """What a verb prints with --json."""
        ran = subprocess.run(
            self._command(*verb, "--json"),
            capture_output=True,
            timeout=START,
            check=True,
            cwd=ROOT,
            env=_environment(),
        )
        text = ran.stdout.decode()
        return json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]

    def _command(self, *verb: str) -> list[str]:
        words = [word for option in self.options for word in ("-o", option)]
        return [sys.executable, "-m", "deliver", *words, *verb]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def live() -> Iterator[LiveInternet]:
    with LiveInternet() as live:
        yield live


@pytest.fixture
def relay(live: LiveInternet, tmp_path: Path) -> Iterator[Relay]:
    relay = Relay(live, tmp_path / "state")
    yield relay
    if relay.process is not None and relay.process.poll() is None:
        relay.kill()


def behave(live: LiveInternet, host: str, behaviour: Behaviour) -> None:
    def change(world: Any) -> None:
        world.server(host).behaviour = behaviour

    live.call(change)


def test_a_message_goes_through(live: LiveInternet, relay: Relay) -> None:
    relay.start()
    relay.submit("a@dane-ee.test", "b@dane-ta.test")
    live.wait_for_messages(2, START)
    for message in live.world.messages:
        received, _, rest = message.content.partition(b"\r\nSubject")
        assert received.startswith(
            b"Received: from client.test ([127.0.0.1])\r\n by relay.sender.test (Outrider)"
        )
        assert b"Subject" + rest == CONTENT
    assert relay.terminate() == 0
    assert live.world.violations == ()
    assert [event["name"] for event in relay.ask("events", "tail")].count("msg:delivery") == 2
    assert relay.ask("queue", "list") == []
    assert relay.ask("hints", "list") != []


@pytest.mark.parametrize("point", ["CONNECT", "MAIL", "CONTENT"])
def test_kill_9_before_delivery_loses_nothing(live: LiveInternet, relay: Relay, point: Any) -> None:
    behave(live, "mx.dane-ee.test", Behaviour(replies={point: Silence()}))
    relay.start()
    relay.submit("a@dane-ee.test")
    relay.kill()
    assert live.world.messages == ()
    behave(live, "mx.dane-ee.test", Behaviour())
    relay.start()
    relay.wait_for("delivered")
    assert relay.terminate() == 0
    (message,) = live.world.messages
    assert message.recipients == ("a@dane-ee.test",)
    assert relay.ask("queue", "list") == []


def test_kill_9_right_after_the_250_loses_nothing(live: LiveInternet, relay: Relay) -> None:
    relay.start()
    for number in range(10):
        relay.submit(f"r{number}@plain.test")
    relay.kill()
    relay.start()

    def arrived(world: Any) -> bool:
        recipients = {recipient for message in world.messages for recipient in message.recipients}
        return recipients == {f"r{number}@plain.test" for number in range(10)}

    live.wait_until(arrived, START)
    assert relay.terminate() == 0


def test_kill_9_after_the_dot_is_in_doubt_and_is_tried_again(live: LiveInternet, relay: Relay) -> None:
    behave(live, "mx.plain.test", Behaviour(replies={"DOT": Silence()}))
    relay.start()
    relay.submit("a@plain.test")
    live.wait_until(lambda world: bool(world.server("mx.plain.test").received), START)
    relay.kill()
    behave(live, "mx.plain.test", Behaviour())
    relay.start()
    relay.wait_for("delivered")
    assert relay.terminate() == 0


def test_a_failure_is_reported_to_the_sender(live: LiveInternet, relay: Relay) -> None:
    relay.options.append("route=[{domains=['sender.test'], via='smarthost', hosts=['mx.plain.test']}]")
    relay.start()
    relay.submit("a@null.test")
    live.wait_for_messages(1, START)
    (bounce,) = live.world.messages
    assert bounce.sender == ""
    assert bounce.recipients == ("me@sender.test",)
    assert b"Final-Recipient: rfc822; a@null.test" in bounce.content
    assert b"Status: 5.1.10" in bounce.content
    assert relay.terminate() == 0


def test_a_deferral_waits_and_says_why(live: LiveInternet, relay: Relay) -> None:
    relay.options[relay.options.index('queue.retry=["1s"]')] = 'queue.retry=["1h"]'
    relay.start()
    relay.submit("a@dane-mismatch.test")
    assert relay.wait_for("deferred")["code"] == "4.7.5"
    assert relay.terminate() == 0
    (waiting,) = relay.ask("queue", "list")
    assert "TLSA" in json.dumps(waiting)
    names = [event["name"] for event in relay.ask("events", "tail")]
    assert names[0] == "msg:accept"
    assert {"dane:fail", "msg:defer"} <= set(names)


def test_an_unusable_queue_directory_is_said(live: LiveInternet, relay: Relay, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    relay.options.append(f"queue.directory={tmp_path}/file/queue")
    ran = subprocess.run(
        relay._command("relay"), capture_output=True, timeout=START, check=False, cwd=ROOT, env=_environment()
    )
    assert ran.returncode == 75
    assert str(tmp_path / "file") in ran.stderr.decode()
    assert "Traceback" not in ran.stderr.decode()


def test_two_relays_never_share_a_queue(live: LiveInternet, relay: Relay) -> None:
    relay.start()
    ran = subprocess.run(
        relay._command("relay"), capture_output=True, timeout=START, check=False, cwd=ROOT, env=_environment()
    )
    assert ran.returncode == 75
    assert "another process owns it" in ran.stderr.decode()
