"""LMTP clients beyond `max_connections`: they wait for their turn, within bounds."""

from __future__ import annotations

from itertools import count
from typing import cast

import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from deliver.message import MessageId
from deliver.net.clock import WallClock
from deliver.relay.lmtp import TURN, LmtpIntake, LmtpListener, LmtpTerms
from deliver.settings import Relay

GREETING = b"220 relay.test LMTP Outrider\r\n"
BUSY = b"421 4.7.0 Too many connections, try again later\r\n"
NO_INTAKE = cast(LmtpIntake, None)  # no mail comes here


def door(places: int) -> LmtpListener:
    numbers = count(1)
    return LmtpListener(WallClock(1.7e9), lambda: MessageId(f"id{next(numbers)}"), terms(places))


def terms(places: int) -> LmtpTerms:
    return LmtpTerms(Relay(max_connections=places), "relay.test", NO_INTAKE, (), 60.0)


async def call(nursery: trio.Nursery, to: LmtpListener) -> trio.StapledStream:
    ours, theirs = memory_stream_pair()
    nursery.start_soon(to.handle, theirs, "127.0.0.1")
    await wait_all_tasks_blocked()
    return ours


async def said(stream: trio.StapledStream) -> bytes:
    return bytes(await stream.receive_some())


async def test_a_client_too_many_is_greeted_when_another_has_gone(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        to = door(1)
        first, second = await call(nursery, to), await call(nursery, to)
        assert await said(first) == GREETING
        began = trio.current_time()
        nursery.start_soon(_quit_after, first, 5.0)
        assert await said(second) == GREETING
        assert trio.current_time() - began == 5.0
        await second.aclose()


async def _quit_after(stream: trio.StapledStream, seconds: float) -> None:
    await trio.sleep(seconds)
    await stream.send_all(b"QUIT\r\n")
    while await said(stream):
        pass
    await stream.aclose()


async def test_it_does_not_wait_for_ever(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        to = door(1)
        first, second = await call(nursery, to), await call(nursery, to)
        assert await said(second) == BUSY
        assert trio.current_time() >= TURN
        assert await said(first) == GREETING
        await first.aclose()


async def test_no_more_wait_than_there_are_places(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        to = door(2)
        clients = [await call(nursery, to) for _ in range(5)]
        began = trio.current_time()
        assert await said(clients[4]) == BUSY
        assert trio.current_time() == began
        assert [await said(client) for client in clients[:2]] == [GREETING, GREETING]
        for client in clients[:2]:
            await client.aclose()
        assert [await said(client) for client in clients[2:4]] == [GREETING, GREETING]
        for client in clients[2:]:
            await client.aclose()


async def test_who_waits_when_the_door_closes_is_told_so(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        to = door(1)
        first, second = await call(nursery, to), await call(nursery, to)
        assert await said(first) == GREETING
        to.stop(20)
        assert (await said(first)).startswith(b"421 4.3.2 ")
        await first.aclose()
        assert await said(second) == b"421 4.3.2 The relay is stopping\r\n"
