"""When the MTA-STS policy of a domain is asked for, and for how long what follows from it counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from deliver.course import Courses
from deliver.report.trace import Finding, Stage
from deliver.resolve.answer import (
    Answer,
    Query,
    RecordType,
)
from deliver.resolve.mx import HostPlan, NoHost
from deliver.resolve.sts import Mode, StsPolicy, StsStanding
from deliver.settings import Route, Rule, Settings, Tls
from deliver.sts.standing import Stood
from deliver.tls.policy import Authentication, Level, Refuse, TlsPolicy
from tests.unit.courses import DOMAIN, EE, MX, Desk, known, policy, zone

RECORD = Query(f"_mta-sts.{DOMAIN}", RecordType.TXT)
ENFORCED = StsPolicy(Mode.ENFORCE, (MX,), 86400)


@dataclass
class Standing:
    """Policies that say what the test says, by the clock of the desk."""

    stood: Stood = field(default_factory=lambda: Stood(StsStanding(ENFORCED)))
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    async def stand(self, domain: str, answer: Answer, host: str | None) -> Stood:
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


@pytest.mark.parametrize("level", [Level.MAY, Level.TRY_VERIFY, Level.ENCRYPT, Level.VERIFY])
async def test_the_policy_of_the_domain_counts_at_the_other_levels(level: Level) -> None:
    desk = Desk(zone(), Settings(tls=Tls(level=level)))
    desk.policies = standing = Standing()
    assert policy((await known(desk, desk.course()))[0]).authentication is Authentication.PKIX
    assert standing.asked == [(DOMAIN, MX)]


@pytest.mark.parametrize("exception", [{"level": "none"}, {"mta_sts": False}])
@pytest.mark.parametrize("covered", [False, True])
async def test_a_rule_for_a_host_counts_for_hosts_that_the_policy_names(
    exception: dict[str, Any], covered: bool
) -> None:
    """Else whoever forges an MX chooses the exception."""
    desk = Desk(zone(), Settings(rule=(Rule(hosts=(MX,), tls=exception),)))
    enforced = StsPolicy(Mode.ENFORCE, (MX,) if covered else ("mx2.example.org",), 86400)
    desk.policies = Standing(Stood(StsStanding(enforced)))
    (host,) = await known(desk, desk.course())
    assert host.walked is not None
    assert isinstance(host.walked.plan, HostPlan)
    decided, _ = host.policy(host.walked.plan)
    if covered:
        assert isinstance(decided, TlsPolicy)
        assert not decided.required
    else:
        assert isinstance(decided, Refuse)
        assert decided.finding.code == "sts-mx-mismatch"


@pytest.mark.parametrize(
    "settings",
    [
        Settings(tls=Tls(mta_sts=False), rule=(Rule(hosts=(MX,), tls={"mta_sts": True}),)),
        Settings(tls=Tls(level=Level.NONE), rule=(Rule(hosts=(MX,), tls={"level": "may"}),)),
        Settings(tls=Tls(level=Level.NONE), route=(Route(domains=("*",), via="mx", level=Level.MAY),)),
    ],
)
async def test_a_rule_or_a_route_may_ask_for_more(settings: Settings) -> None:
    desk = Desk(zone(), settings)
    desk.policies = Standing()
    assert policy((await known(desk, desk.course()))[0]).authentication is Authentication.PKIX


async def test_a_mistake_costs_no_more_than_this_message() -> None:
    class Wrong(Standing):
        async def stand(self, domain: str, answer: Answer, host: str | None) -> Stood:
            await super().stand(domain, answer, host)
            raise RuntimeError("a bug")

    desk = Desk(zone())
    desk.policies = Wrong()
    course = desk.course()
    (host,) = await known(desk, course)
    assert host.walked is not None
    assert isinstance(host.walked.plan, NoHost)
    assert not host.walked.plan.permanent
    desk.policies = Standing()
    assert policy((await known(desk, course))[0]).authentication is Authentication.PKIX


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
        Settings(route=(Route(domains=("*",), via="mx", level=Level.NONE),)),
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
