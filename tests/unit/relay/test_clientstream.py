"""What a client reads is all that was written, in order, whether it leaves at once or not."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from deliver.net.prompt import PromptStream
from deliver.net.tlsstream import TlsStream
from deliver.relay.clientstream import ClientStream, ConnectionLost
from deliver.relay.timekeeper import Timekeeper
from deliver.tls.context import context_for
from deliver.tls.engine import TlsEngine
from tests.unit.tls.certificates import build_house
from tests.unit.tls.peers import MAY, NAME, server_context

Ends = AbstractAsyncContextManager[tuple[trio.abc.Stream, trio.abc.Stream]]  # ours and the client's


@asynccontextmanager
async def in_memory() -> AsyncIterator[tuple[trio.abc.Stream, trio.abc.Stream]]:
    yield memory_stream_pair()


@asynccontextmanager
async def over_a_socket() -> AsyncIterator[tuple[trio.abc.Stream, trio.abc.Stream]]:
    ours, theirs = map(PromptStream, socket.socketpair())
    async with ours, theirs:
        yield ours, theirs


@asynccontextmanager
async def inside_tls() -> AsyncIterator[tuple[trio.abc.Stream, trio.abc.Stream]]:
    async with over_a_socket() as (near, far):
        ours = TlsStream(near, TlsEngine(server_context(build_house()), server_side=True))
        theirs = TlsStream(far, TlsEngine(context_for(MAY), NAME))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.do_handshake)
            await theirs.do_handshake()
            await theirs.flush()
        yield ours, theirs


def line_on(stream: trio.abc.Stream) -> ClientStream:
    return ClientStream(stream, 300.0, lambda what: None, Timekeeper())


@pytest.mark.parametrize("ends", [in_memory, over_a_socket, inside_tls])
async def test_a_client_that_reads_slowly_gets_everything_in_order(ends: Callable[[], Ends]) -> None:
    replies = [b"250 %d %s\r\n" % (number, b"x" * 8000) for number in range(200)]
    async with ends() as (ours, theirs), trio.open_nursery() as nursery:
        line = line_on(ours)

        async def write() -> None:
            for reply in replies:
                await line.write(reply)

        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        heard, expected = bytearray(), b"".join(replies)
        while len(heard) < len(expected):
            heard += await theirs.receive_some(50_000)
        assert heard == expected


@pytest.mark.parametrize("ends", [over_a_socket, inside_tls])
async def test_a_reply_leaves_without_a_turn_of_the_loop(ends: Callable[[], Ends]) -> None:
    async with ends() as (ours, theirs):
        with trio.testing.assert_no_checkpoints():
            await line_on(ours).write(b"250 Ok\r\n")
        assert await theirs.receive_some(100) == b"250 Ok\r\n"


@pytest.mark.parametrize("ends", [over_a_socket, inside_tls])
async def test_a_lost_client_is_noticed(ends: Callable[[], Ends]) -> None:
    async with ends() as (ours, theirs):
        await trio.aclose_forcefully(theirs)
        line = line_on(ours)
        with pytest.raises(ConnectionLost):  # noqa: PT012 - the first writes may still be taken
            for _ in range(100):
                await line.write(bytes(100_000))


async def test_a_client_that_does_not_read_ends_the_block(autojump_clock: MockClock) -> None:
    stuck = trio.testing.lockstep_stream_pair()[0]
    line = line_on(stuck)
    line.timekeeper.add(line)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.timekeeper.run)
        with line.clocked() as block:
            await line.write(b"250 Ok\r\n")
        assert block.cancelled_caught
        assert trio.current_time() == pytest.approx(300.0)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("behind", [b"", b"NOOP\r\n"])
async def test_who_said_quit_and_nothing_behind_it_is_not_waited_for(behind: bytes) -> None:
    async with over_a_socket() as (ours, theirs):
        line, left = line_on(ours), trio.Event()
        await line.write(b"221 Bye\r\n")
        if behind:
            await theirs.send_all(behind)

        async def leave() -> None:
            await line.linger("QUIT", secured=False, said_quit=True)
            await line.close()
            left.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave)
            await trio.testing.wait_all_tasks_blocked()
            assert left.is_set() == (not behind)  # otherwise the rest of it may still come
            assert await theirs.receive_some(100) == b"221 Bye\r\n"
            assert await theirs.receive_some(100) == b""
            await theirs.aclose()
