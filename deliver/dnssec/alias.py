"""How an answer leads from a name to another: its CNAME, or a DNAME above it (RFC 1034 3.6.2, 6672).

A CNAME that was made from a DNAME carries no signature; it counts only if it is what the DNAME yields
(RFC 6672 5.3.3), and it is the DNAME that is then judged.
"""

from __future__ import annotations

from dataclasses import dataclass

import dns.name
import dns.rdatatype
from dns.rdtypes.ANY.CNAME import CNAME
from dns.rdtypes.ANY.DNAME import DNAME

from deliver.dnssec.anchors import ancestors
from deliver.dnssec.names import known
from deliver.dnssec.records import RecordSet, Signature
from deliver.dnssec.response import Section
from deliver.dnssec.rule import Refusal, Rule
from deliver.dnssec.verdict import AliasKind


@dataclass(frozen=True, slots=True)
class AliasFound:
    """The alias of a name: the RRset to judge, its signatures, and where it leads."""

    kind: AliasKind
    rrset: RecordSet
    signatures: tuple[Signature, ...]
    target: dns.name.Name


def alias_at(answer: Section, name: dns.name.Name) -> AliasFound | Refusal | None:
    """The alias of `name` in an answer section, or what is wrong with it."""
    cname = answer.get(name, dns.rdatatype.CNAME)
    dname = _dname_above(answer, name)
    if cname is not None and (dname is None or answer.over(cname)):
        return _by_cname(answer, cname)
    if dname is None:
        return None
    return _by_dname(answer, name, dname, cname)


def synthesised(name: dns.name.Name, found: AliasFound) -> RecordSet:
    """The CNAME RRset that a DNAME yields for `name`."""
    return RecordSet(name, dns.rdatatype.CNAME, found.rrset.ttl, (found.target.to_digestable(),))


def _by_cname(answer: Section, cname: RecordSet) -> AliasFound | Refusal:
    rdata = cname[0]
    if len(cname) != 1 or not isinstance(rdata, CNAME):
        return Refusal(Rule.UNUSABLE_REPLY, f"{cname.name} has {len(cname)} CNAME records")
    return AliasFound(AliasKind.CNAME, cname, answer.over(cname), known(rdata.target.labels))


def _by_dname(
    answer: Section, name: dns.name.Name, dname: RecordSet, cname: RecordSet | None
) -> AliasFound | Refusal:
    rdata = dname[0]
    if len(dname) != 1 or not isinstance(rdata, DNAME):
        return Refusal(Rule.UNUSABLE_REPLY, f"{dname.name} has {len(dname)} DNAME records")
    try:
        target = known((*name.labels[: len(name) - len(dname.name)], *rdata.target.labels))
    except dns.name.NameTooLong:
        return Refusal(Rule.ALIAS_TOO_LONG, str(name))
    if cname is not None and cname.canonical != (target.to_digestable(),):
        return Refusal(Rule.DNAME_SYNTHESIS, str(name))
    return AliasFound(AliasKind.DNAME, dname, answer.over(dname), target)


def _dname_above(answer: Section, name: dns.name.Name) -> RecordSet | None:
    if name == dns.name.root or not any(rdtype == dns.rdatatype.DNAME for _, rdtype in answer.rrsets):
        return None
    for above in ancestors(name.parent()):
        dname = answer.get(above, dns.rdatatype.DNAME)
        if dname is not None:
            return dname
    return None
