"""A wire in memory, and the scripted server at its other end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio
import trio.testing

from deliver.errors import Blame, StorageError
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.net.wire import Wire
from deliver.outcome import Contact, Deferred, Outcome, Phase
from deliver.settings import Timeouts
from deliver.smtp.transaction import Transaction

CONTACT = Contact("mx.example.net", "192.0.2.1", 25)
TIMEOUTS = Timeouts()
HELLO = "220 mx\r\n"
EHLO = "250-mx\r\n250-PIPELINING\r\n250 SIZE\r\n"
TEXT = b"Subject: x\r\n\r\n.dot\r\nbody\r\n"
MAIL_DATA = b"Subject: x\r\n\r\n..dot\r\nbody\r\n.\r\n"

Script = Callable[["Server"], Awaitable[None]]


class Text:
    """Content in memory; `fail_at` raises from that offset, `claimed` lies about the size."""

    def __init__(self, octets: bytes, fail_at: int | None = None, claimed: int | None = None) -> None:
        self._octets = octets
        self._fail_at = fail_at
        self.size = len(octets) if claimed is None else claimed

    async def read(self, offset: int, length: int) -> bytes:
        await trio.lowlevel.checkpoint()
        if self._fail_at is not None and offset >= self._fail_at:
            raise StorageError("reading content", "the disk is broken")
        return self._octets[offset : offset + length]


class Server:
    """The other end, told what to read and say."""

    def __init__(self, stream: trio.abc.Stream, portion: int | None) -> None:
        self.stream = stream
        self.got = b""
        self._portion = portion
        self._unread = b""

    async def say(self, text: str) -> None:
        octets = text.encode()
        size = self._portion or len(octets) or 1
        for at in range(0, len(octets), size):
            await self.stream.send_all(octets[at : at + size])

    async def read_until(self, end: bytes) -> bytes:
        """Through `end`; what came is appended to `got`. At the end of the stream, what there was."""
        while end not in self._unread:
            data = await self.stream.receive_some()
            if not data:
                break
            self._unread += data
        head, found, self._unread = self._unread.partition(end)
        self.got += head + found
        return head + found

    async def read(self, size: int) -> bytes:
        """So many octets; fewer at the end of the stream."""
        while len(self._unread) < size:
            data = await self.stream.receive_some()
            if not data:
                break
            self._unread += data
        head, self._unread = self._unread[:size], self._unread[size:]
        self.got += head
        return head

    async def open(self) -> None:
        await self.say(HELLO)
        await self.read_until(b"\r\n")
        await self.say(EHLO)

    async def take(self, envelope: str = "250 a\r\n250 b\r\n250 c\r\n354 d\r\n") -> None:
        """Until after DATA."""
        await self.read_until(b"DATA\r\n")
        await self.say(envelope)

    async def take_whole(self) -> None:
        """Envelope and content, and accept them."""
        await self.take()
        await self.read_until(b"\r\n.\r\n")
        await self.say("250 ok\r\n")


@asynccontextmanager
async def served(
    script: Script, timeouts: Timeouts = TIMEOUTS, portion: int | None = None, size: int | None = None
) -> AsyncIterator[tuple[Wire, Server]]:
    """A wire to a server that plays `script`; with `size`, writing waits while that much is unread."""
    ours, theirs = trio.testing.memory_stream_pair() if size is None else bounded_pair(size)
    server = Server(theirs, portion)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(script, server)
        yield Wire(ours, timeouts), server
        nursery.cancel_scope.cancel()


class Bounded(trio.abc.SendStream):
    """One direction that holds at most `size` octets, like a socket whose peer does not read."""

    def __init__(self, size: int) -> None:
        self._send, self.receive = trio.open_memory_channel[bytes](max(1, size // 16))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        for at in range(0, len(data), 16):
            try:
                await self._send.send(bytes(data[at : at + 16]))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise trio.BrokenResourceError("reset") from None

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self._send.close()
        await trio.lowlevel.checkpoint()


class Reading(trio.abc.ReceiveStream):
    """The other end of `Bounded`."""

    def __init__(self, channel: trio.MemoryReceiveChannel[bytes]) -> None:
        self._channel = channel

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        try:
            return await self._channel.receive()
        except trio.EndOfChannel:
            return b""

    async def aclose(self) -> None:
        self._channel.close()
        await trio.lowlevel.checkpoint()


def bounded_pair(size: int) -> tuple[trio.abc.Stream, trio.abc.Stream]:
    there, back = Bounded(size), Bounded(size)
    return (
        trio.StapledStream(there, Reading(back.receive)),
        trio.StapledStream(back, Reading(there.receive)),
    )


async def opened(wire: Wire) -> Wire:
    await wire.greeting()
    await wire.ehlo("us")
    return wire


def transaction(wire: Wire, count: int = 2, *, reset: bool = False) -> Transaction:
    recipients = tuple(Recipient(n, Mailbox(f"r{n}", "example.net")) for n in range(count))
    envelope = Envelope(MessageId("m"), None, recipients, 30, False, 0.0)
    return Transaction(envelope, recipients, wire.capabilities, CONTACT, reset=reset)


async def outcomes(wire: Wire, text: Text | None = None, count: int = 2) -> list[Outcome]:
    subject = transaction(wire, count)
    return [outcome for _, outcome in await wire.transact(subject, text or Text(TEXT))]


def deferred(outcome: Outcome) -> tuple[Blame, Phase | None, bool]:
    assert isinstance(outcome, Deferred), outcome
    return outcome.blame, outcome.phase, outcome.in_doubt
