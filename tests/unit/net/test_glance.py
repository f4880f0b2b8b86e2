"""What a server has said already, found out without waiting: over a socket, TLS on one, and other streams."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from deliver.net.arrived import has_arrived
from deliver.net.tlsstream import TlsStream
from deliver.net.wire import Wire
from deliver.settings import Timeouts
from deliver.smtp.command import Quit, Rset
from tests.unit.net.test_tlsstream import client_stream, server_stream, shake_hands
from tests.unit.tls.certificates import House, build_house

GOODBYE = b"421 4.4.2 idle for too long\r\n"


@pytest.fixture(scope="session")
def house() -> House:
    return build_house()


@asynccontextmanager
async def sockets() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        ours = await trio.testing.open_stream_to_socket_listener(listener)
        async with ours, await listener.accept() as theirs:
            yield ours, theirs


async def ready(wire: Wire, server: trio.abc.Stream) -> None:
    """Greeted, and EHLO answered: another command may come."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.send_all, b"220 mx.test\r\n")
        await wire.greeting()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.send_all, b"250 mx.test\r\n")
        await wire.ehlo("relay.test")
    assert wire.machine.may_send(Quit())


async def arrival(stream: trio.SocketStream) -> None:
    await trio.lowlevel.wait_readable(stream.socket)


async def test_a_silent_socket_is_known_to_be_silent() -> None:
    async with sockets() as (ours, theirs):
        wire = Wire(ours, Timeouts())
        await ready(wire, theirs)
        assert wire.glance()
        assert wire.reusable


@pytest.mark.parametrize("said", [GOODBYE, b""], ids=["goodbye", "end"])
async def test_what_has_arrived_on_a_socket_has_to_be_heard(said: bytes) -> None:
    async with sockets() as (ours, theirs):
        wire = Wire(ours, Timeouts())
        await ready(wire, theirs)
        await (theirs.send_all(said) if said else theirs.send_eof())
        await arrival(ours)
        assert not wire.glance()
        await wire.overhear()
        assert not wire.reusable


async def test_of_other_streams_nothing_is_known() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    wire = Wire(ours, Timeouts())
    await ready(wire, theirs)
    assert not wire.glance()


@pytest.mark.parametrize("said", [GOODBYE, b""], ids=["goodbye", "nothing"])
async def test_where_nothing_is_known_we_listen_for_a_moment(
    autojump_clock: trio.testing.MockClock, said: bytes
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    wire = Wire(ours, Timeouts())
    await ready(wire, theirs)
    if said:
        await theirs.send_all(said)
    began = trio.current_time()
    await wire.catch_up()
    assert wire.reusable is not bool(said)
    assert (trio.current_time() - began > 0) is not bool(said)
    assert trio.current_time() - began < 0.1


async def test_a_socket_that_is_silent_is_not_listened_to(monkeypatch: pytest.MonkeyPatch) -> None:
    async def listen(self: Wire) -> None:
        raise AssertionError("it can be seen that nothing has come")

    async with sockets() as (ours, theirs):
        wire = Wire(ours, Timeouts())
        await ready(wire, theirs)
        monkeypatch.setattr(Wire, "overhear", listen)
        await wire.catch_up()
        assert wire.reusable


@asynccontextmanager
async def secured(house: House) -> AsyncIterator[tuple[Wire, TlsStream, trio.SocketStream]]:
    async with sockets() as (ours, theirs):
        client, server = client_stream(ours), server_stream(theirs, house)
        await shake_hands(client, server)
        wire = Wire(client, Timeouts())
        await ready(wire, server)
        yield wire, server, ours


async def test_a_silent_server_under_tls_is_known_to_be_silent(house: House) -> None:
    async with secured(house) as (wire, _, _):
        assert wire.glance()
        assert wire.reusable


async def test_a_goodbye_that_came_with_the_reply_before_it_is_found_inside_tls(house: House) -> None:
    async with secured(house) as (wire, server, ours):
        await server.send_all(b"250 mx.test\r\n")
        await server.send_all(GOODBYE)
        await arrival(ours)
        assert (await wire.command(Rset())).code == 250
        assert not has_arrived(ours), "both records were read at once"
        assert wire.glance()
        assert not wire.reusable


async def test_an_end_of_tls_is_no_silence(house: House) -> None:
    async with secured(house) as (wire, server, ours):
        await server.aclose()
        await arrival(ours)
        assert not wire.glance()
        await wire.overhear()
        assert not wire.reusable
