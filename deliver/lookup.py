"""The resolver of the settings: all that a command has to load before its first question leaves."""

from __future__ import annotations

from datetime import UTC, datetime

import dns.name
import trio

from deliver.dnssec.algorithm import Policy
from deliver.dnssec.anchors import NegativeAnchor, TrustAnchors, parse, root_anchors
from deliver.errors import ConfigurationError
from deliver.net.clock import Clock
from deliver.resolve.cache import CachingResolver
from deliver.resolve.doctor import Examination, examine
from deliver.resolve.resolver import Resolver
from deliver.resolve.transport import AdResolver, Recursor, resolver_addresses
from deliver.resolve.validating import ValidatingResolver
from deliver.settings import Settings

ONE_DELIVERY = 60.0  # seconds within which a delivery of its own asks for what was looked up ahead of it


def caching_resolver(
    settings: Settings, clock: Clock, *, single: bool = False, evidence: bool = False
) -> CachingResolver:
    """The resolver of `dns.dnssec` behind a cache.

    `single`: it serves a single delivery, which is told whatever it asked once, failures included, without a
    second question. `evidence`: answers carry what they rest on. Raises ConfigurationError for unusable
    resolvers.
    """
    return CachingResolver(
        build_resolver(settings, clock, evidence=evidence),
        now=trio.current_time,
        entries=settings.dns.cache_entries,
        max_ttl=settings.dns.cache_max_ttl,
        least=ONE_DELIVERY if single else 0.0,
    )


def build_resolver(settings: Settings, clock: Clock, *, evidence: bool = False) -> Resolver:
    """The resolver of `dns.dnssec`, without a cache. Raises ConfigurationError."""
    recursor = Recursor(settings.dns, resolver_addresses(settings.dns))
    if settings.dns.dnssec != "validate":
        return AdResolver(settings.dns, recursor)
    return build_validator(settings, recursor, clock, evidence=evidence)


def build_validator(
    settings: Settings, recursor: Recursor, clock: Clock, *, evidence: bool = False
) -> ValidatingResolver:
    """Our own validation over `recursor`, from the settings' trust anchors. Raises ConfigurationError."""
    policy = Policy(sha1=settings.dns.sha1)
    return ValidatingResolver(
        recursor, trust_anchors(settings), now=clock.now, policy=policy, evidence=evidence
    )


def trust_anchors(settings: Settings) -> TrustAnchors:
    """The root's keys or `dns.trust_anchors`, and where they are suspended. Raises ConfigurationError."""
    if settings.dns.trust_anchors is None:
        anchors = root_anchors()
    else:
        path = settings.path(settings.dns.trust_anchors)
        try:
            anchors = parse(path.read_text())
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"reading {path} (dns.trust_anchors)",
                str(error),
                "give DNSKEY or DS records in zone-file form",
            ) from error
    return anchors.but_not(
        NegativeAnchor(
            dns.name.from_text(f"{each.name}."),
            each.reason,
            datetime.fromisoformat(each.until).replace(tzinfo=UTC).timestamp(),
        )
        for each in settings.dns.negative_trust_anchor
    )


async def examine_resolvers(settings: Settings, clock: Clock) -> tuple[Examination, ...]:
    """What the doctor finds of each resolver. Raises ConfigurationError."""
    found = []
    for address in resolver_addresses(settings.dns):
        recursor = Recursor(settings.dns, (address,))
        validator = build_validator(settings, recursor, clock)
        probes = {"secure": settings.dns.probe_secure, "bogus": settings.dns.probe_bogus}
        found.append(await examine(address, recursor, validator, **probes))
    return tuple(found)
