"""What of the accepted mail goes to the worker that keeps its domain."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.neighbours.choice import keeper
from deliver.neighbours.leading import FADE, Leading
from deliver.neighbours.letters import MAX_CONTENT, MAX_RECIPIENTS
from deliver.neighbours.reception import Reception
from deliver.neighbours.street import House
from deliver.queue.content import InlineContent, SpoolContent, StoredContent
from deliver.queue.intake import QueueIntake
from deliver.relay.intake import Origin
from deliver.report.metrics import Meter
from deliver.settings import Settings
from events import outbox

ORIGIN = Origin(MessageId("m1"), "192.0.2.1", "client.test", "ESMTP", 0.0)
OURS, THEIRS, ALSO_THEIRS = (
    next(name for name in names if keeper(name, 2) == worker)
    for worker, names in (
        (0, [f"a{n}.test" for n in range(50)]),
        (1, [f"b{n}.test" for n in range(50)]),
        (1, [f"c{n}.test" for n in range(50)]),
    )
)
SMALL = InlineContent(b"hello\r\n")


def envelope(*domains: str) -> Envelope:
    people = tuple(Recipient(n, Mailbox(f"a{n}", domain)) for n, domain in enumerate(domains))
    return Envelope(MessageId("m1"), None, people, 7, False, 0.0)


class Elsewhere(QueueIntake):
    """The other worker's queue."""

    async def check_space(self, size: int) -> bool:
        return True

    async def take(self, *about: object) -> None:  # type: ignore[override]
        await trio.lowlevel.checkpoint()


def elsewhere() -> Elsewhere:
    return Elsewhere(None, outbox.append, print, inline_limit=1, max_size=0, min_free=0)  # type: ignore[arg-type]


@asynccontextmanager
async def together() -> AsyncIterator[tuple[Leading, Meter, tuple[House, House]]]:
    """Two workers in one process, the second of which takes mail."""
    waiting = memoryview(bytearray(16)).cast("q")
    listening = [socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)]
    for each in listening:
        each.bind("")
        each.listen()
    addresses = [each.getsockname() for each in listening]
    houses = House(0, listening[0], addresses, waiting), House(1, listening[1], addresses, waiting)
    meter = Meter()
    leading = Leading(houses[0], Settings(), meter)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Reception(elsewhere).serve, listening[1])
        nursery.start_soon(leading.run)
        for house in houses:
            house.move_in()
        await trio.testing.wait_all_tasks_blocked(0.02)
        yield leading, meter, houses
        nursery.cancel_scope.cancel()
    listening[0].close()


@pytest.mark.parametrize(
    ("to", "content", "goes"),
    [
        ((THEIRS,), SMALL, True),
        ((THEIRS,) * MAX_RECIPIENTS, SMALL, True),
        ((THEIRS,) * (MAX_RECIPIENTS + 1), SMALL, False),
        ((THEIRS, ALSO_THEIRS), SMALL, False),
        ((OURS,), SMALL, False),
        ((THEIRS,), InlineContent(b"x" * MAX_CONTENT), True),
        ((THEIRS,), InlineContent(b"x" * (MAX_CONTENT + 1)), False),
        ((THEIRS,), SpoolContent(Path("/nowhere"), "m1.eml", 7), False),
    ],
)
async def test_what_goes_and_is_counted(to: tuple[str, ...], content: StoredContent, goes: bool) -> None:
    async with together() as (leading, meter, _):
        assert await leading(envelope(*to), ORIGIN, content, False) is goes
        assert ("outrider_messages_led" in meter.snapshot()) is goes


async def test_nothing_goes_to_who_has_moved_out() -> None:
    async with together() as (leading, _, houses):
        houses[1].move_out()
        assert not await leading(envelope(THEIRS), ORIGIN, SMALL, False)


async def test_what_waits_for_long_is_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    async with together() as (_, _, houses):
        houses[0].took(100)
        await trio.sleep(2.5 * FADE)
        assert houses[0].waiting(0) == 25
