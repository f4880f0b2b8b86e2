"""Reports to senders, read back by an independent parser: the standard library's."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest
from hypothesis import given, strategies as st

from deliver.dsn import OriginalRecipient, Ret
from deliver.errors import Blame
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.outcome import Contact, Deferred, Delivered, Failed
from deliver.relay.bounce import Original, Report, abridged, boundary_from, report, wants_body
from deliver.relay.returned import MAX_HEADERS, header_section, wants_warnings
from deliver.relay.statusfields import Entry
from deliver.smtp.downgrade import Unconvertible, to_7bit
from deliver.smtp.reply import EnhancedCode, Reply

NOW = 1_700_000_000.0
SENDER = Mailbox("a", "sender.example")
HEADERS = b"From: a@sender.example\r\nMessage-ID: <1@sender.example>\r\nSubject: Offer\r\n\r\nsecret body\r\n"
CONTACT = Contact(
    "mx.example.org", "192.0.2.1", 2525, greeting="220 mx ready", ehlo="250 mx.example.org hello"
)
REFUSED = Failed(
    "the server refused the recipient",
    Blame.RECIPIENT,
    reply=Reply(550, ("5.1.1 No such user", "5.1.1 at all")),
    enhanced=EnhancedCode(5, 1, 1),
    contact=CONTACT,
)
EXPIRED = Failed(
    "not delivered within 5 days; the last reason was: no route to host",
    Blame.HOST,
    enhanced=EnhancedCode(5, 4, 7),
)
DELAYED = Deferred("the server is busy", Blame.HOST, reply=Reply(451, ("4.7.1 later",)), contact=CONTACT)
RELAYED = Delivered(Reply(250, ("2.0.0 Ok",)), CONTACT)


def envelope(sender: Mailbox | None = SENDER, **more: object) -> Envelope:
    return Envelope(MessageId("m1"), sender, (), 100, False, NOW - 100, **more)  # type: ignore[arg-type]


def entry(
    outcome=REFUSED, address="b@example.org", ordinal=0, action="failed", original=None, until=None
) -> Entry:
    local, _, domain = address.rpartition("@")
    to = Recipient(ordinal, Mailbox(local, domain), None, original)
    return Entry(to, action, outcome, NOW - 10, until)


def made(
    *entries: Entry, content: bytes = HEADERS, whole: bool = False, of: Envelope | None = None
) -> Report:
    composed = report(
        of or envelope(),
        entries or (entry(),),
        reporting_mta="relay.example.net",
        message_id=MessageId("b1"),
        boundary=boundary_from(bytes(range(20))),
        now=NOW,
        original=Original(content, whole),
    )
    assert composed is not None
    return composed


def parsed(composed: Report) -> EmailMessage:
    message = message_from_bytes(composed.text, policy=policy.SMTP)
    assert isinstance(message, EmailMessage)
    assert message.defects == []
    return message


def groups(composed: Report) -> list[dict[str, str]]:
    """The groups of fields in the part for programs: the message's, then each recipient's."""
    (_, status, _) = parsed(composed).iter_parts()
    if status.get_content_type() == "message/delivery-status":
        return [dict(part) for part in status.get_payload() if part.keys()]
    boundary = parsed(composed).get_boundary()  # the library knows nothing of message/global-delivery-status
    part = composed.text.split(f"\r\n--{boundary}".encode())[2].partition(b"\r\n\r\n")[2].decode()
    return [dict(line.split(": ", 1) for line in one.split("\r\n")) for one in part.strip().split("\r\n\r\n")]


def words(composed: Report) -> str:
    (part, _, _) = parsed(composed).iter_parts()
    return " ".join(part.get_content().split())


def test_a_bounce_is_never_bounced():
    for sender, entries in ((None, (entry(),)), (SENDER, ())):
        composed = report(
            envelope(sender),
            entries,
            reporting_mta="relay.example.net",
            message_id=MessageId("b1"),
            boundary="x",
            now=NOW,
            original=Original(HEADERS),
        )
        assert composed is None


def test_the_header_says_what_it_is_to_people_and_programs():
    composed = made()
    message = parsed(composed)
    assert message["To"] == "a@sender.example"
    assert message["From"] == "Mail Delivery System <MAILER-DAEMON@relay.example.net>"
    assert message["Auto-Submitted"] == "auto-replied"
    assert message["Message-ID"] == "<b1@relay.example.net>"
    assert message["In-Reply-To"] == message["References"] == "<1@sender.example>"
    assert message["X-Failed-Recipients"] == "b@example.org"
    assert message["Date"].datetime.timestamp() == NOW
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    assert (composed.eight_bit, composed.smtputf8) == (False, False)


def test_it_has_the_three_parts_of_rfc_6522():
    types = [part.get_content_type() for part in parsed(made()).iter_parts()]
    assert types == ["text/plain", "message/delivery-status", "text/rfc822-headers"]


def test_the_report_has_the_fields_of_rfc_3464_and_what_the_server_said():
    per_message, per_recipient = groups(made())
    assert per_message == {
        "Reporting-MTA": "dns; relay.example.net",
        "X-Outrider-Queue-ID": "m1",
        "X-Outrider-Sender": "rfc822; a@sender.example",
        "Arrival-Date": "Tue, 14 Nov 2023 22:11:40 +0000",
    }
    assert per_recipient == {
        "Final-Recipient": "rfc822; b@example.org",
        "Action": "failed",
        "Status": "5.1.1",
        "Remote-MTA": "dns; mx.example.org",
        "X-Remote-MTA-address": "X-ip; [192.0.2.1]:2525",
        "X-Remote-MTA-smtp-greeting": "X-str; 220 mx ready",
        "X-Remote-MTA-helo-response": "X-str; 250 mx.example.org hello",
        "X-Outrider-Diagnostic": "X-str; the server refused the recipient",
        "Diagnostic-Code": "smtp; 550 5.1.1 No such user 5.1.1 at all",
        "Last-Attempt-Date": "Tue, 14 Nov 2023 22:13:10 +0000",
        "Final-Log-ID": "m1",
    }


def test_the_senders_own_names_come_back():
    original = OriginalRecipient("rfc822", "list+owner@example.org")
    per_message, per_recipient = groups(made(entry(original=original), of=envelope(envid="QQ 314+=")))
    assert per_message["Original-Envelope-Id"] == "QQ 314+="
    assert per_recipient["Original-Recipient"] == "rfc822; list+owner@example.org"
    assert next(iter(per_message)) == "Original-Envelope-Id"
    assert next(iter(per_recipient)) == "Original-Recipient"


def test_without_a_server_there_is_no_remote_mta():
    _, per_recipient = groups(made(entry(EXPIRED)))
    assert "Remote-MTA" not in per_recipient
    assert per_recipient["Status"] == "5.4.7"
    assert per_recipient["Diagnostic-Code"].startswith("x-outrider; not delivered within 5 days")


def test_each_recipient_has_its_own_fields():
    found = groups(made(entry(), entry(EXPIRED, "c@example.net", 1)))
    assert [group["Final-Recipient"] for group in found[1:]] == [
        "rfc822; b@example.org",
        "rfc822; c@example.net",
    ]


def test_a_delay_says_that_it_is_tried_further_and_until_when():
    composed = made(entry(DELAYED, action="delayed", until=NOW + 86_400))
    _, per_recipient = groups(composed)
    assert (per_recipient["Action"], per_recipient["Status"]) == ("delayed", "4.0.0")
    assert per_recipient["Will-Retry-Until"] == "Wed, 15 Nov 2023 22:13:20 +0000"
    assert parsed(composed)["Subject"] == "Warning: your mail is delayed"
    assert "X-Failed-Recipients" not in parsed(composed)
    assert "need not send it again" in words(composed)
    assert "Wed, 15 Nov 2023" in words(composed)


def test_success_is_reported_as_relayed():
    composed = made(entry(RELAYED, action="relayed"))
    _, per_recipient = groups(composed)
    assert (per_recipient["Action"], per_recipient["Status"]) == ("relayed", "2.0.0")
    assert per_recipient["Diagnostic-Code"] == "smtp; 250 2.0.0 Ok"
    assert "cannot confirm deliveries" in words(composed)


def test_failures_and_success_of_one_message_are_one_report():
    composed = made(entry(), entry(RELAYED, "c@example.net", 1, "relayed"))
    assert [group["Action"] for group in groups(composed)[1:]] == ["failed", "relayed"]
    assert parsed(composed)["Subject"] == "Undelivered mail returned to sender"
    assert "could not be delivered" in words(composed)
    assert "was handed on" in words(composed)


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
    assert advice in words(made(entry(outcome)))


def test_without_ret_full_the_body_is_not_returned():
    composed = made()
    assert b"secret body" not in composed.text
    (_, _, returned) = parsed(composed).iter_parts()
    assert returned.get_payload().startswith("From: a@sender.example\r\nMessage-ID:")


def test_the_whole_message_comes_back_with_a_failure_only():
    (_, _, returned) = parsed(made(whole=True)).iter_parts()
    assert returned.get_content_type() == "message/rfc822"
    assert returned.get_payload(0).get_payload() == "secret body\r\n"
    delayed = made(entry(DELAYED, action="delayed"), whole=True)
    assert b"secret body" not in delayed.text


def test_a_returned_8bit_body_is_labelled_and_needs_8bitmime():
    composed = made(content="Subject: x\r\n\r\nG\u00fc\u00dfe\r\n".encode(), whole=True)
    assert composed.eight_bit
    assert parsed(composed)["Content-Transfer-Encoding"] == "8bit"
    (_, _, returned) = parsed(composed).iter_parts()
    assert returned["Content-Transfer-Encoding"] == "8bit"
    assert "G\u00fc\u00dfe".encode() in composed.text


@pytest.mark.parametrize(
    ("ret", "otherwise", "limit", "wanted"),
    [
        (None, "headers", 1000, False),
        (None, "full", 1000, True),
        (Ret.HDRS, "full", 1000, False),
        (Ret.FULL, "headers", 1000, True),
        (Ret.FULL, "full", 99, False),
    ],
)
def test_ret_decides_what_comes_back_within_the_limit(ret, otherwise, limit, wanted):
    assert wants_body(envelope(ret=ret), otherwise=otherwise, limit=limit) is wanted


@pytest.mark.parametrize("ret", [None, Ret.FULL, Ret.HDRS])
def test_what_asked_for_requiretls_never_comes_back_whole(ret):
    assert not wants_body(envelope(ret=ret, requires_tls=True), otherwise="full", limit=1000)


@pytest.mark.parametrize(
    ("outcome", "action"), [(REFUSED, "failed"), (DELAYED, "delayed"), (RELAYED, "relayed")]
)
@pytest.mark.parametrize("asked", [True, False])
def test_a_report_needs_requiretls_where_the_message_did(outcome, action, asked):
    assert made(entry(outcome, action=action), of=envelope(requires_tls=asked)).requires_tls is asked


def test_with_smtputf8_the_report_is_in_utf8():
    composed = made(
        entry(address="jos\u00e9@example.org"),
        content="Subject: Gr\u00fc\u00dfe\r\n\r\n".encode(),
        of=envelope(Mailbox("m\u00fcller", "sender.example"), smtputf8=True),
    )
    types = [part.get_content_type() for part in parsed(composed).iter_parts()]
    assert types == ["text/plain", "message/global-delivery-status", "message/global-headers"]
    assert (composed.eight_bit, composed.smtputf8) == (True, True)
    assert "Final-Recipient: utf-8; jos\u00e9@example.org\r\n" in composed.text.decode()
    assert "To: <m\u00fcller@sender.example>" in composed.text.decode()
    assert "Subject: Gr\u00fc\u00dfe" in composed.text.decode()


def test_a_header_in_utf8_comes_back_as_it_was_where_smtputf8_was_asked():
    header = "Subject: Gr\u00fc\u00dfe\r\n\r\n".encode()
    with_it = made(content=header, of=envelope(smtputf8=True))
    assert b"message/global-headers" in with_it.text
    assert header.strip() in with_it.text
    assert (with_it.eight_bit, with_it.smtputf8) == (True, False)
    assert made(content=header).text.isascii()


def test_without_smtputf8_other_alphabets_are_written_in_ascii():
    original = OriginalRecipient("utf-8", "jos\u00e9+x@example.org")
    composed = made(entry(original=original))
    assert composed.text.isascii()
    assert groups(composed)[1]["Original-Recipient"] == r"utf-8; jos\x{E9}\x{2B}x@example.org"


def test_the_returned_header_is_capped_at_whole_lines():
    many = b"".join(b"X-%d: %s\r\n" % (index, b"x" * 90) for index in range(2000))
    section = header_section(many + b"\r\nbody")
    assert len(section) <= MAX_HEADERS
    assert section.endswith("x\r\n")


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("Subject: x", True),
        ("Auto-Submitted: no", True),
        ("Precedence: first-class", True),
        ("Precedence: bulk", False),
        ("Precedence:\r\n List", False),
        ("precedence: junk", False),
        ("List-Id: <a.example>", False),
        ("Auto-Submitted: auto-generated; x=y", False),
    ],
)
def test_only_people_are_warned_of_delays(header, wanted):
    assert wants_warnings(f"From: a@b.example\r\n{header}\r\nTo: x@y.example\r\n") is wanted


TEXTS = st.text(max_size=300) | st.sampled_from(
    ["a\r\nBcc: x", "\r\n\r\n--", "=_aaaqeayeaudaocajbifqydiob4\r\n"]
)


@given(
    headers=st.binary(max_size=1200),
    lines=st.lists(TEXTS, max_size=5),
    texts=st.tuples(TEXTS, TEXTS, TEXTS, TEXTS, TEXTS),
    utf8=st.booleans(),
)
def test_whatever_peers_and_senders_say_the_report_is_clean_and_has_three_parts(headers, lines, texts, utf8):
    why, host, greeting, ehlo, envid = texts
    outcome = Failed(
        why,
        Blame.HOST,
        reply=Reply(550, tuple(lines)) if lines else None,
        contact=Contact(host, "192.0.2.1", 25, greeting=greeting, ehlo=ehlo),
    )
    address = "jos\u00e9@example.org" if utf8 else "b@example.org"
    composed = made(entry(outcome, address), content=headers, of=envelope(smtputf8=utf8, envid=envid or None))
    text = composed.text
    assert utf8 or text.isascii()
    assert b"\0" not in text
    body = text.replace(b"\r\n", b"")
    assert b"\r" not in body
    assert b"\n" not in body
    assert max(len(line) for line in text.split(b"\r\n")) <= 998
    message = message_from_bytes(text, policy=policy.SMTP)
    kinds = (
        ["text/plain", "message/global-delivery-status", "message/global-headers"]
        if utf8  # the address needs it
        else ["text/plain", "message/delivery-status", "text/rfc822-headers"]
    )
    assert [part.get_content_type() for part in message.iter_parts()] == kinds
    assert message["To"] == "a@sender.example"
    assert "Bcc" not in message
    names = {name for group in groups(composed)[1:] for name in group}
    assert names <= {
        *("Final-Recipient", "Action", "Status", "Remote-MTA", "X-Remote-MTA-address", "Final-Log-ID"),
        *("X-Remote-MTA-smtp-greeting", "X-Remote-MTA-helo-response", "X-Outrider-Diagnostic"),
        *("Diagnostic-Code", "Last-Attempt-Date"),
    }
    assert len(groups(composed)) == 2


def test_boundaries_differ_and_are_long():
    assert boundary_from(bytes(20)) != boundary_from(bytes(19) + b"\x01")
    assert 20 < len(boundary_from(bytes(20))) <= 70


SIGNED_8BIT = (
    b"DKIM-Signature: v=1; d=e.org\r\nSubject: Offer\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\xc3\xa4\r\n"
)


@pytest.mark.parametrize("subject", ["Offer", "Grüße"])
def test_a_whole_message_that_hinders_the_report_is_left_out(subject: str) -> None:
    composed = made(content=SIGNED_8BIT.replace(b"Offer", subject.encode()), whole=True)
    with pytest.raises(Unconvertible):
        to_7bit(composed.text)
    shorter = abridged(composed.text)
    assert shorter is not None
    assert shorter.isascii()
    found = message_from_bytes(to_7bit(shorter), policy=policy.default)
    assert isinstance(found, EmailMessage)
    *_, returned = found.iter_parts()
    assert returned.get_content_type() == "text/rfc822-headers"
    assert returned.get_content().startswith("DKIM-Signature: v=1; d=e.org")
    separator = b"\r\n--" + boundary_from(bytes(range(20))).encode()
    assert shorter.split(separator)[1:3] == composed.text.split(separator)[1:3]
    assert found["Content-Transfer-Encoding"] is None


def test_a_message_in_utf8_goes_back_whole() -> None:
    content = SIGNED_8BIT.replace(b"Offer", "Grüße".encode())
    composed = made(content=content, whole=True, of=envelope(smtputf8=True))
    assert to_7bit(composed.text).isascii()
    assert abridged(composed.text) is None


@pytest.mark.parametrize(
    "text",
    [
        b"",
        made(content=SIGNED_8BIT).text,  # has the header alone
        b"Received: by us\r\n" + made(content=SIGNED_8BIT, whole=True).text,
        made(content=SIGNED_8BIT, whole=True).text.replace(b"rfc822", b"partial"),
        made(content=SIGNED_8BIT, whole=True).text.replace(b'boundary="=_', b'boundary="=!'),
    ],
)
def test_nothing_else_is_abridged(text: bytes) -> None:
    assert abridged(text) is None


@given(st.binary(max_size=200))
def test_any_content_can_be_left_out(body: bytes) -> None:
    composed = made(content=SIGNED_8BIT + body, whole=True)
    shorter = abridged(composed.text)
    assert shorter is not None
    assert to_7bit(shorter).isascii()
