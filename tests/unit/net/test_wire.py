"""The wire against scripted servers: deadlines, losses, early refusals, the final dot, cancellation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from deliver.errors import Blame, Fault, StorageError
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.net.chunks import LAST_WORDS, PIECE
from deliver.net.wire import Wire
from deliver.outcome import Contact, Deferred, Delivered, Failed, Outcome, Phase
from deliver.settings import Duration, Timeouts
from deliver.smtp.client import ClientMachine, Lost, State, TimedOut, UnexpectedReply, Unsolicited
from deliver.smtp.command import LocalMisuse, Noop, Quit
from deliver.smtp.reply import MAX_LINE, MAX_LINES, MalformedReply, Reply
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

    async def open(self) -> None:
        await self.say(HELLO)
        await self.read_until(b"\r\n")
        await self.say(EHLO)

    async def take(self, envelope: str = "250 a\r\n250 b\r\n250 c\r\n354 d\r\n") -> None:
        """Until after DATA."""
        await self.read_until(b"DATA\r\n")
        await self.say(envelope)


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


def transaction(wire: Wire, count: int = 2, size: int = 30, eight_bit: bool = False) -> Transaction:
    recipients = tuple(Recipient(n, Mailbox(f"r{n}", "example.net")) for n in range(count))
    envelope = Envelope(MessageId("m"), None, recipients, size, eight_bit, 0.0)
    return Transaction(envelope, recipients, wire.capabilities, CONTACT)


async def outcomes(wire: Wire, text: Text | None = None, count: int = 2) -> list[Outcome]:
    subject = transaction(wire, count)
    return [outcome for _, outcome in await wire.transact(subject, text or Text(TEXT))]


def deferred(outcome: Outcome) -> tuple[Blame, Phase | None, bool]:
    assert isinstance(outcome, Deferred), outcome
    return outcome.blame, outcome.phase, outcome.in_doubt


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


async def test_large_content_arrives_whole(autojump_clock: trio.testing.MockClock) -> None:
    text = (b".line of text\r\n" * 20_000)[: 3 * PIECE + 2]
    text += b"\r\n" if not text.endswith(b"\r") else b"\n"

    async def script(server: Server) -> None:
        await server.open()
        await server.take()
        await server.read_until(b"\r\n.\r\n")
        await server.say("250 ok\r\n")

    async with served(script) as (wire, server):
        got = await outcomes(await opened(wire), Text(text))
    assert [type(outcome) for outcome in got] == [Delivered, Delivered]
    assert (
        server.got.partition(b"DATA\r\n")[2]
        == text.replace(b"\r\n.", b"\r\n..").replace(b".", b"..", 1) + b".\r\n"
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
        assert trio.current_time() - began == pytest.approx(getattr(TIMEOUTS, waits))
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


async def test_an_acceptance_while_the_last_octets_are_unsent_is_in_doubt(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def script(server: Server) -> None:
        await server.open()
        await server.take()
        await server.read_until(b"x")
        await server.say("250 queued already\r\n")
        await trio.sleep_forever()

    async with served(script, size=1024) as (wire, _):
        got = await outcomes(await opened(wire), Text(b"x\r\n" * 5000))  # one piece: the dot is under way
        assert not wire.reusable
    assert [deferred(outcome) for outcome in got] == [(Blame.HOST, Phase.DOT, True)] * 2


async def test_a_refusal_while_the_last_octets_are_unsent_leaves_the_wire_unusable(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def script(server: Server) -> None:
        await server.open()
        await server.take()
        await server.read_until(b"x")
        await server.say("552 5.3.4 too big\r\n")
        await trio.sleep_forever()

    async with served(script, size=1024) as (wire, _):
        got = await outcomes(await opened(wire), Text(b"x\r\n" * 5000))  # one piece: the dot is under way
        assert not wire.reusable
    assert all(isinstance(outcome, Failed) for outcome in got)


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
        await server.take()
        await server.read_until(b"\r\n.\r\n")
        await server.say("250 ok\r\n")
        await trio.sleep_forever()

    async with served(script) as (wire, _):
        await opened(wire)
        subject = transaction(wire)
        with trio.CancelScope() as scope:

            def note(recipients: tuple[Recipient, ...], reply: Reply) -> None:
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
        await server.take()
        await server.read_until(b"\r\n.\r\n")
        await server.say("250 ok\r\n")

    def note(recipients: tuple[Recipient, ...], reply: Reply) -> None:
        raise OSError("disk full")

    async with served(script) as (wire, _):
        await opened(wire)
        subject = transaction(wire)
        await wire.transact(subject, Text(TEXT), note)
        assert wire.reusable
    assert [type(outcome) for _, outcome in subject.outcomes()] == [Delivered, Delivered]
    assert "journal" in caplog.text


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
        await server.take()
        await server.read_until(b"\r\n.\r\n")
        await server.say("250 ok\r\n")

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
        await server.take()
        await server.read_until(b"\r\n.\r\n")
        await server.say("250 ok\r\n")

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
        who = transaction(wire)._recipients
        envelope = Envelope(MessageId("m"), None, who, 30, False, 0.0)
        subject = Transaction(envelope, who, wire.capabilities, CONTACT, reset=True)
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
        who = transaction(wire)._recipients
        envelope = Envelope(MessageId("m"), None, who, 30, False, 0.0)
        subject = Transaction(envelope, who, wire.capabilities, CONTACT, reset=True)
        for _, outcome in await wire.transact(subject, Text(TEXT)):
            assert deferred(outcome) == (Blame.HOST, Phase.RSET, False)
        assert not wire.reusable


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
