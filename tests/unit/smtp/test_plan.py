"""What a transaction says to a server by its extensions: SIZE, 8BITMIME, SMTPUTF8, DSN, AUTH."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from msgspec.structs import replace

from deliver.dsn import Notify, OriginalRecipient, Ret, from_xtext, parse_orcpt
from deliver.errors import Blame, UsageError
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.outcome import Contact, Delivered, TlsFacts
from deliver.smtp.command import CommandTooLong, Data, LocalMisuse, Mail, Rcpt, Rset
from deliver.smtp.ehlo import Capabilities
from deliver.smtp.plan import Plan, plan
from deliver.smtp.reply import Reply
from deliver.smtp.transaction import SendCommands, Transaction

QUICK = settings(max_examples=200, deadline=None, derandomize=True)
CONTACT = Contact("mx.example.net", "192.0.2.1", 25)
ASCII = Mailbox.parse("ann@example.org")
JURG = Mailbox.parse("jürg@bücher.example", utf8=True)


def offering(*keywords: str) -> Capabilities:
    return Capabilities.parse(Reply(250, ("mx", *keywords)))


def who(*boxes: Mailbox, **asked: Any) -> tuple[Recipient, ...]:
    return tuple(Recipient(place, box, **asked) for place, box in enumerate(boxes))


def envelope(recipients: tuple[Recipient, ...], sender: Mailbox | None = ASCII, **fields: Any) -> Envelope:
    return replace(Envelope(MessageId("m"), sender, recipients, 100, False, 0.0), **fields)


def planned(
    recipients: tuple[Recipient, ...], *keywords: str, logged_in: bool = False, **fields: Any
) -> Plan:
    message = envelope(recipients, **fields)
    return plan(message, recipients, offering(*keywords), CONTACT, logged_in=logged_in)


def lines(found: Plan) -> list[str]:
    assert found.mail is not None
    return [found.mail.octets.decode().strip(), *(rcpt.octets.decode().strip() for _, rcpt in found.asked)]


def refused(found: Plan) -> list[tuple[Blame, str]]:
    return [(failed.blame, str(failed.enhanced)) for _, failed in found.refused]


UTF8 = ("SMTPUTF8", "8BITMIME")


def test_addresses_in_utf8_where_the_server_takes_them_domains_always_in_a_labels() -> None:
    assert lines(planned(who(JURG), *UTF8, sender=JURG, smtputf8=True)) == [
        "MAIL FROM:<jürg@xn--bcher-kva.example> SMTPUTF8",
        "RCPT TO:<jürg@xn--bcher-kva.example>",
    ]
    # The message did not ask, but an address does.
    assert lines(planned(who(ASCII, JURG), *UTF8))[0] == "MAIL FROM:<ann@example.org> SMTPUTF8"
    # It asked, so its headers may need it.
    assert lines(planned(who(ASCII), *UTF8, smtputf8=True))[0] == "MAIL FROM:<ann@example.org> SMTPUTF8"


@pytest.mark.parametrize("keywords", [(), ("8BITMIME",), ("SMTPUTF8",)])  # the last is not allowed alone
def test_without_smtputf8_another_host_may_help(keywords: tuple[str, ...]) -> None:
    assert refused(planned(who(ASCII), *keywords, smtputf8=True)) == [(Blame.HOST, "5.6.7")]
    assert refused(planned(who(ASCII), *keywords, sender=JURG)) == [(Blame.HOST, "5.6.7")]
    mixed = planned(who(ASCII, JURG), *keywords)
    assert refused(mixed) == [(Blame.HOST, "5.6.7")]
    assert [recipient.mailbox for recipient, _ in mixed.asked] == [ASCII]
    assert lines(mixed)[0] == "MAIL FROM:<ann@example.org>"


def test_what_a_sender_asks_of_reports_goes_along() -> None:
    box = Mailbox.parse("bob@example.net")
    asked = who(
        box,
        notify=frozenset({Notify.SUCCESS, Notify.DELAY}),
        original=OriginalRecipient("rfc822", "old+bob@example.net"),
    )
    found = planned(asked, "DSN", ret=Ret.HDRS, envid="QQ 314=1")
    assert lines(found) == [
        "MAIL FROM:<ann@example.org> RET=HDRS ENVID=QQ+20314+3D1",
        "RCPT TO:<bob@example.net> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;old+2Bbob@example.net",
    ]
    assert found.dsn_passed
    without = planned(asked, ret=Ret.HDRS, envid="QQ314159")
    assert lines(without) == ["MAIL FROM:<ann@example.org>", "RCPT TO:<bob@example.net>"]
    assert not without.dsn_passed


def test_reports_for_utf8_addresses_are_written_in_ascii() -> None:
    asked = who(ASCII, original=OriginalRecipient("utf-8", "jürg+x@bücher.example"))
    line = lines(planned(asked, "DSN"))[1]
    assert line == r"RCPT TO:<ann@example.org> ORCPT=utf-8;j\x{FC}rg\x{2B}x@b\x{FC}cher.example"
    assert parse_orcpt(line.partition("ORCPT=")[2]) == asked[0].original


def test_parameters_that_no_client_can_have_sent_are_left_out() -> None:
    asked = who(ASCII, original=OriginalRecipient("rfc822", "ü" * 300))
    assert lines(planned(asked, "DSN", envid="x" * 101)) == [
        "MAIL FROM:<ann@example.org>",
        "RCPT TO:<ann@example.org>",
    ]
    assert lines(planned(who(ASCII, notify=frozenset()), "DSN"))[1] == "RCPT TO:<ann@example.org>"


def test_auth_says_that_we_vouch_for_nobody_where_we_logged_in() -> None:
    assert (
        lines(planned(who(ASCII), "AUTH PLAIN", logged_in=True))[0] == "MAIL FROM:<ann@example.org> AUTH=<>"
    )
    assert lines(planned(who(ASCII), "AUTH PLAIN"))[0] == "MAIL FROM:<ann@example.org>"
    assert lines(planned(who(ASCII), logged_in=True))[0] == "MAIL FROM:<ann@example.org>"


def test_everything_at_once_is_one_line() -> None:
    found = planned(
        who(ASCII, JURG), *UTF8, "DSN", "SIZE 1000", "PRDR", "AUTH LOGIN",
        logged_in=True, eight_bit=True, ret=Ret.FULL, envid="e",
    )  # fmt: skip
    assert lines(found)[0] == (
        "MAIL FROM:<ann@example.org> SIZE=100 BODY=8BITMIME PRDR SMTPUTF8 RET=FULL ENVID=e AUTH=<>"
    )


def test_the_server_answers_for_reports_only_if_it_was_told() -> None:
    for keywords in ((), ("DSN",)):
        asked = who(ASCII, notify=frozenset({Notify.SUCCESS}))
        subject = Transaction(envelope(asked), asked, offering(*keywords), CONTACT)
        assert subject.dsn_passed is bool(keywords)
    assert Delivered(Reply(250, ("ok",)), CONTACT).dsn_passed is False


def test_an_open_transaction_is_reset_in_the_same_flight() -> None:
    asked = who(ASCII)
    subject = Transaction(envelope(asked), asked, offering("PIPELINING"), CONTACT, reset=True)
    action = subject.next_action()
    assert isinstance(action, SendCommands)
    assert [type(command) for command in action.commands] == [Rset, Mail, Rcpt, Data]
    one_by_one = Transaction(envelope(asked), asked, offering(), CONTACT, reset=True).next_action()
    assert isinstance(one_by_one, SendCommands)
    assert one_by_one.commands == (Rset(),)


def test_a_message_too_large_comes_before_everything() -> None:
    found = planned(who(ASCII), "SIZE 99", smtputf8=True, eight_bit=True)
    assert refused(found) == [(Blame.MESSAGE, "5.3.4")]


hostile = st.text(
    st.sampled_from(list('a.@<>"\\ \r\n\0\t;,=+%ü€\u2028\u0085\u202e\ud800')) | st.characters(), max_size=30
)


@QUICK
@given(hostile, hostile)
def test_no_text_makes_a_second_command_or_parameter(local: str, domain: str) -> None:
    """Neither through `parse`, nor through a mailbox that was made without it."""
    boxes = [Mailbox(local, domain), Mailbox(local, "example.org")]
    for utf8 in (False, True):
        try:
            boxes.append(Mailbox.parse(f"{local}@{domain}", utf8=utf8))
        except UsageError:
            pass
        else:
            assert utf8 or str(boxes[-1]).isascii()
    for box in boxes:
        for utf8 in (False, True):
            for make in (
                lambda box=box, utf8=utf8: Mail(box, smtputf8=utf8),
                lambda box=box, utf8=utf8: Rcpt(box, utf8),
            ):
                try:
                    octets = make().octets
                except (LocalMisuse, CommandTooLong):
                    continue
                assert octets.endswith(b"\r\n")
                assert octets.count(b"\r") == octets.count(b"\n") == 1
                assert b"\0" not in octets
                assert octets.decode("utf-8")
                assert utf8 or octets.isascii()
                path = octets.decode().partition("<")[2].rpartition(">")[0]
                assert path == str(box)
                assert " " not in path or '"' in path


@QUICK
@given(
    hostile.filter(lambda text: text.isprintable() and text != ""),
    st.sampled_from(["rfc822", "utf-8", "x400"]),
)
def test_what_a_report_is_asked_for_survives_any_text(address: str, kind: str) -> None:
    command = Rcpt(ASCII, original=OriginalRecipient(kind, address)) if len(address) < 30 else None
    assert command is not None
    line = command.octets.decode("ascii")
    assert line.count(" ") == 2  # RCPT TO:<…> ORCPT=…
    assert parse_orcpt(line.strip().partition("ORCPT=")[2]) == command.original
    envid = Mail(None, envid=address[:8]).octets.decode("ascii")
    assert from_xtext(envid.strip().partition("ENVID=")[2]) == address[:8]


@QUICK
@given(st.text(max_size=80))
def test_an_original_recipient_from_outside_is_read_or_refused(text: str) -> None:
    try:
        found = parse_orcpt(text)
    except UsageError:
        return
    assert found.address.isprintable()


INSIDE_TLS = dataclasses.replace(CONTACT, tls=TlsFacts("dane", "TLSv1.3", "AES", None, False, "dane-ee"))


def test_requiretls_goes_along_inside_tls() -> None:
    message = envelope(who(ASCII), requires_tls=True)
    found = plan(message, message.recipients, offering("SIZE", "REQUIRETLS"), INSIDE_TLS)
    assert lines(found)[0] == "MAIL FROM:<ann@example.org> SIZE=100 REQUIRETLS"
    other = envelope(who(ASCII))
    assert lines(plan(other, other.recipients, offering("REQUIRETLS"), INSIDE_TLS))[0] == (
        "MAIL FROM:<ann@example.org>"
    )


@pytest.mark.parametrize(("keywords", "contact"), [((), INSIDE_TLS), (("REQUIRETLS",), CONTACT)])
def test_without_requiretls_or_tls_another_host_may_help(keywords: tuple[str, ...], contact: Contact) -> None:
    message = envelope(who(ASCII, JURG), requires_tls=True)
    found = plan(message, message.recipients, offering(*UTF8, *keywords), contact)
    assert found.mail is None
    assert refused(found) == [(Blame.HOST, "5.7.30")] * 2


def test_a_bounce_is_not_lost_for_want_of_requiretls() -> None:
    message = envelope(who(ASCII), sender=None, requires_tls=True)
    assert lines(plan(message, message.recipients, offering(), INSIDE_TLS))[0] == "MAIL FROM:<>"
    found = plan(message, message.recipients, offering("REQUIRETLS"), INSIDE_TLS)
    assert lines(found)[0] == "MAIL FROM:<> REQUIRETLS"
    in_clear = plan(message, message.recipients, offering("REQUIRETLS"), CONTACT)
    assert refused(in_clear) == [(Blame.HOST, "5.7.30")]


def test_requiretls_returns_the_header_only_whatever_was_asked() -> None:
    message = envelope(who(ASCII), requires_tls=True, ret=Ret.FULL)
    found = plan(message, message.recipients, offering("DSN", "REQUIRETLS"), INSIDE_TLS)
    assert lines(found)[0] == "MAIL FROM:<ann@example.org> REQUIRETLS RET=HDRS"
    unmarked = envelope(who(ASCII), ret=Ret.FULL)
    assert lines(plan(unmarked, unmarked.recipients, offering("DSN"), INSIDE_TLS))[0].endswith(" RET=FULL")


def test_what_a_server_lacks_is_requiretls_first() -> None:
    """What could be converted for it would not help."""
    message = envelope(who(ASCII), requires_tls=True, eight_bit=True, smtputf8=True)
    assert refused(plan(message, message.recipients, offering(), INSIDE_TLS)) == [(Blame.HOST, "5.7.30")]


def test_a_sender_of_the_greatest_length_leaves_room_for_requiretls() -> None:
    domain = ".".join(("a" * 63, "b" * 63, "c" * 63, "d" * 61))
    longest = Mailbox("a" * 244, domain)
    assert len(Mail(longest).octets) == 512
    assert Mail(longest, requires_tls=True).octets.endswith(b"> REQUIRETLS\r\n")
    with pytest.raises(CommandTooLong):
        Mail(Mailbox("a" * 245, domain), requires_tls=True)
