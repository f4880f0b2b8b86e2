"""REQUIRETLS through whole processes: from a client over two relays to an exchanger, and what comes back (RFC 8689)."""

from __future__ import annotations

import json
import smtplib
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.internet import Behaviour, LiveInternet, MailDomain
from tests.internet.behaviour import KEYWORDS
from tests.internet.pki import authority
from tests.interop.peers.exim import Exim, EximConfig
from tests.interop.peers.factory import Factory
from tests.interop.peers.postfix import Postfix, PostfixConfig
from tests.interop.relayprocess import CONTENT, Relay
from tests.interop.sending import credentials, domain
from tests.interop.service import START

ANNOUNCING = Behaviour(keywords=KEYWORDS, keywords_tls=(*KEYWORDS, "REQUIRETLS"))
SENDER = "me@dane-ta.test"


class SecureRelay(Relay):
    """A relay with a certificate for a name in the miniature Internet, whose authorities it trusts."""

    def __init__(self, live: LiveInternet, directory: Path, name: str) -> None:
        super().__init__(live, directory)
        self.name = name
        issued = authority().issue(name)
        chain, key = directory.with_suffix(".pem"), directory.with_suffix(".key")
        chain.write_bytes(issued.chain_pem)
        key.write_bytes(issued.private_key_pem)
        key.chmod(0o600)
        store = live.world.write_trust_store(directory.parent)
        self.options += [
            f'relay.tls.certificate=[{{chain_file="{chain}", key_file="{key}"}}]',
            f"relay.hostname={name}",
            f'tls.trust_store="{store}"',
        ]
        self.trusting = ssl.create_default_context(cafile=str(store))
        self.trusting.check_hostname = False  # smtplib would ask for the IP address that it connects to

    def hand_over(self, *recipients: str, options: tuple[str, ...] = ("REQUIRETLS",)) -> None:
        """As `submit`, inside TLS, with parameters of MAIL."""
        with smtplib.SMTP("127.0.0.1", self.port, "client.test", timeout=START) as client:
            client.ehlo()
            assert not client.has_extn("requiretls"), "in clear text it would mean nothing"
            client.starttls(context=self.trusting)
            client.ehlo()
            assert client.has_extn("requiretls")
            assert client.sendmail(SENDER, recipients, CONTENT, mail_options=options) == {}

    def send_all_to(self, other: SecureRelay) -> None:
        """By a route of the settings."""
        self.options.append(
            f'route=[{{domains=["*"], via="smarthost", hosts=["{other.name}:{other.port}"]}}]'
        )


@pytest.fixture
def relays(live: LiveInternet, tmp_path: Path) -> Iterator[tuple[SecureRelay, SecureRelay]]:
    """The first, not started, sends everything to the second."""
    name = "second.partner.test"
    live.call(lambda world: world.publish(MailDomain("partner.test", hosts={name: ("127.0.0.1",)})))
    first = SecureRelay(live, tmp_path / "first", "first.partner.test")
    second = SecureRelay(live, tmp_path / "second", name)
    second.start()
    first.send_all_to(second)
    yield first, second
    for relay in (first, second):
        if relay.process is not None and relay.process.poll() is None:
            relay.kill()


def test_from_a_client_over_two_relays_to_an_exchanger(
    live: LiveInternet, relays: tuple[SecureRelay, SecureRelay]
) -> None:
    first, second = relays
    live.behave("mx.dane-ee.test", ANNOUNCING)
    first.start()
    first.hand_over("a@dane-ee.test")
    live.wait_for_messages(1, START)
    (message,) = live.world.messages
    assert "REQUIRETLS" in message.mail_parameters
    assert message.content.endswith(CONTENT)
    assert first.wait_for("delivered")["tls"] == "verify:pkix"
    assert second.wait_for("delivered")["tls"] == "dane:dane-ee"
    first.hand_over("b@dane-ee.test", options=())
    live.wait_for_messages(2, START)
    assert "REQUIRETLS" not in live.world.messages[1].mail_parameters
    assert live.world.violations == ()


def test_the_queue_keeps_it_over_a_kill(live: LiveInternet, relays: tuple[SecureRelay, SecureRelay]) -> None:
    first, second = relays
    live.behave("mx.dane-ee.test", ANNOUNCING)
    assert second.terminate() == 0
    first.start()
    first.hand_over("a@dane-ee.test")
    deferred = first.wait_for("deferred")
    first.kill()
    shown = json.loads(first.run("queue", "show", str(deferred["id"]), "--json").stdout)
    assert shown["requires_tls"] is True
    second.options.append(f'relay.listen=["127.0.0.1:{second.port}"]')
    second.start()
    first.start()
    live.wait_for_messages(1, START)
    (message,) = live.world.messages
    assert "REQUIRETLS" in message.mail_parameters


@pytest.mark.parametrize("announced", [True, False])
def test_where_the_exchanger_does_not_announce_it_the_sender_gets_the_header_back(
    live: LiveInternet, relays: tuple[SecureRelay, SecureRelay], announced: bool
) -> None:
    first, second = relays
    if announced:
        live.behave("mx.dane-ta.test", ANNOUNCING)
    first.start()
    first.hand_over("a@dane-ee.test", options=("REQUIRETLS", "RET=FULL"))
    assert second.wait_for("failed")["to"] == "a@dane-ee.test"
    live.wait_for_messages(1, START)
    (bounce,) = live.world.messages
    assert bounce.recipients == (SENDER,)
    assert bounce.sender == ""
    assert ("REQUIRETLS" in bounce.mail_parameters) is announced
    assert b"Status: 5.7.30" in bounce.content
    assert b"Subject: keep me" in bounce.content
    assert b"last\r\n" not in bounce.content, "the text of the message stays here"
    assert live.copies()["a@dane-ee.test"] == 0
    assert live.world.violations == ()


def test_a_relay_that_does_not_offer_it_gets_nothing(
    live: LiveInternet, relays: tuple[SecureRelay, SecureRelay]
) -> None:
    first, second = relays
    assert second.terminate() == 0
    second.options += ["relay.requiretls=false", f'relay.listen=["127.0.0.1:{second.port}"]']
    second.start()
    first.start()
    first.hand_over("a@dane-ee.test")
    failed = first.wait_for("failed")
    assert failed["to"] == "a@dane-ee.test"
    assert "REQUIRETLS" in str(failed["why"])
    assert live.copies()["a@dane-ee.test"] == 0


def test_in_clear_text_it_is_refused(live: LiveInternet, relays: tuple[SecureRelay, SecureRelay]) -> None:
    _, second = relays
    with smtplib.SMTP("127.0.0.1", second.port, "client.test", timeout=START) as client:
        client.ehlo()
        code, text = client.mail(SENDER, ["REQUIRETLS"])
    assert (code, text[:6]) == (530, b"5.7.10")


@pytest.mark.peers
@pytest.mark.parametrize("program", ["exim", "postfix"])
def test_a_real_server_without_it_gets_nothing(
    live: LiveInternet,
    tmp_path: Path,
    exim: Factory[EximConfig, Exim],
    postfix: Factory[PostfixConfig, Postfix],
    program: str,
) -> None:
    """Debian's Exim and Postfix do not announce it."""
    name = f"real-{program}.test"
    own = credentials(name)
    start = exim if program == "exim" else postfix
    server = start(certificate=own.chain_pem, key=own.private_key_pem)
    live.call(lambda world: world.publish(domain(name, server, own.tlsa(3, 1, 1))))
    relay = Relay(live, tmp_path / "state")
    relay.options[-1:] = [f"delivery.port={server.port}"]
    send = ("send", "--json", "-f", SENDER, f"a@{name}")
    plain = relay.run(*send)
    assert json.loads(plain.stdout)["outcome"] == "delivered"
    refused = relay.run(*send[:1], "--require-tls", *send[1:], status=69)
    found = json.loads(refused.stdout)
    assert (found["outcome"], found["enhanced_code"]) == ("failed", "5.7.30")
    assert len(server.mailbox.to(f"a@{name}")) == 1
    explained = relay.run("explain", name, "--require-tls", "--connect", "--json", status=69)
    (host,) = json.loads(explained.stdout)["hosts"]
    assert "REQUIRETLS" in host["contacts"][0]["why"]
