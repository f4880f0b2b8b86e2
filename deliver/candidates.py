"""From a route to candidate hosts, and from a host to its addresses and TLSA: what an attempt tries.

`deliver.attempt` delivers along it, `deliver.explanation` prints it: a domain is looked at in one way only.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Generator
from dataclasses import replace
from hashlib import sha256
from random import Random
from typing import Protocol, TypeVar

import trio
from msgspec import structs

from deliver.ignored import without_ignored
from deliver.level import Level
from deliver.message import literal_address
from deliver.relay.route import Reject, Route, ViaMx, ViaSmarthost
from deliver.report.trace import Finding, Stage, Verdict
from deliver.resolve.answer import Answer, Query, Unreachable
from deliver.resolve.cache import CachingResolver
from deliver.resolve.mx import HostPlan, MxPlan, MxTarget, NoHost, without_ourselves
from deliver.resolve.resolver import Resolver, drive
from deliver.resolve.sts import StsStanding, record_name
from deliver.resolve.tlsa import fits_a_name
from deliver.resolve.walk import Walked, find_host, find_mx, with_sts_record
from deliver.settings import Destination, Settings, Tls
from deliver.sts.standing import Policies
from deliver.tls.policy import Floor, floor_of_sts

MAX_SITE = 255  # characters
T = TypeVar("T")

_log = logging.getLogger("outrider.delivery")


class Seeker(Protocol):
    """What looking hosts up takes of a `deliver.agent.Agent`."""

    @property
    def settings(self) -> Settings:
        """The settings tree."""
        ...

    @property
    def resolver(self) -> Resolver:
        """Who is asked."""
        ...

    @property
    def rng(self) -> Random:
        """Orders hosts of one preference."""
        ...

    @property
    def own_names(self) -> frozenset[str]:
        """By which we recognise ourselves among the hosts."""
        ...

    @property
    def policies(self) -> Policies:
        """Who knows the MTA-STS policies."""
        ...


async def find_candidates(agent: Seeker, domain: str, route: ViaMx | ViaSmarthost) -> Walked[MxPlan]:
    """The hosts for `domain` along `route`, ourselves and everything behind us removed (RFC 5321 5.1)."""
    return (await find_candidates_while(agent, domain, route))[0]


async def find_candidates_while(
    agent: Seeker, domain: str, route: ViaMx | ViaSmarthost
) -> tuple[Walked[MxPlan], float]:
    """The same, and until when DNS says so, see `drive_while`."""
    if isinstance(route, ViaSmarthost) and route.mx is None:
        targets = tuple(MxTarget(host, 0, port or route.port) for host, port in route.hosts)
        return Walked(MxPlan(domain, targets, secure=True, level=route.level, named=True), ()), math.inf
    name = route.domain if isinstance(route, ViaMx) else route.mx
    assert name is not None
    walked, until = await drive_while(find_mx(name, agent.rng), agent.resolver)
    return _our_candidates(agent, domain, name, route, walked), until


def _our_candidates(
    agent: Seeker, domain: str, name: str, route: ViaMx | ViaSmarthost, walked: Walked[MxPlan]
) -> Walked[MxPlan]:
    if isinstance(walked.plan, NoHost):
        return walked
    plan = without_ourselves(walked.plan, agent.own_names)
    if not plan.targets:
        refusal = would_loop(domain, f"the best mail exchanger of {name} is this host itself")
        return Walked(refusal, (*walked.findings, refusal_finding(refusal)))
    if isinstance(route, ViaSmarthost):
        plan = replace(plan, targets=tuple(replace(target, port=route.port) for target in plan.targets))
    if plan is walked.plan and plan.level is route.level:
        return walked
    return Walked(replace(plan, level=route.level), walked.findings)


def site_of(agent: Seeker, domain: str, plan: MxPlan) -> str:
    """The same text for all domains whose mail goes to the same hosts, ports and settings.

    Their mail shares sessions, and what one of them meets the others would meet too.
    """
    parts = []
    for target in sorted(plan.targets, key=lambda target: (target.preference, target.host, target.port or 0)):
        destination = _destination(agent, domain, target.host, plan)
        port = target.port or destination.delivery.port
        parts.append(f"{target.preference}:{target.host}:{port}/{destination.tls.level}")
    text = ",".join(parts)
    if len(text) <= MAX_SITE:
        return text
    return f"{text[: MAX_SITE - 65]}#{sha256(text.encode()).hexdigest()}"


class _Dated:
    """A resolver that notes until when its answers count."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self.until = math.inf

    async def lookup(self, query: Query) -> Answer:
        answer = await self._resolver.lookup(query)
        expiry = self._resolver.expiry(query) if isinstance(self._resolver, CachingResolver) else 0.0
        self.until = min(self.until, expiry)
        return answer


async def drive_while(
    walk: Generator[tuple[Query, ...], tuple[Answer, ...], T], resolver: Resolver
) -> tuple[T, float]:
    """What the walk found, and until when the same would be found, by the resolver's clock.

    `math.inf` where nothing was asked, 0 where an answer is not kept.
    """
    dated = _Dated(resolver)
    result = await drive(walk, dated)
    return result, dated.until


class Candidate:
    """One host and its lookup; `ready` is set when `walked` holds the result, which counts `until` then.

    `domain_tls`: the settings for the domain, whatever its hosts.
    """

    def __init__(self, target: MxTarget, agent: Seeker, domain: str, plan: MxPlan) -> None:
        self.target = target
        self.destination = _destination(agent, domain, target.host, plan)
        self.port = target.port or self.destination.delivery.port
        self.ready = trio.Event()
        self.walked: Walked[HostPlan] | None = None
        self.until = 0.0  # see `drive_while`
        self._named, self._ignored = plan.named, self.destination.delivery.ignore_addresses
        self._resolver, self._policies = agent.resolver, agent.policies
        # an answer from DNS names the host: what the settings say of hosts decides only behind the policy
        tls = _tls_of(agent.settings.towards(domain, None), plan.level)
        self.domain_tls = tls
        self.plan = plan
        self._sts_domain = None
        if not plan.named:
            self._sts_domain = _sts_domain(tls, plan.domain) or _sts_domain(self.destination.tls, plan.domain)
        self.record: Answer | None = None  # to the question about the policy; None: it was not asked
        no_tlsa = _why_no_tlsa(self.destination.tls.level, plan)
        walk = find_host(
            target.host,
            port=self.port,
            families=self.destination.delivery.families,
            mx_secure=plan.secure,
            tlsa_unwanted=no_tlsa,
        )
        self._walk = with_sts_record(walk, self._sts_domain, at_once=no_tlsa is not None)

    async def look_up(self, limit: trio.CapacityLimiter) -> None:
        """Addresses and TLSA, as soon as there is room for one more lookup."""
        async with limit:
            await self.look_up_at_once()

    async def look_up_at_once(self) -> None:
        """The same, for the only host. Never raises: it must not end a delivery to another host."""
        try:
            (walked, self.record), self.until = await drive_while(self._walk, self._resolver)
            if self._sts_domain is not None and self.record is not None:
                walked = await self._under_sts(walked, self._sts_domain, self.record)
            self.walked = walked if self._named else without_ignored(walked, self._ignored)
        except Exception:
            _log.exception("looking up %s failed: another host is tried, or mail waits", self.target.host)
            self.walked, self.until = _unknown(self.target.host), 0.0
        self.ready.set()

    async def _under_sts(self, walked: Walked[HostPlan], domain: str, record: Answer) -> Walked[HostPlan]:
        """What was found, with how the domain stands to MTA-STS."""
        host = walked.plan
        if isinstance(host, NoHost):
            return walked
        stood = await self._policies.stand(domain, record, host.host)
        self.until = min(self.until, stood.until)
        standing = _excepted(stood.standing, host.host, self.destination.tls)
        return Walked(replace(host, sts=standing), (*walked.findings, *stood.findings))


def _destination(agent: Seeker, domain: str, host: str, plan: MxPlan) -> Destination:
    found = agent.settings.towards(domain, host)
    return found if plan.level is None else structs.replace(found, tls=_tls_of(found, plan.level))


def _tls_of(found: Destination, level: Level | None) -> Tls:
    """The TLS settings, with the level of a route that has one."""
    return found.tls if level is None else structs.replace(found.tls, level=level)


def _unknown(host: str) -> Walked[HostPlan]:
    why = f"{host} could not be looked up: an unexpected error, see the log"
    refusal = NoHost(why, False, (4, 3, 0), "lookup-broken", name=host)
    return Walked(refusal, (refusal_finding(refusal),))


def would_loop(domain: str, why: str) -> NoHost:
    """The refusal to send mail to ourselves."""
    return NoHost(f"mail for {domain} would loop: {why}", True, (5, 4, 6), "mx-ourselves", "RFC 5321 5.1")


def refusal_finding(refusal: NoHost) -> Finding:
    """A refusal of routing as evidence."""
    return Finding(Stage.ROUTE, refusal.code, refusal.why, Verdict.REFUSED, refusal.rfc)


def _sts_domain(tls: Tls, domain: str) -> str | None:
    """Whose MTA-STS policy counts, None: nobody's; `domain`: whose MX are looked up (RFC 8461 2)."""
    if not tls.mta_sts or tls.level in (Level.NONE, Level.DANE_ONLY):
        return None
    if literal_address(domain) is not None or not fits_a_name(record_name(domain)):
        return None
    return domain


def _excepted(standing: StsStanding, host: str, tls: Tls) -> StsStanding:
    """What is left of a policy by the settings for `host`: an exception holds for hosts that it names."""
    named = standing.policy is not None and standing.policy.covers(host)
    return StsStanding() if named and not tls.mta_sts else standing


async def owed_by_policy(
    agent: Seeker, domain: str, route: Route, record: Answer | None
) -> tuple[Floor, tuple[Finding, ...]]:
    """What the known MTA-STS policy demands of hosts, whatever DNS says of them now, and why.

    `record`: what was answered about it in this attempt; None: nothing, which may be an attacker's work.
    """
    if isinstance(route, Reject):
        return Floor.ANY, ()
    name = route.domain if isinstance(route, ViaMx) else route.mx
    tls = _tls_of(agent.settings.towards(domain, None), route.level)
    policy_of = None if name is None else _sts_domain(tls, name)
    if policy_of is None:
        return Floor.ANY, ()
    asked = Unreachable("it was not asked for") if record is None else record
    stood = await agent.policies.stand(policy_of, asked, None)
    unknown = stood.standing.unknown
    if unknown is None:
        return floor_of_sts(stood.standing), ()
    return floor_of_sts(stood.standing), (Finding(Stage.POLICY, "sts-unknown", unknown, rfc="RFC 8461 3.3"),)


def _why_no_tlsa(level: Level, plan: MxPlan) -> str | None:
    if not level.wants_tlsa:
        return f"the level {level} does not use DANE"
    if not (plan.secure or plan.implicit):
        return "the MX answer is not validated by DNSSEC"
    return None
