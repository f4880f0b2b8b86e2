"""What a recursive resolver passes on from the zoo to a query with CD, as a pure function (RFC 1034 4.3.2, RFC 4035 3.1).

Aliases are followed from zone to zone, wildcards expanded (RFC 4592), and denials come with the NSEC (RFC 4035 3.1.3)
or NSEC3 records (RFC 5155 7.2) that the zone has, be they sound or not: where a record was removed, the one before
it in the chain is shown, as name servers do. Nothing is validated. Without CD the verdict is looked up among the
animals; a question that is none of them counts as insecure.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field

import dns.edns
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from tests.internet.owners import closest_encloser, delegating_alias, source, synthesised
from tests.internet.recursion import MAX_ALIASES, Resolution
from tests.internet.zones import Status
from tests.zoo.animal import Animal, Security
from tests.zoo.animals import ANIMALS
from tests.zoo.signer import Zone
from tests.zoo.tree import Zoo

_STATUS = {Security.SECURE: Status.SECURE, Security.BOGUS: Status.BOGUS, Security.FAILED: Status.BOGUS}
_Question = tuple[dns.name.Name, dns.rdatatype.RdataType]


@dataclass(frozen=True, slots=True)
class Chain:
    """The owners of a zone's denial records in their order."""

    nsec: tuple[dns.name.Name, ...]
    nsec3: tuple[dns.name.Name, ...]

    def at_or_before(self, owners: tuple[dns.name.Name, ...], name: dns.name.Name) -> dns.name.Name:
        """The owner whose record matches or would cover `name`; the last one before the first."""
        return owners[bisect_right(owners, name) - 1]


class Recursion:
    """Answers any question from the zoo; `resolve` fits `tests.internet.resolver.Resolver`."""

    def __init__(self, zoo: Zoo) -> None:
        self.zoo = zoo
        self._chains = {origin: _chain(zone) for origin, zone in zoo.zones.items()}
        self._known: Mapping[_Question, Animal] = {
            (dns.name.from_text(animal.name), dns.rdatatype.from_text(animal.type)): animal
            for animal in ANIMALS
        }

    def resolve(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> Resolution:
        """Answer one question of class IN. Aliases without end are SERVFAIL."""
        walk = _Walk(self.zoo, self._chains)
        rcode = walk.follow(name, rdtype)
        animal = self._known.get((name, rdtype))
        status = Status.INSECURE if animal is None else _STATUS.get(animal.security, Status.INSECURE)
        return Resolution(
            rcode, tuple(walk.answer), tuple(walk.authority), status, dns.edns.EDECode.DNSSEC_BOGUS
        )


@dataclass(slots=True)
class _Walk:
    zoo: Zoo
    chains: Mapping[dns.name.Name, Chain]
    answer: list[dns.rrset.RRset] = field(default_factory=list)
    authority: list[dns.rrset.RRset] = field(default_factory=list)

    def follow(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> dns.rcode.Rcode:
        for _ in range(MAX_ALIASES):
            zone = self.zoo.zone_for(name, rdtype)
            upper = delegating_alias(zone, name)
            if upper is not None:
                self._add(self.answer, zone, upper, "DNAME")
                try:
                    self.answer.append(synthesised(zone, name, upper))
                except dns.name.NameTooLong:
                    return dns.rcode.YXDOMAIN  # RFC 6672 2.2
                name = self.answer[-1][0].target
                continue
            owner = source(zone, name)
            if owner is None:
                self._deny_name(zone, name)
                return dns.rcode.NXDOMAIN
            if self._add(self.answer, zone, owner, dns.rdatatype.to_text(rdtype), shown_as=name):
                if owner != name:
                    self._prove_expansion(zone, name, owner)
                return dns.rcode.NOERROR
            if not self._add(self.answer, zone, owner, "CNAME", shown_as=name):
                self._deny_type(zone, name, owner)
                return dns.rcode.NOERROR
            if owner != name:
                self._prove_expansion(zone, name, owner)
            name = zone.contents.find_rdataset(owner, "CNAME")[0].target
        return dns.rcode.SERVFAIL

    def _deny_name(self, zone: Zone, name: dns.name.Name) -> None:
        self._add(self.authority, zone, zone.origin, "SOA")
        encloser = closest_encloser(zone, name)
        wildcard = dns.name.Name((b"*", *encloser.labels))
        if zone.nsec3 is None:
            self._nsec(zone, name)
            self._nsec(zone, wildcard)
        else:
            self._nsec3(zone, encloser, _next_closer(name, encloser), wildcard)

    def _deny_type(self, zone: Zone, name: dns.name.Name, source: dns.name.Name) -> None:
        self._add(self.authority, zone, zone.origin, "SOA")
        if zone.nsec3 is None:
            self._nsec(zone, source)
            if source != name:
                self._nsec(zone, name)
        elif source == name:
            self._nsec3_of(zone, name)
        else:
            encloser = closest_encloser(zone, name)
            self._nsec3(zone, encloser, _next_closer(name, encloser), source)

    def _prove_expansion(self, zone: Zone, name: dns.name.Name, wildcard: dns.name.Name) -> None:
        if zone.nsec3 is None:
            self._nsec(zone, name)
        else:
            self._nsec3(zone, _next_closer(name, wildcard.parent()))

    def _nsec3_of(self, zone: Zone, name: dns.name.Name) -> None:
        """The record of an existing name; below an opt-out span, the proof that it has none (RFC 5155 7.2.4)."""
        assert zone.nsec3 is not None
        chain = self.chains[zone.origin].nsec3
        if _hashed(zone, name) in chain or not zone.nsec3.opt_out:
            self._nsec3(zone, name)
            return
        encloser = name.parent()
        while _hashed(zone, encloser) not in chain and encloser != zone.origin:
            encloser = encloser.parent()
        self._nsec3(zone, encloser, _next_closer(name, encloser))

    def _nsec3(self, zone: Zone, *names: dns.name.Name) -> None:
        """The records that match or would cover the hashes of `names`."""
        chain = self.chains[zone.origin]
        for name in names if chain.nsec3 else ():
            self._add(self.authority, zone, chain.at_or_before(chain.nsec3, _hashed(zone, name)), "NSEC3")

    def _nsec(self, zone: Zone, name: dns.name.Name) -> None:
        chain = self.chains[zone.origin]
        if chain.nsec:
            self._add(self.authority, zone, chain.at_or_before(chain.nsec, name), "NSEC")

    def _add(
        self,
        section: list[dns.rrset.RRset],
        zone: Zone,
        owner: dns.name.Name,
        rdtype: str,
        shown_as: dns.name.Name | None = None,
    ) -> bool:
        """Add an RRset and its signatures, once; whether the zone has it."""
        rdataset = zone.contents.get_rdataset(owner, rdtype)
        if rdataset is None:
            return False
        shown = shown_as or owner
        if any(rrset.name == shown and rrset.rdtype == rdataset.rdtype for rrset in section):
            return True
        section.append(dns.rrset.from_rdata_list(shown, rdataset.ttl, list(rdataset)))
        signatures = zone.contents.get_rdataset(owner, "RRSIG", rdtype)
        if signatures is not None:
            section.append(dns.rrset.from_rdata_list(shown, signatures.ttl, list(signatures)))
        return True


def _chain(zone: Zone) -> Chain:
    nsec = tuple(sorted(name for name, _ in zone.contents.iterate_rdatasets("NSEC")))
    nsec3 = tuple(sorted(name for name, _ in zone.contents.iterate_rdatasets("NSEC3")))
    understood = zone.nsec3 is not None and zone.nsec3.hash == 1  # servers cannot hash otherwise
    return Chain(nsec, nsec3 if understood else ())


def _hashed(zone: Zone, name: dns.name.Name) -> dns.name.Name:
    assert zone.nsec3 is not None
    return dns.name.from_text(zone.nsec3.digest(name), zone.origin)


def _next_closer(name: dns.name.Name, encloser: dns.name.Name) -> dns.name.Name:
    """RFC 5155 1.3: the name one label longer than the closest encloser."""
    return dns.name.Name(name.labels[len(name.labels) - len(encloser.labels) - 1 :])
