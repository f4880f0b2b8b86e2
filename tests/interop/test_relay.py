"""The relay as a real process: what it answered with 250 survives kill -9; it stops when told; it says what is wrong."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.internet import Behaviour, LiveInternet, Silence
from tests.interop.relayprocess import CONTENT, Relay
from tests.interop.service import ROOT, START, environment


@pytest.fixture
def relay(live: LiveInternet, tmp_path: Path) -> Iterator[Relay]:
    relay = Relay(live, tmp_path / "state")
    yield relay
    if relay.process is not None and relay.process.poll() is None:
        relay.kill()


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
    live.behave("mx.dane-ee.test", Behaviour(replies={point: Silence()}))
    relay.start()
    relay.submit("a@dane-ee.test")
    relay.kill()
    assert live.world.messages == ()
    live.behave("mx.dane-ee.test", Behaviour())
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
    live.behave("mx.plain.test", Behaviour(replies={"DOT": Silence()}))
    relay.start()
    relay.submit("a@plain.test")
    live.wait_until(lambda world: bool(world.server("mx.plain.test").received), START)
    relay.kill()
    live.behave("mx.plain.test", Behaviour())
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
        relay.command("relay"), capture_output=True, timeout=START, check=False, cwd=ROOT, env=environment()
    )
    assert ran.returncode == 75
    assert str(tmp_path / "file") in ran.stderr.decode()
    assert "Traceback" not in ran.stderr.decode()


def test_two_relays_never_share_a_queue(live: LiveInternet, relay: Relay) -> None:
    relay.start()
    ran = subprocess.run(
        relay.command("relay"), capture_output=True, timeout=START, check=False, cwd=ROOT, env=environment()
    )
    assert ran.returncode == 75
    assert "another process owns it" in ran.stderr.decode()
