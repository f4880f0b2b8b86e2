"""How much work one lookup may cost, so that a hostile zone costs a bounded time.

The attacks are KeyTrap (CVE-2023-50387: many keys of one tag times many signatures) and the NSEC3 encloser
(CVE-2023-50868: many hashes of many iterations). A bound that is reached raises `Exhausted` with its rule;
the lookup then ends as Bogus or Indeterminate, never as Secure or Insecure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import dns.rdatatype

from deliver.dnssec.names import KEPT_LABELS
from deliver.dnssec.response import Response
from deliver.dnssec.rule import Rule


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one lookup; far above what honest zones need (3 levels cold: 6 signatures, 6 queries)."""

    signatures: int = 96  # verifications, all told
    failures: int = 24  # verifications that fail, all told
    failures_per_rrset: int = 8
    signatures_per_rrset: int = 16  # RRSIG records looked at
    keys_per_tag: int = 4  # keys of one tag and algorithm
    keys_per_zone: int = 48  # DNSKEY records
    ds_per_zone: int = 24
    records_per_rrset: int = 256
    rrsets_per_section: int = 128
    denials: int = 12  # NSEC and NSEC3 RRsets of one answer
    hashes: int = 96  # NSEC3 hashes; each of at most `iterations` rounds
    iterations: int = 100  # RFC 9276 3.2; more are insecure
    zones: int = 24  # zones whose keys have to be established
    aliases: int = 12
    signers: int = 2  # zones that are tried for one RRset
    queries: int = 80
    parallel: int = 8  # names whose DS and DNSKEY are asked at once


class Exhausted(Exception):
    """A bound was reached."""

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule.sentence)
        self.rule = rule


@dataclass(slots=True)
class Budget:
    """What is left of the `limits` of one lookup."""

    limits: Limits = field(default_factory=Limits)
    signatures: int = 0
    failures: int = 0
    hashes: int = 0
    zones: int = 0
    queries: int = 0

    def verify(self) -> None:
        """Before a signature is verified. Raises Exhausted."""
        self.signatures += 1
        if self.signatures > self.limits.signatures:
            raise Exhausted(Rule.TOO_MANY_SIGNATURES)

    def failed(self) -> None:
        """After a signature did not verify. Raises Exhausted."""
        self.failures += 1
        if self.failures >= self.limits.failures:
            raise Exhausted(Rule.TOO_MANY_FAILURES)

    def hash(self) -> None:
        """Before an NSEC3 hash is computed. Raises Exhausted."""
        self.hashes += 1
        if self.hashes > self.limits.hashes:
            raise Exhausted(Rule.TOO_MANY_HASHES)

    def zone(self) -> None:
        """Before the keys of a zone are established. Raises Exhausted."""
        self.zones += 1
        if self.zones > self.limits.zones:
            raise Exhausted(Rule.TOO_MANY_ZONES)

    def ask(self, count: int) -> None:
        """Before `count` queries. Raises Exhausted."""
        self.queries += count
        if self.queries > self.limits.queries:
            raise Exhausted(Rule.TOO_MANY_QUERIES)


_SECONDS_PER_SIGNATURE = 0.00025
_SECONDS_PER_NSEC3 = 0.0001
_SECONDS_PER_LONG_NAME = 0.01  # of up to 127 labels, with all names above it


def expected_seconds(messages: Iterable[object], limits: Limits | None = None) -> float:
    """A rough upper estimate of the time that judging these replies takes, to decide where to do it."""
    limits = limits or Limits()
    signatures = hashed = long = 0
    for message in messages:
        if not isinstance(message, Response):
            continue
        for section in (message.answer, message.authority):
            for several in section.signatures.values():
                signatures += len(several)
            for name, rdtype in section.rrsets:
                hashed += rdtype == dns.rdatatype.NSEC3
                long += len(name.labels) > KEPT_LABELS
    return (
        min(signatures, limits.signatures) * _SECONDS_PER_SIGNATURE
        + min(2 * hashed, limits.hashes) * _SECONDS_PER_NSEC3
        + long * _SECONDS_PER_LONG_NAME
    )
