"""Messages over real sockets, with and without TLS: what leaves at once, and what has to wait for room."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

from deliver.net.chunks import AT_ONCE
from deliver.net.prompt import PromptStream
from deliver.net.wire import Wire
from deliver.outcome import Deferred, Delivered
from deliver.settings import Duration, Timeouts
from deliver.smtp.chunking import FIRST_CHUNK
from tests.unit.net.test_tlsstream import client_stream, server_stream, shake_hands
from tests.unit.net.wirescene import Server, Text, opened, transaction
from tests.unit.tls.certificates import House, build_house

LINE = b"0123456789abcdef0123456789abcd\r\n"
ROOMY = 1024 * 1024  # octets of a buffer: more than a first chunk
SIZES = [32, AT_ONCE, AT_ONCE + 32, FIRST_CHUNK, FIRST_CHUNK + 32, 10 * FIRST_CHUNK]


@pytest.fixture(scope="session")
def house() -> House:
    return build_house()


@contextmanager
def ends(room: int) -> Iterator[tuple[PromptStream, PromptStream]]:
    """Both ends of a connection; ours takes about so many octets without being read."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
    with ours, theirs:
        yield PromptStream(ours), PromptStream(theirs)


async def take(server: Server, size: int, *, chunks: bool) -> bytes:
    """The content as it came; every reply comes when its command is whole."""
    content = b""
    await server.say("220 mx\r\n")
    await server.read_until(b"\r\n")
    await server.say(
        "250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n" if chunks else "250-mx\r\n250 PIPELINING\r\n"
    )
    for _ in "MAIL", "RCPT", "RCPT":
        await server.read_until(b"\r\n")
        await server.say("250 ok\r\n")
    if not chunks:
        await server.read_until(b"DATA\r\n")
        await server.say("354 go on\r\n")
        content = await server.read_until(b"\r\n.\r\n")
        await server.say("250 taken\r\n")
        return content.removesuffix(b".\r\n")
    while len(content) < size:
        announced = (await server.read_until(b"\r\n")).split()
        assert announced[0] == b"BDAT"
        content += await server.read(int(announced[1]))
        await server.say("250 taken\r\n")
        assert (announced[2:] == [b"LAST"]) is (len(content) == size)
    return content


@pytest.mark.parametrize("secured", [False, True], ids=["clear", "TLS"])
@pytest.mark.parametrize("chunks", [True, False], ids=["BDAT", "DATA"])
@pytest.mark.parametrize("room", [4096, ROOMY], ids=["cramped", "roomy"])
@pytest.mark.parametrize("size", SIZES)
async def test_content_arrives_whole_whatever_the_socket_takes(
    size: int, room: int, chunks: bool, secured: bool, house: House
) -> None:
    sent = LINE * (size // len(LINE))
    heard: list[bytes] = []
    with ends(room) as (ours, theirs):
        if secured:
            client, hosting = client_stream(ours), server_stream(theirs, house)
            await shake_hands(client, hosting)
            wire, server = Wire(client, Timeouts()), Server(hosting, None)
        else:
            wire, server = Wire(ours, Timeouts()), Server(theirs, None)

        async def serve() -> None:
            heard.append(await take(server, size, chunks=chunks))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await opened(wire)
            outcomes = await wire.transact(transaction(wire), Text(sent))
        assert [type(outcome) for _, outcome in outcomes] == [Delivered, Delivered]
        assert heard == [sent]
        assert wire.reusable


@pytest.mark.parametrize("size", [AT_ONCE, FIRST_CHUNK])
@pytest.mark.parametrize("chunks", [True, False], ids=["BDAT", "DATA"])
async def test_a_delivery_that_was_cancelled_sends_no_content(size: int, chunks: bool) -> None:
    scope = trio.CancelScope()

    class Interrupted(Text):
        async def read(self, offset: int, length: int) -> bytes:
            content = await super().read(offset, length)
            scope.cancel()
            return content

    with ends(ROOMY) as (ours, theirs):
        wire, server = Wire(ours, Timeouts()), Server(theirs, None)

        async def serve() -> None:
            await take(server, size, chunks=chunks)

        with scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                await opened(wire)
                await wire.transact(transaction(wire), Interrupted(LINE * (size // len(LINE))))
        assert scope.cancelled_caught
        await wire.cut_off()
        rest = server.got + await server.read_until(b"never said")
        assert b"0123456789" not in rest


async def test_a_session_whose_time_is_over_sends_no_content() -> None:
    """Nobody would wait for the answer."""

    class Late(Text):
        async def read(self, offset: int, length: int) -> bytes:
            await trio.sleep(0.3)
            return await super().read(offset, length)

    with ends(ROOMY) as (ours, theirs):
        wire = Wire(ours, Timeouts(session=Duration(0.2)), min_rate=10**9)
        server = Server(theirs, None)

        async def serve() -> None:
            await server.open()
            await server.take()
            await server.read_until(b"never said")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await opened(wire)
            outcomes = await wire.transact(transaction(wire), Late(LINE))
            await wire.cut_off()
        assert b"0123456789" not in server.got
    assert [type(outcome) for _, outcome in outcomes] == [Deferred, Deferred]
