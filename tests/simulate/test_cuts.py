"""The connection is cut at every octet, both ways, and the delivery cancelled at every step: what must hold.

An accepted message is never reported as undelivered unless in doubt; nothing is reported as delivered that the
server does not hold; each recipient has exactly one outcome; the connection is closed whatever happens.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import trio
import trio.testing

from deliver.errors import PeerError
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.net.wire import Wire
from deliver.outcome import Contact, Deferred, Delivered, Failed, Outcome
from deliver.queue.content import InlineContent
from deliver.settings import Duration, Timeouts
from deliver.smtp.batch import Batch
from deliver.smtp.chunking import FIRST_CHUNK
from deliver.smtp.transaction import Transaction
from tests.simulate.disturbance import CancelAt, Cut
from tests.simulate.memory_server import KEYWORDS, MemoryServer

SMALL = b"Subject: x\r\n\r\n.dot\r\n"
LARGE = b"Subject: x\r\n\r\n" + b".0123456789\r\n" * (FIRST_CHUNK // 13 + 20)
WHO = ("ann", "nobody", "taster", "bob")
TIMEOUTS = Timeouts(quit=Duration(1))


@dataclass(slots=True)
class Ran:
    """One delivery: what we say, what the server holds, what was journalled."""

    outcomes: dict[str, Outcome]
    server: MemoryServer
    stream: Cut
    journal: list[str]
    steps: int


def run(
    text: bytes,
    *,
    keywords: tuple[str, ...] = KEYWORDS,
    out: int | None = None,
    into: int | None = None,
    cancel: int | None = None,
    refused_before: bool = False,
) -> Ran:
    """`refused_before`: behind a message that was for nobody here, so that RSET leaves with MAIL."""

    async def main() -> Ran:
        ours, theirs = trio.testing.memory_stream_pair()
        stream, server = Cut(ours, out, into), MemoryServer(theirs, keywords)
        recipients = tuple(Recipient(n, Mailbox(name, "x.test")) for n, name in enumerate(WHO))
        envelope = Envelope(MessageId("m"), None, recipients, len(text), False, 0.0)
        contact = Contact("mx", "192.0.2.1", 25)
        wire = Wire(stream, TIMEOUTS)
        batch: Batch | None = None
        journal: list[str] = []

        def note(who: tuple[Recipient, ...], reply: object) -> None:
            journal.extend(one.mailbox.local_part for one in who)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve)
            with trio.CancelScope() as scope:
                instrument = CancelAt(cancel, scope)
                trio.lowlevel.add_instrument(instrument)
                try:
                    await wire.greeting()
                    await wire.ehlo("us")
                    if refused_before:
                        unwanted = recipients[1:2]
                        await wire.transact(
                            Transaction(envelope, unwanted, wire.capabilities, contact), InlineContent(text)
                        )
                        if not wire.reusable:
                            raise PeerError("the first message", "broke off", "none")
                    reset = wire.needs_reset
                    batch = Batch(
                        lambda these, chunks: Transaction(
                            envelope, these, wire.capabilities, contact, chunking=chunks, reset=reset
                        ),
                        recipients,
                        wire.capabilities.limits,
                        contact,
                    )
                    while (transaction := batch.following()) is not None:
                        await wire.transact(transaction, InlineContent(text), note)
                        if not wire.reusable:
                            break
                except PeerError:
                    pass
                finally:
                    trio.lowlevel.remove_instrument(instrument)
                    await wire.close()
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        said = batch.outcomes() if batch else ()
        return Ran(
            {who.mailbox.local_part: outcome for who, outcome in said},
            server,
            stream,
            journal,
            instrument.steps,
        )

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def check(ran: Ran, text: bytes) -> None:
    held = {who for people, content in ran.server.taken for who in people if content == text}
    assert all(content == text for _, content in ran.server.taken)
    assert ran.stream.closed
    for who, outcome in ran.outcomes.items():
        if isinstance(outcome, Delivered):
            assert who in held
            assert who in ran.journal
        elif isinstance(outcome, Failed):
            assert who not in held
        else:
            assert isinstance(outcome, Deferred)
            assert who not in held or outcome.in_doubt, (who, outcome)
    assert sorted(ran.journal) == sorted(set(ran.journal))
    assert len(ran.server.taken) <= 1
    if not ran.outcomes:
        assert not held


WAYS = {
    "bdat": KEYWORDS,
    "bdat, no prdr": ("PIPELINING", "CHUNKING"),
    "data": ("PIPELINING", "PRDR"),
    "one by one": (),
    "bdat, one by one": ("CHUNKING",),
    "one by one transaction": ("PIPELINING", "CHUNKING", "LIMITS RCPTMAX=10"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("text", [SMALL, LARGE], ids=["small", "large"])
def test_undisturbed(way: str, text: bytes) -> None:
    ran = run(text, keywords=WAYS[way])
    check(ran, text)
    prdr = "PRDR" in WAYS[way]
    kinds = [type(ran.outcomes[who]) for who in WHO]
    assert kinds == [Delivered, Failed, Failed if prdr else Delivered, Delivered]


@pytest.mark.parametrize("way", WAYS)
def test_cut_at_every_octet_of_a_small_message(way: str) -> None:
    whole = run(SMALL, keywords=WAYS[way])
    doubts = 0
    for at in range(1, whole.stream.sent):
        ran = run(SMALL, keywords=WAYS[way], out=at)
        check(ran, SMALL)
    for at in range(whole.stream.received):
        ran = run(SMALL, keywords=WAYS[way], into=at)
        check(ran, SMALL)
        doubts += any(isinstance(o, Deferred) and o.in_doubt for o in ran.outcomes.values())
    assert doubts > 0


@pytest.mark.parametrize("way", ["bdat", "data"])
def test_cut_in_a_large_message(way: str) -> None:
    whole = run(LARGE, keywords=WAYS[way])
    ends = {*range(1, whole.stream.sent, 4999), *range(whole.stream.sent - 40, whole.stream.sent)}
    for at in sorted(ends):
        check(run(LARGE, keywords=WAYS[way], out=at), LARGE)
    for at in range(whole.stream.received):
        check(run(LARGE, keywords=WAYS[way], into=at), LARGE)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("text", [SMALL, LARGE], ids=["small", "large"])
def test_cancelled_at_every_step(way: str, text: bytes) -> None:
    steps = run(text, keywords=WAYS[way]).steps
    assert steps > 10
    for step in range(1, steps + 1):
        check(run(text, keywords=WAYS[way], cancel=step), text)


@pytest.mark.parametrize("keywords", [("PIPELINING", "SIZE"), KEYWORDS], ids=["data", "bdat"])
def test_cut_at_every_octet_where_rset_leaves_with_mail(keywords: tuple[str, ...]) -> None:
    whole = run(SMALL, keywords=keywords, refused_before=True)
    check(whole, SMALL)
    assert "RSET" in whole.server.commands
    assert len(whole.server.taken) == 1
    for at in range(1, whole.stream.sent + 1):
        check(run(SMALL, keywords=keywords, refused_before=True, out=at), SMALL)
    for at in range(whole.stream.received + 1):
        check(run(SMALL, keywords=keywords, refused_before=True, into=at), SMALL)
    for step in range(1, whole.steps + 1):
        check(run(SMALL, keywords=keywords, refused_before=True, cancel=step), SMALL)
