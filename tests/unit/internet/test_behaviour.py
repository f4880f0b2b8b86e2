"""Each misbehaviour of the scripted SMTP server, once."""

from __future__ import annotations

import smtplib
import ssl

import pytest
import trio

from tests.internet.behaviour import Behaviour, Delay, Drop, Override, Silence
from tests.internet.peer import Peer
from tests.internet.smtpd import SmtpServer
from tests.unit.internet.stdlibclient import NAME, converse, deliver, running, trusting


def scripted(**replies: Override) -> Behaviour:
    return Behaviour(replies=replies)


async def test_a_refusing_greeting() -> None:
    async with running(scripted(CONNECT="554 5.3.2 No")) as server:
        with pytest.raises(smtplib.SMTPConnectError, match="554"):
            await converse(server, deliver)


async def test_a_reply_override_for_a_verb() -> None:
    async with running(scripted(RCPT="450 4.2.1 busy")) as server:
        with pytest.raises(smtplib.SMTPRecipientsRefused, match="450"):
            await converse(server, deliver)
    assert server.received == []


async def test_a_reply_override_by_argument() -> None:
    def only_too(argument: str) -> str | None:
        return "550 5.1.1 unknown" if "<too@" in argument else None

    async with running(scripted(RCPT=only_too)) as server:
        refused = await converse(server, deliver)
    assert set(refused) == {"too@a.test"}
    assert server.messages[0].recipients == ("to@a.test",)


async def test_a_sequence_of_overrides_is_used_up() -> None:
    async with running(scripted(MAIL=("451 4.7.1 greylisted", None))) as server:
        with pytest.raises(smtplib.SMTPSenderRefused):
            await converse(server, deliver)
        await converse(server, deliver)
    assert len(server.messages) == 1


async def test_starttls_refused_with_454() -> None:
    async with running(scripted(STARTTLS="454 4.7.0 not now")) as server:
        with pytest.raises(smtplib.SMTPResponseException, match="454"):
            await converse(server, lambda client: client.starttls())


async def test_starttls_offered_then_octets_injected_after_the_220() -> None:
    injected = b"220 2.0.0 go\r\n250 2.0.0 injected\r\n"
    async with (
        running(scripted(STARTTLS=injected)) as server,
        await Peer.connect("127.0.0.1", server.port) as peer,
    ):
        await peer.greet()
        assert await peer.say("STARTTLS", replies=2) == ["220 2.0.0 go", "250 2.0.0 injected"]


async def test_a_handshake_that_gets_garbage() -> None:
    async with running(scripted(HANDSHAKE=b"500 what is this?\r\n")) as server:
        with pytest.raises(ssl.SSLError):
            await converse(server, lambda client: client.starttls(context=trusting()))
        await server.wait_for_end()
    assert server.connections[0].tls is None


async def test_a_client_that_refuses_the_certificate_is_noted() -> None:
    context = ssl.create_default_context()
    async with running() as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            await converse(server, lambda client: client.starttls(context=context))
        await server.wait_for_end()
    assert server.messages == ()
    assert server.violations == []


async def drops(replies: dict[str, Override], *say: str | bytes) -> tuple[list[str], SmtpServer]:
    """The replies to a whole delivery in lock-step, up to the end of the connection."""
    async with (
        running(Behaviour(replies=replies)) as server,
        await Peer.connect("127.0.0.1", server.port) as peer,
    ):
        heard = [await peer.reply()]
        try:
            for command in say or (
                "EHLO c.test",
                "MAIL FROM:<f@b.test>",
                "RCPT TO:<a@a.test>",
                "DATA",
                b"x\r\n.\r\n",
            ):
                heard += await peer.say(command)
        except trio.BrokenResourceError:
            heard.append("broken")
        await server.wait_for_end()
    return [reply[:3] for reply in heard], server


async def test_a_drop_at_a_verb() -> None:
    heard, server = await drops({"RCPT": Drop()}, "EHLO c.test", "MAIL FROM:<f@b.test>", "RCPT TO:<a@a.test>")
    assert heard == ["220", "250", "250", ""]
    assert server.connections[0].ended == "dropped"


async def test_421_then_a_drop() -> None:
    heard, _ = await drops({"MAIL": Drop("421 4.3.2 bye")}, "EHLO c.test", "MAIL FROM:<f@b.test>")
    assert heard == ["220", "250", "421"]


async def test_a_reset() -> None:
    heard, _ = await drops({"MAIL": Drop(reset=True)}, "EHLO c.test", "MAIL FROM:<f@b.test>")
    assert heard == ["220", "250", "bro"]


async def test_a_drop_after_the_354() -> None:
    heard, server = await drops(
        {"CONTENT": Drop()}, "EHLO c.test", "MAIL FROM:<f@b.test>", "RCPT TO:<a@a.test>", "DATA"
    )
    assert heard == ["220", "250", "250", "250", "354"]
    assert server.received == []


async def test_a_drop_in_the_middle_of_the_body() -> None:
    async with (
        running(scripted(BODY=Drop(octets=1000))) as server,
        await Peer.connect("127.0.0.1", server.port) as peer,
    ):
        await peer.greet()
        await peer.say("MAIL FROM:<f@b.test>", "RCPT TO:<a@a.test>", "DATA")
        await peer.stream.send_all(b"x" * 1500)
        await server.wait_for_end()
    assert (server.connections[0].incomplete or 0) >= 1000
    assert server.received == []


async def test_a_client_that_leaves_in_the_middle_of_the_body() -> None:
    async with running() as server, await Peer.connect("127.0.0.1", server.port) as peer:
        await peer.greet()
        await peer.say("MAIL FROM:<f@b.test>", "RCPT TO:<a@a.test>", "DATA")
        await peer.stream.send_all(b"x\r\n")
        await peer.stream.aclose()
        await server.wait_for_end()
    assert server.connections[0].incomplete == 3
    assert server.connections[0].ended == "closed"
    assert server.received == []


async def test_a_drop_after_the_final_dot_without_a_reply() -> None:
    heard, server = await drops({"DOT": Drop()})
    assert heard == ["220", "250", "250", "250", "354", ""]
    assert [message.content for message in server.received] == [b"x\r\n"]
    assert server.messages == ()


async def test_malformed_reply_octets() -> None:
    async with (
        running(scripted(MAIL=b"2\xff0 what\r\n")) as server,
        await Peer.connect("127.0.0.1", server.port) as peer,
    ):
        await peer.greet()
        await peer.stream.send_all(b"MAIL FROM:<f@b.test>\r\n")
        assert await peer.stream.receive_some() == b"2\xff0 what\r\n"


async def test_a_multi_line_reply() -> None:
    async with (
        running(scripted(MAIL="451-4.3.0 first\n451 4.3.0 second")) as server,
        await Peer.connect("127.0.0.1", server.port) as peer,
    ):
        await peer.greet()
        assert await peer.say("MAIL FROM:<f@b.test>") == ["451-4.3.0 first\n451 4.3.0 second"]


async def test_replies_octet_by_octet() -> None:
    async with running(Behaviour(octet_by_octet=True)) as server:
        await converse(server, deliver)
    assert len(server.messages) == 1


async def test_a_slow_reply(autojump_clock: trio.testing.MockClock) -> None:
    server = SmtpServer(NAME, None, scripted(CONNECT=Delay(3600, "421 4.3.2 late")))
    ours, theirs = trio.socket.socketpair()
    async with trio.open_nursery() as nursery:
        # A socket pair: under the jumping clock no time passes but the delay.
        nursery.start_soon(server._converse, trio.SocketStream(theirs))
        began = trio.current_time()
        assert (await ours.recv(100)).startswith(b"421")
        assert trio.current_time() - began == pytest.approx(3600)
        ours.close()


async def test_silence_until_the_client_gives_up() -> None:
    async with (
        running(scripted(EHLO=Silence())) as server,
        await Peer.connect("127.0.0.1", server.port) as peer,
    ):
        await peer.reply()
        await peer.stream.send_all(b"EHLO c.test\r\n")
        with trio.move_on_after(0.1) as scope:
            await peer.reply()
        assert scope.cancelled_caught
        await peer.stream.aclose()
        await server.wait_for_end()


def test_an_override_at_an_unknown_point_is_refused() -> None:
    with pytest.raises(ValueError, match="RCTP"):
        scripted(RCTP="250 OK")


async def test_a_replaced_behaviour_counts_from_the_next_connection() -> None:
    async with running(scripted(MAIL="550 5.7.1 no")) as server:
        with pytest.raises(smtplib.SMTPSenderRefused):
            await converse(server, deliver)
        server.behaviour = Behaviour()
        await converse(server, deliver)
    assert len(server.messages) == 1
