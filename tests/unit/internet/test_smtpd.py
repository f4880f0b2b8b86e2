"""The SMTP server with the standard library's client and a pipelining one: what arrives is kept as it was sent."""

from __future__ import annotations

import smtplib
import ssl

import pytest
import trio

from tests.internet.behaviour import KEYWORDS, Behaviour
from tests.internet.peer import Peer
from tests.unit.internet.stdlibclient import MESSAGE, NAME, converse, deliver, running, trusting


async def test_a_message_arrives_whole_in_clear_text() -> None:
    async with running() as server:
        await converse(server, deliver)
        [message] = await server.wait_for_messages(1)
        await server.wait_for_end()
    assert message.sender == "from@b.test"
    assert message.recipients == ("to@a.test", "too@a.test")
    assert message.content == MESSAGE
    assert message.tls is None
    assert message.helo == "client.test"
    assert message.accepted
    [connection] = server.connections
    assert connection.verbs == ("EHLO", "MAIL", "RCPT", "RCPT", "DATA", "QUIT")
    assert connection.ended == "quit"
    assert server.violations == []


async def test_a_message_arrives_over_verified_tls() -> None:
    def over_tls(client: smtplib.SMTP) -> None:
        client._host = NAME  # type: ignore[attr-defined]  # the name to verify and to send as SNI
        client.starttls(context=trusting())
        assert "starttls" not in (client.ehlo()[1].decode().lower())
        deliver(client)

    async with running() as server:
        await converse(server, over_tls)
        [message] = await server.wait_for_messages(1)
    assert message.tls is not None
    assert message.tls.server_name == NAME
    assert message.tls.version == "TLSv1.3"
    assert not message.tls.resumed
    assert server.violations == []


async def test_a_flight_is_seen_as_pipelined_and_answered_in_order() -> None:
    async with running() as server, await Peer.connect("127.0.0.1", server.port) as peer:
        await peer.greet()
        replies = await peer.say("MAIL FROM:<f@b.test>", "RCPT TO:<a@a.test>", "RCPT TO:<b@a.test>", "DATA")
        assert [reply[:3] for reply in replies] == ["250", "250", "250", "354"]
        assert [r[:3] for r in await peer.say(b"x\r\n.\r\n", "QUIT")] == ["250", "221"]
    [message] = server.messages
    assert message.pipelined
    assert [c.pipelined for c in server.connections[0].commands] == [
        False,
        False,
        True,
        True,
        True,
        True,
    ]
    assert server.violations == []


async def test_an_empty_content_is_a_message() -> None:
    async with running() as server, await Peer.connect("127.0.0.1", server.port) as peer:
        await peer.greet()
        await peer.say("MAIL FROM:<>", "RCPT TO:<a@a.test>", "DATA")
        assert (await peer.say("."))[0].startswith("250")
    assert server.messages[0].content == b""
    assert server.messages[0].sender == ""


async def test_keywords_without_pipelining_and_8bitmime() -> None:
    async with running(Behaviour(keywords=("SIZE 10",), starttls=False)) as server:
        keywords = await converse(server, lambda client: (client.ehlo(), dict(client.esmtp_features))[1])
        with pytest.raises(smtplib.SMTPSenderRefused, match="Too big"):
            await converse(server, deliver)
    assert keywords == {"size": "10"}


async def test_keywords_inside_tls_may_differ() -> None:
    def inside(client: smtplib.SMTP) -> set[str]:
        client.starttls(context=ssl._create_unverified_context())
        client.ehlo()
        return set(client.esmtp_features)

    async with running(Behaviour(keywords_tls=("PIPELINING",))) as server:
        assert await converse(server, inside) == {"pipelining"}


async def test_without_a_certificate_there_is_no_starttls() -> None:
    async with running(tls=False) as server:
        features = await converse(server, lambda client: (client.ehlo(), set(client.esmtp_features))[1])
    assert features == {word.split()[0].lower() for word in KEYWORDS}


class Held(trio.abc.Stream):
    """A transport that keeps writes back until `release`, and then makes one segment of them."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._kept = b""
        self.holding = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._kept += data
        if not self.holding:
            await self.release()

    async def release(self) -> None:
        self.holding = False
        kept, self._kept = self._kept, b""
        await self._stream.send_all(kept)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


async def test_a_flight_in_several_tls_records_is_one_flight() -> None:
    async with running() as server, await Peer.connect("127.0.0.1", server.port) as clear:
        await clear.greet()
        await clear.say("STARTTLS")
        assert isinstance(clear.stream, trio.SocketStream)
        held = Held(clear.stream)
        peer = Peer(trio.SSLStream(held, trusting(), server_hostname=NAME))
        await peer.say("EHLO client.test")
        held.holding = True
        for command in ("MAIL FROM:<f@b.test>", "RCPT TO:<a@a.test>", "DATA"):
            await peer.say(command, replies=0)
        await held.release()
        assert [(await peer.reply())[:3] for _ in range(3)] == ["250", "250", "354"]
    pipelined = [command.pipelined for command in server.connections[0].commands]
    assert pipelined == [False, False, False, False, True, True]
    assert server.violations == []
