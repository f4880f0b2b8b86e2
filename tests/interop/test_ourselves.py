"""A relay that listens on every address of the machine knows itself under each of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.internet import LiveInternet
from tests.interop.relayprocess import Relay
from tests.interop.test_reload import free_port


@pytest.fixture
def relay(live: LiveInternet, tmp_path: Path) -> Iterator[Relay]:
    relay, port = Relay(live, tmp_path / "state"), free_port()
    hosts = f'["127.0.0.1:{port}", "[::ffff:127.0.0.2]:{port}"]'
    relay.options += [
        f'relay.listen=["0.0.0.0:{port}"]',
        f'route=[{{domains=["loop.test"], via="smarthost", hosts={hosts}}}]',
    ]
    yield relay
    if relay.process is not None and relay.process.poll() is None:
        relay.kill()


def test_mail_for_ourselves_does_not_go_round(relay: Relay) -> None:
    relay.start()
    relay.submit("a@loop.test")
    deferred = relay.wait_for("deferred")  # as the settings say so; what DNS says fails
    assert deferred["code"] == "4.4.6"
    assert "is this host itself" in deferred["why"]
    assert relay.terminate() == 0
    assert [line["message"] for line in relay.lines].count("message accepted") == 1
