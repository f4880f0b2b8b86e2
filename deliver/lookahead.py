"""Names looked up ahead of the attempts that will ask for them, so that a resolver's cache knows the answers.

Nothing is decided here: the attempt looks up by itself whatever the cache does not know, and is told again
what failed here (see `deliver.lookup.caching_resolver`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random

import trio

from deliver.candidates import Candidate, find_candidates
from deliver.relay.route import Reject, choose
from deliver.resolve.mx import NoHost
from deliver.resolve.resolver import Resolver
from deliver.settings import Settings
from deliver.sts.standing import NoPolicies, Policies

DOMAINS = 20  # looked up at a time
HOSTS = 5  # of one domain, looked up at a time

_log = logging.getLogger("outrider.delivery")


@dataclass(frozen=True, slots=True)
class Ahead:
    """A `deliver.candidates.Seeker` without an agent around it."""

    settings: Settings
    resolver: Resolver
    rng: Random
    own_names: frozenset[str] = frozenset()
    policies: Policies = field(default_factory=NoPolicies)  # their records are looked up, no more


async def look_ahead(seeker: Ahead, sender: str, domains: Iterable[str]) -> None:
    """Ask what attempts for these domains will ask for mail of `sender`; never raises an Exception."""
    some = trio.CapacityLimiter(DOMAINS)
    async with trio.open_nursery() as nursery:
        for domain in dict.fromkeys(domains):
            nursery.start_soon(_look_up, seeker, sender, domain, some)


async def _look_up(seeker: Ahead, sender: str, domain: str, some: trio.CapacityLimiter) -> None:
    try:
        async with some:
            route = choose(seeker.settings.route, domain, sender)
            if isinstance(route, Reject):
                return
            plan = (await find_candidates(seeker, domain, route)).plan
            if isinstance(plan, NoHost):
                return
            hosts = trio.CapacityLimiter(HOSTS)
            async with trio.open_nursery() as nursery:
                for target in plan.targets:
                    nursery.start_soon(Candidate(target, seeker, domain, plan).look_up, hosts)
    except Exception as error:  # the attempt meets it again, and says it
        _log.debug("looking ahead for %s: %r", domain, error)
