"""What a delivery takes from outside, built from the settings; with or without a queue around it."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from random import Random

import trio

from deliver.agent import Agent
from deliver.identity import host_name
from deliver.lookup import caching_resolver
from deliver.net.address import Place
from deliver.net.clock import Clock
from deliver.net.dial import TcpDialer
from deliver.pool import NoPool, Pool
from deliver.queue.lanes import Lanes, Occupancy
from deliver.queue.share import WHOLE, Share
from deliver.queue.terms import lanes_of, limits_of, source_addresses
from deliver.queue.throttle import Throttle
from deliver.queue.turns import Turns
from deliver.resolve.resolver import Resolver
from deliver.settings import Settings
from deliver.sts.policies import KeptPolicies
from deliver.sts.source import PolicySource, Postponed
from deliver.tls.pkix import TrustStore
from events.port import EventGate, OpenGate
from hints.memory import MemoryHints
from hints.port import Hints
from hints.sql import SqlHints

_log = logging.getLogger("outrider.service")


def open_hints(settings: Settings, clock: Clock) -> Hints:
    """The hints of the settings; in memory, and said so, where the state directory cannot be written."""
    if settings.hints.url == "memory":
        return MemoryHints(clock=clock.now)
    try:
        Path(settings.state_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        _log.warning("%s: %s; nothing is remembered beyond this run", settings.state_dir, error.strerror)
        return MemoryHints(clock=clock.now)
    url = settings.database_url(settings.hints.url)
    return SqlHints(url, clock=clock.now, max_size=settings.hints.max_size)


def build_agent(
    settings: Settings,
    *,
    hints: Hints,
    clock: Clock,
    rng: Random,
    learner: str,
    own_sockets: frozenset[Place] = frozenset(),
    gate: EventGate | None = None,
    pool: Pool | None = None,
    resolver: Resolver | None = None,
) -> Agent:
    """Everything that a delivery takes from outside. Raises ConfigurationError for unusable resolvers.

    `resolver`: one that is in use already; without it that of the settings.
    """
    resolver = caching_resolver(settings, clock) if resolver is None else resolver
    helo = host_name(settings.delivery.helo)
    names = (helo, settings.relay.hostname, *settings.relay.local_names)
    return Agent(
        settings=settings,
        resolver=resolver,
        dialer=TcpDialer(),
        hints=hints,
        clock=clock,
        rng=rng,
        trust=TrustStore.load,
        helo=helo,
        learner=learner,
        own_names=frozenset(name for name in names if name),
        own_sockets=own_sockets,
        gate=gate or OpenGate(),
        pool=NoPool() if pool is None else pool,
        policies=_policies(settings, resolver, hints, clock, learner),
    )


def _policies(
    settings: Settings, resolver: Resolver, hints: Hints, clock: Clock, learner: str
) -> KeptPolicies:
    """Those of the web, whose hosts are looked up and judged as mail's own are."""

    def web() -> PolicySource:
        from deliver.sts.fetch import HttpsSource

        store = settings.tls.trust_store
        return HttpsSource(
            resolver,
            TcpDialer(),
            families=settings.delivery.families,
            ignored=settings.delivery.ignore_addresses,
            trust_store=None if store is None else str(settings.path(store)),
            port=settings.mta_sts.port,
            deadline=settings.mta_sts.timeout,
        )

    return KeptPolicies(hints, Postponed(web), clock, learner=learner)


def turns_without_a_queue(settings: Settings, clock: Clock, share: Share = WHOLE) -> Turns:
    """The turns of a process that has no queue; `share` is its part of the limits."""
    queue = settings.queue
    lanes = Lanes(lanes_of(queue))
    throttle = Throttle(limits_of(queue), partial(source_addresses, settings))
    lanes.share = throttle.share = share
    occupancy = Occupancy(queue.workers, queue.slow_workers, queue.slow_after)
    return Turns(lanes, throttle, occupancy, clock, trio.Lock())


def renew_turns(turns: Turns, settings: Settings) -> None:
    """Other settings for turns without a queue; what lanes have learned stays."""
    queue = settings.queue
    turns.lanes.terms = lanes_of(queue)
    turns.throttle.reconfigure(limits_of(queue), partial(source_addresses, settings))
    occupancy = turns.occupancy
    occupancy.workers, occupancy.slow_workers = queue.workers, queue.slow_workers
    occupancy.slow_after = queue.slow_after
    turns.look()
