"""A relay that listens on every address of the machine knows itself under each of them."""

from __future__ import annotations

from pathlib import Path

from tests.internet import LiveInternet
from tests.interop.relayprocess import Relay
from tests.interop.test_reload import free_port


def test_mail_for_ourselves_does_not_go_round(live: LiveInternet, tmp_path: Path) -> None:
    relay = Relay(live, tmp_path / "state")
    port = free_port()
    hosts = f'["127.0.0.1:{port}", "[::ffff:127.0.0.2]:{port}"]'
    relay.options += [
        f'relay.listen=["0.0.0.0:{port}"]',
        f'route=[{{domains=["loop.test"], via="smarthost", hosts={hosts}}}]',
    ]
    relay.start()
    relay.submit("a@loop.test")
    failed = relay.wait_for("failed")
    assert failed["code"] == "5.4.6"
    assert "is this host itself" in failed["why"]
    assert relay.terminate() == 0
    accepted = [line for line in relay.lines if line["message"] == "message accepted"]
    assert len(accepted) == 1
