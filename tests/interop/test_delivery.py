"""Deliveries to real Exim and Postfix, found through real NSD and unbound: DANE-verified TLS, or none at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.internet import MailDomain, Security, build
from tests.internet.pki import Certificate, Credentials, authority
from tests.interop.peers.exim import Exim, EximConfig
from tests.interop.peers.factory import Factory
from tests.interop.peers.nsd import Nsd, NsdConfig
from tests.interop.peers.postfix import Postfix, PostfixConfig
from tests.interop.peers.unbound import Unbound, UnboundConfig

ROOT = Path(__file__).parents[2]
TEXT = b"From: a@sender.test\nSubject: to the real thing\n\n.a dot\n..two dots\nlast line\n"
CONTENT = TEXT.replace(b"\n", b"\r\n")
TOO_SLOW = 60  # seconds for one delivery, start of the interpreter included

Send = Callable[..., "Sent"]


@dataclass(frozen=True, slots=True)
class Sent:
    """What `outrider send --json` said."""

    status: int
    results: tuple[dict[str, Any], ...]
    stderr: str

    @property
    def codes(self) -> list[str]:
        return [reason["code"] for reason in self.results[0]["reasons"]]


def outrider(options: Sequence[str], recipients: Sequence[str], text: bytes = TEXT) -> Sent:
    command = [
        sys.executable,
        "-m",
        "deliver",
        *options,
        "send",
        "-f",
        "a@sender.test",
        "--json",
        *recipients,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        command, input=text, capture_output=True, timeout=TOO_SLOW, check=False, cwd=ROOT, env=environment
    )
    results = tuple(json.loads(line) for line in ran.stdout.splitlines())
    return Sent(ran.returncode, results, ran.stderr.decode())


@pytest.fixture
def send(nsd: Factory[NsdConfig, Nsd], unbound: Factory[UnboundConfig, Unbound], tmp_path: Path) -> Send:
    """`send(domains, port, *recipients, options=())`: outrider, resolving these domains through NSD and unbound."""

    def sending(
        domains: Sequence[MailDomain], port: int, *recipients: str, options: Sequence[str] = ()
    ) -> Sent:
        internet = build(domains, name_server="127.0.0.1")
        zones = {name.to_text(): zone.text for name, zone in internet.zones.items()}
        authoritative = nsd(zones=tuple(zones.items()))
        resolver = unbound(
            stubs=tuple((name, authoritative.address, authoritative.port) for name in zones),
            anchors=tuple(line for line in internet.trust_anchor_text.splitlines() if " DS " in line),
        )
        anchors = tmp_path / "root.key"
        anchors.write_text(internet.trust_anchor_text)
        settings = (
            f"dns.trust_anchors={anchors}",
            f'dns.resolvers=["{resolver.address}:{resolver.port}"]',
            f"state_dir={tmp_path}/state",
            f"delivery.port={port}",
            "delivery.helo=relay.sender.test",
            *options,
        )
        return outrider([word for setting in settings for word in ("-o", setting)], recipients)

    return sending


def domain(name: str, server: Exim | Postfix, *tlsa: str, **changes: Any) -> MailDomain:
    """A mail domain whose only exchanger, `mx.` in front of it, is that server."""
    host = f"mx.{name}"
    return MailDomain(
        name,
        mx=((10, host),),
        hosts={host: (server.address,)},
        tlsa=tuple((f"_{server.port}._tcp.{host}", data) for data in tlsa),
        **changes,
    )


def credentials(name: str, **changes: Any) -> Credentials:
    return authority().issue(f"mx.{name}", **changes)


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
