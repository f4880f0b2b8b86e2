"""A second message on a session that is cut at every octet of it, and cancelled at every step.

It is delivered all the same, over a new connection, unless the server may hold it already: then it is in doubt.
It is never merely deferred, never there twice without doubt, and the cut session is never used again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

import pytest
import trio
import trio.testing

from deliver.agent import Agent
from deliver.attempt import Attempt
from deliver.level import Level
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.net.clock import WallClock
from deliver.net.dial import Connection
from deliver.outcome import Deferred, Delivered, Outcome
from deliver.pool import SessionPool
from deliver.queue.content import InlineContent
from deliver.resolve.answer import AddressRecord, Answer, Found, MxRecord, NoData, Query, RecordType
from deliver.settings import Pool, Settings, Tls
from deliver.tls.pkix import TrustStore
from events.catalogue import Event
from events.port import Allow
from hints.memory import MemoryHints
from tests.simulate.disturbance import CancelAt, Cut
from tests.simulate.memory_server import MemoryServer

BODY = b"Subject: x\r\n\r\n.dot\r\n"
WAYS = {"bdat": ("PIPELINING", "CHUNKING"), "data": ("PIPELINING",), "one by one": ()}


@dataclass
class Ran:
    """What became of the second message."""

    outcome: Outcome
    copies: int
    streams: list[Cut]
    steps: int
    waiting: int
    octets: tuple[int, int]


class Net:
    """One domain, one host, one address."""

    def __init__(self, nursery: trio.Nursery, keywords: tuple[str, ...]) -> None:
        self._nursery = nursery
        self._keywords = keywords
        self.streams: list[Cut] = []
        self.servers: list[MemoryServer] = []

    async def lookup(self, query: Query) -> Answer:
        await trio.lowlevel.checkpoint()
        if query.type is RecordType.MX:
            return Found((MxRecord(10, "mx.x.test"),), False, 60)
        if query.type is RecordType.A:
            return Found((AddressRecord("192.0.2.1"),), False, 60)
        return NoData(False)

    async def dial(self, address: str, port: int, *, source: str | None, timeout: float) -> Connection:
        await trio.lowlevel.checkpoint()
        ours, theirs = trio.testing.memory_stream_pair()
        self.streams.append(Cut(ours))
        self.servers.append(MemoryServer(theirs, self._keywords))
        self._nursery.start_soon(self.servers[-1].serve)
        return Connection(self.streams[-1], "192.0.2.250", 4000)


def second_message(
    keywords: tuple[str, ...],
    *,
    out: int | None = None,
    into: int | None = None,
    cancel: int | None = None,
) -> Ran:
    async def main() -> Ran:
        async with trio.open_nursery() as nursery:
            net, clock = Net(nursery, keywords), WallClock(1_700_000_000.0)
            async with SessionPool(Pool()).open() as pool:
                agent = agent_on(net, clock, pool)
                first, second = (message(agent, name) for name in ("one", "two"))
                await first.run()
                assert isinstance(first.result().outcomes[0][1], Delivered)
                (stream,) = net.streams
                stream.light(out, into)
                before = stream.sent, stream.received
                with trio.CancelScope() as scope:
                    instrument = CancelAt(cancel, scope)
                    trio.lowlevel.add_instrument(instrument)
                    try:
                        await second.run()
                    finally:
                        trio.lowlevel.remove_instrument(instrument)
                ((_, outcome),) = second.result().outcomes
                waiting = pool.count
                used = stream.sent - before[0], stream.received - before[1]
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        copies = sum(content == BODY for server in net.servers for _, content in server.taken) - 1
        return Ran(outcome, copies, net.streams, instrument.steps, waiting, used)

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_a_server_that_leaves_while_an_action_is_asked_is_noticed_before_anything_is_sent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Slow:
        """An action that takes its time; meanwhile the server of the open session goes."""

        open = False

        async def consult(self, event: Event) -> Allow:
            if event.fields["message_id"] == "two" and len(net.servers) == 1:
                await net.servers[0].leave()
                await trio.sleep(1)
            return Allow()

        def watches(self, name: str, fields: object) -> bool:
            return True

    async with trio.open_nursery() as nursery:
        net, clock = Net(nursery, WAYS["bdat"]), WallClock(1_700_000_000.0)
        async with SessionPool(Pool()).open() as pool:
            desk = replace(agent_on(net, clock, pool), gate=Slow())
            first, second = (message(desk, name) for name in ("one", "two"))
            await first.run()
            await second.run()
            ((_, outcome),) = second.result().outcomes
        nursery.cancel_scope.cancel()
    assert isinstance(outcome, Delivered)
    assert not outcome.contact.reused
    assert "reuse-failed" not in [finding.code for finding in second.trace.findings]


def agent_on(net: Net, clock: WallClock, pool: SessionPool) -> Agent:
    return Agent(
        settings=Settings(tls=Tls(level=Level.MAY)),
        resolver=net,
        dialer=net,
        hints=MemoryHints(clock=clock.now),
        clock=clock,
        rng=Random(1),
        trust=lambda path: TrustStore.empty(),
        helo="us.test",
        learner="test",
        pool=pool,
    )


def message(agent: Agent, name: str) -> Attempt:
    who = (Recipient(0, Mailbox(name, "x.test")),)
    envelope = Envelope(MessageId(name), None, who, len(BODY), False, agent.clock.now())
    return Attempt(agent, envelope, who, InlineContent(BODY))


@pytest.fixture(params=WAYS.values(), ids=list(WAYS))
def keywords(request: pytest.FixtureRequest) -> tuple[str, ...]:
    words: tuple[str, ...] = request.param
    return words


def check(ran: Ran) -> None:
    assert all(stream.closed for stream in ran.streams)
    if isinstance(ran.outcome, Delivered):
        assert ran.copies == 1
    else:
        assert isinstance(ran.outcome, Deferred)
        assert ran.copies <= 1
        assert not ran.copies or ran.outcome.in_doubt


def test_an_uncut_session_is_used_again(keywords: tuple[str, ...]) -> None:
    ran = second_message(keywords)
    check(ran)
    assert len(ran.streams) == 1
    assert isinstance(ran.outcome, Delivered)
    assert ran.outcome.contact.reused


@pytest.mark.parametrize("way", ["out", "into"])
def test_a_session_that_is_cut_costs_a_connection_or_leaves_a_doubt(
    keywords: tuple[str, ...], way: str
) -> None:
    uncut = second_message(keywords)
    doubts = 0
    for octets in range(1, uncut.octets[way == "into"]):
        ran = second_message(keywords, **{way: octets})
        check(ran)
        delivered = isinstance(ran.outcome, Delivered)
        assert delivered or (isinstance(ran.outcome, Deferred) and ran.outcome.in_doubt), (
            octets,
            ran.outcome,
        )
        assert len(ran.streams) == 1 + delivered
        doubts += not delivered
    assert doubts
    if "CHUNKING" not in keywords:  # else everything leaves in one write
        assert doubts < 60, "only around the last octet"


def test_a_second_message_that_is_cancelled_takes_its_session_with_it(keywords: tuple[str, ...]) -> None:
    steps = second_message(keywords).steps
    for step in range(1, steps):
        ran = second_message(keywords, cancel=step)
        check(ran)
        if isinstance(ran.outcome, Deferred) and ran.outcome.in_doubt:
            assert ran.waiting == 0
