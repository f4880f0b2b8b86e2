"""Each broken rule of SMTP is noted, and keeping the rules is not."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import pytest

from tests.internet.behaviour import Behaviour, Delay, Override
from tests.internet.peer import Peer
from tests.internet.pki import authority
from tests.internet.smtpd import SmtpServer, open_server

NAME = "mx.a.test"


def running(
    behaviour: Behaviour | None = None, *, tls: bool = True
) -> AbstractAsyncContextManager[SmtpServer]:
    context = authority().issue(NAME).server_context() if tls else None
    return open_server(behaviour, name=NAME, context=context)


def scripted(**replies: Override) -> Behaviour:
    return Behaviour(replies=replies)


HELLO = "EHLO c.test"
ENVELOPE = ("MAIL FROM:<f@b.test>", "RCPT TO:<a@a.test>")


@pytest.mark.parametrize(
    ("flights", "violation"),
    [
        (((HELLO, "MAIL FROM:<f@b.test>"),), "MAIL pipelined after EHLO"),
        (((HELLO,), ("NOOP", "RSET")), "RSET pipelined after NOOP"),
        (((HELLO,), (*ENVELOPE, "DATA", b"x\r\n.\r\n")), "octets before the reply to DATA"),
        (((HELLO,), (*ENVELOPE, "DATA"), (b"bare\nLF\r\n.\r\n",)), "bare LF in the content"),
        (((HELLO,), (*ENVELOPE, "DATA"), (b"bare\rCR\r\n.\r\n",)), "bare CR in the content"),
        (((HELLO,), (*ENVELOPE, "DATA"), (b"\x00\r\n.\r\n",)), "NUL in the content"),
        (((HELLO,), (*ENVELOPE, "DATA"), (b".x\r\n.\r\n",)), "a content line that begins with a single dot"),
        (((HELLO,), (*ENVELOPE, "DATA"), (b"\xe4\r\n.\r\n",)), "8-bit content without BODY=8BITMIME"),
        (
            ((HELLO,), ("MAIL FROM:<f@b.test> SIZE=2", "RCPT TO:<a@a.test>", "DATA"), (b"xyz\r\n.\r\n",)),
            "SIZE=2 was declared",
        ),
        (((HELLO,), ("MAIL FROM:<f@b.test> SIZE=99999999999",)), "where 10485760 is the limit"),
        (((HELLO,), ("MAIL FROM:<f@b.test> SMTPUTF8",)), "extension was not offered"),
        (((HELLO,), ("MAIL FROM:<f@b.test>", "RCPT TO:<a@a.test> NOTIFY=NEVER")), "RCPT parameter"),
        (((HELLO,), ("MAIL FROM: <f@b.test>",)), "MAIL is malformed"),
        (((HELLO,), ("MAIL FROM:<f@b.test>", "RCPT TO:<>")), "RCPT is malformed"),
        (((HELLO,), ("MAIL FROM:<f@b.test>",), ("MAIL FROM:<f@b.test>",)), "MAIL inside a transaction"),
        ((("MAIL FROM:<f@b.test>",),), "MAIL before EHLO"),
        (((HELLO,), ("RCPT TO:<a@a.test>",)), "RCPT without MAIL"),
        (((HELLO,), ("DATA now",)), "DATA with a parameter"),
        ((("EHLO",),), "EHLO without one domain"),
        (((HELLO,), ("FROB",)), "unknown command 'FROB'"),
        (((HELLO,), (b"NOOP\n",)), "a command line ended by a bare LF"),
        (((HELLO,), (b"NOOP \xff\r\n",)), "not ASCII"),
        (((HELLO,), ("NOOP " + "x" * 600,)), "a NOOP line of 607 octets"),
        ((("STARTTLS",),), "STARTTLS where it was not offered"),
    ],
)
async def test_a_broken_rule_is_noted(flights: tuple[tuple[str | bytes, ...], ...], violation: str) -> None:
    async with running() as server, await Peer.connect("127.0.0.1", server.port) as peer:
        await peer.reply()
        for flight in flights:
            await peer.say(*flight)
    assert violation in "\n".join(server.violations)


async def refusal(replies: dict[str, Override], *flights: tuple[str, ...]) -> list[str]:
    async with (
        running(Behaviour(replies=replies)) as server,
        await Peer.connect("127.0.0.1", server.port) as peer,
    ):
        await peer.reply()
        for flight in flights:
            await peer.say(*flight)
    return server.violations


async def test_going_on_after_a_refusal_is_a_violation_only_if_it_was_known() -> None:
    no_mail: dict[str, Override] = {"MAIL": "550 5.7.1 no"}
    assert await refusal(no_mail, (HELLO,), (*ENVELOPE, "DATA")) == []
    known = await refusal(no_mail, (HELLO,), ENVELOPE[:1], ENVELOPE[1:])
    assert "RCPT after MAIL was refused" in known[0]
    no_rcpt: dict[str, Override] = {"RCPT": "550 5.1.1 no"}
    assert await refusal(no_rcpt, (HELLO,), (*ENVELOPE, "DATA")) == []
    known = await refusal(no_rcpt, (HELLO,), ENVELOPE, ("DATA",))
    assert "DATA after every RCPT was refused" in known[0]


async def test_a_new_transaction_after_a_refusal_is_no_violation() -> None:
    noted = await refusal({"MAIL": ("550 5.7.1 no",)}, (HELLO,), ENVELOPE[:1], ("RSET",), ENVELOPE, ("QUIT",))
    assert noted == []


async def test_talking_after_a_greeting_that_refused() -> None:
    async with (
        running(scripted(CONNECT="554 5.3.2 no")) as server,
        await Peer.connect("127.0.0.1", server.port) as peer,
    ):
        await peer.reply()
        await peer.say(HELLO)
        await peer.say("QUIT")
    assert "EHLO after a greeting that refused" in server.violations[0]
    assert len(server.violations) == 1


async def test_talking_before_a_late_greeting() -> None:
    async with (
        running(scripted(CONNECT=Delay(0.2))) as server,
        await Peer.connect("127.0.0.1", server.port) as peer,
    ):
        await peer.say(HELLO)
    assert any("octets before the reply to nothing yet" in noted for noted in server.violations)


async def test_commands_pipelined_where_it_was_not_offered() -> None:
    async with (
        running(Behaviour(keywords=())) as server,
        await Peer.connect("127.0.0.1", server.port) as peer,
    ):
        await peer.greet()
        await peer.say(*ENVELOPE)
    assert any("RCPT sent before the reply to MAIL, PIPELINING not offered" in v for v in server.violations)


async def test_octets_ahead_of_the_220_to_starttls() -> None:
    async with running() as server, await Peer.connect("127.0.0.1", server.port) as peer:
        await peer.greet()
        await peer.say("STARTTLS", b"EHLO smuggled\r\n", replies=1)
        await peer.stream.aclose()
    assert any("octets before the reply to STARTTLS" in noted for noted in server.violations)


async def test_a_line_without_an_end_is_cut_off() -> None:
    async with running() as server, await Peer.connect("127.0.0.1", server.port) as peer:
        await peer.greet()
        await peer.stream.send_all(b"x" * 5000)
        await server.wait_for_end()
    assert "a command line without an end" in server.violations[0]
