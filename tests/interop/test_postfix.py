"""The Postfix that other tests deliver to: does it do what its configuration says?"""

from __future__ import annotations

import smtplib
import ssl

import pytest

from tests.internet.pki import Credentials, authority
from tests.interop.peers.factory import Factory
from tests.interop.peers.postfix import Postfix, PostfixConfig

MESSAGE = b"Subject: byte for byte\r\n\r\n.leading dot\r\nFrom here\r\n\r\n\ttab \xff\r\n"


@pytest.fixture(scope="module")
def credentials() -> Credentials:
    return authority().issue("mx.postfix.test")


def test_delivers_through_starttls_byte_for_byte(
    postfix: Factory[PostfixConfig, Postfix], credentials: Credentials
) -> None:
    server = postfix(certificate=credentials.chain_pem, key=credentials.private_key_pem)
    with smtplib.SMTP(server.address, server.port, "client.test", timeout=10) as client:
        client._host = "mx.postfix.test"  # type: ignore[attr-defined]  # the name that the certificate must bear
        client.starttls(context=ssl.create_default_context(cadata=authority().root_pem.decode()))
        refused = client.sendmail("a@client.test", ["one@exact.test", "two@other.test"], MESSAGE)
    assert refused == {}
    for recipient in ("one@exact.test", "two@other.test"):
        (received,) = server.mailbox.to(recipient)
        assert received.content == MESSAGE
        assert received.sender == "a@client.test"
        assert "TLSv1.3" in received.trace


def test_announces_no_starttls_without_a_certificate(postfix: Factory[PostfixConfig, Postfix]) -> None:
    server = postfix()
    with smtplib.SMTP(server.address, server.port, "client.test", timeout=10) as client:
        client.ehlo()
        assert not client.has_extn("starttls")
        assert client.has_extn("chunking")
        client.sendmail("", ["bounce@exact.test"], b"Subject: x\r\n\r\n")
    (received,) = server.mailbox.to("bounce@exact.test")
    assert received.sender == ""


def test_hides_extensions_and_obeys_further_parameters(postfix: Factory[PostfixConfig, Postfix]) -> None:
    server = postfix(
        discard_ehlo=("chunking", "pipelining"),
        main="smtpd_recipient_restrictions = check_recipient_access inline:{{later@acl.test = 452 4.2.2 full}}, permit",
    )
    with smtplib.SMTP(server.address, server.port, "client.test", timeout=10) as client:
        refused = client.sendmail("a@client.test", ["later@acl.test", "now@acl.test"], b"Subject: x\r\n\r\n")
        assert not client.has_extn("chunking")
        assert not client.has_extn("pipelining")
    assert refused["later@acl.test"][0] == 452
    assert len(server.mailbox.to("now@acl.test")) == 1


def test_two_servers_run_side_by_side(postfix: Factory[PostfixConfig, Postfix]) -> None:
    servers = [postfix(hostname=name) for name in ("left.test", "right.test")]
    for server in servers:
        with smtplib.SMTP(server.address, server.port, "client.test", timeout=10) as client:
            assert server.config.hostname in client.docmd("EHLO", "client.test")[1].decode()
            client.sendmail("a@client.test", ["side@by.test"], b"Subject: x\r\n\r\n")
        assert len(server.mailbox.to("side@by.test")) == 1
