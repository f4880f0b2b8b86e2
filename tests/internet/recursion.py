"""What a validating recursive resolver answers, as a pure function of the zones (RFC 1034 4.3.2, RFC 4035 3).

`resolve` follows CNAME and DNAME from zone to zone, expands wildcards (RFC 4592), proves denials with NSEC
(RFC 4035 3.1.3) and says whether a validator would find the whole answer secure, insecure or bogus. It knows
that from how the zones were made and does no cryptography; the tests hold it against real validation.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

import dns.edns
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
import dns.rrset

from tests.internet.owners import closest_encloser, delegating_alias, source, synthesised
from tests.internet.zones import Internet, Security, Status, Zone

MAX_ALIASES = 16

_EDE = {
    Security.EXPIRED: dns.edns.EDECode.SIGNATURE_EXPIRED,
    Security.WRONG_DS: dns.edns.EDECode.DNSKEY_MISSING,
}


@dataclass(frozen=True, slots=True)
class Resolution:
    """A finished lookup. The sections hold signatures and denials too; `why` is the RFC 8914 code of a bogus one."""

    rcode: dns.rcode.Rcode
    answer: tuple[dns.rrset.RRset, ...]
    authority: tuple[dns.rrset.RRset, ...]
    status: Status
    why: dns.edns.EDECode | None = None


def resolve(internet: Internet, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> Resolution:
    """Answer one question of class IN. More than 16 aliases in a row are SERVFAIL."""
    walk = _Walk(internet)
    rcode = walk.follow(name, rdtype)
    return Resolution(rcode, tuple(walk.answer), tuple(walk.authority), walk.status, walk.why)


@dataclass(slots=True)
class _Walk:
    internet: Internet
    answer: list[dns.rrset.RRset] = field(default_factory=list)
    authority: list[dns.rrset.RRset] = field(default_factory=list)
    status: Status = Status.SECURE
    why: dns.edns.EDECode | None = None

    def follow(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> dns.rcode.Rcode:
        for _ in range(MAX_ALIASES):
            zone = self.internet.zone_for(name, rdtype)
            upper = delegating_alias(zone, name)
            if upper is not None:
                try:
                    name = self._through_dname(zone, name, upper)
                except dns.name.NameTooLong:
                    return dns.rcode.YXDOMAIN  # RFC 6672 2.2
                continue
            owner = source(zone, name)
            if owner is None:
                return self._deny_name(zone, name)
            if owner != name:
                self._prove(zone, _covering(zone, name))  # a wildcard counts only where there is no such name
            if zone.rdataset(owner, rdtype) is not None:
                self._add(self.answer, zone, owner, rdtype, shown_as=name)
                return dns.rcode.NOERROR
            alias = zone.rdataset(owner, dns.rdatatype.CNAME)
            if alias is None:
                return self._deny_type(zone, owner)
            self._add(self.answer, zone, owner, dns.rdatatype.CNAME, shown_as=name)
            name = alias[0].target
        return dns.rcode.SERVFAIL

    def _through_dname(self, zone: Zone, name: dns.name.Name, upper: dns.name.Name) -> dns.name.Name:
        self._add(self.answer, zone, upper, dns.rdatatype.DNAME)
        self.answer.append(synthesised(zone, name, upper))
        target: dns.name.Name = self.answer[-1][0].target
        return target

    def _deny_name(self, zone: Zone, name: dns.name.Name) -> dns.rcode.Rcode:
        self._add_soa(zone)
        wildcard = dns.name.Name((b"*", *closest_encloser(zone, name).labels))
        self._prove(zone, _covering(zone, name))
        self._prove(zone, _covering(zone, wildcard))
        return dns.rcode.NXDOMAIN

    def _deny_type(self, zone: Zone, source: dns.name.Name) -> dns.rcode.Rcode:
        self._add_soa(zone)
        self._prove(zone, _covering(zone, source))  # its own NSEC; an empty non-terminal is covered
        return dns.rcode.NOERROR

    def _add_soa(self, zone: Zone) -> None:
        self._add(self.authority, zone, zone.origin, dns.rdatatype.SOA)
        soa = next(rrset for rrset in reversed(self.authority) if rrset.rdtype == dns.rdatatype.SOA)
        soa.ttl = min(soa.ttl, soa[0].minimum)  # RFC 2308 5

    def _prove(self, zone: Zone, owner: dns.name.Name | None) -> None:
        if owner is None:  # an unsigned zone proves nothing
            self._conclude(zone.status, zone)
        elif not any(r.name == owner and r.rdtype == dns.rdatatype.NSEC for r in self.authority):
            self._add(self.authority, zone, owner, dns.rdatatype.NSEC)

    def _add(
        self,
        section: list[dns.rrset.RRset],
        zone: Zone,
        owner: dns.name.Name,
        rdtype: dns.rdatatype.RdataType,
        shown_as: dns.name.Name | None = None,
    ) -> None:
        rdataset = zone.rdataset(owner, rdtype)
        assert rdataset is not None
        section.append(dns.rrset.from_rdata_list(shown_as or owner, rdataset.ttl, list(rdataset)))
        signatures = zone.rdataset(owner, dns.rdatatype.RRSIG, rdtype)
        if signatures is not None:
            section.append(dns.rrset.from_rdata_list(shown_as or owner, signatures.ttl, list(signatures)))
        self._conclude(_rrset_status(zone, owner, rdtype), zone)

    def _conclude(self, status: Status, zone: Zone) -> None:
        if status is Status.BOGUS and self.status is not Status.BOGUS:
            self.status = status
            self.why = _EDE.get(zone.security, dns.edns.EDECode.DNSSEC_BOGUS)
        elif status is Status.INSECURE and self.status is Status.SECURE:
            self.status = status


def _rrset_status(zone: Zone, owner: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> Status:
    if (owner, rdtype) in zone.forged and zone.status is Status.SECURE:
        return Status.BOGUS
    if (zone.status, zone.security, rdtype) == (Status.BOGUS, Security.BOGUS, dns.rdatatype.DNSKEY):
        return Status.SECURE  # the keys of such a zone are sound, their signatures over all else are not
    return zone.status


def _covering(zone: Zone, name: dns.name.Name) -> dns.name.Name | None:
    """The owner of the NSEC record that matches or covers `name`; None in an unsigned zone."""
    if not zone.security.signed:
        return None
    return zone.names[bisect_right(zone.names, name) - 1]
