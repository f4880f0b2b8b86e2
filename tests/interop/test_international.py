"""SMTPUTF8, DSN and 7-bit text with real Exim and Postfix, over our own wire."""

from __future__ import annotations

from email import message_from_bytes

import pytest
import trio
from msgspec.structs import replace

from deliver.dsn import Notify, OriginalRecipient, Ret
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.net.wire import Wire
from deliver.outcome import Contact, Delivered, Failed, Outcome
from deliver.presentation import Octets, Presentation
from deliver.settings import Timeouts
from deliver.smtp.transaction import Transaction
from tests.interop.peers.exim import Exim, EximConfig
from tests.interop.peers.factory import Factory
from tests.interop.peers.postfix import Postfix, PostfixConfig

UTF8 = (
    "From: jürg@bücher.test\r\nSubject: Grüße\r\n\r\nViele Grüße aus Köln, und von den anderen\r\n".encode()
)
EIGHT_BIT = (
    "From: a@sender.test\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    "--b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nViele Grüße aus Köln, und von den anderen\r\n"
    "--b\r\nContent-Type: application/octet-stream\r\n\r\nöäü\r\n--b--\r\n"
).encode()


@pytest.fixture(params=["exim", "postfix"])
def server(
    request: pytest.FixtureRequest,
    exim: Factory[EximConfig, Exim],
    postfix: Factory[PostfixConfig, Postfix],
) -> Exim | Postfix:
    if request.param == "exim":
        return exim(hostname="mx.utf8.test", main="smtputf8_advertise_hosts = *")
    return postfix(hostname="mx.utf8.test", main="smtputf8_enable = yes")


async def transact(
    server: Exim | Postfix, envelope: Envelope, content: bytes, *, convert: bool = False
) -> list[Outcome]:
    wire = Wire(await trio.open_tcp_stream(server.address, server.port), Timeouts())
    await wire.greeting()
    await wire.ehlo("relay.sender.test")
    forms = Presentation(envelope, Octets(content))
    if convert:
        await forms.convert()
    shown, octets = await forms.towards(wire.capabilities)
    contact = Contact("mx", server.address, server.port)
    subject = Transaction(shown, envelope.recipients, wire.capabilities, contact)
    outcomes = await wire.transact(subject, octets)
    await wire.close()
    return [outcome for _, outcome in outcomes]


def envelope(content: bytes, *who: Recipient, sender: str = "a@sender.test") -> Envelope:
    box = Mailbox.parse(sender, utf8=True)
    return Envelope(MessageId("m"), box, who, len(content), not content.isascii(), 0.0)


async def test_addresses_and_headers_in_utf8(server: Exim | Postfix) -> None:
    who = Recipient(0, Mailbox.parse("grüße@empfänger.test", utf8=True))
    message = replace(envelope(UTF8, who, sender="jürg@bücher.test"), smtputf8=True)
    (outcome,) = await transact(server, message, UTF8)
    assert isinstance(outcome, Delivered), outcome
    (received,) = server.mailbox.to(f"grüße@{who.mailbox.domain}")
    assert received.content == UTF8
    assert received.sender.startswith("jürg@")


@pytest.mark.parametrize("asked", [True, False])
async def test_a_server_makes_the_report_that_the_sender_asked_for(
    server: Exim | Postfix, asked: bool
) -> None:
    sender = f"asking-{asked}-{type(server).__name__.lower()}@sender.test"
    who = Recipient(
        0,
        Mailbox.parse(f"bob-{asked}@report.test"),
        frozenset({Notify.SUCCESS} if asked else {Notify.NEVER}),
        OriginalRecipient("rfc822", "first+alias@report.test"),
    )
    content = b"Subject: report\r\n\r\nplain\r\n"
    message = replace(envelope(content, who, sender=sender), ret=Ret.HDRS, envid="id+4=7 x")
    (outcome,) = await transact(server, message, content)
    assert isinstance(outcome, Delivered), outcome
    assert outcome.dsn_passed
    server.mailbox.to(str(who.mailbox))
    if not asked:
        return
    (report,) = server.mailbox.to(sender)
    assert b"Action: delivered" in report.content
    fields = report.content.replace(b"rfc822; ", b"rfc822;").replace(
        b"+2B", b"+"
    )  # Exim leaves xtext as it is
    assert b"rfc822;first+alias@report.test" in fields
    assert b"id+4=7 x" in report.content or b"id+2B4+3D7+20x" in report.content


@pytest.mark.parametrize("program", ["exim", "postfix"])
async def test_7_bit_text_for_a_server_without_8bitmime(
    exim: Factory[EximConfig, Exim], postfix: Factory[PostfixConfig, Postfix], program: str
) -> None:
    if program == "exim":
        server: Exim | Postfix = exim(hostname="mx.seven.test", main="accept_8bitmime = false")
    else:
        server = postfix(hostname="mx.seven.test", discard_ehlo=("8bitmime", "smtputf8"))
    who = Recipient(0, Mailbox.parse(f"seven-{program}@one.test"))
    (outcome,) = await transact(server, envelope(EIGHT_BIT, who), EIGHT_BIT)
    assert isinstance(outcome, Failed)
    assert str(outcome.enhanced) == "5.6.3"
    (outcome,) = await transact(server, envelope(EIGHT_BIT, who), EIGHT_BIT, convert=True)
    assert isinstance(outcome, Delivered), outcome
    (received,) = server.mailbox.to(str(who.mailbox))
    assert received.content.isascii()
    before, after = message_from_bytes(EIGHT_BIT), message_from_bytes(received.content)
    for ours, theirs in zip(before.walk(), after.walk(), strict=True):
        assert theirs.get_content_type() == ours.get_content_type()
        assert theirs.get_payload(decode=True) == ours.get_payload(decode=True)


async def test_a_message_that_needs_no_smtputf8_goes_to_a_server_without(
    postfix: Factory[PostfixConfig, Postfix],
) -> None:
    server = postfix(hostname="mx.noutf8.test", main="smtputf8_enable = no")
    who = Recipient(0, Mailbox.parse("plain@noutf8.test"))
    for content, kind in ((EIGHT_BIT, Delivered), (UTF8, Failed)):
        (outcome,) = await transact(server, replace(envelope(content, who), smtputf8=True), content)
        assert isinstance(outcome, kind), outcome
    assert [got.content for got in server.mailbox.to("plain@noutf8.test")] == [EIGHT_BIT]
