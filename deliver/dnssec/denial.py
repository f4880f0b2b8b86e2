"""What authenticated denials prove: pure functions on NSEC records whose signatures are valid (RFC 4035 5.4).

`prove` answers for a name and type: NODATA, NXDOMAIN, an insecure delegation, or the rule that is broken;
`prove_expansion` whether a wildcard had to answer. NSEC3 records take the same way in `deliver.dnssec.nsec3`.
Nothing is proved by records of the wrong side of a zone cut or of names below one (RFC 6840 4.1, 4.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import dns.name
import dns.rdatatype

from deliver.dnssec.names import known
from deliver.dnssec.response import name_at
from deliver.dnssec.rule import Refusal, Rule
from deliver.dnssec.verdict import Absence

NXNAME = 128  # RFC 9824 3.1: the name of this NSEC does not exist


@dataclass(frozen=True, slots=True)
class Denied:
    """What is proved. `insecure`: only that an unsigned delegation may be there, and by which rule.

    `delegation`: the name is a zone cut without DS; `compact`: a record of the name itself says that it does
    not exist (RFC 9824).
    """

    absence: Absence
    delegation: bool = False
    insecure: Rule | None = None
    compact: bool = False

    @property
    def nothing_below(self) -> bool:
        """Whether the name itself does not exist, so that nothing below it does (RFC 8020)."""
        return self.absence is Absence.NXDOMAIN and self.insecure is None and not self.compact


@dataclass(frozen=True, slots=True)
class Types:
    """A type bitmap (RFC 4034 4.1.2)."""

    windows: tuple[tuple[int, bytes], ...]

    def __contains__(self, rdtype: int) -> bool:
        window, place = rdtype >> 8, rdtype & 0xFF
        return any(
            number == window and place >> 3 < len(bits) and bool(bits[place >> 3] & (0x80 >> (place & 7)))
            for number, bits in self.windows
        )

    @property
    def is_cut(self) -> bool:
        """Whether they are the parent's side of a zone cut: NS without SOA."""
        return dns.rdatatype.NS in self and dns.rdatatype.SOA not in self

    @property
    def hides_below(self) -> bool:
        """Whether names below are not this zone's to deny (RFC 6840 4.1)."""
        return self.is_cut or dns.rdatatype.DNAME in self


@dataclass(frozen=True, slots=True)
class Link:
    """An NSEC record: no name is between `owner` and `next` in canonical order."""

    owner: dns.name.Name
    next: dns.name.Name
    types: Types


def link(owner: dns.name.Name, octets: bytes, zone: dns.name.Name) -> Link | None:
    """An NSEC record of `zone` by its RDATA, None when it makes no sense there. Raises ValueError."""
    following, end = name_at(octets)
    types = Types(_windows(octets, end))
    if not owner.is_subdomain(zone) or not following.is_subdomain(zone):
        return None
    if following <= owner and following != zone:
        return None  # only the last record of a zone leads back, and to the apex
    return Link(owner, following, types)


def _windows(octets: bytes, start: int) -> tuple[tuple[int, bytes], ...]:
    """A type bitmap: windows in their order, none of them empty (RFC 4034 4.1.2). Raises ValueError."""
    windows: list[tuple[int, bytes]] = []
    while start < len(octets):
        bits = octets[start + 2 : start + 2 + octets[start + 1]] if start + 1 < len(octets) else b""
        in_order = not windows or windows[-1][0] < octets[start]
        if not (0 < len(bits) == octets[start + 1] <= 32 and bits[-1] and in_order):
            raise ValueError("a type bitmap that makes no sense")
        windows.append((octets[start], bits))
        start += 2 + len(bits)
    return tuple(windows)


def prove(
    name: dns.name.Name,
    rdtype: dns.rdatatype.RdataType,
    zone: dns.name.Name,
    links: Sequence[Link],
) -> Denied | Refusal:
    """What the NSEC records of `zone` say about `name` and `rdtype`."""
    fault = wrong_side(name, rdtype, zone)
    if fault is not None:
        return fault
    for here in links:
        if here.owner == name:
            return matched(name, rdtype, here.types)
    covering = _covering(name, links)
    if isinstance(covering, Refusal):
        return covering
    if covering.next.is_subdomain(name):
        return Denied(Absence.NODATA)  # an empty non-terminal (RFC 4592 2.2.2)
    wildcard = known((b"*", *_encloser(name, covering).labels))
    for here in links:
        if here.owner == wildcard:
            return wildcard_matched(wildcard, rdtype, here.types)
    above = _covering(wildcard, links)
    if isinstance(above, Refusal):
        return Refusal(Rule.DENIAL_WILDCARD, str(wildcard))
    if above.next.is_subdomain(wildcard):
        return Denied(Absence.NODATA)  # the wildcard is itself an empty non-terminal
    return Denied(Absence.NXDOMAIN)


def prove_expansion(
    name: dns.name.Name, encloser: dns.name.Name, zone: dns.name.Name, links: Sequence[Link]
) -> Refusal | None:
    """Whether `*.encloser` had to answer for `name`: neither it nor a closer name exists (RFC 4035 5.3.4)."""
    covering = _covering(name, links)
    if isinstance(covering, Refusal):
        return Refusal(Rule.WILDCARD_UNPROVEN, str(name))
    if covering.next.is_subdomain(name) or _encloser(name, covering) != encloser:
        return Refusal(Rule.WILDCARD_UNPROVEN, str(name))
    return None


def wrong_side(name: dns.name.Name, rdtype: dns.rdatatype.RdataType, zone: dns.name.Name) -> Refusal | None:
    """Whether `zone` cannot speak for the name and type at all (RFC 4035 3.1.4.1, 6840 4.4)."""
    if not name.is_subdomain(zone):
        return Refusal(Rule.SIGNER, str(name))
    if rdtype == dns.rdatatype.DS and name == zone and name != dns.name.root:
        return Refusal(Rule.DENIAL_CHILD_SIDE, str(name))
    return None


def matched(name: dns.name.Name, rdtype: dns.rdatatype.RdataType, types: Types) -> Denied | Refusal:
    """A record of the name itself: it exists, the type does not (RFC 4035 5.4, 5155 8.5, 8.6)."""
    if rdtype in types:
        return Refusal(Rule.DENIAL_TYPE_EXISTS, str(name))
    if dns.rdatatype.CNAME in types:
        return Refusal(Rule.DENIAL_CNAME_EXISTS, str(name))
    if rdtype == dns.rdatatype.DS:
        if dns.rdatatype.SOA in types and name != dns.name.root:
            return Refusal(Rule.DENIAL_CHILD_SIDE, str(name))
        if types.is_cut:
            return Denied(Absence.NODATA, delegation=True)
    elif types.is_cut:
        return Refusal(Rule.DENIAL_PARENT_SIDE, str(name))
    if NXNAME in types:
        return Denied(Absence.NXDOMAIN, compact=True)
    return Denied(Absence.NODATA)


def wildcard_matched(
    wildcard: dns.name.Name, rdtype: dns.rdatatype.RdataType, types: Types
) -> Denied | Refusal:
    """A record of the wildcard that would answer: it lacks the type too (RFC 4035 5.4, 5155 8.7)."""
    if rdtype in types:
        return Refusal(Rule.DENIAL_TYPE_EXISTS, str(wildcard))
    if dns.rdatatype.CNAME in types:
        return Refusal(Rule.DENIAL_CNAME_EXISTS, str(wildcard))
    if types.is_cut:
        return Refusal(Rule.DENIAL_PARENT_SIDE, str(wildcard))
    return Denied(Absence.NODATA)


def _covering(name: dns.name.Name, links: Sequence[Link]) -> Link | Refusal:
    below_cut = False
    for here in links:
        last = here.next <= here.owner
        if here.owner < name and (last or name < here.next):
            if name.is_subdomain(here.owner) and here.types.hides_below:
                below_cut = True
                continue
            return here
    return Refusal(Rule.DENIAL_BELOW_CUT if below_cut else Rule.DENIAL_NOT_COVERED, str(name))


def _encloser(name: dns.name.Name, covering: Link) -> dns.name.Name:
    """The closest encloser that follows from the record which covers the name."""
    before = name.fullcompare(covering.owner)[2]
    after = name.fullcompare(covering.next)[2]
    return known(name.labels[len(name) - max(before, after) :])
