"""One question to one resolver, and the response that fits it (RFC 1035 4.2, 5452 9, 6891).

Each question leaves by a socket of its own, so that its port and its number are hard to guess. Whatever comes
from elsewhere, is malformed or answers something else is passed over: the true response may still come.
"""

from __future__ import annotations

import functools
import os
import socket
import struct

import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import trio
from msgspec import Struct

from deliver.dnssec.response import QR, TC, MalformedResponse, Response, read_response

EDNS_PAYLOAD = 1232  # octets; avoids fragments (DNS flag day 2020)
MAX_DATAGRAM = 65_535  # octets

_HEADER = struct.Struct("!HHHHHH")
_QUESTION = struct.Struct("!HH")
_OPT = struct.Struct("!BHHIH")  # RFC 6891 6.1.2: root, type, payload, extended flags, no options
_LENGTH = struct.Struct("!H")
_IN = 1
_DO = 0x8000  # RFC 3225 3

# A resolver may leave the question out of such a response.
_BARE = (dns.rcode.FORMERR, dns.rcode.SERVFAIL, dns.rcode.NOTIMP, dns.rcode.REFUSED)


class Request(Struct, frozen=True):
    """A question of class IN with an OPT record; `name` is absolute, `dnssec` sets the DO bit."""

    name: dns.name.Name
    rdtype: dns.rdatatype.RdataType
    flags: int
    dnssec: bool

    def wire(self, number: int) -> bytes:
        """As it is sent."""
        return (
            _HEADER.pack(number, self.flags, 1, 0, 0, 1)
            + self.name.to_digestable()
            + _QUESTION.pack(self.rdtype, _IN)
            + _OPT.pack(0, dns.rdatatype.OPT, EDNS_PAYLOAD, _DO if self.dnssec else 0, 0)
        )

    def answered_by(self, response: Response, number: int) -> bool:
        """Whether it is a response to this question under this number."""
        if response.id != number or not response.flags & QR or response.opcode != dns.opcode.QUERY:
            return False
        if not response.questions and response.rcode in _BARE:
            return True
        return response.questions == ((self.name, self.rdtype, _IN),)


async def over_udp(request: Request, address: str, port: int, timeout: float) -> Response:
    """The response. Raises trio.TooSlowError after `timeout` seconds, OSError."""
    family, to = _socket_address(address, port)
    number = int.from_bytes(os.urandom(2), "big")
    with (
        socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as ours,
        trio.move_on_after(timeout),
    ):
        await _send(ours, request.wire(number), to)
        while True:
            await trio.lowlevel.wait_readable(ours)
            try:
                octets, source = ours.recvfrom(MAX_DATAGRAM)
            except BlockingIOError:
                continue
            if source[:2] != to[:2] or source[3:] != to[3:]:
                continue
            try:
                response = read_response(octets)
            except MalformedResponse:
                continue
            if request.answered_by(response, number):
                return response
    raise trio.TooSlowError


async def _send(ours: socket.socket, octets: bytes, to: tuple[str, int]) -> None:
    while True:
        try:
            ours.sendto(octets, to)
        except BlockingIOError:
            await trio.lowlevel.wait_writable(ours)
        else:
            return


async def over_tcp(request: Request, address: str, port: int, timeout: float) -> Response:
    """The response. Raises trio.TooSlowError, OSError, EOFError, BrokenResourceError, MalformedResponse."""
    number = int.from_bytes(os.urandom(2), "big")
    octets = request.wire(number)
    with trio.fail_after(timeout):
        async with await trio.open_tcp_stream(address, port) as stream:
            await stream.send_all(_LENGTH.pack(len(octets)) + octets)
            (length,) = _LENGTH.unpack(await _receive(stream, _LENGTH.size))
            response = read_response(await _receive(stream, length))
    if not request.answered_by(response, number):
        raise MalformedResponse("it answers another question")
    if response.flags & TC:
        raise MalformedResponse("it is cut, over TCP too")
    return response


async def _receive(stream: trio.SocketStream, length: int) -> bytes:
    """Exactly so many octets. Raises EOFError."""
    octets = bytearray()
    while len(octets) < length:
        piece = await stream.receive_some(length - len(octets))
        if not piece:
            raise EOFError("it ended the connection")
        octets += piece
    return bytes(octets)


@functools.lru_cache(maxsize=64)
def _socket_address(address: str, port: int) -> tuple[int, tuple[str, int]]:
    """Family and address of a numeric address, as `recvfrom` would give it. Raises OSError."""
    ((family, _, _, _, sockaddr),) = socket.getaddrinfo(
        address, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
    )
    return family, sockaddr  # type: ignore[return-value]
