"""The service's side against callers of every kind, over memory streams with a simulated clock."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from deliver.direct import Direct, Limit, Result
from deliver.errors import StorageError
from deliver.handover import frames
from deliver.handover.frames import ANSWER, CONTENT, END, GO, NO, OFFER, FrameReader, Offer
from deliver.handover.server import CONTENT_PATIENCE, OFFER_PATIENCE, Desk, HandoverListener
from deliver.message import Content, Envelope, MessageId
from deliver.net.clock import WallClock
from deliver.outcome import Contact, Delivered
from deliver.report.trace import Trace
from deliver.settled import Job
from deliver.smtp.reply import Reply

ME = os.geteuid()
PLAIN = Offer("digest", "someone", "me@example.org", "", False, ("a@example.net",))


@dataclass
class Deliveries:
    """Takes everything, or raises."""

    error: Exception | None = None
    got: list[tuple[Envelope, bytes, Job | None]] = field(default_factory=list)

    async def deliver(
        self, envelope: Envelope, content: Content, job: Job | None, limit: Limit
    ) -> tuple[Result, ...]:
        if self.error is not None:
            raise self.error
        self.got.append((envelope, await content.read(0, content.size), job))
        outcome = Delivered(Reply(250, ("2.0.0 Ok",)), Contact("mx.test", "192.0.2.1", 25))
        return tuple((recipient, outcome, Trace()) for recipient in envelope.recipients)


def desk(**changes: Any) -> Desk:
    usual: dict[str, Any] = {
        "digest": "digest", "helo": "out.test", "directory": Path("/nonexistent"), "inline_limit": 1 << 20,
        "max_size": 100_000, "max_hops": 3, "max_recipients": 10, "max_connections": 2, "detect_utf8": True,
        "room": lambda: True,
    }  # fmt: skip
    return Desk(**{**usual, **changes})


async def converse(
    pieces: list[bytes], deliveries: Deliveries, *, uid: int = ME, close: bool = False, **changes: Any
) -> list[tuple[int, bytes]]:
    """Send the pieces as they are; all frames that come back."""
    listener = HandoverListener(
        desk(**changes), cast(Direct, deliveries), WallClock(), lambda: MessageId("m1")
    )
    ours, theirs = memory_stream_pair()
    reader = FrameReader(GO, NO, ANSWER)
    found: list[tuple[int, bytes]] = []

    async def write() -> None:
        try:
            for piece in pieces:
                await ours.send_all(piece)
            if close:
                await ours.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def read() -> None:
        try:
            while data := await ours.receive_some():
                reader.feed(bytes(data))
                while (frame := reader.next_frame()) is not None:
                    found.append(frame)
                    if frame[0] == ANSWER:
                        await ours.aclose()
                        return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.handle, theirs, uid)
        nursery.start_soon(write)
        nursery.start_soon(read)
    return found


def offered(offer: Offer = PLAIN) -> bytes:
    return frames.encode(OFFER, offer.encode())


def message(*pieces: bytes) -> list[bytes]:
    return [*(frames.encode(CONTENT, piece) for piece in pieces), frames.encode(END)]


async def test_a_message_is_taken_and_answered(autojump_clock: MockClock) -> None:
    deliveries = Deliveries()
    offer = Offer("digest", "someone", None, "Q1", False, ("a@Example.net", "b@example.net", "a@example.net"))
    go, answer = await converse([offered(offer), *message(b"Subject: x\n\n.a\r", b"\nlast")], deliveries)
    assert go == (GO, b"")
    status, output, errors = frames.parse_answer(answer[1])
    assert (status, errors) == (0, b"")
    assert output.decode().splitlines() == [
        f"{name}@example.net: delivered to mx.test [192.0.2.1]: 250 2.0.0 Ok" for name in "ab"
    ]
    ((envelope, content, job),) = deliveries.got
    assert content == b"Subject: x\r\n\r\n.a\r\nlast\r\n"
    assert envelope.reverse_path == "someone@out.test"
    assert envelope.size == len(content)
    assert job is not None
    assert job.queue_id == "Q1"


@pytest.mark.parametrize(
    ("offer", "why"),
    [
        (Offer("other", "u", "", "", False, ("a@b.test",)), "other settings"),
        (Offer("digest", "u", "", "", False, ("nonsense",)), "nonsense"),
        (Offer("digest", "u", "nonsense", "", False, ("a@b.test",)), "nonsense"),
        (Offer("digest", "u", "", "Q" * 256, False, ("a@b.test",)), "queue id"),
        (Offer("digest", "u", "", "", False, tuple(f"a{n}@b.test" for n in range(11))), "too many"),
    ],
)
async def test_what_the_caller_should_do_itself_is_refused(
    autojump_clock: MockClock, offer: Offer, why: str
) -> None:
    deliveries = Deliveries()
    ((kind, said),) = await converse([offered(offer)], deliveries)
    assert kind == NO
    assert why in said.decode()
    assert deliveries.got == []


async def test_content_that_does_not_wait_for_go_is_kept(autojump_clock: MockClock) -> None:
    deliveries = Deliveries()
    await converse([offered() + b"".join(message(b"one\n", b"two\n"))], deliveries)
    ((_, content, _),) = deliveries.got
    assert content == b"one\r\ntwo\r\n"


async def test_another_user_is_refused(autojump_clock: MockClock) -> None:
    ((kind, said),) = await converse([offered()], Deliveries(), uid=ME + 1)
    assert (kind, said) == (NO, f"user {ME + 1} is not served here".encode())


async def test_another_version_is_refused(autojump_clock: MockClock) -> None:
    payload = b"9" + PLAIN.encode()[1:]
    ((kind, said),) = await converse([frames.encode(OFFER, payload)], Deliveries())
    assert kind == NO
    assert b"version" in said


async def test_no_room_is_said(autojump_clock: MockClock) -> None:
    ((kind, _),) = await converse([offered()], Deliveries(), room=lambda: False)
    assert kind == NO


async def test_calls_beyond_the_limit_wait_for_their_turn(autojump_clock: MockClock) -> None:
    most = now = 0

    class Slow(Deliveries):
        async def deliver(
            self, envelope: Envelope, content: Content, job: Job | None, limit: Limit
        ) -> tuple[Result, ...]:
            nonlocal most, now
            now += 1
            most = max(most, now)
            await trio.sleep(1)
            now -= 1
            return await super().deliver(envelope, content, job, limit)

    deliveries = Slow()
    listener = HandoverListener(desk(), cast(Direct, deliveries), WallClock(), lambda: MessageId("m1"))

    async def call() -> None:
        ours, theirs = memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.handle, theirs, ME)
            await ours.send_all(offered() + b"".join(message(b"x\n")))
            while not bytes(await ours.receive_some()).startswith(b"A"):
                pass
            await ours.aclose()

    async with trio.open_nursery() as calls:
        for _ in range(7):
            calls.start_soon(call)
    assert len(deliveries.got) == 7
    assert most == 2


@pytest.mark.parametrize(
    "pieces",
    [
        [b"GET / HTTP/1.1\r\n\r\n"],
        [b"O\xff\xff\xff\xff"],
        [offered(), b"C\xff\xff\xff\xff"],
        [offered(), frames.encode(CONTENT, b"x"), b"O\0\0\0\0"],
        [offered(), frames.encode(CONTENT, b"Subject: x\n\n")],
        [offered()[:-3]],
        [],
    ],
)
async def test_a_caller_that_breaks_off_or_talks_nonsense_has_sent_nothing(
    autojump_clock: MockClock, pieces: list[bytes]
) -> None:
    deliveries = Deliveries()
    found = await converse(pieces, deliveries, close=True)
    assert [kind for kind, _ in found] in ([], [GO])
    assert deliveries.got == []


@pytest.mark.parametrize("pieces", [[], [offered()[:9]], [offered(), *message(b"x")[:1]]])
async def test_a_silent_caller_is_left(autojump_clock: MockClock, pieces: list[bytes]) -> None:
    deliveries = Deliveries()
    began = trio.current_time()
    await converse(pieces, deliveries)
    assert trio.current_time() - began <= OFFER_PATIENCE + CONTENT_PATIENCE
    assert deliveries.got == []


@pytest.mark.parametrize(
    ("text", "status", "why"),
    [
        (b"a\0b", 65, b"NUL"),
        (b"a\rb", 65, b"CR without LF"),
        (b"a" * 999 + b"\n", 65, b"998"),
        (b"ab\n" * 50_000, 65, b"larger"),
        (b"Received: x\n" * 4 + b"\n", 65, b"looping"),
    ],
)
async def test_a_message_that_nobody_could_send(
    autojump_clock: MockClock, text: bytes, status: int, why: bytes
) -> None:
    deliveries = Deliveries()
    pieces = [text[start : start + 60_000] for start in range(0, len(text), 60_000)]
    _, (kind, payload) = await converse([offered(), *message(*pieces)], deliveries)
    assert kind == ANSWER
    found, _, errors = frames.parse_answer(payload)
    assert found == status
    assert why in errors
    assert deliveries.got == []


@pytest.mark.parametrize("error", [StorageError("reading", "disk full"), RuntimeError("a bug")])
async def test_our_trouble_is_75(autojump_clock: MockClock, error: Exception) -> None:
    _, (_, payload) = await converse([offered(), *message(b"x\n")], Deliveries(error))
    status, output, errors = frames.parse_answer(payload)
    assert (status, output) == (75, b"")
    assert errors.startswith(b"outrider: ")
