"""Our Received header, and counting those that are there."""

from __future__ import annotations

from email import message_from_bytes

import pytest

from deliver.message import Mailbox, MessageId
from deliver.relay.received import HopCounter, hop_count, protocol_name, received_header

ONE = (Mailbox("b", "example.net"),)
TWO = (*ONE, Mailbox("c", "example.net"))


def header(
    helo: str = "client.test", client: str = "192.0.2.1", recipients: tuple[Mailbox, ...] = ONE
) -> bytes:
    return received_header(
        helo=helo,
        client=client,
        hostname="relay.test",
        protocol="ESMTP",
        message_id=MessageId("01abc"),
        recipients=recipients,
        now=1_700_000_000.9,
    )


def test_all_clauses() -> None:
    assert header() == (
        b"Received: from client.test ([192.0.2.1])\r\n"
        b" by relay.test (Outrider) with ESMTP id 01abc\r\n"
        b" for <b@example.net>;\r\n"
        b" Tue, 14 Nov 2023 22:13:20 +0000\r\n"
    )


def test_several_recipients_are_not_told_of_each_other() -> None:
    assert header(recipients=TWO) == (
        b"Received: from client.test ([192.0.2.1])\r\n"
        b" by relay.test (Outrider) with ESMTP id 01abc;\r\n"
        b" Tue, 14 Nov 2023 22:13:20 +0000\r\n"
    )


def test_ipv6_and_address_literals() -> None:
    assert b"from [192.0.2.5] ([IPv6:2001:db8::1])" in header("[192.0.2.5]", "2001:db8::1")
    assert b"from [IPv6:2001:db8::5] (" in header("[ipv6:2001:DB8::5]")


@pytest.mark.parametrize(
    "helo",
    [
        "",
        "a b",
        "x) by evil.test (",
        "x\r\nEvil: yes",
        "x;y",
        "[192.0.2.1",
        "[evil]",
        "-x",
        "x" * 256,
        "é.test",
        "x\0",
        "client.test\n",
        '"',
        "(",
    ],
)
def test_a_hostile_helo_is_not_repeated(helo: str) -> None:
    made = header(helo)
    assert made.startswith(b"Received: from unknown ([192.0.2.1])\r\n by ")
    assert message_from_bytes(made + b"\r\n").keys() == ["Received"]


def test_an_unknown_client_address() -> None:
    assert b"from client.test (unknown)" in header(client="no\r\naddress")


HOPS = b"Received: one\r\nSubject: x\r\nRECEIVED: two\r\n\tReceived: folded\r\nreceived : three\r\nX-Received: no\r\n"


def test_only_header_fields_count() -> None:
    assert hop_count(HOPS) == 3
    assert hop_count(HOPS + b"\r\nReceived: quoted\r\n") == 3
    assert hop_count(b"\r\nReceived: in the body\r\n") == 0
    assert hop_count(b"") == 0


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_counting_over_any_chunking(size: int) -> None:
    long_line = b"Received: " + b"x" * 900 + b"\r\n" + b"Y: " + b"y" * 900 + b"\r\n"
    content = HOPS + long_line + HOPS + b"\r\nReceived: quoted\r\n"
    counter = HopCounter()
    for start in range(0, len(content), size):
        counter.feed(content[start : start + size])
    assert counter.hops == 7


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("SMTP", {"extended": False}),
        ("SMTP", {"extended": False, "secured": True}),
        ("ESMTP", {}),
        ("ESMTPS", {"secured": True}),
        ("ESMTPA", {"authenticated": True}),
        ("ESMTPSA", {"secured": True, "authenticated": True}),
        ("UTF8SMTP", {"utf8": True}),
        ("UTF8SMTPSA", {"utf8": True, "secured": True, "authenticated": True}),
        ("LMTP", {"lmtp": True}),
        ("LMTPS", {"lmtp": True, "secured": True}),
        ("UTF8LMTP", {"lmtp": True, "utf8": True}),
    ],
)
def test_protocol_names(name: str, facts: dict[str, bool]) -> None:
    """RFC 3848, RFC 6531 4.3."""
    plain = {"lmtp": False, "extended": True, "utf8": False, "secured": False, "authenticated": False}
    assert protocol_name(**{**plain, **facts}) == name
