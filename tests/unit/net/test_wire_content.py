"""Content under way: early replies, the final dot, a server that stops reading, cancellation, the journal."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from deliver.errors import Blame
from deliver.message import Recipient
from deliver.net.chunks import LAST_WORDS, PIECE
from deliver.outcome import Deferred, Delivered, Failed, Phase
from tests.unit.net.wirescene import (
    TEXT,
    TIMEOUTS,
    Server,
    Text,
    deferred,
    opened,
    outcomes,
    served,
    transaction,
)


async def test_large_content_arrives_whole(autojump_clock: trio.testing.MockClock) -> None:
    text = (b".line of text\r\n" * 20_000)[: 3 * PIECE + 2]
    text += b"\r\n" if not text.endswith(b"\r") else b"\n"

    async def script(server: Server) -> None:
        await server.open()
        await server.take_whole()

    async with served(script) as (wire, server):
        got = await outcomes(await opened(wire), Text(text))
    assert [type(outcome) for outcome in got] == [Delivered, Delivered]
    assert (
        server.got.partition(b"DATA\r\n")[2]
        == text.replace(b"\r\n.", b"\r\n..").replace(b".", b"..", 1) + b".\r\n"
    )


async def test_garbage_for_the_final_reply_is_in_doubt(autojump_clock: trio.testing.MockClock) -> None:
    async def script(server: Server) -> None:
        await server.open()
        await server.take()
        await server.read_until(b"\r\n.\r\n")
        await server.say("OK\r\n")

    async with served(script) as (wire, _):
        got = await outcomes(await opened(wire))
    assert [deferred(outcome) for outcome in got] == [(Blame.HOST, Phase.DOT, True)] * 2


@pytest.mark.parametrize("close", [False, True])
async def test_an_early_refusal_stops_the_content(
    autojump_clock: trio.testing.MockClock, close: bool
) -> None:
    text = b"x" * 60 + b"\r\n"
    journal: list[object] = []

    async def script(server: Server) -> None:
        await server.open()
        await server.take()
        await server.read_until(b"x" * 60)
        await server.say("552 5.3.4 too big\r\n")
        if close:
            await server.stream.aclose()
        else:
            await server.read_until(b"never")

    async with served(script, size=1024) as (wire, server):
        await opened(wire)
        subject = transaction(wire)
        await wire.transact(subject, Text(text * 50_000), lambda who, reply: journal.append(reply))
        for _, outcome in subject.outcomes():
            assert isinstance(outcome, Failed)
            assert (outcome.blame, str(outcome.enhanced)) == (Blame.MESSAGE, "5.3.4")
        assert trio.current_time() < LAST_WORDS
        assert not wire.reusable
        await wire.close()
        await trio.testing.wait_all_tasks_blocked()
    assert not server.got.endswith(b".\r\n")
    assert b"QUIT" not in server.got
    assert journal == []


async def test_an_early_acceptance_is_believed_by_nobody(autojump_clock: trio.testing.MockClock) -> None:
    async def script(server: Server) -> None:
        await server.open()
        await server.take()
        await server.read_until(b"x")
        await server.say("250 queued already\r\n")
        await server.read_until(b"never")

    async with served(script, size=1024) as (wire, _):
        got = await outcomes(await opened(wire), Text(b"x\r\n" * 100_000))
    assert [deferred(outcome) for outcome in got] == [(Blame.HOST, Phase.BODY, False)] * 2


@pytest.mark.parametrize(
    ("reply", "kind", "in_doubt"),
    [("250 queued already\r\n", Deferred, True), ("552 5.3.4 too big\r\n", Failed, False)],
)
async def test_a_reply_while_the_last_octets_are_unsent(
    autojump_clock: trio.testing.MockClock, reply: str, kind: type, in_doubt: bool
) -> None:
    """A refusal is believed, an acceptance is in doubt; the wire is of no more use."""

    async def script(server: Server) -> None:
        await server.open()
        await server.take()
        await server.read_until(b"x")
        await server.say(reply)
        await trio.sleep_forever()

    async with served(script, size=1024) as (wire, _):
        got = await outcomes(await opened(wire), Text(b"x\r\n" * 5000))  # one piece: the dot is under way
        assert not wire.reusable
    for outcome in got:
        assert type(outcome) is kind
        assert not in_doubt or deferred(outcome) == (Blame.HOST, Phase.DOT, True)


async def test_a_server_that_stops_reading_meets_the_block_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def script(server: Server) -> None:
        await server.open()
        await server.take()
        await trio.sleep_forever()

    async with served(script, size=1024) as (wire, _):
        await opened(wire)
        began = trio.current_time()
        got = await outcomes(wire, Text(b"x\r\n" * 100_000))
        assert trio.current_time() - began == pytest.approx(TIMEOUTS.block)
        await wire.close()
    assert [deferred(outcome) for outcome in got] == [(Blame.HOST, Phase.BODY, False)] * 2


@pytest.mark.parametrize(
    ("text", "kind", "blame"),
    [
        (Text(b"x\r\n" * 100_000, fail_at=PIECE), Deferred, Blame.LOCAL),
        (Text(b"x\r\n", fail_at=0), Deferred, Blame.LOCAL),
        (Text(b"x\r\n", claimed=7), Deferred, Blame.LOCAL),
        (Text(b"x\r\ny\n.\n"), Failed, Blame.MESSAGE),
    ],
)
async def test_content_that_fails_is_never_finished_with_a_dot(
    autojump_clock: trio.testing.MockClock, text: Text, kind: type, blame: Blame
) -> None:
    async def script(server: Server) -> None:
        await server.open()
        await server.take()
        await server.read_until(b"never")

    async with served(script) as (wire, server):
        for outcome in await outcomes(await opened(wire), text):
            assert isinstance(outcome, Deferred | Failed)
            assert (type(outcome), outcome.blame) == (kind, blame)
            assert not isinstance(outcome, Deferred) or not outcome.in_doubt
        await wire.close()
        await trio.testing.wait_all_tasks_blocked()
    assert not server.got.endswith(b".\r\n")
    assert b"QUIT" not in server.got


@pytest.mark.parametrize(("at", "in_doubt"), [("rcpt", False), ("content", False), ("dot", True)])
async def test_a_cancelled_transaction_still_has_outcomes(
    autojump_clock: trio.testing.MockClock, at: str, in_doubt: bool
) -> None:
    async def script(server: Server) -> None:
        await server.open()
        if at == "rcpt":
            await server.read_until(b"DATA\r\n")
            await server.say("250 a\r\n550 b\r\n")
        else:
            await server.take("250 a\r\n550 b\r\n250 c\r\n354 d\r\n")
        if at == "dot":
            await server.read_until(b".\r\n")
        await trio.sleep_forever()

    async with served(script, size=2048) as (wire, server):
        await opened(wire)
        subject = transaction(wire)
        with trio.move_on_after(5) as scope:
            await wire.transact(subject, Text(b"x\r\n" * (100_000 if at == "content" else 10)))
        assert scope.cancelled_caught
        first, second = (outcome for _, outcome in subject.outcomes())
        assert isinstance(first, Failed)
        assert deferred(second)[2] is in_doubt
        assert not wire.reusable
        await wire.close()
        assert b"QUIT" not in server.got


async def test_the_journal_hears_of_a_delivery_even_when_cancelled_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    journal: list[int] = []

    async def script(server: Server) -> None:
        await server.open()
        await server.take_whole()
        await trio.sleep_forever()

    async with served(script) as (wire, _):
        await opened(wire)
        subject = transaction(wire)
        with trio.CancelScope() as scope:

            def note(recipients: tuple[Recipient, ...], outcome: Delivered) -> None:
                journal.append(len(recipients))
                scope.cancel()

            await wire.transact(subject, Text(TEXT), note)
            await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
    assert journal == [2]
    assert [type(outcome) for _, outcome in subject.outcomes()] == [Delivered, Delivered]


async def test_a_failing_journal_does_not_undo_a_delivery(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(server: Server) -> None:
        await server.open()
        await server.take_whole()

    def note(recipients: tuple[Recipient, ...], outcome: Delivered) -> None:
        raise OSError("disk full")

    async with served(script) as (wire, _):
        await opened(wire)
        subject = transaction(wire)
        await wire.transact(subject, Text(TEXT), note)
        assert wire.reusable
    assert [type(outcome) for _, outcome in subject.outcomes()] == [Delivered, Delivered]
    assert "journal" in caplog.text


async def test_what_a_server_said_before_it_closed_is_read_although_writing_failed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def script(server: Server) -> None:
        await server.open()
        await server.take()
        await server.read_until(b"x")
        assert isinstance(server.stream, trio.StapledStream)
        await server.stream.receive_stream.aclose()
        await trio.sleep(1)
        await server.say("552 5.3.4 too big\r\n")

    async with served(script, size=1024) as (wire, _):
        got = await outcomes(await opened(wire), Text(b"x\r\n" * 100_000))
    assert all(isinstance(outcome, Failed) and outcome.blame is Blame.MESSAGE for outcome in got)


async def test_a_server_that_breaks_off_reading_and_says_nothing_is_not_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def script(server: Server) -> None:
        await server.open()
        await server.take()
        await server.read_until(b"x")
        assert isinstance(server.stream, trio.StapledStream)
        await server.stream.receive_stream.aclose()
        await trio.sleep_forever()

    async with served(script, size=1024) as (wire, _):
        await opened(wire)
        began = trio.current_time()
        got = await outcomes(wire, Text(b"x\r\n" * 100_000))
        assert trio.current_time() - began == pytest.approx(LAST_WORDS)
    assert [deferred(outcome) for outcome in got] == [(Blame.HOST, Phase.BODY, False)] * 2
