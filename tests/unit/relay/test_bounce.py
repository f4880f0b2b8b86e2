"""The bounce, read back by an independent parser: the standard library's."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliver.errors import Blame
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.outcome import Contact, Failed
from deliver.relay.bounce import MAX_HEADERS, Failure, bounce, boundary_from, header_section
from deliver.smtp.reply import EnhancedCode, Reply

NOW = 1_700_000_000.0
SENDER = Mailbox("a", "sender.example")
HEADERS = b"From: a@sender.example\r\nMessage-ID: <1@sender.example>\r\nSubject: Offer\r\n\r\nsecret body\r\n"
REFUSED = Failed(
    "the server refused the recipient",
    Blame.RECIPIENT,
    reply=Reply(550, ("5.1.1 No such user",)),
    enhanced=EnhancedCode(5, 1, 1),
    contact=Contact("mx.example.org", "192.0.2.1", 25),
)
EXPIRED = Failed(
    "not delivered within 5 days; the last reason was: no route to host",
    Blame.HOST,
    enhanced=EnhancedCode(5, 4, 7),
)


def envelope(sender: Mailbox | None = SENDER) -> Envelope:
    return Envelope(MessageId("m1"), sender, (), 100, False, NOW - 100)


def failure(outcome: Failed = REFUSED, address: str = "b@example.org", ordinal: int = 0) -> Failure:
    return Failure(Recipient(ordinal, Mailbox.parse(address)), outcome)


def made(*failures: Failure, headers: bytes = HEADERS) -> bytes:
    text = bounce(
        envelope(),
        failures or (failure(),),
        reporting_mta="relay.example.net",
        message_id=MessageId("b1"),
        boundary=boundary_from(bytes(range(20))),
        now=NOW,
        headers=headers,
    )
    assert text is not None
    return text


def parsed(text: bytes) -> EmailMessage:
    message = message_from_bytes(text, policy=policy.SMTP)
    assert isinstance(message, EmailMessage)
    assert message.defects == []
    return message


def status_groups(text: bytes) -> list[EmailMessage]:
    (_, report, _) = parsed(text).iter_parts()
    return [part for part in report.get_payload() if part.keys()]


def test_a_bounce_is_never_bounced():
    for sender, failures in ((None, (failure(),)), (SENDER, ())):
        text = bounce(
            envelope(sender),
            failures,
            reporting_mta="relay.example.net",
            message_id=MessageId("b1"),
            boundary="x",
            now=NOW,
            headers=HEADERS,
        )
        assert text is None


def test_the_header_says_what_it_is_to_people_and_programs():
    message = parsed(made())
    assert message["To"] == "a@sender.example"
    assert message["From"] == "Mail Delivery System <MAILER-DAEMON@relay.example.net>"
    assert message["Auto-Submitted"] == "auto-replied"
    assert message["Message-ID"] == "<b1@relay.example.net>"
    assert message["In-Reply-To"] == message["References"] == "<1@sender.example>"
    assert message["Date"].datetime.timestamp() == NOW
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"


def test_it_has_the_three_parts_of_rfc_6522():
    types = [part.get_content_type() for part in parsed(made()).iter_parts()]
    assert types == ["text/plain", "message/delivery-status", "text/rfc822-headers"]


def test_the_report_has_the_fields_of_rfc_3464():
    per_message, per_recipient = status_groups(made())
    assert per_message["Reporting-MTA"] == "dns; relay.example.net"
    assert per_message["Arrival-Date"].endswith("+0000")
    assert dict(per_recipient) == {
        "Final-Recipient": "rfc822; b@example.org",
        "Action": "failed",
        "Status": "5.1.1",
        "Remote-MTA": "dns; mx.example.org",
        "Diagnostic-Code": "smtp; 550 5.1.1 No such user",
        "Last-Attempt-Date": "Tue, 14 Nov 2023 22:13:20 +0000",
    }


def test_without_a_server_there_is_no_remote_mta():
    _, per_recipient = status_groups(made(failure(EXPIRED)))
    assert "Remote-MTA" not in per_recipient
    assert per_recipient["Status"] == "5.4.7"
    assert per_recipient["Diagnostic-Code"].startswith("x-outrider; not delivered within 5 days")


def test_each_recipient_has_its_own_fields():
    groups = status_groups(made(failure(), failure(EXPIRED, "c@example.net", 1)))
    assert [group["Final-Recipient"] for group in groups[1:]] == [
        "rfc822; b@example.org",
        "rfc822; c@example.net",
    ]


def words(text: bytes) -> str:
    (part, _, _) = parsed(text).iter_parts()
    return " ".join(part.get_content().split())


def test_the_words_say_who_failed_why_and_what_to_do():
    said = words(made())
    assert "<b@example.org>" in said
    assert "The mail server mx.example.org [192.0.2.1] said: 550 5.1.1 No such user" in said
    assert "check the address for typing errors" in said


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ((5, 4, 7), "send the message again later"),
        ((5, 1, 10), "check the address"),
        ((5, 2, 2), "mailbox is full"),
        ((5, 3, 4), "smaller"),
        ((5, 2, 3), "smaller"),
        ((5, 7, 1), "security or policy rule"),
        ((5, 0, 0), "forward this message to your administrator"),
    ],
)
def test_the_advice_fits_the_status(code, advice):
    outcome = Failed("it failed", Blame.MESSAGE, enhanced=EnhancedCode(*code))
    assert advice in words(made(failure(outcome)))


def test_the_body_is_not_returned():
    text = made()
    assert b"secret body" not in text
    (_, _, returned) = parsed(text).iter_parts()
    assert returned.get_payload().startswith("From: a@sender.example\r\nMessage-ID:")


def test_the_returned_header_is_capped_at_whole_lines():
    many = b"".join(b"X-%d: %s\r\n" % (index, b"x" * 90) for index in range(2000))
    section = header_section(many + b"\r\nbody")
    assert len(section) <= MAX_HEADERS
    assert section.endswith("x\r\n")


@given(
    headers=st.binary(max_size=1200),
    lines=st.lists(st.text(max_size=300), max_size=5),
    why=st.text(max_size=400),
    host=st.text(max_size=300),
)
def test_whatever_peers_and_senders_say_the_bounce_is_clean_and_has_three_parts(headers, lines, why, host):
    outcome = Failed(
        why,
        Blame.HOST,
        reply=Reply(550, tuple(lines)) if lines else None,
        contact=Contact(host, "192.0.2.1", 25),
    )
    text = made(failure(outcome), headers=headers)
    assert all(octet < 128 and octet != 0 for octet in text)
    body = text.replace(b"\r\n", b"")
    assert b"\r" not in body
    assert b"\n" not in body
    assert max(len(line) for line in text.split(b"\r\n")) <= 998
    message = message_from_bytes(text, policy=policy.SMTP)
    assert [part.get_content_type() for part in message.iter_parts()] == [
        "text/plain",
        "message/delivery-status",
        "text/rfc822-headers",
    ]
    assert message["To"] == "a@sender.example"


def test_boundaries_differ_and_are_long():
    assert boundary_from(bytes(20)) != boundary_from(bytes(19) + b"\x01")
    assert 20 < len(boundary_from(bytes(20))) <= 70
