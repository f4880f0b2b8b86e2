"""What the worker that receives mail begins, says and withdraws: over real sockets, into a real shard."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing
from msgspec.structs import replace

from deliver.message import Envelope, MessageId
from deliver.neighbours.letters import Fate, Frames, Letter, Receipt, encoded
from deliver.neighbours.reception import HERE, PATIENCE, Reception
from deliver.net.prompt import PromptStream
from deliver.queue.intake import QueueIntake
from events import outbox
from tests.unit.neighbours.ends import (
    CONTENT,
    ENVELOPE,
    ORIGIN,
    Ends,
    at_home,
    connected,
    hand,
)


class Slow(QueueIntake):
    """Takes its time before it writes, or while it does: then it is not cancelled."""

    shielded = False

    async def check_space(self, size: int) -> bool:
        return True

    async def take(self, *about: object) -> None:  # type: ignore[override]
        with trio.CancelScope(shield=self.shielded):
            await trio.sleep(100)


def slow() -> Slow:
    return Slow(None, outbox.append, print, inline_limit=1, max_size=0, min_free=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("shielded", [False, True])
async def test_what_does_not_begin_in_time_is_withdrawn(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, shielded: bool
) -> None:
    monkeypatch.setattr(Slow, "shielded", shielded)
    ends = Ends()
    async with connected(ends) as neighbour, trio.open_nursery() as nursery:
        nursery.start_soon(Reception(slow, now=trio.current_time).handle, await ends.other())
        await at_home(neighbour)
        assert await neighbour.hand(ENVELOPE, ORIGIN, CONTENT, company=False) is shielded
        assert trio.current_time() >= (100 if shielded else PATIENCE)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("shielded", [False, True])
async def test_who_ends_says_what_became_of_it(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, shielded: bool
) -> None:
    """What had begun is durable and told so, the rest is withdrawn."""
    monkeypatch.setattr(Slow, "shielded", shielded)
    ends = Ends()
    async with connected(ends) as neighbour, trio.open_nursery() as nursery:
        serving = trio.CancelScope()

        async def serve(stream: PromptStream) -> None:
            with serving:
                await Reception(slow, now=trio.current_time).handle(stream)

        nursery.start_soon(serve, await ends.other())
        await at_home(neighbour)
        results: list[bool | str] = []

        nursery.start_soon(hand, neighbour, results)
        await trio.sleep(1)
        serving.cancel()
        await trio.sleep(200)
        assert results == [shielded]


class Told(QueueIntake):
    """Tells what is taken."""

    taken: list[str] = []  # noqa: RUF012 - each test has its own

    async def check_space(self, size: int) -> bool:
        return True

    async def take(self, envelope: Envelope, *about: object) -> None:  # type: ignore[override]
        self.taken.append(envelope.id)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    monkeypatch.setattr(Told, "taken", [])
    return Told(None, outbox.append, print, inline_limit=1, max_size=0, min_free=0)  # type: ignore[arg-type]


def letter(number: int, until: float, size: int = 10) -> bytes:
    envelope = replace(ENVELOPE, id=MessageId(f"m{number}"))
    return encoded(Letter(number, until, envelope, ORIGIN, b"x" * size, False))


async def test_the_word_has_left_before_anything_begins(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = map(PromptStream, socket.socketpair())
    known: list[Receipt] = []
    frames = Frames(Receipt)

    async def take(self: Told, envelope: Envelope, *about: object) -> None:
        if ours.arrived():
            known.extend(frames.feed(ours.socket.recv(4096)))
        told.taken.append(envelope.id)

    monkeypatch.setattr(Told, "take", take)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Reception(lambda: told, now=trio.current_time).handle, theirs)
        until = trio.current_time() + 10
        await ours.send_all(letter(5, until) + letter(6, until))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert known == [HERE, Receipt(6, Fate.BEGUN)], "one word for all that came together"
        assert sorted(told.taken) == ["m5", "m6"]
        await ours.aclose()


async def test_nothing_begins_where_the_word_cannot_leave(told: Told) -> None:
    ours, theirs = map(PromptStream, socket.socketpair())
    theirs.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Reception(lambda: told, now=trio.current_time).handle, theirs)
        for number in range(2000):  # each is answered, and nobody reads the answers
            await ours.send_all(letter(number, 0.0, size=1))
        await trio.testing.wait_all_tasks_blocked(0.01)
        await ours.send_all(letter(2000, trio.current_time() + 10))
        await trio.testing.wait_all_tasks_blocked(0.01)
        frames, said = Frames(Receipt), []
        while Receipt(2000, Fate.REFUSED) not in said:
            said += frames.feed(await ours.receive_some())
        assert told.taken == []
        assert said.index(Receipt(2000, Fate.BEGUN)) < said.index(Receipt(2000, Fate.REFUSED))
        await ours.aclose()


async def test_who_stood_still_for_very_long_begins_no_more(told: Told) -> None:
    """The client has had its answer by then, and comes again."""
    moments = iter([0.0, PATIENCE + 1.1])
    ours, theirs = map(PromptStream, socket.socketpair())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Reception(lambda: told, now=lambda: next(moments)).handle, theirs)
        await ours.send_all(letter(7, 1.0))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert list(Frames(Receipt).feed(await ours.receive_some()))[-1] == Receipt(7, Fate.REFUSED)
        assert told.taken == []
        await ours.aclose()
