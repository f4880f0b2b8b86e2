"""Courses of one domain, over a zone that is changed and a clock that is set."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

import trio

from deliver.course import Course, Courses, Host
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
from deliver.resolve.mx import HostPlan, MxPlan
from deliver.resolve.resolver import Resolver
from deliver.settings import Settings
from deliver.sts.standing import NoPolicies, Policies
from deliver.tls.policy import Refuse, TlsPolicy

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


def policy(host: Host) -> TlsPolicy:
    assert host.walked is not None
    assert isinstance(host.walked.plan, HostPlan)
    decided, _ = host.policy(host.walked.plan)
    assert not isinstance(decided, Refuse)
    return decided
