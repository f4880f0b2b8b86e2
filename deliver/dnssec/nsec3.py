"""What NSEC3 records prove (RFC 5155 8): closest encloser, next closer name, wildcard, opt-out, DS absence.

All records must be of one parameter set (8.2); unknown hash algorithms and flags are ignored (8.1, 8.2). More
iterations than the limit make the denial insecure, and only signatures that verified get here (RFC 9276 3.2).
Hashes are counted: a long name with many iterations is an attack (CVE-2023-50868).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import dns.name
import dns.rdatatype
from dns.rdtypes.ANY.NSEC3 import NSEC3

from deliver.dnssec.budget import Budget
from deliver.dnssec.denial import Denied, Types, matched, wildcard_matched, wrong_side
from deliver.dnssec.names import known
from deliver.dnssec.rule import Refusal, Rule
from deliver.dnssec.verdict import Absence

SHA1 = 1  # the only hash algorithm (RFC 5155 11)
OPT_OUT = 1  # the only flag
_HASH_SIZE = 20


@dataclass(frozen=True, slots=True)
class HashedLink:
    """An NSEC3 record: no name hashes between `hash` and `next`, save unsigned delegations if `opt_out`."""

    hash: bytes
    next: bytes
    types: Types
    opt_out: bool

    def covers(self, digest: bytes) -> bool:
        """Whether a hash is in the gap (RFC 5155 1.3)."""
        if self.hash < self.next:
            return self.hash < digest < self.next
        return digest > self.hash or digest < self.next  # the last record; equal ends: the only one


@dataclass(frozen=True, slots=True)
class HashedLinks:
    """The NSEC3 records of one zone and parameter set; hashes of names are computed once."""

    zone: dns.name.Name
    salt: bytes
    iterations: int
    links: tuple[HashedLink, ...]
    budget: Budget
    known: dict[dns.name.Name, bytes] = field(default_factory=dict)

    def match(self, name: dns.name.Name) -> HashedLink | None:
        """The record of the name."""
        digest = self._digest(name)
        return next((here for here in self.links if here.hash == digest), None)

    def cover(self, name: dns.name.Name) -> HashedLink | None:
        """A record that shows that the name has none."""
        digest = self._digest(name)
        return next((here for here in self.links if here.covers(digest)), None)

    def _digest(self, name: dns.name.Name) -> bytes:
        digest = self.known.get(name)
        if digest is None:
            self.budget.hash()
            digest = self.known[name] = hashed(name, self.salt, self.iterations)
        return digest


def hashed(name: dns.name.Name, salt: bytes, iterations: int) -> bytes:
    """RFC 5155 5."""
    digest = hashlib.sha1(name.to_digestable() + salt, usedforsecurity=False).digest()
    for _ in range(iterations):
        digest = hashlib.sha1(digest + salt, usedforsecurity=False).digest()
    return digest


def gather(
    records: Sequence[tuple[dns.name.Name, NSEC3]], zone: dns.name.Name, budget: Budget
) -> HashedLinks | Refusal:
    """The records of `zone`, which must agree in their parameters.

    A refusal by Rule.ITERATIONS means that the zone is insecure; by any other, that nothing is proved.
    """
    known = [
        (owner, rdata)
        for owner, rdata in records
        if rdata.algorithm == SHA1 and not rdata.flags & ~OPT_OUT and len(rdata.next) == _HASH_SIZE
    ]
    if not known:
        return Refusal(Rule.NSEC3_UNKNOWN, str(zone))
    if len({(rdata.iterations, rdata.salt) for _, rdata in known}) > 1:
        return Refusal(Rule.NSEC3_MIXED, str(zone))
    first = known[0][1]
    if first.iterations > budget.limits.iterations:
        return Refusal(Rule.ITERATIONS, f"{zone}, {first.iterations} iterations")
    links = []
    for owner, rdata in known:
        digest = _owner_hash(owner, zone)
        if digest is not None:
            opt_out = bool(rdata.flags & OPT_OUT)
            links.append(HashedLink(digest, rdata.next, Types(tuple(rdata.windows)), opt_out))
    if not links:
        return Refusal(Rule.DENIAL_MALFORMED, str(zone))
    return HashedLinks(zone, first.salt, first.iterations, tuple(links), budget)


def prove(name: dns.name.Name, rdtype: dns.rdatatype.RdataType, links: HashedLinks) -> Denied | Refusal:
    """What the NSEC3 records say about `name` and `rdtype`."""
    fault = wrong_side(name, rdtype, links.zone)
    if fault is not None:
        return fault
    here = links.match(name)
    if here is not None:
        return matched(name, rdtype, here.types)
    encloser = _closest_encloser(name, links)
    if isinstance(encloser, Refusal):
        return encloser
    gap = links.cover(_next_closer(name, encloser))
    if gap is None:
        return Refusal(Rule.NSEC3_NEXT_CLOSER, str(name))
    insecure = Rule.OPT_OUT if gap.opt_out else None  # RFC 5155 9.2: an unsigned delegation may be there
    wildcard = known((b"*", *encloser.labels))
    if rdtype == dns.rdatatype.DS and gap.opt_out:  # RFC 5155 8.6
        absence = Absence.NODATA if links.cover(wildcard) is None else Absence.NXDOMAIN
        return Denied(absence, delegation=True, insecure=Rule.OPT_OUT)
    at_wildcard = links.match(wildcard)
    if at_wildcard is not None:
        denied = wildcard_matched(wildcard, rdtype, at_wildcard.types)
        return denied if isinstance(denied, Refusal) else Denied(Absence.NODATA, insecure=insecure)
    if links.cover(wildcard) is not None:
        return Denied(Absence.NXDOMAIN, insecure=insecure)
    if gap.opt_out:
        return Denied(Absence.NODATA, insecure=Rule.OPT_OUT)  # an empty non-terminal of unsigned delegations
    return Refusal(Rule.NSEC3_DS if rdtype == dns.rdatatype.DS else Rule.DENIAL_WILDCARD, str(wildcard))


def prove_expansion(
    name: dns.name.Name, encloser: dns.name.Name, links: HashedLinks
) -> Rule | Refusal | None:
    """Whether `*.encloser` had to answer for `name` (RFC 5155 8.8); a Rule: it is insecure by that rule."""
    gap = links.cover(_next_closer(name, encloser))
    if gap is None:
        return Refusal(Rule.WILDCARD_UNPROVEN, str(name))
    return Rule.OPT_OUT if gap.opt_out else None


def _closest_encloser(name: dns.name.Name, links: HashedLinks) -> dns.name.Name | Refusal:
    """The longest name above `name` that has a record (RFC 5155 8.3)."""
    candidate = name
    while candidate != links.zone:
        candidate = candidate.parent()
        here = links.match(candidate)
        if here is not None:
            if here.types.hides_below:
                return Refusal(Rule.DENIAL_BELOW_CUT, str(name))
            return candidate
    return Refusal(Rule.NSEC3_ENCLOSER, str(name))


def _next_closer(name: dns.name.Name, encloser: dns.name.Name) -> dns.name.Name:
    return known(name.labels[len(name) - len(encloser) - 1 :])


def _owner_hash(owner: dns.name.Name, zone: dns.name.Name) -> bytes | None:
    if len(owner) != len(zone) + 1 or owner.parent() != zone or len(owner.labels[0]) != 32:
        return None
    try:
        return base64.b32hexdecode(owner.labels[0], casefold=True)
    except (ValueError, binascii.Error):
        return None
