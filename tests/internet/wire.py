"""The server's end of one connection: lines and content in, octets out, TLS in the middle of it."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
from contextvars import ContextVar
from types import TracebackType
from typing import Self

import trio

from tests.internet.received import TlsFacts

MAX_LINE = (
    4096  # octets; far above RFC 5321 4.5.3.1.4, so that too long a line can be told from an endless one
)
_CHUNK = 65536
_SOON = 0.05  # seconds, for the rest of a TLS record of which a part has arrived
_LINGER_NOT = struct.pack("ii", 1, 0)
_END = b"\r\n.\r\n"

_server_name: ContextVar[list[str | None]] = ContextVar("_server_name")


class Closed(Exception):
    """The client closed the connection in good order."""


class TooLong(Exception):
    """A command line without an end."""


class Wire:
    """Buffered octets of one connection. All reads raise Closed at the end of the stream."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._socket = stream
        self._stream: trio.abc.Stream = stream
        self._buffer = bytearray()
        # A second descriptor to peek with; trio's own reads always wait.
        self._peek = socket.socket(fileno=os.dup(stream.socket.fileno()))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._peek.close()
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            with trio.move_on_after(1):
                await self._stream.aclose()

    @property
    def tls(self) -> bool:
        """Whether TLS is on."""
        return self._stream is not self._socket

    def waiting(self) -> bytes:
        """What the client has sent already without being read; inside TLS only what was decrypted."""
        return bytes(self._buffer) if self._buffer or self.tls else self._peeked()

    def discard(self) -> None:
        """Forget what was read but not used."""
        self._buffer.clear()

    async def _drain(self) -> None:
        """Read what has arrived already, so that one flight counts as one however it was cut up."""
        with contextlib.suppress(Closed, trio.BrokenResourceError), trio.move_on_after(_SOON):
            while self._arrived():
                await self._receive()

    def _arrived(self) -> bool:
        # trio keeps octets of TLS records that are received but not yet decrypted in `_incoming`.
        if self.tls and self._stream._incoming.pending:  # type: ignore[attr-defined]
            return True
        return bool(self._peeked())

    def _peeked(self) -> bytes:
        try:
            return self._peek.recv(64, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:
            return b""

    async def line(self) -> tuple[bytes, bool]:
        """One line up to LF, line end included, and whether it was there without waiting."""
        at_once = b"\n" in self._buffer
        while b"\n" not in self._buffer:
            if len(self._buffer) > MAX_LINE:
                raise TooLong
            await self._receive()
        await self._drain()
        end = self._buffer.index(b"\n") + 1
        line = bytes(self._buffer[:end])
        del self._buffer[:end]
        return line, at_once

    async def content(self, octets: int | None) -> bytes | int:
        """The stuffed content up to the final dot, which is removed; or how much there is once `octets` came.

        Raises Closed with the count of octets as its argument when the stream ends before the dot.
        """
        content = bytearray(b"\r\n")  # the final dot may be the very first line
        searched = 0
        while True:
            content += self._buffer
            self._buffer.clear()
            end = content.find(_END, searched)
            if octets is not None and len(content) - 2 >= octets:
                return len(content) - 2
            if end >= 0:
                self._buffer += content[end + len(_END) :]
                return bytes(content[2 : end + 2])
            searched = max(0, len(content) - len(_END))
            try:
                await self._receive()
            except Closed:
                raise Closed(len(content) - 2) from None

    async def send(self, octets: bytes) -> None:
        """Write."""
        await self._stream.send_all(octets)

    async def until_closed(self) -> None:
        """Read and forget until the client goes."""
        while True:
            await self._receive()
            self._buffer.clear()

    async def start_tls(self, context: ssl.SSLContext) -> TlsFacts:
        """Handshake. BrokenResourceError, with ssl.SSLError as its cause, when it fails."""
        name: list[str | None] = [None]
        token = _server_name.set(name)
        context.sni_callback = _note_server_name
        stream = trio.SSLStream(self._socket, context, server_side=True)
        self._stream = stream
        try:
            await stream.do_handshake()
        finally:
            _server_name.reset(token)
        return TlsFacts(
            version=stream.version(),
            cipher=stream.cipher()[0],
            server_name=name[0],
            resumed=bool(stream.session_reused),
        )

    async def drop(self, *, reset: bool) -> None:
        """Close at once, without close_notify; `reset` with RST instead of FIN."""
        self._peek.close()
        if reset:
            self._socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        await self._socket.aclose()

    async def _receive(self) -> None:
        octets = await self._stream.receive_some(_CHUNK)
        if not octets:
            raise Closed
        self._buffer += octets


def _note_server_name(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
    # OpenSSL calls back from inside do_handshake, hence in the context of the connection's own task.
    _server_name.get()[0] = name
