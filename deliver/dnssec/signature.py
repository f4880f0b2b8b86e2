"""One RRset and its RRSIGs: checks (RFC 4035 5.3.1), signed data (5.3.2), verification (5.3.3).

Any one valid signature suffices (RFC 6840 5.11). A failure names the rule of the one that came furthest.
Tries are bounded: few keys of one tag, few failures per RRset and lookup (CVE-2023-50387).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import dns.name
import dns.rdatatype
from msgspec import Struct

from deliver.dnssec.algorithm import Policy, key_fault, key_tag, load, verify
from deliver.dnssec.budget import Budget
from deliver.dnssec.evidence import Mark
from deliver.dnssec.names import known
from deliver.dnssec.records import RecordSet, Signature, type_name
from deliver.dnssec.rule import Refusal, Rule

_IN = 1
_KEY = struct.Struct("!HBB")  # RFC 4034 2.1: flags, protocol, algorithm
# A wildcard cannot stand for what defines a zone, a redirection or a denial (RFC 4592 4, 6672 3.3).
_NEVER_EXPANDED = frozenset(
    {
        dns.rdatatype.DS,
        dns.rdatatype.DNSKEY,
        dns.rdatatype.DNAME,
        dns.rdatatype.NS,
        dns.rdatatype.SOA,
        dns.rdatatype.NSEC,
        dns.rdatatype.NSEC3,
    }
)
# How far a signature came before it failed; the furthest is reported.
_PROGRESS = {
    rule: place
    for place, rule in enumerate(
        (
            Rule.SIGNATURE_MISSING,
            Rule.SIGNER,
            Rule.TYPE_COVERED,
            Rule.LABELS,
            Rule.EXPANDED,
            Rule.ALGORITHM,
            Rule.NO_KEY,
            Rule.KEY_NOT_ZONE,
            Rule.KEY_PROTOCOL,
            Rule.KEY_REVOKED,
            Rule.KEY_MALFORMED,
            Rule.NOT_YET_VALID,
            Rule.EXPIRED,
            Rule.TOO_MANY_KEYS,
            Rule.WRONG,
            Rule.TOO_MANY_SIGNATURES,
        )
    )
}


@dataclass(frozen=True, slots=True)
class ZoneKey:
    """A DNSKEY record by its RDATA, its tag computed (RFC 4034 B)."""

    octets: bytes
    tag: int
    algorithm: int
    fault: Rule | None


class Verified(Struct, frozen=True):
    """A valid signature. `ttl` (seconds) is capped as RFC 4035 5.3.3 says.

    `encloser`: the RRset was expanded from the wildcard `*.encloser`, so that the absence of the name itself
    has still to be proved (RFC 4035 5.3.4).
    """

    mark: Mark
    ttl: int
    encloser: dns.name.Name | None = None


def zone_key(octets: bytes) -> ZoneKey:
    """The key prepared for use. Raises ValueError."""
    if len(octets) < _KEY.size:
        raise ValueError("a DNSKEY record that is cut")
    flags, protocol, algorithm = _KEY.unpack_from(octets)
    return ZoneKey(octets, key_tag(octets), algorithm, key_fault(flags, protocol))


def serial_before(a: int, b: int) -> bool:
    """Whether `a` is before `b` in the serial arithmetic of 32 bits (RFC 1982, 4034 3.1.5)."""
    return (a - b) & 0xFFFFFFFF > 0x7FFFFFFF


def verify_rrset(
    rrset: RecordSet,
    signatures: Sequence[Signature],
    zone: dns.name.Name,
    keys: Sequence[ZoneKey],
    *,
    now: int,
    policy: Policy,
    budget: Budget,
) -> Verified | Refusal:
    """Find one valid signature of `zone` over `rrset`. Raises Exhausted when the lookup's budget is spent."""
    furthest = Refusal(Rule.SIGNATURE_MISSING, _about(rrset))
    limits = budget.limits
    failures = 0
    for place, rrsig in enumerate(signatures):
        if place >= limits.signatures_per_rrset:
            return Refusal(Rule.TOO_MANY_SIGNATURES, _about(rrset))
        fault = _fault(rrset, rrsig, zone, now, policy)
        if fault is not None:
            furthest = _further(furthest, fault, rrset)
            continue
        candidates = [key for key in keys if key.tag == rrsig.key_tag and key.algorithm == rrsig.algorithm]
        usable = [key for key in candidates if key.fault is None]
        if not usable:
            why = candidates[0].fault if candidates else None
            furthest = _further(furthest, why or Rule.NO_KEY, rrset)
            continue
        if len(usable) > limits.keys_per_tag:
            furthest = _further(furthest, Rule.TOO_MANY_KEYS, rrset)
        signed = signed_data(rrset, rrsig)
        for key in usable[: limits.keys_per_tag]:
            public = load(key.algorithm, key.octets[_KEY.size :])
            if public is None:
                furthest = _further(furthest, Rule.KEY_MALFORMED, rrset)
                continue
            budget.verify()
            if verify(public, key.algorithm, rrsig.signature, signed):
                return _verified(rrset, rrsig, now)
            furthest = _further(furthest, Rule.WRONG, rrset)
            budget.failed()
            failures += 1
            if failures >= limits.failures_per_rrset:
                return Refusal(Rule.TOO_MANY_FAILURES, _about(rrset))
    return furthest


def signed_data(rrset: RecordSet, rrsig: Signature) -> bytes:
    """What a signature signs: its own fields and the canonical RRset (RFC 4034 3.1.8.1, 6.2, 6.3)."""
    owner = rrset.name
    if rrsig.labels < label_count(owner):
        owner = known((b"*", *_last(owner, rrsig.labels).labels))
    prefix = owner.to_digestable() + struct.pack("!HHI", rrset.rdtype, _IN, rrsig.original_ttl)
    parts = [rrsig.signed_fields()]
    for rdata in sorted(rrset.canonical):
        parts += (prefix, struct.pack("!H", len(rdata)), rdata)
    return b"".join(parts)


def label_count(name: dns.name.Name) -> int:
    """The labels of an owner name as RFC 4034 3.1.3 counts them: no root, no leading `*`."""
    labels = name.labels
    return len(labels) - 2 if labels[0] == b"*" else len(labels) - 1


def _fault(rrset: RecordSet, rrsig: Signature, zone: dns.name.Name, now: int, policy: Policy) -> Rule | None:
    """The first rule of RFC 4035 5.3.1 that the signature breaks, keys left out."""
    if rrsig.signer != zone or not rrset.name.is_subdomain(zone):
        return Rule.SIGNER
    if rrsig.type_covered != rrset.rdtype:
        return Rule.TYPE_COVERED
    count = label_count(rrset.name)
    if rrsig.labels > count or rrsig.labels < len(zone.labels) - 1:
        return Rule.LABELS
    if rrsig.labels < count and rrset.rdtype in _NEVER_EXPANDED:
        return Rule.EXPANDED
    if not policy.supports(rrsig.algorithm):
        return Rule.ALGORITHM
    if serial_before(now, rrsig.inception):
        return Rule.NOT_YET_VALID
    if serial_before(rrsig.expiration, now):
        return Rule.EXPIRED
    return None


def _verified(rrset: RecordSet, rrsig: Signature, now: int) -> Verified:
    left = (rrsig.expiration - now) & 0xFFFFFFFF
    mark = Mark(
        type_name(rrset.rdtype),
        rrsig.key_tag,
        rrsig.algorithm,
        rrsig.inception,
        rrsig.expiration,
    )
    encloser = _last(rrset.name, rrsig.labels) if rrsig.labels < label_count(rrset.name) else None
    return Verified(mark, min(rrset.ttl, rrsig.original_ttl, left), encloser)


def _last(name: dns.name.Name, labels: int) -> dns.name.Name:
    return known(name.labels[len(name.labels) - 1 - labels :])


def _further(before: Refusal, rule: Rule, rrset: RecordSet) -> Refusal:
    return Refusal(rule, _about(rrset)) if _PROGRESS[rule] > _PROGRESS[before.rule] else before


def _about(rrset: RecordSet) -> str:
    return f"{rrset.name} {type_name(rrset.rdtype)}"
