"""The Exim that other tests deliver to: does it do what its configuration says?"""

from __future__ import annotations

import smtplib
import socket
import ssl

import pytest

from tests.internet.pki import Credentials, authority
from tests.interop.peers.exim import Exim, EximConfig
from tests.interop.peers.factory import Factory

MESSAGE = b"From: a@client.test\r\nSubject: =?utf-8?q?gr=C3=BC=C3=9Fe?=\r\n\r\n.leading dot\r\nFrom here\r\n\r\n\ttab \xff\r\n"


@pytest.fixture(scope="module")
def credentials() -> Credentials:
    return authority().issue("mx.exim.test")


def _server(exim: Factory[EximConfig, Exim], credentials: Credentials, **fields: object) -> Exim:
    return exim(certificate=credentials.chain_pem, key=credentials.private_key_pem, **fields)


def _verifying_context() -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority().root_pem.decode())


def test_delivers_through_starttls_byte_for_byte(
    exim: Factory[EximConfig, Exim], credentials: Credentials
) -> None:
    server = _server(exim, credentials)
    with smtplib.SMTP(server.address, server.port, "client.test", timeout=10) as client:
        client._host = "mx.exim.test"  # type: ignore[attr-defined]  # the name that the certificate must bear
        client.starttls(context=_verifying_context())
        refused = client.sendmail("a@client.test", ["one@exact.test", "two@other.test"], MESSAGE)
    assert refused == {}
    for recipient in ("one@exact.test", "two@other.test"):
        (received,) = server.mailbox.to(recipient)
        assert received.content == MESSAGE
        assert received.sender == "a@client.test"
        assert "esmtps" in received.trace
        assert "TLS1.3" in received.trace


def test_announces_no_starttls_without_a_certificate(exim: Factory[EximConfig, Exim]) -> None:
    server = exim()
    with smtplib.SMTP(server.address, server.port, "client.test", timeout=10) as client:
        client.ehlo()
        assert not client.has_extn("starttls")
        client.sendmail("", ["bounce@exact.test"], b"Subject: x\r\n\r\n")
    (received,) = server.mailbox.to("bounce@exact.test")
    assert received.sender == ""


@pytest.mark.parametrize(
    ("fields", "present", "absent"),
    [
        ({"pipeconnect": True, "prdr": True}, {"pipeconnect", "prdr", "chunking", "pipelining"}, set[str]()),
        ({"chunking": False}, {"pipelining"}, {"chunking", "prdr", "pipeconnect"}),
        ({"pipelining": False}, {"chunking"}, {"pipelining", "pipeconnect"}),
    ],
)
def test_announces_what_was_asked_for(
    exim: Factory[EximConfig, Exim], fields: dict[str, bool], present: set[str], absent: set[str]
) -> None:
    server = exim(**fields)
    with smtplib.SMTP(server.address, server.port, "client.test", timeout=10) as client:
        client.ehlo()
        assert present <= set(client.esmtp_features)
        assert not absent & set(client.esmtp_features)


def test_answers_ehlo_before_its_banner_and_each_recipient_with_prdr(exim: Factory[EximConfig, Exim]) -> None:
    server = exim(
        pipeconnect=True,
        prdr=True,
        data_prdr="deny local_parts = refuse\n    message = not this one\n  accept",
    )
    with socket.create_connection((server.address, server.port), timeout=10) as client:
        client.sendall(b"EHLO client.test\r\n")
        replies = client.makefile("rb")

        def reply() -> str:
            while (line := replies.readline().decode())[3:4] == "-":
                pass
            return line[:3]

        assert [reply(), reply()] == ["220", "250"]
        client.sendall(
            b"MAIL FROM:<a@client.test> PRDR\r\nRCPT TO:<keep@prdr.test>\r\nRCPT TO:<refuse@prdr.test>\r\nDATA\r\n"
        )
        assert [reply() for _ in range(4)] == ["250", "250", "250", "354"]
        client.sendall(b"Subject: prdr\r\n\r\nhi\r\n.\r\n")
        assert [reply() for _ in range(4)] == ["353", "250", "550", "250"]
        client.sendall(b"QUIT\r\n")
        assert reply() == "221"
    assert len(server.mailbox.to("keep@prdr.test")) == 1
    assert not [m for m in server.mailbox.messages() if m.recipient == "refuse@prdr.test"]


def test_obeys_acls(exim: Factory[EximConfig, Exim]) -> None:
    server = exim(rcpt="defer local_parts = later\n    message = 452 4.2.2 full\n  accept")
    with smtplib.SMTP(server.address, server.port, "client.test", timeout=10) as client:
        refused = client.sendmail("a@client.test", ["later@acl.test", "now@acl.test"], b"Subject: x\r\n\r\n")
    assert refused["later@acl.test"][0] == 452
    assert len(server.mailbox.to("now@acl.test")) == 1


def test_same_configuration_is_the_same_server(exim: Factory[EximConfig, Exim]) -> None:
    assert exim(hostname="a.test") is exim(hostname="a.test")
    assert exim(hostname="a.test").address != exim(hostname="b.test").address
