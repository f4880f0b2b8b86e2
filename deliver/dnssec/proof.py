"""The NSEC and NSEC3 RRsets of one zone, put to the question that a reply denies (RFC 4035 5.4, 5155 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import dns.name
import dns.rdatatype
from dns.rdtypes.ANY.NSEC3 import NSEC3

from deliver.dnssec import denial, nsec3
from deliver.dnssec.budget import Budget
from deliver.dnssec.denial import Denied, Link
from deliver.dnssec.evidence import Mark
from deliver.dnssec.records import RecordSet
from deliver.dnssec.rule import Refusal, Rule
from deliver.dnssec.verdict import Absence


@dataclass(frozen=True, slots=True)
class Valid:
    """NSEC and NSEC3 RRsets whose signatures verified; `ttl` (seconds) is that of the shortest-lived."""

    rrsets: tuple[RecordSet, ...]
    marks: tuple[Mark, ...]
    ttl: int


def prove(
    name: dns.name.Name,
    rdtype: dns.rdatatype.RdataType,
    zone: dns.name.Name,
    rrsets: Sequence[RecordSet],
    budget: Budget,
    nxdomain: bool,
) -> Denied | Refusal:
    """What RRsets of `zone` prove; `nxdomain`: the response code claims that the name does not exist.

    For DS the code does not decide. Else NXDOMAIN has to be proved (an outright NODATA proof corrects it, an
    opt-out span does not), and NODATA must not be an NXDOMAIN. Raises Exhausted.
    """
    links, hashed = _links(zone, rrsets), _hashed(rrsets)
    denied: Denied | Refusal = Refusal(Rule.DENIAL_MALFORMED if rrsets else Rule.DENIAL_MISSING, str(name))
    if links:
        denied = denial.prove(name, rdtype, zone, links)
    if isinstance(denied, Refusal) and hashed:
        gathered = nsec3.gather(hashed, zone, budget)
        if isinstance(gathered, Refusal):
            if gathered.rule is Rule.ITERATIONS:
                absence = Absence.NXDOMAIN if nxdomain else Absence.NODATA
                return Denied(absence, insecure=Rule.ITERATIONS)
            return gathered
        denied = nsec3.prove(name, rdtype, gathered)
    if isinstance(denied, Refusal):
        return denied
    if rdtype == dns.rdatatype.DS:
        return denied if nxdomain or denied.insecure is None else replace(denied, absence=Absence.NODATA)
    return _as_claimed(name, denied, nxdomain)


def prove_expansion(
    name: dns.name.Name,
    encloser: dns.name.Name,
    zone: dns.name.Name,
    rrsets: Sequence[RecordSet],
    budget: Budget,
) -> Rule | Refusal | None:
    """Whether `*.encloser` had to answer for `name`; a Rule: insecure by that rule. Raises Exhausted."""
    links, hashed = _links(zone, rrsets), _hashed(rrsets)
    found: Rule | Refusal | None = Refusal(Rule.WILDCARD_UNPROVEN, str(name))
    if links:
        found = denial.prove_expansion(name, encloser, zone, links)
    if isinstance(found, Refusal) and hashed:
        gathered = nsec3.gather(hashed, zone, budget)
        if isinstance(gathered, Refusal):
            return Rule.ITERATIONS if gathered.rule is Rule.ITERATIONS else gathered
        found = nsec3.prove_expansion(name, encloser, gathered)
    return found


def _as_claimed(name: dns.name.Name, denied: Denied, nxdomain: bool) -> Denied | Refusal:
    if nxdomain and denied.absence is Absence.NODATA and denied.insecure is not None:
        return Refusal(Rule.DENIAL_WILDCARD, str(name))
    if not nxdomain and denied.absence is Absence.NXDOMAIN and not denied.compact:
        if denied.insecure is not None:
            return Denied(Absence.NODATA, insecure=denied.insecure)
        return Refusal(Rule.DENIAL_RCODE, str(name))
    return denied


def _links(zone: dns.name.Name, rrsets: Sequence[RecordSet]) -> list[Link]:
    found = []
    for rrset in rrsets:
        if rrset.rdtype == dns.rdatatype.NSEC and len(rrset) == 1:
            here = denial.link(rrset.name, rrset.canonical[0], zone)
            if here is not None:
                found.append(here)
    return found


def _hashed(rrsets: Sequence[RecordSet]) -> list[tuple[dns.name.Name, NSEC3]]:
    found = (rrset for rrset in rrsets if rrset.rdtype == dns.rdatatype.NSEC3)
    return [(rrset.name, rdata) for rrset in found for rdata in rrset if isinstance(rdata, NSEC3)]
