"""Where a domain's mail goes: the ordered candidates and how far DNSSEC vouches for them (RFC 5321 5.1)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random

from deliver.level import Level
from deliver.resolve.sts import StsStanding
from deliver.resolve.tlsa import TlsaStatus


@dataclass(frozen=True, slots=True)
class MxTarget:
    """One candidate host; `host` is a host name or, for an address literal, an IP address.

    `port` is None where the settings decide.
    """

    host: str
    preference: int = 0
    port: int | None = None


@dataclass(frozen=True, slots=True)
class MxPlan:
    """Candidates in the order in which they are tried.

    `secure`: the choice of these hosts is beyond forgery (validated MX answer, or configured).
    `implicit`: there is no MX record, the domain itself is the host.
    `next_hop_names`: names that a DANE-TA certificate may carry besides the TLSA base domain
    (RFC 7672 3.2.2), the domain first and the end of its CNAME chain after it.
    `level`: what the route says in place of `tls.level`. `named`: by host in the settings, not found in DNS.
    """

    domain: str
    targets: tuple[MxTarget, ...]
    secure: bool
    implicit: bool = False
    next_hop_names: tuple[str, ...] = ()
    level: Level | None = None
    named: bool = False


@dataclass(frozen=True, slots=True)
class HostPlan:
    """One candidate with its addresses, in the order in which they are tried.

    `secure`: at least one of its address RRsets, or the alias leading to them, is validated.
    `sts`: how the domain whose mail goes there stands to MTA-STS; None: not asked.
    """

    host: str
    addresses: tuple[str, ...]
    secure: bool
    tlsa: TlsaStatus
    expanded: str | None = None
    sts: StsStanding | None = None


@dataclass(frozen=True, slots=True)
class NoHost:
    """Nothing to connect to. `permanent` with the enhanced code to bounce with, else defer or next host.

    `name` and `type` tell which lookup decided.
    """

    why: str
    permanent: bool
    enhanced: tuple[int, int, int]
    code: str
    rfc: str | None = None
    name: str = ""
    type: str = "MX"


def order(targets: Iterable[MxTarget], rng: Random) -> tuple[MxTarget, ...]:
    """Ascending preference, random within a preference (RFC 5321 5.1)."""
    shuffled = list(targets)
    rng.shuffle(shuffled)
    return tuple(sorted(shuffled, key=lambda target: target.preference))


def without_ourselves(plan: MxPlan, own_names: frozenset[str]) -> MxPlan:
    """Drop our own host and everything of its or a lower priority from the list (RFC 5321 5.1).

    An empty result means that the domain's best exchanger is this very host: mail would loop.
    """
    own = [target.preference for target in plan.targets if target.host in own_names]
    if not own:
        return plan
    return replace(plan, targets=tuple(target for target in plan.targets if target.preference < min(own)))
