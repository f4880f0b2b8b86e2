"""Both ends of what workers say to each other, over real sockets."""

from __future__ import annotations

import math
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio
import trio.testing

from deliver.errors import StorageError
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.neighbours.letters import Frames, Letter, encoded
from deliver.neighbours.neighbour import Neighbour
from deliver.neighbours.reception import HERE, Reception
from deliver.net.prompt import PromptStream
from deliver.queue.intake import QueueIntake
from deliver.queue.shard import Shard
from deliver.relay.intake import Origin
from events import outbox

NOW = 1_700_000_000.0
ORIGIN = Origin(MessageId("m1"), "192.0.2.1", "client.test", "ESMTP", NOW)
CONTENT = b"Subject: x\r\n\r\nhello\r\n"
ENVELOPE = Envelope(
    MessageId("m1"),
    Mailbox("me", "s.test"),
    (Recipient(0, Mailbox("a", "x.test")),),
    len(CONTENT),
    False,
    NOW,
)


class Ends:
    """Connections: `connect` gives one end, `other` has the other one."""

    def __init__(self) -> None:
        self.made: list[PromptStream] = []
        self.ours: list[PromptStream] = []
        self._give, self._got = trio.open_memory_channel[PromptStream](math.inf)

    async def connect(self) -> PromptStream:
        ours, theirs = map(PromptStream, socket.socketpair())
        self.made.append(theirs)
        self.ours.append(ours)
        await self._give.send(theirs)
        return ours

    async def other(self) -> PromptStream:
        return await self._got.receive()


@asynccontextmanager
async def connected(ends: Ends) -> AsyncIterator[Neighbour]:
    neighbour = Neighbour(1, ends.connect, now=trio.current_time)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(neighbour.run)
        yield neighbour
        nursery.cancel_scope.cancel()
    for each in ends.made:
        each.close()


@asynccontextmanager
async def received(shard: Shard, min_free: int = 0) -> AsyncIterator[tuple[Neighbour, list[str]]]:
    """A neighbour whose mail goes into the shard; what was told of it."""
    told: list[str] = []
    intake = QueueIntake(
        shard, outbox.append, partial(told.append, "accepted"),
        inline_limit=1000, max_size=0, min_free=min_free, count=lambda domains: told.append(f"{domains} domain"),
    )  # fmt: skip
    ends = Ends()
    reception = Reception(lambda: intake, now=trio.current_time)
    async with connected(ends) as neighbour, trio.open_nursery() as nursery:
        nursery.start_soon(reception.handle, await ends.other())
        await at_home(neighbour)
        yield neighbour, told
        nursery.cancel_scope.cancel()


async def at_home(neighbour: Neighbour) -> None:
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert neighbour.home


async def hand(neighbour: Neighbour, results: list[bool | str], content: bytes = CONTENT) -> None:
    """Hand a message over, and note how it ended."""
    try:
        results.append(await neighbour.hand(ENVELOPE, ORIGIN, content, company=False))
    except StorageError as error:
        results.append(str(error))


@asynccontextmanager
async def waiting(ends: Ends) -> AsyncIterator[tuple[Neighbour, PromptStream, Letter, list[bool | str]]]:
    """A letter has arrived at the other end; how the hand-over ends."""
    results: list[bool | str] = []
    async with connected(ends) as neighbour:
        other = await ends.other()
        await other.send_all(encoded(HERE))
        await at_home(neighbour)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hand, neighbour, results)
            (letter,) = Frames(Letter).feed(await other.receive_some())
            yield neighbour, other, letter, results
