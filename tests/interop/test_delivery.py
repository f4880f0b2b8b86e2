"""Deliveries to real Exim and Postfix, found through real NSD and unbound: DANE-verified TLS, or none at all."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.internet import Security
from tests.internet.pki import Certificate, Credentials
from tests.interop.peers.exim import Exim, EximConfig
from tests.interop.peers.factory import Factory
from tests.interop.peers.postfix import Postfix, PostfixConfig
from tests.interop.sending import CONTENT, Send, credentials, domain


@pytest.fixture
def real_exim(exim: Factory[EximConfig, Exim]) -> Callable[[Credentials], Exim]:
    return lambda own: exim(certificate=own.chain_pem, key=own.private_key_pem)


@pytest.fixture
def real_postfix(postfix: Factory[PostfixConfig, Postfix]) -> Callable[[Credentials], Postfix]:
    return lambda own: postfix(certificate=own.chain_pem, key=own.private_key_pem)


@pytest.fixture(params=["exim", "postfix"])
def start(request: pytest.FixtureRequest) -> tuple[str, Callable[[Credentials], Exim | Postfix]]:
    """The name of a mail server, and how to start it with its credentials."""
    return request.param, request.getfixturevalue(f"real_{request.param}")


def test_dane_ee(start: tuple[str, Callable[[Credentials], Exim | Postfix]], send: Send) -> None:
    program, started = start
    name = f"ee-{program}.test"
    own = credentials(name, kind=Certificate.SELF_SIGNED)
    server = started(own)
    sent = send(
        [domain(name, server, own.tlsa(3, 1, 1))],
        server.port,
        f"one@{name}",
        f"two@{name}",
        options=["tls.level=dane-only"],
    )
    assert sent.status == 0, sent.stderr
    for result in sent.results:
        assert result["outcome"] == "delivered"
        assert (result["tls"]["level"], result["tls"]["verified_by"]) == ("dane-only", "dane-ee")
        assert result["tls"]["version"] == "TLSv1.3"
    for recipient in (f"one@{name}", f"two@{name}"):
        (received,) = server.mailbox.to(recipient)
        assert received.content == CONTENT
        assert received.sender == "a@sender.test"
        assert "relay.sender.test" in received.trace


def test_dane_ta(start: tuple[str, Callable[[Credentials], Exim | Postfix]], send: Send) -> None:
    program, started = start
    name = f"ta-{program}.test"
    own = credentials(name)
    server = started(own)
    sent = send([domain(name, server, own.tlsa(2, 1, 1, place=1))], server.port, f"one@{name}")
    assert sent.status == 0, sent.stderr
    assert sent.results[0]["tls"]["verified_by"] == "dane-ta"
    (received,) = server.mailbox.to(f"one@{name}")
    assert received.content == CONTENT


def test_a_certificate_that_does_not_match_gets_nothing(
    start: tuple[str, Callable[[Credentials], Exim | Postfix]], send: Send
) -> None:
    program, started = start
    name = f"mismatch-{program}.test"
    server = started(credentials(name))
    sent = send([domain(name, server, f"3 1 1 {'5a' * 32}")], server.port, f"one@{name}")
    assert sent.status == 75
    assert "tlsa-mismatch" in sent.codes
    assert f"one@{name}" not in server.log()


def test_a_server_without_starttls_gets_nothing(
    exim: Factory[EximConfig, Exim], postfix: Factory[PostfixConfig, Postfix], send: Send
) -> None:
    for server, name in ((exim(), "bare-exim.test"), (postfix(), "bare-postfix.test")):
        sent = send([domain(name, server, f"3 1 1 {'5a' * 32}")], server.port, f"one@{name}")
        assert sent.status == 75
        assert "starttls-required" in sent.codes
        assert f"one@{name}" not in server.log()


@pytest.mark.parametrize(
    ("mode", "security", "why"),
    [
        ("trust-ad", Security.BOGUS, "DNSSEC_BOGUS"),
        ("trust-ad", Security.EXPIRED, "SIGNATURE_EXPIRED"),
        ("validate", Security.BOGUS, "does not verify"),
        ("validate", Security.EXPIRED, "has expired"),
    ],
)
def test_what_is_bogus_waits(
    real_exim: Callable[[Credentials], Exim], send: Send, mode: str, security: Security, why: str
) -> None:
    name = f"{mode}-{security.name.lower()}.test"
    own = credentials("exim.test")
    server = real_exim(own)
    sent = send(
        [domain(name, server, own.tlsa(3, 1, 1), security=security)],
        server.port,
        f"one@{name}",
        options=[f"dns.dnssec={mode}"],
    )
    assert sent.status == 75
    assert "mx-lookup-failed" in sent.codes
    assert why in sent.results[0]["reasons"][-1]["text"]
    assert f"one@{name}" not in server.log()


def test_an_unsigned_domain_is_served_opportunistically(
    real_postfix: Callable[[Credentials], Postfix], send: Send
) -> None:
    own = credentials("postfix.test")
    server = real_postfix(own)
    unsigned = domain("unsigned.test", server, f"3 1 1 {'5a' * 32}", security=Security.INSECURE)
    sent = send([unsigned], server.port, "one@unsigned.test")
    assert sent.status == 0, sent.stderr
    assert sent.results[0]["tls"]["verified_by"] == "none"


def test_each_recipient_gets_its_own_answer(exim: Factory[EximConfig, Exim], send: Send) -> None:
    own = credentials("answers.test")
    rcpt = "deny local_parts = gone\n  defer local_parts = later\n  accept"
    server = exim(certificate=own.chain_pem, key=own.private_key_pem, rcpt=rcpt)
    recipients = [f"{who}@answers.test" for who in ("ok", "gone", "later")]
    sent = send([domain("answers.test", server, own.tlsa(3, 1, 1))], server.port, *recipients)
    assert sent.status == 75
    assert [result["outcome"] for result in sent.results] == ["delivered", "failed", "deferred"]
    assert len(server.mailbox.to("ok@answers.test")) == 1
