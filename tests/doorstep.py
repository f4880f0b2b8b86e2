"""The listener over memory streams, for tests: an intake in memory and a client that reads replies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import trio
from trio.testing import memory_stream_pair

from deliver.errors import StorageError
from deliver.message import Envelope, MessageId
from deliver.net.clock import WallClock
from deliver.relay.intake import Origin
from deliver.relay.listener import Listener
from deliver.relay.security import Security
from deliver.settings import Duration, Relay, Route, Size

EPOCH = 1_700_000_000.0
OPENED = "EHLO client.test\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n"
SETTINGS = Relay(max_message_size=Size(10_000), idle_timeout=Duration(300), max_hops=3)
FULL = StorageError("writing /spool/secret", "no space left on device", "free disk space")

Hook = Callable[[str], Awaitable[None]]


async def nothing(_: str) -> None:
    """The hook of an intake that just works."""


@dataclass
class Memory:
    """An intake that keeps messages in memory; `hook` is awaited at each step, by its name."""

    hook: Hook = nothing
    space: bool = True
    accepted: list[tuple[Envelope, bytes]] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)
    open: int = 0
    abandoned: int = 0

    async def check_space(self, size: int) -> bool:
        await self.hook("space")
        return self.space

    async def begin(self, origin: Origin) -> MemorySink:
        await self.hook("begin")
        self.origins.append(origin)
        self.open += 1
        return MemorySink(self)


@dataclass
class MemorySink:
    memory: Memory
    content: bytes = b""

    async def write(self, chunk: bytes) -> None:
        await self.memory.hook("write")
        self.content += chunk

    async def commit(self, envelope: Envelope) -> None:
        self.memory.open -= 1
        await self.memory.hook("commit")
        self.memory.accepted.append((envelope, self.content))

    async def abandon(self) -> None:
        self.memory.open -= 1
        self.memory.abandoned += 1
        await self.memory.hook("abandon")


def fail_at(step: str, error: Exception, skip: int = 0) -> Hook:
    left = count()

    async def hook(name: str) -> None:
        if name == step and next(left) >= skip:
            raise error

    return hook


@dataclass
class Client:
    """The other end of a memory stream."""

    stream: trio.StapledStream
    seen: str = ""

    async def send(self, text: str | bytes) -> None:
        await self.stream.send_all(text.encode("latin-1") if isinstance(text, str) else text)

    async def line(self) -> str:
        """The next line without its end; empty at the end of the stream."""
        while "\n" not in self.seen:
            data = await self.stream.receive_some()
            if not data:
                return ""
            self.seen += bytes(data).decode("ascii")
        line, _, self.seen = self.seen.partition("\n")
        return line.removesuffix("\r")

    async def reply(self) -> str:
        """The last line of the next reply."""
        while (line := await self.line())[3:4] == "-":
            pass
        return line

    async def replies(self, number: int) -> list[int]:
        return [int((await self.reply())[:3]) for _ in range(number)]


def listener(
    memory: Memory,
    settings: Relay = SETTINGS,
    routes: tuple[Route, ...] = (),
    *,
    security: Security | None = None,
    protocol_detail: bool = False,
) -> Listener:
    numbers = count(1)
    return Listener(
        settings, "relay.test", memory, WallClock(EPOCH), lambda: MessageId(f"id{next(numbers)}"), routes,
        security=security, protocol_detail=protocol_detail,
    )  # fmt: skip


async def connect(
    nursery: trio.Nursery,
    to: Listener,
    address: str = "127.0.0.1",
    expect: str = "220 relay.test ESMTP Outrider",
    place: str = "",
    header: bytes = b"",
) -> Client:
    ours, theirs = memory_stream_pair()
    nursery.start_soon(partial(to.handle, theirs, address, place=place))
    if header:
        await ours.send_all(header)
    client = Client(ours)
    assert await client.reply() == expect
    return client
