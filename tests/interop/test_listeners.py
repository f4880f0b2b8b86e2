"""Listening addresses with rules of their own, in the relay as a process: at its start and after SIGHUP."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.internet import LiveInternet
from tests.interop.relayprocess import CONTENT
from tests.interop.test_reload import Configured, smtp


@pytest.fixture
def relay(live: LiveInternet, tmp_path: Path) -> Iterator[Configured]:
    relay = Configured(live, tmp_path / "state")
    yield relay
    if relay.process is not None and relay.process.poll() is None:
        relay.kill()


def listener(port: int, more: str) -> str:
    return f'[[relay.listener]]\nlisten = ["127.0.0.1:{port}"]\n{more}\n'


def offered(port: int) -> dict[str, str]:
    with smtp(port) as client:
        client.ehlo()
        return dict(client.esmtp_features)


def test_each_address_has_its_own_rules(relay: Configured) -> None:
    strict = 'networks = ["192.0.2.0/24"]\nmax_message_size = "1kB"\nhelo = "qualified"'
    relay.write(relay.first, more=listener(relay.second, strict))
    relay.start()
    assert "1000" not in offered(relay.first)["size"]
    assert offered(relay.second)["size"] == "1000"
    with smtp(relay.first) as client:
        assert client.sendmail("me@sender.test", ["a@dane-ee.test"], CONTENT) == {}
    with smtp(relay.second) as client, pytest.raises(smtplib.SMTPRecipientsRefused):
        client.sendmail("me@sender.test", ["a@dane-ee.test"], CONTENT)
    with smtplib.SMTP("127.0.0.1", relay.second, "unqualified", timeout=10) as client:
        assert client.ehlo()[0] == 504

    # The addresses change places; who is connected goes on by the old rules.
    with smtp(relay.first) as before:
        relay.write(relay.second, more=listener(relay.first, strict))
        relay.hang_up("reloaded")
        assert before.sendmail("me@sender.test", ["b@dane-ee.test"], CONTENT) == {}
    assert offered(relay.first)["size"] == "1000"
    assert "1000" not in offered(relay.second)["size"]
    assert relay.terminate() == 0


def test_submission_completes_what_arrives_at_the_recipient(relay: Configured, live: LiveInternet) -> None:
    relay.write(relay.first, more=listener(relay.second, 'mode = "submission"\nnetworks = ["127.0.0.0/8"]'))
    relay.start()
    with smtp(relay.second) as client:
        assert client.sendmail("me@sender.test", ["a@dane-ee.test"], "Subject: x\r\n\r\nhi\r\n") == {}
    relay.wait_for("delivered")
    (message,) = live.world.messages
    header, _, body = message.content.partition(b"\r\n\r\n")
    assert [line.partition(b":")[0] for line in header.split(b"\r\n") if not line.startswith(b" ")] == [
        b"Received", b"Subject", b"Date", b"Message-ID",
    ]  # fmt: skip
    assert body == b"hi\r\n"
    assert relay.terminate() == 0
