"""Accepted mail goes to another worker: over real sockets, into a real shard."""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from msgspec.structs import replace
from sqlalchemy import select

from deliver.errors import StorageError
from deliver.message import MessageId
from deliver.neighbours.letters import Fate, Frames, Letter, Receipt, encoded
from deliver.neighbours.neighbour import BEGIN, LOOK, WORD, Neighbour
from deliver.neighbours.reception import HERE, Reception
from deliver.net.prompt import PromptStream
from deliver.queue.intake import QueueIntake
from deliver.queue.schema import message
from deliver.queue.shard import open_shard
from events import outbox
from tests.unit.neighbours.ends import (
    CONTENT,
    ENVELOPE,
    NOW,
    ORIGIN,
    Ends,
    at_home,
    connected,
    hand,
    received,
    waiting,
)


async def test_what_was_handed_over_is_durable_there(tmp_path: Path) -> None:
    async with open_shard(tmp_path, 0, NOW) as shard, received(shard) as (neighbour, told):
        envelope = replace(ENVELOPE, requires_tls=True)
        assert await neighbour.hand(envelope, ORIGIN, CONTENT, company=False)
        (row,) = await shard.sql.read(lambda conn: conn.execute(select(message)).all())
        assert (row.id, bytes(row.content), row.requires_tls) == ("m1", CONTENT, True)
        (event,) = await shard.sql.read(lambda conn: outbox.pending(conn, "event_log", 10, now=NOW))
        assert (event.event.name, event.event.fields["sender_host_address"]) == ("msg:accept", "192.0.2.1")
        assert told == ["1 domain", "accepted"]


async def test_many_at_a_time(tmp_path: Path) -> None:
    taken: list[bool] = []

    async def one(neighbour: Neighbour, number: int) -> None:
        envelope = replace(ENVELOPE, id=MessageId(f"m{number}"))
        taken.append(await neighbour.hand(envelope, ORIGIN, b"x" * 100_000, company=True))

    async with open_shard(tmp_path, 0, NOW) as shard, received(shard) as (neighbour, _):
        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(one, neighbour, number)
        rows = await shard.sql.read(lambda conn: conn.execute(select(message.c.id)).scalars().all())
        assert taken == [True] * 30
        assert len(rows) == 30


async def test_a_full_disk_refuses_and_nothing_was_begun(tmp_path: Path) -> None:
    async with open_shard(tmp_path, 0, NOW) as shard, received(shard, min_free=1 << 60) as (neighbour, told):
        assert not await neighbour.hand(ENVELOPE, ORIGIN, CONTENT, company=False)
        assert told == []


async def test_what_failed_there_is_not_taken_here(tmp_path: Path) -> None:
    async with open_shard(tmp_path, 0, NOW) as shard, received(shard) as (neighbour, _):
        assert await neighbour.hand(ENVELOPE, ORIGIN, CONTENT, company=False)
        with pytest.raises(StorageError, match="worker 1"):
            await neighbour.hand(ENVELOPE, ORIGIN, CONTENT, company=False)  # the same id once more


async def test_what_comes_too_late_is_not_begun(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    intake = QueueIntake(None, outbox.append, print, inline_limit=1, max_size=0, min_free=0)  # type: ignore[arg-type]
    ours, theirs = map(PromptStream, socket.socketpair())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Reception(lambda: intake, now=trio.current_time).handle, theirs)
        await trio.sleep(5)
        await ours.send_all(encoded(Letter(7, trio.current_time() - 0.1, ENVELOPE, ORIGIN, CONTENT, False)))
        await trio.sleep(1)
        said = list(Frames(Receipt).feed(await ours.receive_some()))
        assert said == [HERE, Receipt(7, Fate.BEGUN), Receipt(7, Fate.REFUSED)]
        await ours.aclose()


async def test_nothing_goes_to_somebody_who_is_not_at_home(autojump_clock: trio.testing.MockClock) -> None:
    ends = Ends()
    async with connected(ends) as neighbour:
        assert not await neighbour.hand(ENVELOPE, ORIGIN, CONTENT, company=False)
        await ends.other()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not await neighbour.hand(ENVELOPE, ORIGIN, CONTENT, company=False), "it has not said a word"


@pytest.mark.parametrize("begun", [False, True])
async def test_when_the_connection_ends(autojump_clock: trio.testing.MockClock, begun: bool) -> None:
    """What has begun may be durable or not; what has not, will not."""
    ends = Ends()
    async with waiting(ends) as (neighbour, other, letter, results):
        if begun:
            await other.send_all(encoded(Receipt(letter.number, Fate.BEGUN)))
        await other.aclose()
        again = await ends.other()  # and it connects again
        await again.send_all(encoded(HERE))
        await at_home(neighbour)
    assert len(results) == 1
    assert ("its connection ended" in str(results[0])) if begun else (results == [False])


async def test_nobody_knows_what_was_said_in_words_that_nobody_understands(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with waiting(Ends()) as (_, other, _letter, results):
        await other.send_all(b"\xff" * 100)
    assert "its connection ended" in str(results)


async def test_who_cannot_write_any_more_still_reads(autojump_clock: trio.testing.MockClock) -> None:
    """The other one has begun, and closed before it could read the next letter."""
    ends = Ends()
    async with waiting(ends) as (neighbour, other, letter, results):
        ours = ends.ours[-1]
        ours.socket.shutdown(socket.SHUT_WR)
        await other.send_all(encoded(Receipt(letter.number, Fate.BEGUN)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(neighbour.hand, ENVELOPE, ORIGIN, CONTENT, company=False))
            await trio.testing.wait_all_tasks_blocked(0.01)
            await other.send_all(encoded(Receipt(letter.number, Fate.TAKEN)))
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert results == [True]
            nursery.cancel_scope.cancel()
        await other.aclose()


@pytest.mark.parametrize("begun", [False, True])
async def test_who_does_not_say_a_word_has_not_begun(
    autojump_clock: trio.testing.MockClock, begun: bool
) -> None:
    """It is refused there from then on, and stays here; who has begun is waited for."""
    async with waiting(Ends()) as (neighbour, other, letter, results):
        assert letter.until == trio.current_time() + BEGIN
        if begun:
            await trio.sleep(1)
            await other.send_all(encoded(Receipt(letter.number, Fate.BEGUN)))
            await trio.sleep(20)
            assert results == []
            await other.send_all(encoded(Receipt(letter.number, Fate.TAKEN)))
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert results == [True]
            return
        await trio.sleep(BEGIN)
        assert results == [], "it may have begun at the last moment"
        await trio.sleep(2 * WORD)
        assert results == [False]
        assert not neighbour.home
        await other.send_all(encoded(Receipt(letter.number, Fate.REFUSED)))  # it has come to itself
        await at_home(neighbour)


async def test_who_did_not_listen_does_not_take_it_for_silence(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Our own loop stood still; what the other one has said meanwhile counts."""
    moment = 0.0
    ends = Ends()
    neighbour = Neighbour(1, ends.connect, now=lambda: moment)
    ours, theirs = map(PromptStream, socket.socketpair())
    neighbour.home = True
    results: list[bool | str] = []

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hand, neighbour, results)
            await trio.testing.wait_all_tasks_blocked(0.01)
            moment = 100.0
            await theirs.send_all(encoded(Receipt(1, Fate.BEGUN)))
            with trio.move_on_after(3 * LOOK):
                await neighbour._watch(ours)
            assert results == []
            assert await ours.receive_some()
            with trio.move_on_after(3 * LOOK):
                await neighbour._watch(ours)
    assert results == [False]
    ours.close()
    theirs.close()


async def test_of_two_letters_one_has_begun_when_the_connection_ends(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ends = Ends()
    async with waiting(ends) as (neighbour, other, first, results):
        second: list[bool | str] = []

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hand, neighbour, second)
            await trio.testing.wait_all_tasks_blocked(0.01)
            await other.send_all(encoded(Receipt(first.number, Fate.BEGUN)))
            await other.aclose()  # with the second letter unread, which resets the connection
        assert second == [False]
    assert "its connection ended" in str(results)


async def test_a_word_that_comes_too_late_changes_nothing(autojump_clock: trio.testing.MockClock) -> None:
    ends = Ends()
    async with waiting(ends) as (neighbour, _, first, results):
        awaited = neighbour._awaited[first.number]
        awaited.late = True
        awaited.arrived.set()
        neighbour._heard(encoded(Receipt(first.number, Fate.BEGUN)), Frames(Receipt))
    assert results == [False]


async def test_who_does_not_read_gets_no_more(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deliver.neighbours.neighbour.MOST_BEHIND", 1000)
    ends = Ends()
    async with waiting(ends) as (neighbour, other, _first, _):
        results: list[bool | str] = []

        async with trio.open_nursery() as nursery:
            for _number in range(3):
                nursery.start_soon(hand, neighbour, results, b"x" * 900_000)
                await trio.testing.wait_all_tasks_blocked(0.01)
            assert results == [False], "the first one is on its way, the second waits"
            await other.aclose()


async def test_what_waits_to_be_written_does_not_go_to_who_comes_next(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ends = Ends()
    async with waiting(ends) as (neighbour, other, _first, _):
        async with trio.open_nursery() as nursery:
            for _number in range(2):
                nursery.start_soon(partial(neighbour.hand, ENVELOPE, ORIGIN, b"x" * 900_000, company=False))
            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.start_soon(partial(neighbour.hand, ENVELOPE, ORIGIN, CONTENT, company=False))
            await trio.testing.wait_all_tasks_blocked(0.01)
            await other.aclose()
        again = await ends.other()
        await again.send_all(encoded(HERE))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not again.arrived()


async def test_garbage_ends_the_connection(autojump_clock: trio.testing.MockClock) -> None:
    ends = Ends()
    async with connected(ends) as neighbour:
        other = await ends.other()
        await other.send_all(encoded(HERE) + b"\xff" * 100)
        assert await other.receive_some() == b""
        assert not neighbour.home
    ours, theirs = map(PromptStream, socket.socketpair())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Reception(lambda: None, now=trio.current_time).handle, theirs)  # type: ignore[arg-type,return-value]
        await ours.send_all(b"\xff" * 100)
        while await ours.receive_some():
            pass
        ours.close()
