"""What is decided once for many messages changes as soon as what it rests on may have changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from deliver import course as courses
from deliver.addresses import Tries, targets_at
from deliver.course import Course, Courses, Host
from deliver.net.address import Place
from deliver.net.clock import WallClock
from deliver.outcome import Place as Failed
from deliver.relay.route import Login, Reject, ViaMx, ViaSmarthost
from deliver.report.trace import Finding, Stage
from deliver.resolve.answer import (
    AddressRecord,
    Answer,
    Found,
    MxRecord,
    NoData,
    Query,
    Record,
    RecordType,
    TlsaRecord,
    Unreachable,
)
from deliver.resolve.cache import CachingResolver
from deliver.resolve.mx import HostPlan, MxPlan, NoHost
from deliver.resolve.resolver import Resolver
from deliver.resolve.sts import Mode, StsPolicy, StsStanding
from deliver.settings import Route, Rule, Settings, Tls
from deliver.sts.standing import NoPolicies, Policies, Stood
from deliver.tls.policy import Authentication, Level, Refuse, TlsPolicy
from hints.memory import MemoryHints
from hints.records import Feature, Reachability, Word

DOMAIN, MX, OTHER = "example.org", "mx.example.org", "other.example.org"
V4 = "192.0.2.1"
EE = TlsaRecord(3, 1, 1, bytes(32))


@dataclass
class Zone:
    """Answers to be changed, and what was asked."""

    records: dict[Query, tuple[Record, ...]]
    ttl: int = 60
    asked: list[Query] = field(default_factory=list)
    broken: set[Query] = field(default_factory=set)

    async def lookup(self, query: Query) -> Answer:
        await trio.lowlevel.checkpoint()
        self.asked.append(query)
        if query in self.broken:
            return Unreachable("no answer")
        found = self.records.get(query)
        if found is None:
            return NoData(secure=True, ttl=self.ttl)
        return Found(found, secure=True, ttl=self.ttl)


def zone(*exchangers: MxRecord) -> Zone:
    return Zone(
        {
            Query(DOMAIN, RecordType.MX): exchangers or (MxRecord(10, MX),),
            Query(MX, RecordType.A): (AddressRecord(V4),),
            Query(OTHER, RecordType.A): (AddressRecord("192.0.2.2"),),
        }
    )


class Desk:
    """What a course takes of an agent, with a clock to be set."""

    own_names: frozenset[str] = frozenset()
    policies: Policies = NoPolicies()

    def __init__(self, upstream: Resolver, settings: Settings | None = None) -> None:
        self.time = 0.0
        self.settings = settings or Settings()
        self.resolver = CachingResolver(upstream, now=lambda: self.time, entries=100, max_ttl=1000)
        self.rng = Random(1)

    def course(self) -> Course:
        return Courses().of(self.settings, DOMAIN, "me@sender.test")


async def known(desk: Any, course: Course) -> list[Host]:
    """The hosts, looked up as an attempt does."""
    plan = (await course.candidates(desk)).plan
    assert isinstance(plan, MxPlan)
    hosts = [course.host(desk, target, plan) for target in plan.targets]
    for host in hosts:
        if host.walked is None:
            await host.look_up_at_once()
    return hosts


async def test_nothing_is_asked_or_decided_twice_while_the_answers_last() -> None:
    asked = zone()
    desk = Desk(asked)
    course = desk.course()
    (first,) = await known(desk, course)
    count = len(asked.asked)
    desk.time = 59.0
    (second,) = await known(desk, course)
    assert second is first
    assert len(asked.asked) == count
    assert course.site == f"10:{MX}:25/dane"


async def test_a_new_record_counts_as_soon_as_the_old_answer_is_over() -> None:
    """DNS now says DANE: no message goes under the policy of before."""
    asked = zone()
    desk = Desk(asked)
    course = desk.course()
    assert policy((await known(desk, course))[0]).authentication is Authentication.NONE
    asked.records[Query(f"_25._tcp.{MX}", RecordType.TLSA)] = (EE,)
    desk.time = 59.0
    assert policy((await known(desk, course))[0]).authentication is Authentication.NONE
    desk.time = 60.0
    assert policy((await known(desk, course))[0]).authentication is Authentication.DANE


def policy(host: Host) -> TlsPolicy:
    assert host.walked is not None
    assert isinstance(host.walked.plan, HostPlan)
    decided, _ = host.policy(host.walked.plan)
    assert not isinstance(decided, Refuse)
    return decided


async def test_another_exchanger_takes_over_when_the_answer_is_over() -> None:
    asked = zone()
    desk = Desk(asked)
    course = desk.course()
    await known(desk, course)
    asked.records[Query(DOMAIN, RecordType.MX)] = (MxRecord(10, OTHER),)
    desk.time = 60.0
    (host,) = await known(desk, course)
    assert host.target.host == OTHER
    assert course.site == f"10:{OTHER}:25/dane"


async def test_what_failed_is_asked_again_by_the_next_message() -> None:
    asked = zone()
    asked.broken.add(Query(MX, RecordType.A))
    desk = Desk(asked)
    course = desk.course()
    (host,) = await known(desk, course)
    assert host.walked is not None
    assert isinstance(host.walked.plan, NoHost)
    asked.broken.clear()
    (host,) = await known(desk, course)
    assert host.walked is not None
    assert isinstance(host.walked.plan, HostPlan)


async def test_a_resolver_that_keeps_nothing_is_asked_each_time() -> None:
    asked = zone()
    desk: Any = Desk(asked)
    desk.resolver = asked
    course = desk.course()
    await known(desk, course)
    count = len(asked.asked)
    await known(desk, course)
    assert len(asked.asked) == 2 * count


async def test_hosts_of_one_preference_are_shuffled_for_each_message() -> None:
    asked = zone(MxRecord(10, MX), MxRecord(10, OTHER))
    desk = Desk(asked)
    course = desk.course()
    orders = {tuple(host.target.host for host in await known(desk, course)) for _ in range(50)}
    assert orders == {(MX, OTHER), (OTHER, MX)}
    assert len([query for query in asked.asked if query.type is RecordType.A]) == 2
    assert len({id(host) for _ in range(5) for host in await known(desk, course)}) == 2


async def test_a_lookup_that_was_cut_off_leaves_nothing_behind() -> None:
    class Slow(Zone):
        async def lookup(self, query: Query) -> Answer:
            if query.type is RecordType.A and not self.asked:
                await trio.sleep_forever()
            return await super().lookup(query)

    asked = Slow(zone().records)
    desk = Desk(asked)
    course = desk.course()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(known, desk, course)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    asked.asked.append(Query("x", RecordType.A))
    with trio.fail_after(1):
        (host,) = await known(desk, course)
    assert host.ready.is_set()


async def test_a_lookup_that_began_under_other_candidates_is_not_kept() -> None:
    """What a host is asked for follows from its candidates: TLSA, for example, only of a signed zone's."""

    class Slow(Zone):
        secure = False
        late = trio.Event()

        async def lookup(self, query: Query) -> Answer:
            if query.type is RecordType.A:
                await self.late.wait()
            found = await super().lookup(query)
            assert isinstance(found, Found | NoData)
            return replace(found, secure=self.secure, ttl=5 if query.type is RecordType.MX else 600)

    asked = Slow(zone().records | {Query(f"_25._tcp.{MX}", RecordType.TLSA): (EE,)})
    desk = Desk(asked)
    course = desk.course()
    before = (await course.candidates(desk)).plan
    assert isinstance(before, MxPlan)
    stale = course.host(desk, before.targets[0], before)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stale.look_up_at_once)
        await trio.testing.wait_all_tasks_blocked()
        desk.time, asked.secure = 6.0, True
        after = (await course.candidates(desk)).plan
        assert isinstance(after, MxPlan)
        assert after.secure
        asked.late.set()
    host = course.host(desk, after.targets[0], after)
    assert host is not stale
    await host.look_up_at_once()
    assert host.walked is not None
    assert isinstance(host.walked.plan, HostPlan)
    policy, _ = host.policy(host.walked.plan)
    assert isinstance(policy, TlsPolicy)
    assert policy.authentication is Authentication.DANE


def test_senders_have_courses_of_their_own_only_where_a_route_names_some() -> None:
    mine = Route(senders=("me@*",), domains=("*",), via="smarthost", hosts=("relay.example.net",))
    for routes, same in (((), True), ((mine,), False)):
        settings, kept = Settings(route=routes), Courses()
        first, second = (kept.of(settings, DOMAIN, sender) for sender in ("me@a.test", "you@a.test"))
        assert (first is second) is same
        assert isinstance(first.route, ViaMx if same else ViaSmarthost)
        assert isinstance(second.route, ViaMx)
        assert kept.of(settings, DOMAIN, "me@a.test") is first
    refused = Courses().of(Settings(route=(Route(domains=("*",), via="reject"),)), DOMAIN, "")
    assert isinstance(refused.route, Reject)


def test_courses_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courses, "MAX_COURSES", 2)
    kept, settings = Courses(), Settings()
    first, second = (kept.of(settings, f"{name}.test", "") for name in "ab")
    assert kept.of(settings, "a.test", "") is first
    kept.of(settings, "c.test", "")
    assert kept.of(settings, "a.test", "") is first
    assert kept.of(settings, "b.test", "") is not second


async def test_a_password_raises_the_policy_of_the_course() -> None:
    route = Route(domains=("*",), via="smarthost", hosts=(MX,), username="u", password_file="p", port=587)
    desk = Desk(zone(), Settings(route=(route,)))
    course = desk.course()
    (host,) = await known(desk, course)
    assert host.login == Login("u", "p", route.auth)
    assert policy(host).authentication is Authentication.PKIX
    assert policy(host).level is Level.VERIFY
    assert host.port == 587


def agent(hints: MemoryHints, clock: WallClock, **parts: Any) -> Any:
    about: Mapping[str, Any] = {"own_sockets": frozenset(), "is_local": lambda _: False, **parts}
    return SimpleNamespace(hints=hints, clock=clock, **about)


async def a_host(desk: Desk) -> tuple[Host, HostPlan]:
    (host,) = await known(desk, desk.course())
    assert host.walked is not None
    assert isinstance(host.walked.plan, HostPlan)
    return host, host.walked.plan


async def test_hints_are_heeded_with_the_next_message(autojump_clock: Any) -> None:
    clock = WallClock(1000.0)
    hints = MemoryHints(clock=clock.now)
    ours = agent(hints, clock)
    host, plan = await a_host(Desk(zone()))
    first = await targets_at(ours, DOMAIN, host, plan, Tries())
    assert await targets_at(ours, DOMAIN, host, plan, Tries()) is first
    hints.note(Feature(MX, V4, 25, Word.CHUNKING, False), source="t", reason="t", now=clock.now())
    (target,) = (await targets_at(ours, DOMAIN, host, plan, Tries())).targets
    assert target.avoid == {Word.CHUNKING}
    (target,) = (await targets_at(ours, DOMAIN, host, plan, Tries(3))).targets
    assert target.avoid >= {Word.CHUNKING, Word.PRDR}, "every third attempt does without extras"
    assert (await targets_at(ours, DOMAIN, host, plan, Tries(2, Failed(MX, V4)))).targets


async def test_an_address_that_fails_lately_is_not_kept_as_tried_last(autojump_clock: Any) -> None:
    clock = WallClock(1000.0)
    hints = MemoryHints(clock=clock.now)
    ours = agent(hints, clock)
    asked = zone()
    asked.records[Query(MX, RecordType.A)] = (AddressRecord(V4), AddressRecord("192.0.2.9"))
    host, plan = await a_host(Desk(asked))
    hints.note(Reachability(MX, V4, 25, "no answer"), source="t", reason="t", now=clock.now())
    chosen = await targets_at(ours, DOMAIN, host, plan, Tries())
    assert [target.address for target in chosen.targets] == ["192.0.2.9", V4]
    await trio.sleep(301)
    chosen = await targets_at(ours, DOMAIN, host, plan, Tries())
    assert [target.address for target in chosen.targets] == [V4, "192.0.2.9"]


async def test_an_address_that_becomes_ours_is_refused_at_once(autojump_clock: Any) -> None:
    clock = WallClock(1000.0)
    local: set[str] = set()
    everywhere: frozenset[Place] = frozenset({("0.0.0.0", 25)})
    ours = agent(
        MemoryHints(clock=clock.now), clock, own_sockets=everywhere, is_local=lambda text: text in local
    )
    host, plan = await a_host(Desk(zone()))
    assert (await targets_at(ours, DOMAIN, host, plan, Tries())).targets
    local.add(V4)
    chosen = await targets_at(ours, DOMAIN, host, plan, Tries())
    assert not chosen.targets
    assert chosen.refusals


async def test_a_level_of_the_route_counts() -> None:
    route = Route(domains=("*",), via="mx", level=Level.ENCRYPT)
    desk = Desk(zone(), Settings(route=(route,), tls=Tls(level=Level.MAY)))
    host, _ = await a_host(desk)
    assert policy(host).level is Level.ENCRYPT


RECORD = Query(f"_mta-sts.{DOMAIN}", RecordType.TXT)
ENFORCED = StsPolicy(Mode.ENFORCE, (MX,), 86400)


@dataclass
class Standing:
    """Policies that say what the test says, by the clock of the desk."""

    stood: Stood = field(default_factory=lambda: Stood(StsStanding(ENFORCED)))
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def stand(self, domain: str, answer: Answer, host: str) -> Stood:
        await trio.lowlevel.checkpoint()
        self.asked.append((domain, host))
        return self.stood


async def test_the_policy_of_the_domain_counts_where_dane_does_not_decide() -> None:
    asked = zone()
    desk = Desk(asked)
    desk.policies = standing = Standing()
    assert policy((await known(desk, desk.course()))[0]).authentication is Authentication.PKIX
    assert standing.asked == [(DOMAIN, MX)]
    assert asked.asked[-1] == RECORD  # behind TLSA, whose absence had to be known


async def test_where_dane_decides_no_policy_is_asked_for() -> None:
    asked = zone()
    asked.records[Query(f"_25._tcp.{MX}", RecordType.TLSA)] = (EE,)
    desk = Desk(asked)
    desk.policies = standing = Standing()
    assert policy((await known(desk, desk.course()))[0]).authentication is Authentication.DANE
    assert standing.asked == []
    assert RECORD not in asked.asked


async def test_where_dane_fails_no_policy_is_asked_for() -> None:
    asked = zone()
    asked.broken.add(Query(f"_25._tcp.{MX}", RecordType.TLSA))
    desk = Desk(asked)
    desk.policies = standing = Standing()
    (host,) = await known(desk, desk.course())
    assert host.walked is not None
    assert isinstance(host.walked.plan, HostPlan)
    assert isinstance(host.policy(host.walked.plan)[0], Refuse)
    assert standing.asked == []


@pytest.mark.parametrize(
    "settings",
    [
        Settings(tls=Tls(mta_sts=False)),
        Settings(tls=Tls(level=Level.NONE)),
        Settings(rule=(Rule(domains=(DOMAIN,), tls={"mta_sts": False}),)),
        Settings(route=(Route(domains=("*",), via="smarthost", hosts=(MX,)),)),
    ],
)
async def test_where_no_policy_counts_none_is_asked_for(settings: Settings) -> None:
    asked = zone()
    desk = Desk(asked, settings)
    desk.policies = standing = Standing()
    await known(desk, desk.course())
    assert standing.asked == []
    assert RECORD not in asked.asked


async def test_the_policy_of_a_smarthost_by_mx_is_that_of_its_own_domain() -> None:
    route = Route(domains=("*",), via="smarthost", mx=DOMAIN)
    desk = Desk(zone(), Settings(route=(route,)))
    desk.policies = standing = Standing()
    course = Courses().of(desk.settings, "elsewhere.test", "me@sender.test")
    assert policy((await known(desk, course))[0]).authentication is Authentication.PKIX
    assert standing.asked == [(DOMAIN, MX)]


async def test_a_decision_lasts_no_longer_than_the_policy() -> None:
    desk = Desk(zone())
    desk.policies = standing = Standing(Stood(StsStanding(ENFORCED), until=30.0))
    course = desk.course()
    await known(desk, course)
    desk.time = 29.0
    await known(desk, course)
    assert len(standing.asked) == 1
    standing.stood = Stood(StsStanding())
    desk.time = 30.0
    assert policy((await known(desk, course))[0]).authentication is Authentication.NONE
    assert len(standing.asked) == 2


async def test_a_decision_lasts_no_longer_than_the_record() -> None:
    asked = zone()
    desk = Desk(asked)
    desk.policies = standing = Standing(Stood(StsStanding()))
    course = desk.course()
    await known(desk, course)
    standing.stood = Stood(StsStanding(ENFORCED))
    desk.time = 60.0
    assert policy((await known(desk, course))[0]).authentication is Authentication.PKIX


async def test_what_was_found_of_a_policy_is_told() -> None:
    finding = Finding(Stage.POLICY, "sts-found", "it has one")
    desk = Desk(zone())
    desk.policies = Standing(Stood(StsStanding(ENFORCED), (finding,)))
    (host,) = await known(desk, desk.course())
    assert host.walked is not None
    assert finding in host.walked.findings
