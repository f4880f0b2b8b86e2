"""The wire against scripted servers, from the greeting to QUIT: deadlines, losses, STARTTLS."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from deliver.errors import Blame, Fault
from deliver.message import Recipient
from deliver.net.wire import GLANCE, Wire
from deliver.outcome import Deferred, Delivered, Failed, Phase
from deliver.settings import Duration, Timeouts
from deliver.smtp.client import ClientMachine, Lost, State, TimedOut, UnexpectedReply, Unsolicited
from deliver.smtp.command import LocalMisuse, Noop, Quit
from deliver.smtp.reply import MAX_LINE, MAX_LINES, MalformedReply, Reply
from tests.unit.net.wirescene import (
    CONTACT,
    HELLO,
    MAIL_DATA,
    TEXT,
    TIMEOUTS,
    Server,
    Text,
    bounded_pair,
    deferred,
    opened,
    outcomes,
    served,
    transaction,
)


@pytest.mark.parametrize("portion", [None, 1, 2, 3])
async def test_a_delivery_from_greeting_to_quit(
    autojump_clock: trio.testing.MockClock, portion: int | None
) -> None:
    async def script(server: Server) -> None:
        await server.open()
        await server.take("250 a\r\n250 b\r\n550-5.1.1 c\r\n550 5.1.1 d\r\n354 e\r\n")
        await server.read_until(b"\r\n.\r\n")
        await server.say("250-2.0.0\r\n250 queued as 7\r\n")
        await server.read_until(b"\r\n")
        await server.say("221 bye\r\n")
        await server.read_until(b"never")

    journal: list[tuple[tuple[int, ...], Delivered]] = []

    def note(recipients: tuple[Recipient, ...], outcome: Delivered) -> None:
        journal.append((tuple(recipient.ordinal for recipient in recipients), outcome))

    async with served(script, portion=portion) as (wire, server):
        assert (await wire.greeting()).code == 220
        assert (await wire.ehlo("us")).positive
        result = await wire.transact(transaction(wire), Text(TEXT), note)
        assert wire.reusable
        await wire.close()
        await trio.testing.wait_all_tasks_blocked()
    final = Reply(250, ("2.0.0", "queued as 7"))
    assert result[0][1] == Delivered(final, CONTACT)
    assert isinstance(result[1][1], Failed)
    assert journal == [((0,), Delivered(final, CONTACT))]
    assert server.got == (
        b"EHLO us\r\nMAIL FROM:<> SIZE=30\r\nRCPT TO:<r0@example.net>\r\nRCPT TO:<r1@example.net>\r\nDATA\r\n"
        + MAIL_DATA
        + b"QUIT\r\n"
    )


@pytest.mark.parametrize("waits", ["banner", "ehlo", "mail", "dot"])
async def test_every_wait_has_its_own_deadline(autojump_clock: trio.testing.MockClock, waits: str) -> None:
    phases = {"banner": Phase.BANNER, "ehlo": Phase.EHLO, "mail": Phase.MAIL, "dot": Phase.DOT}

    async def script(server: Server) -> None:
        if waits == "ehlo":
            await server.say(HELLO)
        elif waits in ("mail", "dot"):
            await server.open()
        if waits == "dot":
            await server.take()

    async with served(script) as (wire, server):
        if waits in ("banner", "ehlo"):
            began = trio.current_time()
            with pytest.raises(TimedOut) as caught:
                await opened(wire)
            assert caught.value.phase is phases[waits]
            assert caught.value.fault is Fault.TIMEOUT
        else:
            await opened(wire)
            began = trio.current_time()
            for outcome in await outcomes(wire):
                assert deferred(outcome) == (Blame.HOST, phases[waits], waits == "dot")
                assert isinstance(outcome, Deferred)
                assert outcome.fault is Fault.TIMEOUT
        heard = GLANCE if waits == "dot" else 0  # before small content leaves, for lack of a socket
        assert trio.current_time() - began == pytest.approx(getattr(TIMEOUTS, waits) + heard)
        assert wire.machine.state is State.BROKEN
        await wire.close()
        assert b"QUIT" not in server.got


async def test_a_banner_octet_by_octet_does_not_prolong_the_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def script(server: Server) -> None:
        while True:
            await trio.sleep(10)
            await server.say("2")

    async with served(script, Timeouts(banner=Duration(60))) as (wire, _):
        with pytest.raises((TimedOut, MalformedReply)):
            await wire.greeting()
        assert trio.current_time() <= 61


@pytest.mark.parametrize("piece", ["220-x\r\n", "x" * 100])
async def test_an_endless_banner_is_refused(autojump_clock: trio.testing.MockClock, piece: str) -> None:
    said = 0

    async def script(server: Server) -> None:
        nonlocal said
        while True:
            await server.say(piece)
            said += len(piece)

    async with served(script, size=160) as (wire, _):
        with pytest.raises(MalformedReply):
            await wire.greeting()
    assert said < 2 * max(MAX_LINE, MAX_LINES * len(piece)) + 1000


async def test_a_late_reply_is_never_taken_for_the_next_command(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def script(server: Server) -> None:
        await server.open()
        await server.read_until(b"\r\n")
        await trio.sleep(TIMEOUTS.mail + 10)
        await server.say("250 late\r\n")

    async with served(script) as (wire, _):
        await opened(wire)
        with pytest.raises(TimedOut):
            await wire.command(Noop())
        await trio.sleep(60)
        assert not wire.reusable
        with pytest.raises(LocalMisuse):
            await wire.command(Noop())


async def test_starttls_with_trailing_octets(autojump_clock: trio.testing.MockClock) -> None:
    async def script(server: Server) -> None:
        await server.say(HELLO)
        await server.read_until(b"\r\n")
        await server.say("250-mx\r\n250 STARTTLS\r\n")
        await server.read_until(b"\r\n")
        await server.say("220 go\r\n250 injected\r\n")

    async with served(script) as (wire, _):
        await opened(wire)
        with pytest.raises(UnexpectedReply):
            await wire.starttls()
        with pytest.raises(LocalMisuse):
            wire.starttls_done(wire.stream)


async def test_421_to_starttls_then_a_transaction_defers(autojump_clock: trio.testing.MockClock) -> None:
    async def script(server: Server) -> None:
        await server.open()
        await server.read_until(b"\r\n")
        await server.say("421 4.3.2 going down\r\n")
        await server.read_until(b"never")

    async with served(script) as (wire, server):
        await opened(wire)
        assert (await wire.starttls()).code == 421
        got = await outcomes(wire)
        await wire.close()
    assert [deferred(outcome) for outcome in got] == [(Blame.HOST, Phase.MAIL, False)] * 2
    assert server.got == b"EHLO us\r\nSTARTTLS\r\n"


async def test_after_starttls_the_session_begins_anew(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    inside = Server(theirs, None)

    async def script(server: Server) -> None:
        await server.say(HELLO)
        await server.read_until(b"\r\n")
        await server.say("250-mx\r\n250 STARTTLS\r\n")
        await server.read_until(b"\r\n")
        await server.say("220 go\r\n")
        await inside.read_until(b"\r\n")
        await inside.say("250 mx\r\n")

    async with served(script) as (wire, _):
        await opened(wire)
        assert (await wire.starttls()).positive
        wire.starttls_done(ours)
        assert not wire.capabilities.starttls
        assert (await wire.ehlo("us")).positive
    assert inside.got == b"EHLO us\r\n"


@pytest.mark.parametrize("answered", range(5))
async def test_421_and_close_at_every_step(autojump_clock: trio.testing.MockClock, answered: int) -> None:
    async def script(server: Server) -> None:
        await server.open()
        await server.read_until(b"DATA\r\n")
        await server.say("".join(["250 a\r\n", "250 b\r\n", "250 c\r\n", "354 d\r\n"][:answered]))
        if answered == 4:
            await server.read_until(b"\r\n.\r\n")
        await server.say("421 4.3.2 going down\r\n")
        await server.stream.aclose()

    async with served(script) as (wire, _):
        got = await outcomes(await opened(wire))
        assert not wire.reusable
    for outcome in got:
        assert isinstance(outcome, Deferred)
        assert (outcome.blame, outcome.in_doubt) == (Blame.HOST, False)
        assert outcome.reply == Reply(421, ("4.3.2 going down",))


@pytest.mark.parametrize("answered", range(5))
async def test_a_close_at_every_step(autojump_clock: trio.testing.MockClock, answered: int) -> None:
    phases = [Phase.MAIL, Phase.RCPT, Phase.RCPT, Phase.DATA, Phase.DOT]

    async def script(server: Server) -> None:
        await server.open()
        await server.read_until(b"DATA\r\n")
        await server.say("".join(["250 a\r\n", "250 b\r\n", "250 c\r\n", "354 d\r\n"][:answered]))
        if answered == 4:
            await server.read_until(b"\r\n.\r\n")
        await server.stream.aclose()

    async with served(script) as (wire, _):
        got = await outcomes(await opened(wire))
    assert [deferred(outcome) for outcome in got] == [(Blame.HOST, phases[answered], answered == 4)] * 2


async def test_a_reset_connection_is_lost_with_its_reason(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = bounded_pair(64)
    assert isinstance(theirs, trio.StapledStream)

    class Reset(trio.abc.ReceiveStream):
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            raise trio.BrokenResourceError from ConnectionResetError("reset by peer")

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    wire = Wire(trio.StapledStream(theirs.send_stream, Reset()), TIMEOUTS)
    with pytest.raises(Lost, match="reset by peer") as caught:
        await wire.greeting()
    assert caught.value.phase is Phase.BANNER
    await wire.close()
    await ours.aclose()


async def test_helo_after_ehlo_was_refused(autojump_clock: trio.testing.MockClock) -> None:
    async def script(server: Server) -> None:
        await server.say(HELLO)
        await server.read_until(b"\r\n")
        await server.say("502 what\r\n")
        await server.read_until(b"\r\n")
        await server.say("250 mx\r\n")

    async with served(script) as (wire, server):
        assert (await opened(wire)).capabilities.greeted_as == ""
        assert (await wire.helo("us")).positive
        assert wire.capabilities.greeted_as == "mx"
    assert server.got == b"EHLO us\r\nHELO us\r\n"


@pytest.mark.parametrize(
    ("extra", "error"),
    [
        ("421 too busy\r\n", Unsolicited),
        ("250 x\r\n", Unsolicited),
        ("25", MalformedReply),
        ("?\n", MalformedReply),
    ],
)
async def test_what_a_server_says_unbidden_is_its_fault_not_ours(
    autojump_clock: trio.testing.MockClock, extra: str, error: type[MalformedReply]
) -> None:
    async with served(lambda server: server.say(HELLO + extra)) as (wire, _):
        await wire.greeting()
        with pytest.raises(error):
            await wire.ehlo("us")
        assert wire.machine.state is State.BROKEN


async def test_an_idle_server_that_left_is_lost(autojump_clock: trio.testing.MockClock) -> None:
    async def script(server: Server) -> None:
        await server.open()
        await server.stream.aclose()

    async with served(script) as (wire, _):
        await opened(wire)
        with pytest.raises(Lost):
            await wire.command(Noop())
        wire.machine.receive(b"")
        with pytest.raises(LocalMisuse):
            await wire.command(Noop())


async def test_quit_waits_only_so_long(autojump_clock: trio.testing.MockClock) -> None:
    async def script(server: Server) -> None:
        await server.open()
        await server.read_until(b"never")

    async with served(script) as (wire, server):
        await opened(wire)
        began = trio.current_time()
        await wire.close()
        assert trio.current_time() - began == pytest.approx(TIMEOUTS.quit)
        await wire.close()
        await trio.testing.wait_all_tasks_blocked()
    assert server.got == b"EHLO us\r\nQUIT\r\n"


async def test_a_refusing_greeting_is_answered_with_quit(autojump_clock: trio.testing.MockClock) -> None:
    async def script(server: Server) -> None:
        await server.say("554 no\r\n")
        await server.read_until(b"\r\n")
        await server.say("221 bye\r\n")

    async with served(script) as (wire, server):
        assert (await wire.greeting()).code == 554
        assert not wire.machine.may_send(Noop())
        assert wire.machine.may_send(Quit())
        await wire.close()
    assert server.got == b"QUIT\r\n"


async def test_closing_in_a_cancelled_scope_closes(autojump_clock: trio.testing.MockClock) -> None:
    async with served(lambda server: server.open()) as (wire, _):
        await opened(wire)
        with trio.CancelScope() as scope:
            scope.cancel()
            await wire.close()
        assert wire.machine.state is State.BROKEN
        with pytest.raises(trio.ClosedResourceError):
            await wire.stream.send_all(b"x")


async def test_a_wire_may_take_over_a_machine() -> None:
    ours, _ = trio.testing.memory_stream_pair()
    machine = ClientMachine()
    assert Wire(ours, TIMEOUTS, machine).machine is machine
