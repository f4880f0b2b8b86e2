"""Flights of commands against scripted servers: envelopes that are refused, RSET, the lone dot."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from deliver.errors import Blame
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


async def test_a_server_that_does_not_read_the_flight(autojump_clock: trio.testing.MockClock) -> None:
    async def script(server: Server) -> None:
        await server.open()
        await server.say("250 a\r\n550 b\r\n")
        while True:  # keeps every wait for a reply short of its deadline
            await trio.sleep(TIMEOUTS.rcpt - 10)
            await server.say("550 no\r\n")

    async with served(script, size=64) as (wire, _):
        await opened(wire)
        began = trio.current_time()
        got = await outcomes(wire, count=50)
        assert trio.current_time() - began == pytest.approx(TIMEOUTS.mail)
        assert not wire.reusable
    assert isinstance(got[0], Failed)
    assert deferred(got[-1])[2] is False


async def test_a_large_flight_never_deadlocks(autojump_clock: trio.testing.MockClock) -> None:
    """The server answers each command before it reads the next one, and neither side has much room."""
    count = 250

    async def script(server: Server) -> None:
        await server.open()
        while True:
            line = await server.read_until(b"\r\n")
            await server.say("354 go\r\n" if line == b"DATA\r\n" else "250 " + "x" * 200 + "\r\n")
            if line == b"DATA\r\n":
                break
        await server.read_until(b"\r\n.\r\n")
        await server.say("250 ok\r\n")

    async with served(script, size=64) as (wire, _):
        got = await outcomes(await opened(wire), count=count)
        assert trio.current_time() < 1
    assert [type(outcome) for outcome in got] == [Delivered] * count


async def test_all_refused_yet_354_gets_a_lone_dot_and_the_wire_lives_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def script(server: Server) -> None:
        await server.open()
        await server.take("250 a\r\n550 b\r\n550 c\r\n354 d\r\n")
        assert await server.read_until(b"\r\n") == b".\r\n"
        await server.say("554 no\r\n")
        await server.take_whole()

    async with served(script) as (wire, _):
        await opened(wire)
        assert [type(outcome) for outcome in await outcomes(wire)] == [Failed, Failed]
        assert wire.reusable
        assert [type(outcome) for outcome in await outcomes(wire)] == [Delivered, Delivered]


async def test_mail_refused_rcpt_taken_354_is_cut_off_without_any_dot(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def script(server: Server) -> None:
        await server.open()
        await server.take("550 a\r\n250 b\r\n250 c\r\n354 d\r\n")
        await server.read_until(b"never")

    async with served(script) as (wire, server):
        assert [type(outcome) for outcome in await outcomes(await opened(wire))] == [Failed, Failed]
        assert not wire.reusable
        await wire.close()
        await trio.testing.wait_all_tasks_blocked()
    assert server.got.endswith(b"DATA\r\n")


async def test_after_a_refused_data_the_next_transaction_begins_with_rset(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def script(server: Server) -> None:
        await server.open()
        await server.take("250 a\r\n250 b\r\n250 c\r\n451 d\r\n")
        assert await server.read_until(b"\r\n") == b"RSET\r\n"
        await server.say("250 reset\r\n")
        await server.take_whole()

    async with served(script) as (wire, _):
        await opened(wire)
        assert [type(outcome) for outcome in await outcomes(wire)] == [Deferred, Deferred]
        assert wire.reusable
        assert [type(outcome) for outcome in await outcomes(wire)] == [Delivered, Delivered]


@pytest.mark.parametrize("reset", ["250 reset", "500 what"])
async def test_rset_rides_with_the_next_transaction(
    autojump_clock: trio.testing.MockClock, reset: str
) -> None:
    async def script(server: Server) -> None:
        await server.open()
        await server.take("250 a\r\n250 b\r\n250 c\r\n451 d\r\n")
        assert await server.read_until(b"DATA\r\n") == (
            b"RSET\r\nMAIL FROM:<> SIZE=30\r\nRCPT TO:<r0@example.net>\r\nRCPT TO:<r1@example.net>\r\nDATA\r\n"
        )
        await server.say(f"{reset}\r\n250 a\r\n250 b\r\n550 c\r\n354 d\r\n")
        await server.read_until(b"\r\n.\r\n")
        await server.say("250 ok\r\n")

    async with served(script) as (wire, _):
        await opened(wire)
        await outcomes(wire)
        assert wire.needs_reset
        flights = wire.ledger.flights
        subject = transaction(wire, reset=True)
        told = [type(outcome) for _, outcome in await wire.transact(subject, Text(TEXT))]
        assert told == [Delivered, Failed]
        assert wire.ledger.flights == flights + 2
        assert not wire.needs_reset


async def test_a_server_that_closes_at_rset_defers(autojump_clock: trio.testing.MockClock) -> None:
    async def script(server: Server) -> None:
        await server.open()
        await server.take("250 a\r\n250 b\r\n250 c\r\n451 d\r\n")
        await server.read_until(b"DATA\r\n")
        await server.say("421 bye\r\n")

    async with served(script) as (wire, _):
        await opened(wire)
        await outcomes(wire)
        subject = transaction(wire, reset=True)
        for _, outcome in await wire.transact(subject, Text(TEXT)):
            assert deferred(outcome) == (Blame.HOST, Phase.RSET, False)
        assert not wire.reusable


async def test_a_lone_dot_answered_before_it_was_sent_is_not_sent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def script(server: Server) -> None:
        await server.open()
        await server.take("250 a\r\n550 b\r\n550 c\r\n354 d\r\n250 queued\r\n")
        await server.read_until(b"never")

    async with served(script) as (wire, server):
        assert [type(outcome) for outcome in await outcomes(await opened(wire))] == [Failed, Failed]
        assert not wire.reusable
        await wire.close()
        await trio.testing.wait_all_tasks_blocked()
    assert server.got.endswith(b"DATA\r\n")
