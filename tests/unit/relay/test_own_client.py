"""Our own client and our own server, over real sockets: each extension that one offers and the other uses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
import trio

from deliver.assembly import build_agent
from deliver.attempt import Attempt
from deliver.dsn import Notify, OriginalRecipient, Ret
from deliver.level import Level
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.net.clock import WallClock
from deliver.outcome import Delivered, Failed, Outcome
from deliver.queue.content import InlineContent
from deliver.relay.binding import bind
from deliver.relay.listener import listeners_on
from deliver.settings import Dns, RecipientLimit, Relay, Route, Settings, Size, Smtp
from hints.memory import MemoryHints
from tests.doorstep import Memory, listener

LIMITED = RecipientLimit(recipients=("*@pager.test",), max_message_size=Size(100))


@asynccontextmanager
async def serving(memory: Memory, **keys: object) -> AsyncIterator[str]:
    """The place where a listener of ours serves."""
    ours = listener(memory, Relay(**keys))  # type: ignore[arg-type]
    (socket_listener,) = listeners_on(bind(["127.0.0.1:0"]))
    async with trio.open_nursery() as nursery:
        await nursery.start(ours.serve, [socket_listener])
        yield f"127.0.0.1:{socket_listener.socket.getsockname()[1]}"
        ours.stop(1)


async def deliver(
    place: str, tmp_path: Path, body: bytes, *recipients: Recipient, times: int = 1, **smtp: bool
) -> list[Outcome]:
    settings = Settings(
        state_dir=str(tmp_path),
        dns=Dns(resolvers=("127.0.0.1:1",), timeout=1, attempts=1),
        smtp=Smtp(**smtp),
        route=(Route(domains=("*",), via="smarthost", hosts=(place,), level=Level.NONE),),
    )
    clock = WallClock()
    agent = build_agent(
        settings, hints=MemoryHints(clock=clock.now), clock=clock, rng=Random(1), learner="test"
    )
    envelope = Envelope(
        MessageId("m1"), Mailbox("ä", "sender.test"), recipients, len(body), not body.isascii(), clock.now(),
        smtputf8=True, ret=Ret.HDRS, envid="x +y",
    )  # fmt: skip
    outcomes: list[Outcome] = []
    for _ in range(times):
        attempt = Attempt(agent, envelope, recipients, InlineContent(body))
        await attempt.run()
        outcomes = [outcome for _, outcome in attempt.result().outcomes]
    return outcomes


@pytest.mark.parametrize("smtp", [{}, {"chunking": False}, {"prdr": False}, {"pipelining": False}])
@pytest.mark.parametrize("size", [20, 300_000])
async def test_what_goes_in_comes_out(tmp_path: Path, smtp: dict[str, bool], size: int) -> None:
    line = ".ä{}\r\n".format("x" * 60).encode()
    body = b"Subject: x\r\n\r\n" + line * (size // len(line) + 1)
    memory = Memory()
    recipients = (
        Recipient(
            0, Mailbox("ü", "example.net"), frozenset({Notify.SUCCESS}), OriginalRecipient("utf-8", "ö@x")
        ),
        Recipient(1, Mailbox("b", "example.net")),
    )
    async with serving(memory) as place:
        found = await deliver(place, tmp_path, body, *recipients, times=2, **smtp)
    assert all(isinstance(outcome, Delivered) and outcome.dsn_passed for outcome in found)
    assert len(memory.accepted) == 2
    for envelope, content in memory.accepted:
        assert content.endswith(b"\r\n" + body)
        assert (envelope.smtputf8, envelope.ret, envelope.envid) == (True, Ret.HDRS, "x +y")
        assert envelope.recipients == recipients
        assert envelope.sender == Mailbox("ä", "sender.test")
        assert envelope.eight_bit


async def test_one_verdict_per_recipient(tmp_path: Path) -> None:
    body = b"Subject: x\r\n\r\n" + b"y" * 200 + b"\r\n"
    memory = Memory()
    recipients = (Recipient(0, Mailbox("a", "pager.test")), Recipient(1, Mailbox("b", "example.net")))
    async with serving(memory, recipient_limit=(LIMITED,)) as place:
        first, second = await deliver(place, tmp_path, body, *recipients)
    assert isinstance(first, Failed)
    assert str(first.enhanced) == "5.2.3"
    assert isinstance(second, Delivered)
    assert [str(each.mailbox) for each in memory.accepted[0][0].recipients] == ["b@example.net"]
