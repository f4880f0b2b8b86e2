"""The stream of one client: every wait for it has its end (RFC 5321 4.5.3.2.7).

A `Timekeeper` watches the conversation, as a timer for each wait would cost more than what is waited for:

    clocked     the block in which the conversation goes on; it is cancelled when a wait in it takes too long
    protect     from here to `expose` nothing else cancels the block: what is done must not be cut
"""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from deliver.net.prompt import PromptStream
from deliver.net.tlsstream import TlsStream
from deliver.relay.timekeeper import Timekeeper

READ_SIZE = 64 * 1024  # octets
LINGERING_READS = 64  # pieces read and thrown away before we close for good
CLOSING = 2.0  # seconds for a last reply to be read


class ConnectionLost(Exception):
    """The stream failed, or the client does not read; the text is for the log."""


class ClientStream:
    """What is read and written, and until when. `tell` gets what is unusual about the end of a connection."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        patience: float,
        tell: Callable[[str], None],
        timekeeper: Timekeeper,
    ) -> None:
        """`patience`: seconds in which the client must take a reply."""
        self.stream = stream
        self.timekeeper = timekeeper
        self.due = math.inf
        self.reading = False
        self.outlasted = False
        self._unsent: bytes | None = None  # of what was to be written; b"": what TLS made of it
        self._patience = patience
        self._tell = tell
        self._scope = trio.CancelScope()

    def time_is_up(self) -> None:
        """The block's wait is over in vain."""
        self.due = math.inf
        self._scope.cancel()

    def keep_own_time(self) -> None:
        """What is protected outlives the timekeeper, and still has its end."""
        self._scope.deadline = self.due

    def clocked(self) -> trio.CancelScope:
        """A new block, in which nothing waits yet."""
        self.reading, self.outlasted, self.due = False, False, math.inf
        self._scope = trio.CancelScope()
        return self._scope

    def protect(self, until: float) -> None:
        """Nothing but the time `until` ends the block now."""
        self._scope.shield = True
        self._wait(until)

    def expose(self) -> None:
        """The protection ends; `outlasted` says whether its time had ended before, and with it the block."""
        self.due = math.inf
        self._scope.shield = False
        self.outlasted = self._scope.cancel_called

    def interrupt(self) -> None:
        """Wait for the client no longer, if that is what we do."""
        if self.reading:
            self._scope.cancel()

    async def read(self, until: float) -> bytes:
        """What the client sent; b"" is its end. After `until` the block ends. Raises ConnectionLost."""
        self.reading = True
        self._wait(until)
        try:
            data = bytes(await self.stream.receive_some(READ_SIZE))
        except trio.BrokenResourceError as error:
            if not getattr(error.__cause__, "truncated", False):
                self._tell("reset by the client")
                raise ConnectionLost("the connection was lost") from None
            self._tell("closed without close_notify")
            data = b""  # content that was cut is not complete without its end, whoever cut it
        self.reading, self.due = False, math.inf
        return data

    def write_now(self, data: bytes) -> bool:
        """Whether it left at once, as nearly always; if not, `write_rest` is next. Raises ConnectionLost."""
        stream, left = self.stream, data or None
        try:
            if isinstance(stream, PromptStream):
                left = data[stream.send_now(data) :] or None
            elif isinstance(stream, TlsStream):
                left = stream.send_now(data)
        except trio.BrokenResourceError:
            raise ConnectionLost("the connection was lost") from None
        self._unsent = left
        return left is None

    async def write(self, data: bytes) -> None:
        """Raises ConnectionLost; the block ends when the client does not take it."""
        if not self.write_now(data):
            await self.write_rest()

    async def write_rest(self) -> None:
        """What did not leave at once. As `write`."""
        data, self._unsent = self._unsent, None
        self._wait(trio.current_time() + self._patience)
        try:
            if data or not isinstance(self.stream, TlsStream):
                await self.stream.send_all(data or b"")
            else:  # encrypted, but not sent
                await self.stream.flush()
        except trio.BrokenResourceError:
            raise ConnectionLost("the connection was lost") from None
        self.due = math.inf

    async def linger(self, why: str, *, secured: bool, said_quit: bool) -> None:
        """Let the client read our last words: octets left unread would reset the connection before that."""
        if said_quit and isinstance(self.stream, PromptStream) and _nothing_unread(self.stream):
            return  # nor will anything be: it has said all it had to say
        with trio.move_on_after(CLOSING):
            if secured:
                await self.stream.aclose()
            elif isinstance(self.stream, trio.abc.HalfCloseableStream):
                try:
                    await self.stream.send_eof()
                    for _ in range(LINGERING_READS):
                        if not await self.stream.receive_some(READ_SIZE):
                            break
                except trio.BrokenResourceError:
                    self._tell(f"reset after: {why}")

    async def close(self) -> None:
        """At once; no cancellation is noticed here."""
        if isinstance(self.stream, PromptStream):
            self.stream.close()
        else:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self.stream)

    def _wait(self, until: float) -> None:
        self.due = until
        self.timekeeper.expect(until)
        if self.timekeeper.left:
            self.keep_own_time()


def _nothing_unread(stream: PromptStream) -> bool:
    """Whether the client has sent nothing more, or closed its side; what it did send is thrown away."""
    try:
        return not stream.socket.recv(READ_SIZE)
    except BlockingIOError:
        return True
    except OSError:  # for who reads on
        return False
