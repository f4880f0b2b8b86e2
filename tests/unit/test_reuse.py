"""Several messages over one session, through the miniature Internet: what may share one, and what may not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio

from deliver import reusing
from deliver.agent import Agent
from deliver.assembly import build_agent
from deliver.attempt import Attempt
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.net.clock import WallClock
from deliver.outcome import AttemptResult, Deferred, Delivered, Failed, Outcome
from deliver.pool import SessionPool
from deliver.queue.content import InlineContent
from deliver.report.result import as_dict
from deliver.settings import Delivery, Dns, Duration, Pool, Route, Rule, Settings, Tls
from deliver.tls.judge import judge as tls_judge
from deliver.tls.policy import TlsPolicy
from deliver.tls.verdict import Handshake, TlsVerdict
from events.catalogue import Event, vocabulary_problems
from events.port import Allow, Refuse
from hints.memory import MemoryHints
from hints.records import Feature, Note, Word
from tests.internet import World
from tests.internet.behaviour import Behaviour, Drop, Silence
from tests.internet.sites import OTHER_KEY

BODY = b"Subject: hello\r\n\r\n.a line with a dot\r\nlast\r\n"


class Desk:
    """An agent with a pool, and the messages that it sends one after the other."""

    def __init__(self, world: World, agent: Agent, pool: SessionPool, told: list[Event]) -> None:
        self.world = world
        self.agent = agent
        self.pool = pool
        self.told = told
        self.serial = 0

    def attempt(self, *boxes: str) -> Attempt:
        self.serial += 1
        recipients = tuple(Recipient(place, Mailbox.parse(box)) for place, box in enumerate(boxes))
        envelope = Envelope(
            MessageId(f"m{self.serial}"),
            Mailbox("me", "sender.test"),
            recipients,
            len(BODY),
            False,
            self.agent.clock.now(),
        )
        return Attempt(self.agent, envelope, recipients, InlineContent(BODY))

    async def send(self, *boxes: str) -> AttemptResult:
        story = self.attempt(*boxes)
        await story.run()
        return story.result()

    async def deliver(self, box: str) -> Delivered:
        outcome = only(await self.send(box))
        assert isinstance(outcome, Delivered), outcome
        return outcome

    def connections(self, host: str) -> int:
        return len(self.world.server(host).connections)

    def verbs(self, host: str, connection: int = 0) -> list[str]:
        return [command.verb for command in self.world.server(host).connections[connection].commands]


def only(result: AttemptResult) -> Outcome:
    ((_, outcome),) = result.outcomes
    return outcome


def codes(result: AttemptResult) -> list[str]:
    return [finding.code for finding in result.trace.findings]


@pytest.fixture
async def desk(world: World, tmp_path: Path) -> AsyncIterator[Desk]:
    told: list[Event] = []

    async def tell(events: Any) -> None:
        told.extend(events)

    async with SessionPool(Pool(), tell).open() as pool:
        yield Desk(world, agent(world, tmp_path, pool), pool, told)


def agent(world: World, tmp_path: Path, pool: SessionPool, **sections: Any) -> Agent:
    anchors = str(world.write_trust_anchor(tmp_path))
    settings = Settings(
        state_dir=str(tmp_path),
        **{
            "dns": Dns(resolvers=(world.resolver.endpoint,), trust_anchors=anchors, timeout=2, attempts=1),
            "tls": Tls(trust_store=str(world.write_trust_store(tmp_path))),
            "delivery": Delivery(port=world.port, helo="relay.example.org"),
            **sections,
        },
    )
    clock = WallClock()
    hints = MemoryHints(clock=clock.now)
    return build_agent(settings, hints=hints, clock=clock, rng=Random(1), learner="test", pool=pool)


def with_settings(desk: Desk, **sections: Any) -> Desk:
    """The same pool under other settings."""
    base = desk.agent.settings
    changed = Settings(**{name: sections.get(name, getattr(base, name)) for name in base.__struct_fields__})
    return Desk(desk.world, replace(desk.agent, settings=changed), desk.pool, desk.told)


@pytest.mark.parametrize("domain", ["plain.test", "dane-ee.test", "dane-ta.test", "insecure.test"])
async def test_twenty_messages_go_over_one_connection(desk: Desk, domain: str) -> None:
    first = await desk.deliver(f"a@{domain}")
    assert not first.contact.reused
    for _ in range(19):
        outcome = await desk.deliver(f"a@{domain}")
        assert outcome.contact.reused
        assert replace(outcome.contact, reused=False) == first.contact
    assert desk.connections(f"mx.{domain}") == 1
    assert len(desk.world.messages) == 20
    assert desk.world.violations == ()
    said = desk.verbs(f"mx.{domain}")
    assert said.count("MAIL") == 20
    assert not {"RSET", "NOOP", "QUIT"} & set(said), "the next MAIL follows the final reply"


async def test_a_message_costs_only_what_it_cost(desk: Desk) -> None:
    first, second = await desk.send("a@dane-ee.test"), await desk.send("a@dane-ee.test")

    def trips(result: AttemptResult) -> int:
        return int(as_dict(*result.outcomes[0], result.trace)["round_trips"])

    assert trips(first) > 5
    assert trips(second) == 2, "MAIL, RCPT and DATA, then the content"
    assert "reused" in codes(second)
    assert "dane-ee-match" in codes(second), "judged again"


async def test_the_events_of_a_message_over_an_open_session(desk: Desk) -> None:
    await desk.send("a@dane-ee.test")
    result = await desk.send("a@dane-ee.test")
    (event,) = result.trace.events
    assert event.name == "msg:delivery", "no connection was opened"
    assert vocabulary_problems(event.name, event.fields) == ()
    delivery = event.fields
    assert delivery["connection_reused"] == 1
    assert delivery["message_id"] == "m2"
    assert (delivery["host"], delivery["tls_out_dane"]) == ("mx.dane-ee.test", "yes")


async def test_the_end_of_a_session_is_told_once(world: World, tmp_path: Path) -> None:
    told: list[Event] = []

    async def tell(events: Any) -> None:
        told.extend(events)

    async with SessionPool(Pool(), tell).open() as pool:
        desk = Desk(world, agent(world, tmp_path, pool), pool, told)
        for _ in range(2):
            result = await desk.send("a@dane-ee.test")
            assert "tcp:close" not in [event.name for event in result.trace.events]
    assert [(event.name, event.fields["message_id"]) for event in told] == [("tcp:close", "m2")]
    await world.server("mx.dane-ee.test").wait_for_end()
    assert desk.verbs("mx.dane-ee.test")[-1] == "QUIT"


async def test_several_domains_share_a_session_with_their_host(desk: Desk) -> None:
    hosts = Route(domains=("*",), via="smarthost", hosts=("mx.plain.test",))
    desk = with_settings(desk, route=(hosts,))
    for domain in ("one.test", "two.test", "three.test"):
        await desk.deliver(f"a@{domain}")
    assert desk.connections("mx.plain.test") == 1


OTHER_TERMS = {
    "level": {"tls": {"level": "encrypt"}},
    "minimum version": {"tls": {"min_version": "1.3"}},
    "trust store": {"tls": {"trust_store": "other.pem"}},
    "names": {"tls": {"verify_names": ["other.test"]}},
    "our name": {"delivery": {"helo": "other.example.org"}},
    "source": {"delivery": {"source_ipv4": "127.0.0.9"}},
}


@pytest.mark.parametrize("changed", OTHER_TERMS.values(), ids=OTHER_TERMS)
async def test_other_terms_want_another_session(desk: Desk, changed: dict[str, Any]) -> None:
    await desk.deliver("a@insecure.test")
    other = with_settings(desk, rule=(Rule(domains=("insecure.test",), **changed),))
    outcome = await other.deliver("a@insecure.test")
    assert not outcome.contact.reused
    assert desk.connections("mx.insecure.test") == 2


async def test_an_opportunistic_session_never_serves_mail_that_wants_more(desk: Desk) -> None:
    await desk.deliver("a@insecure.test")
    strict = with_settings(desk, rule=(Rule(domains=("insecure.test",), tls={"level": "verify"}),))
    result = await strict.send("a@insecure.test")
    outcome = only(result)
    assert isinstance(outcome, Deferred)
    assert "not authenticated" in outcome.why
    assert "reused" not in codes(result)


async def test_a_session_in_clear_text_never_serves_mail_that_wants_tls(desk: Desk) -> None:
    await desk.deliver("a@plain.test")
    strict = with_settings(desk, rule=(Rule(domains=("plain.test",), tls={"level": "encrypt"}),))
    outcome = only(await strict.send("a@plain.test"))
    assert isinstance(outcome, Deferred)
    assert "STARTTLS" in outcome.why


async def test_records_that_no_longer_match_end_the_reuse(desk: Desk) -> None:
    await desk.deliver("a@dane-ee.test")
    domain = desk.world.domains["dane-ee.test"]
    desk.world.publish(replace(domain, tlsa=tuple((owner, OTHER_KEY) for owner, _ in domain.tlsa)))
    without_cache = agent(desk.world, Path(desk.agent.settings.state_dir), desk.pool).resolver
    desk.agent = replace(desk.agent, resolver=without_cache)
    result = await desk.send("a@dane-ee.test")
    assert isinstance(only(result), Deferred)
    assert "reuse-refused" in codes(result)
    assert "tlsa-mismatch" in codes(result)
    assert len(desk.world.messages) == 1


class Later:
    """A clock that can be put forward."""

    def __init__(self) -> None:
        self.offset = 0.0
        self._clock = WallClock()

    def now(self) -> float:
        return self._clock.now() + self.offset


async def test_a_certificate_that_has_expired_meanwhile_ends_the_reuse(desk: Desk) -> None:
    clock = Later()
    # the resolver keeps its own time, so that only the certificate expires
    desk.agent = replace(desk.agent, clock=clock)
    await desk.deliver("a@dane-ta.test")
    clock.offset = 50 * 365 * 86400.0
    result = await desk.send("a@dane-ta.test")
    assert isinstance(only(result), Deferred)
    assert {"reuse-refused", "expired"} <= set(codes(result))


async def test_a_verdict_serves_the_messages_of_a_moment(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[float] = []

    def judge(policy: TlsPolicy, evidence: Handshake, now: float, *against: Any) -> TlsVerdict:
        judged.append(now)
        return tls_judge(policy, evidence, now, *against)

    class Still(Later):
        def now(self) -> float:
            return start + self.offset

    monkeypatch.setattr(reusing, "judge", judge)
    start = desk.agent.clock.now()
    clock = Still()
    desk.agent = replace(desk.agent, clock=clock)
    await desk.deliver("a@dane-ta.test")
    for clock.offset in (0.0, 0.5, 0.9, 1.0, 1.5, 0.2):
        result = await desk.send("a@dane-ta.test")
        assert "dane-ta-match" in codes(result), "told to each of them"
    assert [round(now - start, 3) for now in judged] == [0.0, 1.0, 0.2], "also after the clock was set back"


@pytest.mark.parametrize(
    "ending",
    [
        Drop("421 4.4.2 idle for too long"),
        Drop(),
        Drop(reset=True),
        "421 4.7.0 too many",
        "451 4.3.0 no more",
    ],
    ids=str,
)
async def test_a_session_that_ends_at_mail_is_no_deferral(desk: Desk, ending: Any) -> None:
    """The server refuses the second MAIL of a connection; a new connection carries the message."""
    server = desk.world.server("mx.dane-ee.test")
    server.behaviour = Behaviour(replies={"MAIL": (None, ending)})
    await desk.deliver("a@dane-ee.test")
    result = await desk.send("a@dane-ee.test")
    outcome = only(result)
    assert isinstance(outcome, Delivered)
    assert not outcome.contact.reused
    assert "reuse-failed" in codes(result)
    names = [event.name for event in result.trace.events]
    assert "msg:defer" not in names
    assert "msg:host:defer" not in names
    assert len(desk.world.messages) == 2
    assert await desk.agent.hints.look("mx.dane-ee.test", (outcome.contact.address,), desk.world.port)


async def test_that_chunks_are_taken_is_noted_once_for_a_connection(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections: list[list[bytes]] = []
    noted: list[Note] = []
    note = desk.agent.hints.note

    def noting(one: Note, **more: Any) -> None:
        noted.append(one)
        note(one, **more)

    async def take_chunks(stream: trio.SocketStream) -> None:
        seen: list[bytes] = []
        connections.append(seen)
        await stream.send_all(b"220 chunky ESMTP\r\n")
        async for data in stream:
            seen.append(bytes(data))
            if data.startswith(b"EHLO"):
                await stream.send_all(b"250-chunky\r\n250-PIPELINING\r\n250 CHUNKING\r\n")
            elif b" LAST\r\n" in data:
                await stream.send_all(b"250 sender\r\n250 recipient\r\n250 taken\r\n")

    monkeypatch.setattr(desk.agent.hints, "note", noting)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    place = f"[127.0.0.1]:{listener.socket.getsockname()[1]}"
    ours = with_settings(desk, route=(Route(domains=("*",), via="smarthost", hosts=(place,)),))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, take_chunks, [listener])
        for _ in range(3):
            await ours.deliver("a@x.test")
        nursery.cancel_scope.cancel()
    (seen,) = connections
    assert sum(b"BDAT" in data for data in seen) == 3
    chunking = [one for one in noted if isinstance(one, Feature) and one.word is Word.CHUNKING]
    assert [one.worked for one in chunking] == [True]


async def test_a_chunk_on_a_session_that_had_ended_is_no_proof_against_chunking(desk: Desk) -> None:
    server = desk.world.server("mx.plain.test")
    server.behaviour = Behaviour(replies={"MAIL": (None, Drop())})
    await desk.deliver("a@plain.test")
    outcome = await desk.deliver("a@plain.test")
    (view,) = await desk.agent.hints.look("mx.plain.test", (outcome.contact.address,), desk.world.port)
    assert view.works(Word.CHUNKING) is not False


async def test_a_refusal_for_good_of_a_second_message_is_confirmed_on_a_new_connection(desk: Desk) -> None:
    server = desk.world.server("mx.plain.test")
    server.behaviour = Behaviour(replies={"MAIL": (None, "503 5.5.1 nested MAIL", "550 5.7.1 not you")})
    await desk.deliver("a@plain.test")
    outcome = only(await desk.send("a@plain.test"))
    assert isinstance(outcome, Failed)
    assert outcome.reply is not None
    assert outcome.reply.code == 550
    assert desk.connections("mx.plain.test") == 2


async def test_in_doubt_on_a_reused_session_is_in_doubt(desk: Desk) -> None:
    server = desk.world.server("mx.plain.test")
    server.behaviour = Behaviour(replies={"DOT": (None, Drop())})
    await desk.deliver("a@plain.test")
    outcome = only(await desk.send("a@plain.test"))
    assert isinstance(outcome, Deferred)
    assert outcome.in_doubt
    assert desk.connections("mx.plain.test") == 1


async def test_a_goodbye_while_idle_is_heard_and_costs_nothing(desk: Desk) -> None:
    server = desk.world.server("mx.plain.test")
    server.behaviour = Behaviour(replies={"DOT": (Drop("250 2.0.0 Taken"),)})
    await desk.deliver("a@plain.test")
    with trio.fail_after(5):
        while desk.pool.count:
            await trio.lowlevel.checkpoint()
    result = await desk.send("a@plain.test")
    assert isinstance(only(result), Delivered)
    assert "reuse-failed" not in codes(result), "nobody tried"
    assert desk.connections("mx.plain.test") == 2


async def test_a_refused_recipient_does_not_end_a_session(desk: Desk) -> None:
    server = desk.world.server("mx.plain.test")
    server.behaviour = Behaviour(replies={"RCPT": ("550 5.1.1 no such user",)})
    assert isinstance(only(await desk.send("gone@plain.test")), Failed)
    outcome = await desk.deliver("a@plain.test")
    assert outcome.contact.reused
    assert desk.verbs("mx.plain.test").count("RSET") == 1
    assert desk.world.violations == ()


@pytest.mark.parametrize("point", ["MAIL", "DATA", "CONTENT", "DOT"])
async def test_a_cancelled_message_never_leaves_its_session_to_others(desk: Desk, point: str) -> None:
    server = desk.world.server("mx.plain.test")
    server.behaviour = Behaviour(replies={point: (None, Silence())})
    await desk.deliver("a@plain.test")
    assert desk.pool.count == 1
    story = desk.attempt("b@plain.test")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(story.run)
        with trio.fail_after(5):
            while desk.verbs("mx.plain.test").count(point if point == "MAIL" else "DATA") < 2:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert isinstance(only(story.result()), Deferred)
    assert desk.pool.count == 0
    assert desk.connections("mx.plain.test") == 1


async def test_mailmax_is_counted_over_all_messages(desk: Desk) -> None:
    server = desk.world.server("mx.plain.test")
    server.behaviour = Behaviour(keywords=("PIPELINING", "LIMITS MAILMAX=2"))
    for _ in range(5):
        await desk.deliver("a@plain.test")
    assert desk.connections("mx.plain.test") == 3
    assert [desk.verbs("mx.plain.test", number).count("MAIL") for number in range(3)] == [2, 2, 1]


async def test_two_at_a_time_never_share_a_session(desk: Desk) -> None:
    await desk.deliver("a@plain.test")
    stories = [desk.attempt("a@plain.test") for _ in range(5)]
    async with trio.open_nursery() as nursery:
        for story in stories:
            nursery.start_soon(story.run)
    for story in stories:
        assert isinstance(only(story.result()), Delivered)
    assert len(desk.world.messages) == 6
    assert desk.world.violations == ()
    assert 2 <= desk.connections("mx.plain.test") <= 5


class Gate:
    """Refuses what `refuse` says, and remembers what it was asked."""

    open = False

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.refuse: set[tuple[str, str]] = set()

    async def consult(self, event: Event) -> Allow | Refuse:
        question = (event.name, str(event.fields["message_id"]))
        self.asked.append(question)
        return Refuse("not this one") if question in self.refuse else Allow()

    def watches(self, name: str, fields: object) -> bool:
        return True


async def test_the_actions_asked_are_those_of_today(desk: Desk) -> None:
    """A session outlives the settings that it was opened under."""
    await desk.deliver("a@dane-ee.test")
    gate = Gate()
    gate.refuse.add(("tls:cert", "m2"))
    desk.agent = replace(desk.agent, gate=gate)
    assert isinstance(only(await desk.send("a@dane-ee.test")), Deferred)


@pytest.mark.parametrize("name", ["tcp:connect", "smtp:connect", "tls:cert"])
async def test_an_action_is_asked_for_each_message_and_may_refuse_one(desk: Desk, name: str) -> None:
    gate = Gate()
    desk.agent = replace(desk.agent, gate=gate)
    gate.refuse.add((name, "m2"))
    await desk.deliver("a@dane-ee.test")
    result = await desk.send("a@dane-ee.test")
    outcome = only(result)
    assert isinstance(outcome, Deferred)
    assert "not this one" in outcome.why
    assert (await desk.deliver("a@dane-ee.test")).contact.reused, "nothing was wrong with the session"
    assert desk.connections("mx.dane-ee.test") == 1
    for number in ("m1", "m2", "m3"):
        assert (name, number) in gate.asked


async def test_a_slow_reader_of_one_session_is_not_asked_to_take_another(desk: Desk) -> None:
    """A session whose last message is not over is never in the pool."""
    server = desk.world.server("mx.plain.test")
    server.behaviour = Behaviour(replies={"DOT": (Silence(),)})
    stuck, free = desk.attempt("a@plain.test"), desk.attempt("b@plain.test")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stuck.run)
        await server.wait_for(lambda server: bool(server.received))
        await free.run()
        nursery.cancel_scope.cancel()
    assert isinstance(only(free.result()), Delivered)
    assert desk.connections("mx.plain.test") == 2


async def test_no_time_to_wait_means_a_connection_per_message(world: World, tmp_path: Path) -> None:
    async with SessionPool(Pool(idle=Duration(0))).open() as pool:
        desk = Desk(world, agent(world, tmp_path, pool), pool, [])
        for _ in range(3):
            await desk.deliver("a@plain.test")
    assert desk.connections("mx.plain.test") == 3
