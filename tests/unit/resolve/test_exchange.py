"""One question and its response over real sockets: what is passed over, and when TCP is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
import trio

from deliver.dnssec.names import named
from deliver.dnssec.response import MalformedResponse
from deliver.resolve.exchange import EDNS_PAYLOAD, Request, over_tcp, over_udp

ADDRESS = "127.0.0.1"
PATIENCE = 5.0
QUESTION = Request(named("example."), dns.rdatatype.A, dns.flags.RD | dns.flags.CD, dnssec=True)

Change = Callable[[dns.message.Message], None]


def honest(wire: bytes, change: Change | None = None) -> bytes:
    """The response to a question, changed."""
    message = dns.message.make_response(dns.message.from_wire(wire))
    message.answer = [dns.rrset.from_text("example.", 300, "IN", "A", "192.0.2.1")]
    if change is not None:
        change(message)
    return message.to_wire()


@pytest.fixture
async def server() -> AsyncIterator[trio.socket.SocketType]:
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as made:
        await made.bind((ADDRESS, 0))
        yield made


def test_a_question_asks_for_what_it_says() -> None:
    made = dns.message.make_query("example.", "A", want_dnssec=True, payload=EDNS_PAYLOAD, id=7)
    made.flags |= dns.flags.CD
    assert QUESTION.wire(7) == made.to_wire()
    plain = dns.message.make_query("example.", "A", use_edns=0, payload=EDNS_PAYLOAD, id=7)
    assert Request(QUESTION.name, QUESTION.rdtype, dns.flags.RD, dnssec=False).wire(7) == plain.to_wire()


def _cut(message: dns.message.Message) -> None:
    message.flags |= dns.flags.TC


def _other_number(message: dns.message.Message) -> None:
    message.id ^= 1


def _other_name(message: dns.message.Message) -> None:
    message.question = [dns.rrset.RRset(named("other."), dns.rdataclass.IN, dns.rdatatype.A)]


def _other_type(message: dns.message.Message) -> None:
    message.question = [dns.rrset.RRset(named("example."), dns.rdataclass.IN, dns.rdatatype.MX)]


def _no_response(message: dns.message.Message) -> None:
    message.flags &= ~dns.flags.QR


def _no_question(message: dns.message.Message) -> None:
    message.question = []


@pytest.mark.parametrize("change", [_other_number, _other_name, _other_type, _no_response, _no_question])
async def test_what_does_not_fit_is_passed_over(server: trio.socket.SocketType, change: Change) -> None:
    async def serve() -> None:
        wire, client = await server.recvfrom(512)
        await server.sendto(b"garbage", client)
        await server.sendto(honest(wire, change), client)
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as forger:
            await forger.sendto(honest(wire, lambda message: message.answer.clear()), client)
        await server.sendto(honest(wire), client)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        response = await over_udp(QUESTION, ADDRESS, server.getsockname()[1], PATIENCE)
    assert response.answer.get(QUESTION.name, QUESTION.rdtype) is not None


async def test_a_failure_may_leave_the_question_out(server: trio.socket.SocketType) -> None:
    async def serve() -> None:
        wire, client = await server.recvfrom(512)

        def failing(message: dns.message.Message) -> None:
            message.question, message.answer = [], []
            message.set_rcode(dns.rcode.REFUSED)

        await server.sendto(honest(wire, failing), client)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        response = await over_udp(QUESTION, ADDRESS, server.getsockname()[1], PATIENCE)
    assert response.rcode == dns.rcode.REFUSED


async def test_silence_is_not_waited_out(server: trio.socket.SocketType) -> None:
    with pytest.raises(trio.TooSlowError):
        await over_udp(QUESTION, ADDRESS, server.getsockname()[1], 0.05)


async def test_numbers_and_ports_differ(server: trio.socket.SocketType) -> None:
    seen = set()

    async def serve() -> None:
        for _ in range(8):
            wire, client = await server.recvfrom(512)
            seen.add((wire[:2], client))
            await server.sendto(honest(wire), client)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        for _ in range(8):
            await over_udp(QUESTION, ADDRESS, server.getsockname()[1], PATIENCE)
    assert len({number for number, _ in seen}) > 1
    assert len({client for _, client in seen}) > 1


async def _by_tcp(pieces: Callable[[bytes], list[bytes]]) -> object:
    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            octets = bytearray()
            while len(octets) < 2 or len(octets) < 2 + int.from_bytes(octets[:2]):
                octets += await stream.receive_some(512)
            for piece in pieces(bytes(octets[2:])):
                await stream.send_all(piece)

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host=ADDRESS))
        try:
            return await over_tcp(QUESTION, ADDRESS, listener.socket.getsockname()[1], PATIENCE)
        finally:
            nursery.cancel_scope.cancel()


def _framed(octets: bytes) -> list[bytes]:
    whole = len(octets).to_bytes(2) + octets
    return [whole[:1], whole[1:20], whole[20:]]


async def test_tcp_gives_the_whole_response() -> None:
    response = await _by_tcp(lambda wire: _framed(honest(wire)))
    assert response.answer.get(QUESTION.name, QUESTION.rdtype) is not None


@pytest.mark.parametrize(
    ("pieces", "error"),
    [
        (lambda wire: _framed(honest(wire))[:2], EOFError),
        (lambda wire: [], EOFError),
        (lambda wire: _framed(honest(wire, _other_number)), MalformedResponse),
        (lambda wire: _framed(b"garbage"), MalformedResponse),
        (lambda wire: _framed(honest(wire, _cut)), MalformedResponse),
    ],
)
async def test_what_tcp_gives_instead_is_told(
    pieces: Callable[[bytes], list[bytes]], error: type[Exception]
) -> None:
    with pytest.RaisesGroup(error, flatten_subgroups=True, allow_unwrapped=True):
        await _by_tcp(pieces)
