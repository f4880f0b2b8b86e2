"""Sockets without ceremony: what trio asks of a stream, and what is done without going round the loop."""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio
import trio.testing

from deliver.net import prompt
from deliver.net.arrived import has_arrived
from deliver.net.prompt import IN_A_ROW, PromptStream

Pair = tuple[PromptStream, PromptStream]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield PromptStream(ours), PromptStream(theirs)


async def connected() -> Pair:
    """Both ends of a TCP connection, one of them made from a stream of trio's."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        ours = socket.create_connection(listener.socket.getsockname())
        return PromptStream.of_tcp(ours), PromptStream.instead_of(await listener.accept())


async def clogged() -> Pair:
    """Neither end can send any more."""
    ours, theirs = map(PromptStream, socket.socketpair())
    for end in ours, theirs:
        while end.send_now(bytes(64 * 1024)):
            pass
    return ours, theirs


async def test_it_is_a_stream_as_trio_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt, "IN_A_ROW", 1)
    await trio.testing.check_half_closeable_stream(connected, clogged)


async def test_what_the_socket_takes_leaves_without_a_turn_of_the_loop(pair: Pair) -> None:
    ours, theirs = pair
    with trio.testing.assert_no_checkpoints():
        assert ours.send_now(b"MAIL FROM:<>\r\n") == 14
    assert await theirs.receive_some() == b"MAIL FROM:<>\r\n"


async def test_a_full_socket_takes_nothing_now_and_the_rest_later(pair: Pair) -> None:
    ours, theirs = pair
    before = 0
    while taken := ours.send_now(bytes(64 * 1024)):
        before += taken
    content = bytes(range(256)) * 4096
    received = bytearray()

    async def read() -> None:
        while len(received) < before + len(content):
            received.extend(await theirs.receive_some())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await ours.send_all(content)
    assert received == bytes(before) + content


@pytest.mark.parametrize("busy", ["sending", "receiving"])
async def test_a_busy_stream_does_not_starve_the_others(pair: Pair, busy: str) -> None:
    ours, theirs = pair
    ours.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 256 * 1024)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    operations = 8 * IN_A_ROW
    if busy == "receiving":
        ours.send_now(bytes(operations))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        await trio.lowlevel.checkpoint()
        turns = 0
        for _ in range(operations):
            await (ours.send_all(b"x") if busy == "sending" else theirs.receive_some(1))
        assert operations // IN_A_ROW - 1 <= turns < operations // 2
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("what", ["send", "receive", "receive what is there", "wait"])
async def test_a_cancelled_scope_is_noticed_by_every_operation(pair: Pair, what: str) -> None:
    ours, theirs = pair
    theirs.send_now(bytes(100))
    operation: Callable[[], Awaitable[object]] = {
        "send": lambda: ours.send_all(b"x"),
        "receive": lambda: ours.receive_some(),
        "receive what is there": lambda: ours.receive_some(1),
        "wait": lambda: ours.wait_send_all_might_not_block(),
    }[what]
    if what == "receive what is there":
        assert await ours.receive_some(1) == b"\0"
    with trio.CancelScope() as scope:
        scope.cancel()
        await operation()
    assert scope.cancelled_caught
    with trio.move_on_after(0.01):
        await theirs.receive_some()
        raise AssertionError("nothing had left")


async def test_nothing_is_lost_to_a_cancelled_wait(pair: Pair, autojump_clock: object) -> None:
    ours, theirs = pair
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.receive_some)
            await trio.testing.wait_all_tasks_blocked()
            theirs.send_now(b"250 ok\r\n")
            scope.cancel()
    assert await ours.receive_some() == b"250 ok\r\n"


async def test_closing_wakes_whoever_waits(pair: Pair) -> None:
    ours, _ = pair
    while ours.send_now(bytes(64 * 1024)):
        pass

    async def fails(operation: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await operation()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fails, ours.receive_some)
        nursery.start_soon(fails, lambda: ours.send_all(bytes(10)))
        await trio.testing.wait_all_tasks_blocked()
        await ours.aclose()
    await fails(ours.receive_some)
    await fails(lambda: ours.send_all(b"x"))
    await ours.aclose()


async def test_closing_can_be_done_without_waiting(pair: Pair) -> None:
    ours, theirs = pair

    async def fails() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await ours.receive_some()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fails)
        await trio.testing.wait_all_tasks_blocked()
        ours.close()
    assert await theirs.receive_some() == b""
    ours.close()


async def test_two_tasks_may_not_write_at_once(pair: Pair) -> None:
    ours, _ = pair
    while ours.send_now(bytes(64 * 1024)):
        pass
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.send_all, b"rest")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            ours.send_now(b"x")
        with pytest.raises(trio.BusyResourceError):
            await ours.send_all(b"x")
        nursery.cancel_scope.cancel()


async def test_a_reset_connection_is_broken() -> None:
    ours, theirs = await connected()
    theirs.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await theirs.aclose()
    async with ours:
        with pytest.raises(trio.BrokenResourceError, match="reset"):
            await ours.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await ours.send_all(b"x")


async def test_after_the_end_nothing_more_is_sent() -> None:
    ours, theirs = await connected()
    async with ours, theirs:
        await ours.send_eof()
        with pytest.raises(trio.ClosedResourceError):
            ours.send_now(b"x")
        assert await theirs.receive_some() == b""


@pytest.mark.parametrize("said", [b"421 bye\r\n", b"", None], ids=["octets", "end", "nothing"])
async def test_what_has_arrived(pair: Pair, said: bytes | None) -> None:
    ours, theirs = pair
    assert not ours.arrived()
    if said is None:
        return
    await (theirs.send_all(said) if said else theirs.send_eof())
    assert ours.arrived()
    assert has_arrived(ours), "it was not read"
    assert await ours.receive_some() == said


async def test_options_of_a_tcp_stream() -> None:
    ours, theirs = await connected()
    async with ours, theirs:
        assert ours.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert ours.socket.gettimeout() == 0
        assert theirs.socket.gettimeout() == 0
