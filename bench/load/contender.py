"""A relay under measurement: started on a fresh queue, at RELAY:RELAY_PORT, durable, on an account."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.load.account import Account
from bench.load.place import Place
from bench.load.scenario import Scenario
from tests.interop.peers.process import Process
from tests.interop.peers.programs import Programs


@dataclass(frozen=True, slots=True)
class Order:
    """What to start and where: `directory` is fresh, its own and open to unprivileged users."""

    programs: Programs
    place: Place
    directory: Path
    account: Account
    scenario: Scenario


@dataclass(frozen=True, slots=True)
class Contender:
    """One kind of relay. `settings`: what differs from its defaults and why, for people.

    `validating_resolver`: it leaves DNSSEC to unbound; else its unbound does no validation. `start` raises
    PeerMissing where it is not on this machine, ServerFailed where it does not come up.
    """

    name: str
    start: Callable[[Order], Process]
    validating_resolver: bool
    settings: Mapping[str, str]
