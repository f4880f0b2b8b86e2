"""TCP and other stream sockets without ceremony: what the kernel does at once is done at once.

`PromptStream` takes the place of `trio.SocketStream`, whose every call enters context managers and lets the
loop go round once. The contract, for those who adopt it:

    send_all         writes at once what the socket takes, and waits for room only with what is left over
    send_now         the same without waiting: how many octets the socket has taken, perhaps none
    receive_some     waits until something is there, except where the last read left more behind
    arrived          whether something waits to be read, without reading it
    aclose           wakes whoever waits, with trio.ClosedResourceError
    close            the same without letting other tasks run
    socket           the standard library's socket, which does not block; the stream owns it

Failures are trio.BrokenResourceError and trio.ClosedResourceError. Every operation but `send_now` is a point
of cancellation. One that need not wait lets other tasks run only now and then, but at the latest after
IN_A_ROW of them: no busy stream starves the others. One task may send while another one receives.
"""

from __future__ import annotations

import socket
from operator import index

import trio

IN_A_ROW = 16  # operations that did not wait, before the others are let in
READ = 64 * 1024  # octets, where the caller does not say
UNSENT = 16 * 1024  # octets that may wait in the kernel before a socket counts as full, as trio has it


class PromptStream(trio.abc.HalfCloseableStream):
    """One connected stream socket, which is owned from now on."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self._closed = False
        self._shut = False  # for writing
        self._writing = False  # a task waits for room
        self._more = False  # the last read took all that it asked for
        self._in_a_row = 0

    @classmethod
    def of_tcp(cls, sock: socket.socket) -> PromptStream:
        """A stream over a connected TCP socket: whole flights are written, so none waits for the next."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
        return cls(sock)

    @classmethod
    def instead_of(cls, stream: trio.SocketStream) -> PromptStream:
        """The same connection; `stream` is of no more use."""
        theirs = stream.socket
        return cls(socket.socket(theirs.family, theirs.type, theirs.proto, fileno=theirs.detach()))

    def send_now(self, data: bytes | bytearray | memoryview) -> int:
        """Write without waiting; how many octets the socket has taken. Raises as `send_all` does."""
        if self._writing:
            raise trio.BusyResourceError("another task is already sending on this stream")
        if self._shut or self._closed:
            raise trio.ClosedResourceError("this stream is closed for writing")
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise trio.BrokenResourceError(f"socket connection broken: {error}") from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write everything. Raises trio.BrokenResourceError, ClosedResourceError."""
        await trio.lowlevel.checkpoint_if_cancelled()
        sent = self.send_now(data)
        if sent == len(data):
            await self._let_others_in()
            return
        rest = memoryview(data)[sent:]
        while rest:
            await self.wait_send_all_might_not_block()
            rest = rest[self.send_now(rest) :]

    async def wait_send_all_might_not_block(self) -> None:
        """See trio.abc.SendStream."""
        if self._writing:
            raise trio.BusyResourceError("another task is already sending on this stream")
        self._check_open()
        self._writing = True
        try:
            await trio.lowlevel.wait_writable(self.socket)
        finally:
            self._writing = False
        self._in_a_row = 0

    async def send_eof(self) -> None:
        """Write nothing more; the peer reads the end of the stream."""
        await trio.lowlevel.checkpoint()
        if self._writing:
            raise trio.BusyResourceError("another task is already sending on this stream")
        self._check_open()
        if not self._shut:
            self._shut = True
            try:
                self.socket.shutdown(socket.SHUT_WR)
            except OSError as error:
                raise trio.BrokenResourceError(f"socket connection broken: {error}") from error

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """At least one octet, or b"" at the end. Raises trio.BrokenResourceError, ClosedResourceError."""
        size = READ if max_bytes is None else index(max_bytes)
        if size < 1:
            raise ValueError("max_bytes must be at least 1")
        self._check_open()
        at_once = self._more
        while True:
            if at_once:
                await trio.lowlevel.checkpoint_if_cancelled()
            else:
                await trio.lowlevel.wait_readable(self.socket)
                self._in_a_row = 0
            try:
                data = self.socket.recv(size)
            except BlockingIOError:
                at_once = False
                continue
            except OSError as error:
                raise trio.BrokenResourceError(f"socket connection broken: {error}") from error
            self._in_a_row += 1
            self._more = len(data) == size and self._in_a_row < IN_A_ROW
            return data

    def arrived(self) -> bool:
        """Whether octets, or the end of the stream, wait to be read; also where the connection broke."""
        try:
            self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    async def aclose(self) -> None:
        """Close at once; nothing that was written is lost."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """The same without letting others in."""
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self.socket)
            self.socket.close()

    async def _let_others_in(self) -> None:
        self._in_a_row += 1
        if self._in_a_row >= IN_A_ROW:
            self._in_a_row = 0
            await trio.lowlevel.cancel_shielded_checkpoint()

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream is closed")
