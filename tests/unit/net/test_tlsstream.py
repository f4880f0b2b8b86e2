"""TLS over trio streams: trio's own conformance suite, an independent peer, and what leaves when."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from OpenSSL import SSL

from deliver.net import tlsstream
from deliver.net.prompt import IN_A_ROW, PromptStream
from deliver.net.tlsstream import CLOSE_PATIENCE, TlsStream
from deliver.tls.context import context_for
from deliver.tls.engine import TlsEngine, TlsError
from deliver.tls.judge import judge
from deliver.tls.pkix import TrustStore
from deliver.tls.policy import Authentication, Level, TlsPolicy
from tests.unit.tls.certificates import NOW, House, build_house
from tests.unit.tls.peers import MAY, NAME, StdlibServer, server_context, stdlib_server_context

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
BOTH = pytest.mark.parametrize("version", VERSIONS)


@pytest.fixture(scope="session")
def house() -> House:
    return build_house()


def client_stream(transport: trio.abc.Stream) -> TlsStream:
    return TlsStream(transport, TlsEngine(context_for(MAY), NAME))


def server_stream(
    transport: trio.abc.Stream, house: House, max_version: int = SSL.TLS1_3_VERSION
) -> TlsStream:
    context = server_context(house, max_version=max_version)
    return TlsStream(transport, TlsEngine(context, server_side=True))


async def shake_hands(client: TlsStream, server: TlsStream) -> None:
    async def accept() -> None:
        await client.do_handshake()
        await client.flush()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        nursery.start_soon(server.do_handshake)


# --- trio's conformance suite


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
async def test_is_a_two_way_stream_of_trio(
    house: House, version: int, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tlsstream, "IN_A_ROW", 1)  # trio wants a turn of the loop for each operation

    async def in_memory() -> tuple[TlsStream, TlsStream]:
        ours, theirs = trio.testing.memory_stream_pair()
        pair = client_stream(ours), server_stream(theirs, house, version)
        await shake_hands(*pair)
        return pair

    async def in_lockstep() -> tuple[TlsStream, TlsStream]:
        ours, theirs = trio.testing.lockstep_stream_pair()
        pair = client_stream(ours), server_stream(theirs, house, version)
        await shake_hands(*pair)
        return pair

    with trio.fail_after(30):
        await trio.testing.check_two_way_stream(in_memory, None)
        await trio.testing.check_two_way_stream(in_lockstep, in_lockstep)


async def test_data_larger_than_every_buffer_passes_both_ways_at_once(house: House) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    client, server = client_stream(ours), server_stream(theirs, house)
    data = bytes(range(256)) * 4096

    async def send(stream: TlsStream) -> None:
        await stream.send_all(data)

    async def receive(stream: TlsStream) -> None:
        got = bytearray()
        while len(got) < len(data):
            got += await stream.receive_some(10_000)
        assert got == data

    async with trio.open_nursery() as nursery:
        for stream in (client, server):
            nursery.start_soon(send, stream)
            nursery.start_soon(receive, stream)


# --- an independent peer over a socket pair


@asynccontextmanager
async def against_stdlib(house: House, version: ssl.TLSVersion) -> AsyncIterator[tuple[TlsStream, Peer]]:
    ours, theirs = trio.socket.socketpair()
    peer = Peer(trio.SocketStream(theirs), StdlibServer(stdlib_server_context(house, version)))
    stream = client_stream(trio.SocketStream(ours))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.run)
        yield stream, peer
        with trio.fail_after(5):
            await stream.aclose()
            await peer.ended.wait()
    await peer.transport.aclose()


class Peer:
    """The standard library's TLS server; answers each line that it gets with `250 <line>`."""

    def __init__(self, transport: trio.SocketStream, server: StdlibServer) -> None:
        self.transport = transport
        self.server = server
        self.octets = 0  # received from the client
        self.completed = trio.Event()
        self.clean = False  # the client said close_notify
        self.ended = trio.Event()

    async def run(self) -> None:
        try:
            while data := await self.transport.receive_some():
                self.octets += len(data)
                await self._serve(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self.ended.set()

    async def _serve(self, data: bytes) -> None:
        answer = self.server.take(data)
        if self.server.completed:
            self.completed.set()
            try:
                while line := self.server.read():
                    answer += self.server.write(b"250 " + line)
                self.clean = line == b""
            except ssl.SSLZeroReturnError:
                self.clean = True
        if answer:
            await self.transport.send_all(answer)


@BOTH
async def test_an_exchange_with_another_implementation(house: House, version: ssl.TLSVersion) -> None:
    async with against_stdlib(house, version) as (stream, peer):
        facts = await stream.do_handshake()
        assert facts.chain == house.chain
        assert await stream.do_handshake() is facts
        assert stream.handshake is facts
        await stream.send_all(b"EHLO client\r\n")
        assert await stream.receive_some() == b"250 EHLO client\r\n"
        assert peer.completed.is_set()
    assert peer.clean


async def test_a_refused_server_never_completes_its_handshake(house: House) -> None:
    """TLS 1.3: the verdict comes before Finished leaves; a refused server learns nothing more."""
    demanded = TlsPolicy(
        Level.DANE,
        True,
        True,
        Authentication.DANE,
        NAME,
        (NAME,),
        (house.stranger.tlsa(3, 1, 1),),
    )
    async with against_stdlib(house, ssl.TLSVersion.TLSv1_3) as (stream, peer):
        facts = await stream.do_handshake()
        await trio.testing.wait_all_tasks_blocked()
        before = peer.octets
        verdict = judge(demanded, facts, NOW, TrustStore.empty())
        assert not verdict.ok
        await stream.discard()
        with trio.fail_after(5):
            await peer.ended.wait()
        assert peer.octets == before
        assert not peer.server.completed


async def test_an_accepted_server_completes_its_handshake_on_flush(house: House) -> None:
    async with against_stdlib(house, ssl.TLSVersion.TLSv1_3) as (stream, peer):
        await stream.do_handshake()
        assert not peer.server.completed
        await stream.flush()
        with trio.fail_after(5):
            await peer.completed.wait()


async def test_closing_before_a_judgement_accepts_nobody(house: House) -> None:
    async with against_stdlib(house, ssl.TLSVersion.TLSv1_3) as (stream, peer):
        await stream.do_handshake()
        await stream.aclose()
        with trio.fail_after(5):
            await peer.ended.wait()
        assert not peer.server.completed


async def test_finished_and_the_first_command_leave_together(house: House) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    server = server_stream(theirs, house)
    client = client_stream(ours)
    sends = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.do_handshake)
        await client.do_handshake()
        real = ours.send_all

        async def counted(data: bytes) -> None:
            sends.append(len(data))
            await real(data)

        ours.send_all = counted  # type: ignore[method-assign, assignment]
        await client.send_all(b"EHLO client\r\n")
    assert len(sends) == 1
    assert await server.receive_some() == b"EHLO client\r\n"


async def test_waiting_for_an_answer_releases_finished(house: House) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    client, server = client_stream(ours), server_stream(theirs, house)
    await_done = trio.Event()

    async def greet() -> None:
        await server.do_handshake()
        await server.send_all(b"220 hello\r\n")
        await_done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(greet)
        await client.do_handshake()
        await trio.testing.wait_all_tasks_blocked()
        assert not await_done.is_set()
        assert await client.receive_some() == b"220 hello\r\n"


# --- failures


async def test_a_peer_without_tls_is_a_tls_error() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(b"454 TLS not available\r\n")
    with pytest.raises(TlsError, match="did not answer in TLS"):
        await client_stream(ours).do_handshake()


async def test_a_peer_that_breaks_the_protocol_gets_an_alert() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    client = client_stream(ours)
    await theirs.send_all(b"\x16\x03\x03\x00\x05\x02\x00\x00\x01\x00")  # a ServerHello of one octet
    with pytest.raises(TlsError):
        await client.do_handshake()
    received = await theirs.receive_some()
    assert received[0] == 0x16  # our ClientHello
    assert received[-7:-4] == b"\x15\x03\x03"  # and an alert
    with pytest.raises(trio.BrokenResourceError):
        await client.send_all(b"EHLO client\r\n")


async def test_losing_the_connection_during_the_handshake_is_a_tls_error() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.aclose()
    with pytest.raises(TlsError):
        await client_stream(ours).do_handshake()

    ours, theirs = trio.testing.memory_stream_pair()
    client = client_stream(ours)
    await theirs.send_eof()
    with pytest.raises(TlsError, match="closed the connection"):
        await client.do_handshake()
    with pytest.raises(trio.BrokenResourceError):
        await client.receive_some()


async def test_a_failed_handshake_inside_send_is_a_broken_stream_with_its_cause() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(b"nonsense, not TLS at all\r\n")
    with pytest.raises(trio.BrokenResourceError) as caught:
        await client_stream(ours).send_all(b"x")
    assert isinstance(caught.value.__cause__, TlsError)


async def test_the_two_ends_are_told_apart(house: House) -> None:
    for clean in (True, False):
        ours, theirs = trio.testing.memory_stream_pair()
        client, server = client_stream(ours), server_stream(theirs, house)
        await shake_hands(client, server)
        if clean:
            await server.aclose()
            assert await client.receive_some() == b""
            assert await client.receive_some() == b""
        else:
            await theirs.aclose()
            with pytest.raises(trio.BrokenResourceError) as caught:
                await client.receive_some()
            assert isinstance(caught.value.__cause__, TlsError)
            assert caught.value.__cause__.truncated


async def test_damaged_records_break_the_stream(house: House) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    client, server = client_stream(ours), server_stream(theirs, house)
    await shake_hands(client, server)
    await theirs.send_all(b"\x17\x03\x03\x00\x20" + b"\0" * 32)
    with pytest.raises(trio.BrokenResourceError) as caught:
        await client.receive_some()
    assert isinstance(caught.value.__cause__, TlsError)
    with pytest.raises(trio.BrokenResourceError):
        await client.send_all(b"x")


async def test_a_cancelled_send_breaks_the_stream(house: House) -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()
    client, server = client_stream(ours), server_stream(theirs, house)
    await shake_hands(client, server)
    with trio.move_on_after(0) as scope:
        await client.send_all(b"never begun")
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, b"x" * 100_000)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    with pytest.raises(trio.BrokenResourceError):
        await client.send_all(b"y")


async def test_a_send_cancelled_before_it_began_changes_nothing(house: House) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    client, server = client_stream(ours), server_stream(theirs, house)
    await shake_hands(client, server)
    with trio.CancelScope() as scope:
        scope.cancel()
        await client.send_all(b"lost")
    await client.send_all(b"kept")
    assert await server.receive_some() == b"kept"


async def test_closing_does_not_wait_for_a_peer_that_does_not_read(
    house: House, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()
    client, server = client_stream(ours), server_stream(theirs, house)
    await shake_hands(client, server)
    start = trio.current_time()
    await client.aclose()
    assert trio.current_time() - start <= CLOSE_PATIENCE
    await client.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await client.receive_some()
    with pytest.raises(trio.ClosedResourceError):
        await client.send_all(b"x")


async def test_a_silent_peer_is_the_callers_deadline_to_end(autojump_clock: trio.testing.MockClock) -> None:
    ours, _theirs = trio.testing.memory_stream_pair()
    client = client_stream(ours)
    with pytest.raises(trio.TooSlowError):
        with trio.fail_after(60):
            await client.do_handshake()
    with pytest.raises(trio.BrokenResourceError):
        await client.send_all(b"x")


async def test_discard_closes_at_once_and_for_good(house: House) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    client, server = client_stream(ours), server_stream(theirs, house)
    await shake_hands(client, server)
    await client.discard()
    with pytest.raises(trio.BrokenResourceError) as caught:
        await server.receive_some()  # no close_notify came
    assert isinstance(caught.value.__cause__, TlsError)
    with pytest.raises(trio.ClosedResourceError):
        await client.flush()


@asynccontextmanager
async def over_sockets(house: House) -> AsyncIterator[tuple[TlsStream, TlsStream]]:
    """Client and server after the handshake, the last flight of both sent."""
    ours, theirs = map(PromptStream, socket.socketpair())
    client, server = client_stream(ours), server_stream(theirs, house)
    async with client, server:
        await shake_hands(client, server)
        await client.flush()
        await server.flush()
        yield client, server


async def test_what_the_socket_takes_leaves_without_a_turn_of_the_loop(house: House) -> None:
    async with over_sockets(house) as (client, server):
        with trio.testing.assert_no_checkpoints():
            assert client.send_now(b"MAIL FROM:<>\r\n") is None
        assert await server.receive_some() == b"MAIL FROM:<>\r\n"


async def test_what_the_socket_does_not_take_leaves_in_order_later(house: House) -> None:
    async with over_sockets(house) as (client, server):
        said, left = bytearray(), None
        while left is None:
            piece = bytes([len(said) % 251]) * 5000
            said += piece
            left = client.send_now(piece)
        assert left == b"", "TLS has taken all of it"
        heard = bytearray()

        async def listen() -> None:
            while len(heard) < len(said) + 4:
                heard.extend(await server.receive_some())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await client.flush()
            await client.send_all(b"QUIT")
        assert heard == said + b"QUIT"


async def test_the_end_of_a_stream_over_a_socket_is_told(house: House) -> None:
    async with over_sockets(house) as (client, server):
        await client.aclose()
        assert await server.receive_some() == b""


async def test_the_end_is_not_told_where_the_closing_is_cancelled(house: House) -> None:
    async with over_sockets(house) as (client, server):
        await server.send_all(b"x")
        assert await client.receive_some() == b"x"  # nothing unread is left, for which the socket would reset
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.aclose()
        with pytest.raises(trio.BrokenResourceError) as caught:
            await server.receive_some()
        assert isinstance(caught.value.__cause__, TlsError)
        assert caught.value.__cause__.truncated


async def test_closing_does_not_wait_for_a_peer_whose_socket_is_full(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tlsstream, "CLOSE_PATIENCE", 0.05)
    async with over_sockets(house) as (client, _server):
        while client.send_now(bytes(5000)) is None:
            pass
        with trio.fail_after(5):
            await client.aclose()


async def test_who_shakes_hands_beside_another_gets_the_same_handshake(house: House) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    client, server = client_stream(ours), server_stream(theirs, house)
    seen = []

    async def shake() -> None:
        seen.append(await client.do_handshake())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(shake)
        nursery.start_soon(shake)
        nursery.start_soon(server.do_handshake)
        await trio.testing.wait_all_tasks_blocked()
        await client.flush()
    assert seen == [client.handshake] * 2
    assert seen[0] is seen[1]


async def test_over_other_streams_nothing_is_sent_without_waiting(house: House) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    client, server = client_stream(ours), server_stream(theirs, house)
    await shake_hands(client, server)
    assert client.send_now(b"EHLO x\r\n") == b"EHLO x\r\n"


async def test_nothing_is_sent_without_waiting_before_the_handshake(house: House) -> None:
    ours, theirs = map(PromptStream, socket.socketpair())
    async with client_stream(ours) as client, theirs:
        assert client.send_now(b"EHLO x\r\n") == b"EHLO x\r\n"
        assert not theirs.arrived()


async def test_a_broken_connection_breaks_the_stream_also_without_waiting(house: House) -> None:
    async with over_sockets(house) as (client, server):
        await server.transport.aclose()
        with pytest.raises(trio.BrokenResourceError):
            client.send_now(b"x")
        with pytest.raises(trio.BrokenResourceError):
            await client.receive_some()


async def test_data_that_is_there_does_not_starve_the_others(house: House) -> None:
    async with over_sockets(house) as (client, server):
        await server.send_all(bytes(8 * IN_A_ROW))
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            await client.receive_some(1)
            turns = 0
            for _ in range(8 * IN_A_ROW - 1):
                await client.receive_some(1)
            assert 7 <= turns <= 16
            nursery.cancel_scope.cancel()
