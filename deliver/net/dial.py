"""TCP connections to numeric addresses; names are resolved before, by our own resolver only.

With TCP Fast Open (RFC 7413) first octets leave with the SYN to a host that gave us a cookie before. What is
said so may arrive twice (2.1 there), on two connections: only what does no harm then, such as EHLO. A failure
is one of connecting, as without; where the kernel cannot do it, the octets follow the handshake.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from errno import ECONNREFUSED, ETIMEDOUT
from typing import Protocol, runtime_checkable

import trio

from deliver.errors import Fault, PeerError
from deliver.net.prompt import PromptStream

# linux/tcp.h; Python's socket module has no names for them.
TCP_FASTOPEN_CONNECT = 30
OPTIONS_AT = 5  # of tcpi_options in struct tcp_info
SYN_DATA = 32  # TCPI_OPT_SYN_DATA: the peer acknowledged the octets in the SYN


class ConnectFailed(PeerError):
    """No connection to this address; `errno` is None for a timeout."""

    def __init__(self, target: str, happened: str, errno: int | None = None) -> None:
        super().__init__(f"connecting to {target}", happened, "the next address is tried, or a later attempt")
        self.errno = errno
        if errno == ECONNREFUSED:
            self.fault = Fault.REFUSED
        elif errno in (None, ETIMEDOUT):
            self.fault = Fault.TIMEOUT


@dataclass(frozen=True, slots=True)
class Connection:
    """An open stream and our own end of it; `in_syn`: the peer took the first octets with the SYN."""

    stream: trio.abc.Stream
    local_address: str
    local_port: int
    in_syn: bool = False


class Dialer(Protocol):
    """Opens connections."""

    async def dial(self, address: str, port: int, *, source: str | None, timeout: float) -> Connection:
        """Connect within `timeout` seconds, from `source` if given. Raises ConnectFailed."""
        ...


@runtime_checkable
class FastOpenDialer(Dialer, Protocol):
    """Opens connections whose first octets need not wait for the handshake."""

    async def dial_saying(
        self, octets: bytes, address: str, port: int, *, source: str | None, timeout: float
    ) -> Connection:
        """Connect as `dial` does, `octets` sent: with the SYN where that is possible, else behind it."""
        ...


class TcpDialer:
    """The `FastOpenDialer` port over real sockets."""

    async def dial(self, address: str, port: int, *, source: str | None, timeout: float) -> Connection:
        """Connect; TCP_NODELAY is set, since the wire writes whole flights."""
        return await _opened(b"", address, port, source, timeout)

    async def dial_saying(
        self, octets: bytes, address: str, port: int, *, source: str | None, timeout: float
    ) -> Connection:
        """See `FastOpenDialer`."""
        return await _opened(octets, address, port, source, timeout)


async def _opened(octets: bytes, address: str, port: int, source: str | None, timeout: float) -> Connection:
    target = f"[{address}]:{port}"
    _check_numeric(address)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:  # no more files, say
        raise ConnectFailed(target, os.strerror(error.errno or 0), error.errno) from error
    try:
        sock.setblocking(False)
        with trio.move_on_after(timeout) as scope:
            if source is not None:
                _check_numeric(source)
                sock.bind((source, 0))
            if octets:
                _wait_for_octets(sock)
            await _connect(sock, (address, port))
            stream = PromptStream.of_tcp(sock)
            if octets:
                await _say_first(sock, octets)
        if scope.cancelled_caught:
            raise ConnectFailed(target, f"no answer within {timeout:g} s")
        local_address, local_port = sock.getsockname()[:2]
        in_syn = bool(octets) and _taken_with_syn(sock)
        return Connection(stream, local_address, local_port, in_syn)
    except OSError as error:
        sock.close()
        why = os.strerror(error.errno) if error.errno else str(error)
        raise ConnectFailed(target, why, error.errno) from error
    except BaseException:
        sock.close()
        raise


def _check_numeric(address: str) -> None:
    """Raises ValueError: a name would be looked up by the system's resolver, which blocks."""
    if "%" in address or ":" in address:
        ipaddress.IPv6Address(address)
    else:
        ipaddress.IPv4Address(address)


async def _connect(sock: socket.socket, place: tuple[str, int]) -> None:
    """Raises OSError."""
    await trio.lowlevel.checkpoint_if_cancelled()
    try:
        sock.connect(place)
    except BlockingIOError:
        await trio.lowlevel.wait_writable(sock)
        _raise_error_of(sock)


def _raise_error_of(sock: socket.socket) -> None:
    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))


def _wait_for_octets(sock: socket.socket) -> None:
    """With a cookie of the host, `connect` returns at once and the first `send` makes the SYN."""
    if sys.platform == "linux":
        with suppress(OSError):  # not in this kernel, or switched off: an ordinary connection
            sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)


async def _say_first(sock: socket.socket, octets: bytes) -> None:
    """Until the handshake is over and everything was sent. Raises OSError if there is no connection."""
    try:
        rest = memoryview(octets)
        while rest:
            with suppress(BlockingIOError):
                rest = rest[sock.send(rest) :]
            await trio.lowlevel.wait_writable(sock)
            _raise_error_of(sock)
    except (ConnectionResetError, BrokenPipeError):
        pass  # connected, and gone again: whoever reads will hear of it


def _taken_with_syn(sock: socket.socket) -> bool:
    if sys.platform != "linux":
        return False
    return bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[OPTIONS_AT] & SYN_DATA)
