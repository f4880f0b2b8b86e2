"""Which address of a host gets the message: families in turn, a head start, one winner, nothing said to losers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest
import trio
import trio.testing

from deliver.agent import Agent
from deliver.attempt import Attempt
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.net.clock import WallClock
from deliver.net.dial import ConnectFailed, Connection
from deliver.outcome import AttemptResult, Deferred, Delivered, Place
from deliver.queue.content import InlineContent
from deliver.resolve.answer import (
    AddressRecord,
    Answer,
    Found,
    MxRecord,
    NoData,
    Query,
    RecordType,
)
from deliver.resolve.cache import CachingResolver
from deliver.settings import Delivery, Route, Settings
from deliver.smtp.reply import EnhancedCode
from deliver.tls.pkix import TrustStore
from events.port import Allow, Refuse
from hints.memory import MemoryHints
from hints.records import Reachability
from tests.simulate.memory_server import MemoryServer, Script

SIX, FOUR, OTHER = "2001:db8::1", "192.0.2.1", "192.0.2.2"
BODY = b"Subject: x\r\n\r\nhello\r\n"


@dataclass
class Way:
    """How connecting to an address goes: after `seconds`, or never; `script` is its server."""

    seconds: float = 0.01
    connects: bool = True
    script: Script = field(default_factory=Script)


class Heard(trio.abc.Stream):
    """A stream that remembers what we said and whether we closed it."""

    def __init__(self, inner: trio.abc.Stream) -> None:
        self._inner = inner
        self.said = b""
        self.closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.said += bytes(data)
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._inner.receive_some(max_bytes))

    async def aclose(self) -> None:
        self.closed = True
        await self._inner.aclose()


class Net:
    """Resolver and dialer for one domain with one host; what was dialled, and when."""

    def __init__(self, nursery: trio.Nursery, ways: Mapping[str, Way]) -> None:
        self._nursery = nursery
        self._ways = ways
        self._began = trio.current_time()
        self.dialled: list[tuple[str, float]] = []
        self.streams: dict[str, Heard] = {}
        self.servers: dict[str, MemoryServer] = {}

    async def lookup(self, query: Query) -> Answer:
        await trio.lowlevel.checkpoint()
        kinds = {RecordType.A: 4, RecordType.AAAA: 6}
        if query.type is RecordType.MX:
            return Found((MxRecord(10, "mx.x.test"),), False, 60)
        if query.type in kinds:
            ours = tuple(a for a in self._ways if (":" in a) == (kinds[query.type] == 6))
            if ours:
                return Found(tuple(AddressRecord(a) for a in ours), False, 60)
        return NoData(False)

    async def dial(self, address: str, port: int, *, source: str | None, timeout: float) -> Connection:
        self.dialled.append((address, round(trio.current_time() - self._began, 2)))
        way = self._ways[address]
        await trio.sleep(way.seconds)
        if not way.connects:
            raise ConnectFailed(f"[{address}]:{port}", "Connection refused", 111)
        ours, theirs = trio.testing.memory_stream_pair()
        self.streams[address] = Heard(ours)
        self.servers[address] = MemoryServer(theirs, way.script)
        self._nursery.start_soon(self.servers[address].serve)
        return Connection(self.streams[address], "192.0.2.250", 4000)

    def taken(self, address: str) -> int:
        return len(self.servers[address].taken) if address in self.servers else 0


def agent(net: Net, hints: MemoryHints, clock: WallClock, **more: Any) -> Agent:
    delivery = more.pop("delivery", Delivery())
    return Agent(
        settings=Settings(delivery=delivery, route=more.pop("route", ())),
        resolver=net,
        dialer=net,
        hints=hints,
        clock=clock,
        rng=Random(1),
        trust=lambda path: TrustStore.empty(),
        helo="us.test",
        learner="test",
        **more,
    )


async def deliver(
    ways: Mapping[str, Way], *, unreachable: tuple[str, ...] = (), tried: str | None = None, **more: Any
) -> tuple[AttemptResult, Net]:
    async with trio.open_nursery() as nursery:
        net, clock = Net(nursery, ways), WallClock(1_700_000_000.0)
        hints = MemoryHints(clock=clock.now)
        for address in unreachable:
            note = Reachability("mx.x.test", address, 25, "Connection refused")
            hints.note(note, source="test", reason="before", now=clock.now())
        who = (Recipient(0, Mailbox("a", "x.test")),)
        envelope = Envelope(MessageId("m"), None, who, len(BODY), False, clock.now())
        last = None if tried is None else Place("mx.x.test", tried)
        story = Attempt(agent(net, hints, clock, **more), envelope, who, InlineContent(BODY), tried=last)
        await story.run()
        result = story.result()
        await trio.testing.wait_all_tasks_blocked()
        assert all(stream.closed for stream in net.streams.values()), "left open"
        nursery.cancel_scope.cancel()
    return result, net


def outcome(result: AttemptResult) -> Any:
    ((_, found),) = result.outcomes
    return found


def events(result: AttemptResult) -> list[str]:
    return [event.name for event in result.trace.events]


async def test_a_quick_first_address_has_no_rival(autojump_clock: trio.testing.MockClock) -> None:
    result, net = await deliver({FOUR: Way(), SIX: Way()})
    assert outcome(result).contact.address == SIX, "the family that the settings name first"
    assert net.dialled == [(SIX, 0.0)]


async def test_a_silent_address_delays_by_a_quarter_of_a_second(
    autojump_clock: trio.testing.MockClock,
) -> None:
    result, net = await deliver({SIX: Way(1000), FOUR: Way()})
    assert outcome(result).contact.address == FOUR
    assert net.dialled == [(SIX, 0.0), (FOUR, 0.25)]
    assert events(result).count("tcp:connect") == 2
    assert "msg:host:defer" not in events(result), "it lost a race, it did not fail"


async def test_a_refusing_address_costs_nothing(autojump_clock: trio.testing.MockClock) -> None:
    result, net = await deliver({SIX: Way(0.02, connects=False), FOUR: Way()})
    assert isinstance(outcome(result), Delivered)
    assert net.dialled == [(SIX, 0.0), (FOUR, 0.02)]
    assert events(result).count("msg:host:defer") == 1


async def test_the_loser_hears_nothing_and_is_closed(autojump_clock: trio.testing.MockClock) -> None:
    for _ in range(10):  # whichever is first
        result, net = await deliver({SIX: Way(0.5), FOUR: Way(0.25)})
        assert isinstance(outcome(result), Delivered)
        winner = outcome(result).contact.address
        for address, stream in net.streams.items():
            assert (stream.said == b"") is (address != winner)
        assert net.taken(SIX) + net.taken(FOUR) == 1


async def test_families_take_turns_within_a_host(autojump_clock: trio.testing.MockClock) -> None:
    ways = {a: Way(1000) for a in (FOUR, OTHER, SIX, "2001:db8::2")} | {"192.0.2.9": Way()}
    result, net = await deliver(ways)
    families = ["6" if ":" in address else "4" for address, _ in net.dialled]
    assert families == ["6", "4", "6", "4", "4"]
    assert [at for _, at in net.dialled] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert isinstance(outcome(result), Delivered)


async def test_what_could_not_be_reached_lately_starts_last(autojump_clock: trio.testing.MockClock) -> None:
    _, net = await deliver({SIX: Way(1000), FOUR: Way(1000), OTHER: Way()}, unreachable=(SIX, FOUR))
    assert net.dialled == [(OTHER, 0.0)]


async def test_a_winner_that_refuses_leaves_the_others_a_try(autojump_clock: trio.testing.MockClock) -> None:
    no = Script(replies={"greeting": "554 not you"})
    result, net = await deliver({SIX: Way(script=no), FOUR: Way()})
    assert outcome(result).contact.address == FOUR
    assert [address for address, _ in net.dialled] == [SIX, FOUR]


async def test_the_slower_address_is_tried_again_after_the_winner_failed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    no = Script(replies={"greeting": "554 not you"})
    result, net = await deliver({SIX: Way(2), FOUR: Way(script=no)})
    assert outcome(result).contact.address == SIX
    assert [address for address, _ in net.dialled] == [SIX, FOUR, SIX]


async def test_nobody_answers(autojump_clock: trio.testing.MockClock) -> None:
    result, _ = await deliver({SIX: Way(connects=False), FOUR: Way(connects=False)})
    assert isinstance(outcome(result), Deferred)
    assert not outcome(result).in_doubt
    assert events(result).count("msg:host:defer") == 2


async def test_no_more_addresses_than_allowed(autojump_clock: trio.testing.MockClock) -> None:
    ways = {f"192.0.2.{number}": Way(connects=False) for number in range(1, 10)}
    result, net = await deliver(ways, delivery=Delivery(max_hosts=3))
    assert len(net.dialled) == 3
    assert "max-hosts" in [finding.code for finding in result.trace.findings]


class Veto:
    """Refuses connections to one address."""

    open = False

    def __init__(self, address: str) -> None:
        self._address = address

    async def consult(self, event: Any) -> Allow | Refuse:
        await trio.sleep(0.1)
        refused = event.name == "tcp:connect" and event.fields["host_address"] == self._address
        return Refuse("not there") if refused else Allow()

    def watches(self, name: str, fields: Any) -> bool:
        return name == "tcp:connect"


async def test_an_action_refuses_one_address_before_it_is_dialled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    result, net = await deliver({SIX: Way(), FOUR: Way()}, gate=Veto(SIX))
    assert outcome(result).contact.address == FOUR
    assert [address for address, _ in net.dialled] == [FOUR]


@pytest.mark.parametrize("after", [0.0, 0.1, 0.3, 0.45])
async def test_a_race_that_is_cancelled_leaves_nothing_open(
    after: float, autojump_clock: trio.testing.MockClock
) -> None:
    result, net = await deliver({SIX: Way(0.5), FOUR: Way(0.3)}, delivery=Delivery(deadline=after))
    assert isinstance(outcome(result), Deferred)
    assert net.taken(SIX) + net.taken(FOUR) == 0


async def test_the_next_attempt_begins_with_another_family(autojump_clock: trio.testing.MockClock) -> None:
    ways = {SIX: Way(1000), FOUR: Way(1000), "2001:db8::2": Way(1000), OTHER: Way()}
    _, net = await deliver(ways, tried=SIX)
    assert [address for address, _ in net.dialled] == [FOUR, OTHER]


async def test_every_address_of_ours_is_our_own_where_we_listen_on_all(
    autojump_clock: trio.testing.MockClock,
) -> None:
    everywhere = frozenset({("0.0.0.0", 25)})
    ways = {FOUR: Way(), "127.0.0.9": Way()}
    result, net = await deliver(ways, own_sockets=everywhere, is_local={FOUR}.__contains__)
    assert outcome(result).enhanced == EnhancedCode(5, 4, 6)
    assert net.dialled == []


async def test_a_mail_exchanger_that_is_nowhere_fails_and_one_that_is_elsewhere_too_does_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    result, net = await deliver({"0.0.0.0": Way(), "::": Way(), "ff02::1": Way()})
    assert outcome(result).enhanced == EnhancedCode(5, 4, 4)
    assert "delivery.ignore_addresses" in outcome(result).why
    assert net.dialled == []
    result, net = await deliver({"255.255.255.255": Way(), FOUR: Way()})
    assert outcome(result).contact.address == FOUR
    assert "address-ignored" in {finding.code for finding in result.trace.findings}


async def test_a_host_that_a_route_names_may_be_anywhere(autojump_clock: trio.testing.MockClock) -> None:
    delivery = Delivery(ignore_addresses=("127.0.0.0/8",))
    result, _ = await deliver({"127.0.0.1": Way()}, delivery=delivery)
    assert outcome(result).enhanced == EnhancedCode(5, 4, 4)
    route = (Route(domains=("*",), via="smarthost", hosts=("mx.x.test",)),)
    result, _ = await deliver({"127.0.0.1": Way()}, delivery=delivery, route=route)
    assert isinstance(outcome(result), Delivered)


async def test_an_address_of_our_own_is_never_dialled(autojump_clock: trio.testing.MockClock) -> None:
    result, net = await deliver({SIX: Way(), FOUR: Way()}, own_sockets=frozenset({(SIX, 25)}))
    assert outcome(result).contact.address == FOUR
    assert net.dialled == [(FOUR, 0.0)]


async def test_who_runs_an_attempt_may_end_it_sooner(autojump_clock: trio.testing.MockClock) -> None:
    """Then it still says what is known."""
    for outer, sooner in ((5, True), (50, False)):
        began = trio.current_time()
        with trio.CancelScope(deadline=began + outer) as scope:
            async with trio.open_nursery() as nursery:
                net, clock = Net(nursery, {FOUR: Way(1000)}), WallClock(1_700_000_000.0)
                ours = agent(net, MemoryHints(clock=clock.now), clock, delivery=Delivery(deadline=20.0))
                who = (Recipient(0, Mailbox("a", "x.test")),)
                envelope = Envelope(MessageId("m"), None, who, len(BODY), False, clock.now())
                story = Attempt(ours, envelope, who, InlineContent(BODY))
                await story.run()
        assert scope.cancelled_caught is sooner
        assert trio.current_time() - began == pytest.approx(min(outer, 20))
        found = outcome(story.result())
        assert isinstance(found, Deferred)
        assert ("delivery.deadline" in found.why) is not sooner


@pytest.mark.parametrize(("theirs", "ends"), [(50, 20), (5, 5)])
async def test_an_attempt_ends_in_time_in_the_scope_that_it_is_given(
    autojump_clock: trio.testing.MockClock, theirs: float, ends: float
) -> None:
    """One scope does for it and for whoever runs it; the sooner of their deadlines counts."""
    took: list[float] = []
    async with trio.open_nursery() as nursery:
        net, clock = Net(nursery, {FOUR: Way(1000)}), WallClock(1_700_000_000.0)
        ours = agent(net, MemoryHints(clock=clock.now), clock, delivery=Delivery(deadline=20.0))
        who = (Recipient(0, Mailbox("a", "x.test")),)
        envelope = Envelope(MessageId("m"), None, who, len(BODY), False, clock.now())
        story = Attempt(ours, envelope, who, InlineContent(BODY), took=took.append)
        began = trio.current_time()
        with trio.CancelScope(deadline=began + theirs) as scope:
            await story.run(scope)
    assert scope.cancelled_caught
    assert scope.deadline - began == pytest.approx(ends)
    assert took == [pytest.approx(ends)]
    found = outcome(story.result())
    assert isinstance(found, Deferred)
    assert ("delivery.deadline" in found.why) is (ends == 20)


class Renumbered(Net):
    """DNS names one of its addresses, for a minute."""

    named = FOUR

    async def lookup(self, query: Query) -> Answer:
        if query.type is RecordType.A:
            return Found((AddressRecord(self.named),), False, 60)
        answer = await super().lookup(query)
        return replace(answer, ttl=60) if isinstance(answer, NoData) else answer


async def test_messages_share_what_was_decided_and_follow_what_changes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The same trace and outcome for the second message; another address as soon as DNS may name one."""
    async with trio.open_nursery() as nursery:
        net, clock = Renumbered(nursery, {FOUR: Way(), OTHER: Way()}), WallClock(1_700_000_000.0)
        cache = CachingResolver(net, now=trio.current_time, entries=100, max_ttl=1000)
        hints = MemoryHints(clock=clock.now)
        ours = replace(agent(net, hints, clock), resolver=cache)
        who = (Recipient(0, Mailbox("a", "x.test")),)

        async def send() -> AttemptResult:
            envelope = Envelope(MessageId("m"), None, who, len(BODY), False, clock.now())
            story = Attempt(ours, envelope, who, InlineContent(BODY))
            await story.run()
            return story.result()

        first = await send()
        second = await send()
        assert isinstance(outcome(first), Delivered)
        assert [(found.code, found.text) for found in second.trace.findings] == [
            (found.code, found.text) for found in first.trace.findings
        ]
        assert second.site == first.site == "10:mx.x.test:25/dane"
        assert events(second) == events(first)
        net.named = OTHER
        await send()
        await trio.sleep(60)
        assert isinstance(outcome(await send()), Delivered)
        nursery.cancel_scope.cancel()
    assert [address for address, _ in net.dialled] == [FOUR, FOUR, FOUR, OTHER]
