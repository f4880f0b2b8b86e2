"""Everything that a delivery takes from outside, in one frozen value: the seams for tests and simulation.

The composition root (`deliver.service`) builds it once; functions take from it only what they use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from deliver.course import Courses
from deliver.net.address import Place, is_local
from deliver.net.clock import Clock
from deliver.net.dial import Dialer
from deliver.pool import NoPool, Pool
from deliver.resolve.resolver import Resolver
from deliver.settings import Settings
from deliver.sts.standing import NoPolicies, Policies
from deliver.tls.pkix import TrustStore
from events.port import EventGate, OpenGate
from hints.port import Hints


@dataclass(frozen=True, slots=True)
class Agent:
    """`trust` gives the trust store of `tls.trust_store` (None: the system's), loaded once each.

    `helo` is our name in EHLO. `own_names` and `own_sockets` are how we recognise ourselves among mail
    exchangers, with `is_local` (whether this machine has an address) where we listen on all addresses.
    `learner` says who writes hints: "relay" or "send". `gate` may refuse a connection, a session or a
    certificate. `pool` has the open sessions that wait for another message. `policies` knows those of
    MTA-STS. `courses`: what is decided once for many messages.
    """

    settings: Settings
    resolver: Resolver
    dialer: Dialer
    hints: Hints
    clock: Clock
    rng: Random
    trust: Callable[[str | None], TrustStore]
    helo: str
    learner: str
    own_names: frozenset[str] = frozenset()
    own_sockets: frozenset[Place] = frozenset()
    is_local: Callable[[str], bool] = is_local
    gate: EventGate = field(default_factory=OpenGate)
    pool: Pool = field(default_factory=NoPool)
    policies: Policies = field(default_factory=NoPolicies)
    courses: Courses = field(init=False, default_factory=Courses)
