"""Deadlines of a whole session, and the least speed of content; the final reply is never hurried."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.net.pace import Pace
from deliver.net.wire import Wire
from deliver.outcome import Contact, Deferred, Delivered, Outcome, Phase
from deliver.settings import Duration, Timeouts
from deliver.smtp.client import TimedOut
from deliver.smtp.transaction import Transaction

TIMEOUTS = Timeouts(session=Duration(600), rcpt=Duration(300), block=Duration(60), dot=Duration(900))
RATE = 100


class Zeros:
    """Lines of content, as many octets as wanted."""

    def __init__(self, size: int) -> None:
        self.size = size

    async def read(self, offset: int, length: int) -> bytes:
        await trio.lowlevel.checkpoint()
        whole = b"0123456789abcdef0123456789abcd\r\n"
        begin = offset % len(whole)
        return (whole * (length // len(whole) + 2))[begin : begin + min(length, self.size - offset)]


class Slow(trio.abc.Stream):
    """A stream into a pipe of 1024 octets that the reader empties at its own speed."""

    def __init__(self, inner: trio.abc.Stream, speed: float) -> None:
        self._inner = inner
        self._speed = speed

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        for at in range(0, len(data), 1024):
            piece = bytes(data[at : at + 1024])
            await trio.sleep(len(piece) / self._speed)
            await self._inner.send_all(piece)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._inner.receive_some(max_bytes))

    async def aclose(self) -> None:
        await self._inner.aclose()


Serve = Callable[[trio.abc.Stream], Awaitable[None]]


async def deliver(
    serve: Serve, *, size: int = 64, recipients: int = 1, speed: float = 1e6, chunking: bool = False
) -> tuple[list[Outcome], float]:
    """The outcomes, and how long it took."""
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, theirs)
        wire = Wire(Slow(ours, speed), TIMEOUTS, min_rate=RATE)
        await wire.greeting()
        await wire.ehlo("us")
        who = tuple(Recipient(n, Mailbox(f"r{n}", "x.test")) for n in range(recipients))
        envelope = Envelope(MessageId("m"), None, who, size, False, 0.0)
        contact = Contact("mx", "192.0.2.1", 25)
        transaction = Transaction(envelope, who, wire.capabilities, contact, chunking=chunking)
        began = trio.current_time()
        outcomes = [outcome for _, outcome in await wire.transact(transaction, Zeros(size))]
        took = trio.current_time() - began
        await wire.close()
        nursery.cancel_scope.cancel()
    return outcomes, took


class Server:
    """Answers line by line, each answer after `pause`, the last one after `thought`."""

    def __init__(self, *keywords: str, pause: float = 0, thought: float = 0) -> None:
        self._keywords = keywords
        self._pause = pause
        self._thought = thought
        self._unread = b""

    async def __call__(self, stream: trio.abc.Stream) -> None:
        await stream.send_all(b"220 mx\r\n")
        while True:
            line = await self._until(stream, b"\r\n")
            await trio.sleep(self._pause)
            if line.startswith(b"EHLO"):
                lines = ("mx", *self._keywords, "HELP")
                said = [f"250-{word}\r\n" for word in lines[:-1]] + [f"250 {lines[-1]}\r\n"]
                await stream.send_all("".join(said).encode())
            elif line.startswith(b"DATA"):
                await stream.send_all(b"354 go\r\n")
                await self._until(stream, b"\r\n.\r\n")
                await trio.sleep(self._thought)
                await stream.send_all(b"250 taken\r\n")
            elif line.startswith(b"BDAT"):
                await self._count(stream, int(line.split()[1]))
                await stream.send_all(b"250 chunk\r\n")
            else:
                await stream.send_all(b"250 fine\r\n")

    async def _until(self, stream: trio.abc.Stream, end: bytes) -> bytes:
        while end not in self._unread:
            await self._more(stream)
        line, _, self._unread = self._unread.partition(end)
        return line

    async def _count(self, stream: trio.abc.Stream, size: int) -> None:
        while len(self._unread) < size:
            await self._more(stream)
        self._unread = self._unread[size:]

    async def _more(self, stream: trio.abc.Stream) -> None:
        data = bytes(await stream.receive_some())
        if not data:
            await trio.sleep_forever()
        self._unread += data


async def test_a_server_that_answers_each_recipient_slowly_is_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    outcomes, took = await deliver(Server(pause=200), recipients=20)
    assert took <= 600
    for outcome in outcomes:
        assert isinstance(outcome, Deferred)
        assert not outcome.in_doubt
        assert "smtp.timeouts.session" in outcome.why


async def test_the_final_reply_is_waited_for_beyond_the_session(
    autojump_clock: trio.testing.MockClock,
) -> None:
    outcomes, took = await deliver(Server(pause=100, thought=800))
    assert isinstance(outcomes[0], Delivered)
    assert took > 600


@pytest.mark.parametrize("chunking", [False, True])
async def test_content_that_goes_too_slowly_is_given_up(
    autojump_clock: trio.testing.MockClock, chunking: bool
) -> None:
    server = Server(*(("PIPELINING", "CHUNKING") if chunking else ()))
    outcomes, took = await deliver(server, size=300_000, speed=50, chunking=chunking)
    assert isinstance(outcomes[0], Deferred)
    assert not outcomes[0].in_doubt
    assert took < 1000


@pytest.mark.parametrize("speed", [1100, 3000])
async def test_content_as_fast_as_it_must_be_arrives_however_long_it_takes(
    autojump_clock: trio.testing.MockClock, speed: float
) -> None:
    outcomes, took = await deliver(Server(), size=900_000, speed=speed)
    assert isinstance(outcomes[0], Delivered)
    assert took > 240


async def test_a_last_piece_that_goes_too_slowly_is_in_doubt(autojump_clock: trio.testing.MockClock) -> None:
    outcomes, _ = await deliver(Server(), size=30_000, speed=20)
    assert isinstance(outcomes[0], Deferred)
    assert outcomes[0].in_doubt


async def test_the_clock_of_a_later_message_begins_anew(autojump_clock: trio.testing.MockClock) -> None:
    pace = Pace(TIMEOUTS, RATE)
    await trio.sleep(599)
    assert pace.patience(Phase.RCPT) == 1
    pace.begin(1000)  # ten seconds at the least speed
    assert pace.patience(Phase.RCPT) == 11
    await trio.sleep(100)
    assert pace.patience(Phase.RCPT) == 0
    assert pace.patience(Phase.DOT) == 900
    assert pace.patience(Phase.QUIT) == TIMEOUTS.quit
    pace.begin(0)
    assert pace.patience(Phase.RCPT) == 300
    await trio.sleep(500)
    assert pace.patience(Phase.RCPT) == 100


async def test_an_average_below_the_least_speed_is_noticed_between_pieces(
    autojump_clock: trio.testing.MockClock,
) -> None:
    pace = Pace(TIMEOUTS, RATE)
    pace.begin(10_000)
    assert pace.patience_with(1000) == 60
    await trio.sleep(59)
    assert pace.patience_with(1000) == 60 - 59 + 20
    await trio.sleep(22)
    assert pace.patience_with(0) == 0
    assert "smtp.min_rate" in (pace.why(Phase.BODY) or "")


async def test_a_greeting_counts_against_the_session(autojump_clock: trio.testing.MockClock) -> None:
    ours, _theirs = trio.testing.memory_stream_pair()
    wire = Wire(ours, Timeouts(session=Duration(30)))
    with pytest.raises(TimedOut, match=r"smtp\.timeouts\.session"):
        await wire.greeting()
    assert trio.current_time() == 30
    await wire.close()


async def test_the_next_message_may_have_other_limits(autojump_clock: trio.testing.MockClock) -> None:
    pace = Pace(TIMEOUTS, RATE)
    pace.begin(1000)
    pace.timeouts, pace.min_rate = Timeouts(session=Duration(30)), 500
    pace.begin(1000)
    assert pace.patience(Phase.MAIL) == 32
