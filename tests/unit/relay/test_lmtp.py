"""What an outcome becomes over LMTP, and whose message is recognised."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from deliver.errors import Blame
from deliver.outcome import Contact, Deferred, Delivered, Failed, Outcome
from deliver.relay.lmtp import is_callers_own, reply_to
from deliver.smtp.answer import MAX_REPLY_TEXT, encode
from deliver.smtp.reply import EnhancedCode, Reply

CONTACT = Contact("mx.example.org", "192.0.2.1", 25)


def deferred(reply: Reply | None = None, enhanced: EnhancedCode = EnhancedCode(4, 4, 1)) -> Deferred:
    return Deferred("busy", Blame.HOST, reply=reply, enhanced=enhanced)


def failed(reply: Reply | None = None, enhanced: EnhancedCode = EnhancedCode(5, 1, 1)) -> Failed:
    return Failed("no", Blame.RECIPIENT, reply=reply, enhanced=enhanced)


@pytest.mark.parametrize(
    ("outcome", "code", "text"),
    [
        (Delivered(Reply(250, ("2.6.0 Queued", "twice")), CONTACT), 250, "2.6.0 Queued twice"),
        (Delivered(Reply(251, ("Ok",)), CONTACT), 250, "2.0.0 Ok"),
        (deferred(), 451, "4.4.1 busy"),
        (deferred(Reply(452, ("4.2.2 full",))), 452, "4.4.1 busy"),
        (deferred(Reply(421, ("4.3.2 bye",))), 451, "4.4.1 busy"),
        (deferred(Reply(552, ("5.5.3 too many",)), EnhancedCode(5, 5, 3)), 451, "4.0.0 busy"),
        (failed(), 550, "5.1.1 no"),
        (failed(Reply(554, ("5.7.1 no",))), 554, "5.1.1 no"),
        (failed(Reply(552, ("5.2.2 full",))), 550, "5.1.1 no"),
        (failed(Reply(503, ("what",)), EnhancedCode(4, 0, 0)), 550, "5.0.0 no"),
    ],
)
def test_the_table(outcome: Outcome, code: int, text: str) -> None:
    assert reply_to(outcome) == Reply(code, (text,))


@given(st.text(max_size=2000), st.integers(200, 599))
def test_whatever_a_server_said_is_one_line(said: str, code: int) -> None:
    for outcome in (
        Delivered(Reply(code, (said, said)), CONTACT),
        Deferred(said, Blame.HOST, reply=Reply(code, (said,))),
        Failed(said, Blame.HOST, reply=Reply(code, (said,))),
    ):
        octets = encode(reply_to(outcome))
        assert octets.count(b"\r") == octets.count(b"\n") == 1
        assert octets.endswith(b"\r\n")
        assert len(octets) <= MAX_REPLY_TEXT + 6
        assert octets[:1] == {Delivered: b"2", Deferred: b"4", Failed: b"5"}[type(outcome)]


@pytest.mark.parametrize(
    ("header", "own"),
    [
        (b"Received: from a by mta.test (Postfix) with ESMTP id 4XyZ; now\r\n", True),
        (b"Return-Path: <a@b>\r\nReceived: by MTA.test\r\n\tid 4XyZ; now\r\n", True),
        (b"Received: by other.test id 1; now\r\nReceived: by mta.test id 2; then\r\n", False),
        (b"Received: by mta.test.evil.test id 1; now\r\n", False),
        (b"Received: by mta.test; now\r\n", False),
        (b"Subject: x\r\n\r\nReceived: by mta.test id 1; now\r\n", False),
        (b"X-Received: by mta.test id 1\r\n", False),
        (b"", False),
    ],
)
def test_whose_message_it_is(header: bytes, own: bool) -> None:
    assert is_callers_own(header + b"Subject: x\r\n\r\nhello\r\n", "mta.test") is own


@given(st.binary(max_size=400), st.text(max_size=10))
def test_no_content_disturbs_that(content: bytes, helo: str) -> None:
    assert is_callers_own(content, helo) in (True, False)
