"""What is decided once for many messages changes as soon as what it rests on may have changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from deliver import course as courses
from deliver.addresses import Tries, targets_at
from deliver.course import Courses, Host
from deliver.net.address import Place
from deliver.net.clock import WallClock
from deliver.outcome import Place as Failed
from deliver.relay.route import Login, Reject, ViaMx, ViaSmarthost
from deliver.resolve.answer import (
    AddressRecord,
    Answer,
    Found,
    MxRecord,
    NoData,
    Query,
    RecordType,
)
from deliver.resolve.mx import HostPlan, MxPlan, NoHost
from deliver.settings import Route, Settings, Tls
from deliver.tls.policy import Authentication, Level, TlsPolicy
from hints.memory import MemoryHints
from hints.records import Feature, Reachability, Word
from tests.unit.courses import DOMAIN, EE, MX, OTHER, V4, Desk, Zone, known, policy, zone


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
