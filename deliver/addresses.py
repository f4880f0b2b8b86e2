"""Which hosts and addresses are tried, and in which order; advice from the hints, never a reason to skip one.

order    who
-------  -------------------------------------------------------------------------------------
first    families in turn (RFC 8305 4); after a failed attempt another family, its address last
last     what lately could not be reached
never    an address and port on which we listen ourselves: mail would loop (`deliver.net.address`)

After a failed attempt other hosts of the same preference come before the one that failed.
"""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import Struct

from deliver.agent import Agent
from deliver.candidates import would_loop
from deliver.course import Host
from deliver.encounter import Target
from deliver.net.address import EVERY_V4, EVERY_V6, leads_to
from deliver.net.race import interleave
from deliver.outcome import Place
from deliver.report.trace import Finding, Stage
from deliver.resolve.mx import HostPlan, MxTarget, NoHost
from hints.port import AddressView
from hints.records import Word

EXTRAS = (Word.CHUNKING, Word.PRDR, Word.RESUMPTION, Word.PIPECONNECT)  # what a message can do without
PLAIN_EVERY = 3  # every third attempt does without them
RECENT = 300  # seconds for which an unreachable address is tried after the others


class Tries(Struct, frozen=True):
    """Of the attempts before: this one is the `number`th, the `last` one failed there."""

    number: int = 1
    last: Place | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """The targets in order; `refusals` for addresses that are our own."""

    targets: tuple[Target, ...]
    refusals: tuple[NoHost, ...]
    findings: tuple[Finding, ...]


def elsewhere_first(targets: tuple[MxTarget, ...], last: Place | None) -> tuple[MxTarget, ...]:
    """By preference; within one the host that failed comes last, the others as given. Pure."""
    failed = None if last is None else last.host
    return tuple(sorted(targets, key=lambda target: (target.preference, target.host == failed)))


@dataclass(frozen=True, slots=True)
class Ways:
    """What was chosen for a host, the same for every first attempt while the hints say the same."""

    host: HostPlan
    addresses: tuple[str, ...]
    views: tuple[AddressView, ...]
    chosen: Chosen


async def targets_at(agent: Agent, domain: str, found: Host, host: HostPlan, tries: Tries) -> Chosen:
    """Where to connect for mail to `domain` at the host that was `found`."""
    known = found.ways if found.ways is not None and found.ways.host is host else None
    addresses = interleave(host.addresses) if known is None else known.addresses
    views = await agent.hints.look(host.host, addresses, found.port, domain)
    first = tries.last is None and tries.number % PLAIN_EVERY != 0
    if known is not None and first and views == known.views:
        return known.chosen
    chosen = _choose(agent, domain, host, found, tries, views)
    if first and _stays(agent, found.port, views, chosen):
        found.ways = Ways(host, addresses, views, chosen)
    return chosen


def _choose(
    agent: Agent, domain: str, host: HostPlan, found: Host, tries: Tries, views: tuple[AddressView, ...]
) -> Chosen:
    port = found.port
    shunned = _shunned(views, agent.clock.now())
    targets: list[Target] = []
    refusals: list[NoHost] = []
    for view in in_order(views, shunned, tries.last.address if tries.last else None):
        if leads_to(agent.own_sockets, view.address, port, agent.is_local):
            place = f"{host.host} [{view.address}]:{port}"
            refusals.append(would_loop(domain, f"{place} is this host itself"))
            continue
        avoid = _avoid(view, tries.number)
        targets.append(Target(host.host, view.address, port, host.secure, avoid, view.ehlo, found.login))
    findings: tuple[Finding, ...] = ()
    if shunned and len(shunned) < len(host.addresses):
        text = f"{', '.join(sorted(shunned))} of {host.host} could not be reached lately: tried last"
        findings = (Finding(Stage.CONNECT, "hint-unreachable", text),)
    return Chosen(tuple(targets), tuple(refusals), findings)


def _stays(agent: Agent, port: int, views: tuple[AddressView, ...], chosen: Chosen) -> bool:
    """Whether neither time nor a new address of this machine changes the choice."""
    if chosen.refusals or chosen.findings or any(view.failures for view in views):
        return False
    return not any(address in (EVERY_V4, EVERY_V6) and port == each for address, each in agent.own_sockets)


def in_order(
    views: tuple[AddressView, ...], shunned: frozenset[str], last: str | None
) -> tuple[AddressView, ...]:
    """The table above; within each row as given."""
    return tuple(sorted(views, key=lambda view: (view.address in shunned, _likeness(view.address, last))))


def _likeness(address: str, last: str | None) -> int:
    if last is None:
        return 0
    return 2 if address == last else int((":" in address) == (":" in last))


def _shunned(views: tuple[AddressView, ...], now: float) -> frozenset[str]:
    recent = now - RECENT
    return frozenset(view.address for view in views if (view.last_failure or 0) > recent and view.failures)


def _avoid(view: AddressView, number: int) -> frozenset[Word]:
    """Extensions that broke with this server lately; now and then all, in case a hint is missing."""
    broken = frozenset(word for word in (*EXTRAS, Word.LARGE_HELLO) if view.works(word) is False)
    if number % PLAIN_EVERY == 0:
        return frozenset(EXTRAS) | broken
    return broken
