"""How an answer leads from a name to another: its CNAME, or a DNAME above it (RFC 1034 3.6.2, 6672).

A CNAME that was made from a DNAME carries no signature; it counts only if it is what the DNAME yields
(RFC 6672 5.3.3), and it is the DNAME that is then judged.
"""

from __future__ import annotations

from dataclasses import dataclass

import dns.name
import dns.rdatatype
import dns.rrset
from dns.rdtypes.ANY.CNAME import CNAME
from dns.rdtypes.ANY.DNAME import DNAME
from dns.rdtypes.ANY.RRSIG import RRSIG

from deliver.dnssec.anchors import ancestors
from deliver.dnssec.reading import Section
from deliver.dnssec.rule import Refusal, Rule
from deliver.dnssec.verdict import AliasKind


@dataclass(frozen=True, slots=True)
class AliasFound:
    """The alias of a name: the RRset to judge, its signatures, and where it leads."""

    kind: AliasKind
    rrset: dns.rrset.RRset
    signatures: tuple[RRSIG, ...]
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


def synthesised(name: dns.name.Name, found: AliasFound) -> dns.rrset.RRset:
    """The CNAME RRset that a DNAME yields for `name`."""
    text = found.target.to_text()
    return dns.rrset.from_text(name, found.rrset.ttl, found.rrset.rdclass, dns.rdatatype.CNAME, text)


def _by_cname(answer: Section, cname: dns.rrset.RRset) -> AliasFound | Refusal:
    rdata = cname[0]
    if len(cname) != 1 or not isinstance(rdata, CNAME):
        return Refusal(Rule.UNUSABLE_REPLY, f"{cname.name} has {len(cname)} CNAME records")
    return AliasFound(AliasKind.CNAME, cname, answer.over(cname), rdata.target)


def _by_dname(
    answer: Section, name: dns.name.Name, dname: dns.rrset.RRset, cname: dns.rrset.RRset | None
) -> AliasFound | Refusal:
    rdata = dname[0]
    if len(dname) != 1 or not isinstance(rdata, DNAME):
        return Refusal(Rule.UNUSABLE_REPLY, f"{dname.name} has {len(dname)} DNAME records")
    try:
        target = dns.name.Name((*name.labels[: len(name) - len(dname.name)], *rdata.target.labels))
    except dns.name.NameTooLong:
        return Refusal(Rule.ALIAS_TOO_LONG, str(name))
    if cname is not None and (len(cname) != 1 or cname[0].target != target):
        return Refusal(Rule.DNAME_SYNTHESIS, str(name))
    return AliasFound(AliasKind.DNAME, dname, answer.over(dname), target)


def _dname_above(answer: Section, name: dns.name.Name) -> dns.rrset.RRset | None:
    if name == dns.name.root:
        return None
    for above in ancestors(name.parent()):
        dname = answer.get(above, dns.rdatatype.DNAME)
        if dname is not None:
            return dname
    return None
