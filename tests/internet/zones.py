"""Zones of the miniature Internet: a signed root, top-level domains and mail domains (RFC 4033-4035).

`build` turns a declaration (`MailDomain` values) into an `Internet`: one zone per mail domain, one per top-level
domain and the root, delegated and linked by DS records. Signed zones use algorithm 13 (ECDSAP256SHA256), one
combined signing key each, and NSEC denial. Keys are made once per process and zone name, and a zone is signed once
per process as long as nothing in it changes. Addresses must be given as text, names without their final dot. A name
outside its domain raises ValueError.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import dns.dnssec
import dns.dnssectypes
import dns.name
import dns.rdataset
import dns.rdatatype
import dns.zone
from cryptography.hazmat.primitives.asymmetric import ec
from dns.rdtypes.ANY.DNSKEY import DNSKEY
from dns.rdtypes.ANY.DS import DS

TTL = 300  # seconds, of every record
NEGATIVE_TTL = 60  # seconds, SOA MINIMUM (RFC 2308)
_LIFETIME = timedelta(days=30)
_CLOCK_SKEW = timedelta(hours=1)
_KEPT = 200  # zones
_KEY_FLAGS = 257  # zone key and secure entry point (RFC 4034 2.1.1): one key signs everything


class Security(StrEnum):
    """How a zone is secured, or what is wrong with it."""

    SECURE = "secure"
    INSECURE = "insecure"  # unsigned, no DS in the parent
    ISLAND = "island"  # signed, no DS in the parent: insecure for everybody without its key
    BOGUS = "bogus"  # every signature but the one over the DNSKEY RRset was altered after signing
    EXPIRED = "expired"  # all signatures ran out
    WRONG_DS = "wrong-ds"  # the DS in the parent belongs to another key

    @property
    def signed(self) -> bool:
        """Whether the zone holds signatures."""
        return self is not Security.INSECURE

    @property
    def delegated_securely(self) -> bool:
        """Whether the parent holds a DS record."""
        return self not in (Security.INSECURE, Security.ISLAND)


class Status(StrEnum):
    """What a validator with the root's key concludes (RFC 4035 4.3)."""

    SECURE = "secure"
    INSECURE = "insecure"
    BOGUS = "bogus"


@dataclass(frozen=True, slots=True)
class MailDomain:
    """One domain and its zone.

    `mx` is (preference, host); `((0, "."),)` is the null MX (RFC 7505), none at all leaves the domain itself as
    its host. `addresses` are those of the domain itself, `hosts` maps names inside the domain to addresses,
    `aliases` names to CNAME targets, `texts` names to the text of a TXT record. `tlsa` is (owner such as `_25._tcp.mx.example.test`, record data such as
    `3 1 1 ab…`). `records` are further zone file lines with absolute names. `forged` are such lines too: after
    signing they replace the RRset of their name and type, whose signature stays.
    """

    name: str
    mx: tuple[tuple[int, str], ...] = ()
    addresses: tuple[str, ...] = ()
    hosts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    tlsa: tuple[tuple[str, str], ...] = ()
    records: tuple[str, ...] = ()
    forged: tuple[str, ...] = ()
    security: Security = Security.SECURE

    def lines(self) -> tuple[str, ...]:
        """Its records in zone file form (RFC 1035 5), SOA and NS left out."""
        lines = [_address_line(self.name, address) for address in self.addresses]
        lines += [f"{_absolute(self.name)} MX {preference} {_absolute(host)}" for preference, host in self.mx]
        for host, addresses in self.hosts.items():
            lines += [_address_line(host, address) for address in addresses]
        lines += [f"{_absolute(alias)} CNAME {_absolute(target)}" for alias, target in self.aliases.items()]
        lines += [f'{_absolute(owner)} TXT "{text}"' for owner, text in self.texts.items()]
        lines += [f"{_absolute(owner)} TLSA {data}" for owner, data in self.tlsa]
        return (*lines, *self.records)


@dataclass(frozen=True, slots=True, eq=False)
class Zone:
    """One finished zone. `names` are its owner names in canonical order (RFC 4034 6.1), glue left out.

    `status` is what a validator concludes from the root's key for the zone as a whole, `forged` are RRsets that
    it must find bogus although the rest is secure.
    """

    origin: dns.name.Name
    contents: dns.zone.Zone
    security: Security
    status: Status
    names: tuple[dns.name.Name, ...]
    forged: frozenset[tuple[dns.name.Name, dns.rdatatype.RdataType]] = frozenset()

    @property
    def text(self) -> str:
        """The zone file, for a real name server."""
        return str(self.contents.to_text(relativize=False, sorted=True))

    def rdataset(
        self,
        name: dns.name.Name,
        rdtype: dns.rdatatype.RdataType,
        covers: dns.rdatatype.RdataType = dns.rdatatype.NONE,
    ) -> dns.rdataset.Rdataset | None:
        """The records of that name and type, or the RRSIGs that cover a type."""
        return self.contents.get_rdataset(name, rdtype, covers)


@dataclass(frozen=True, slots=True, eq=False)
class Internet:
    """All zones by origin. The key of the root is the trust anchor."""

    zones: Mapping[dns.name.Name, Zone]

    def zone_for(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> Zone:
        """The zone that answers: the deepest that encloses `name`, its parent for DS (RFC 4035 3.1.4.1)."""
        if rdtype == dns.rdatatype.DS and name in self.zones and name != dns.name.root:
            name = name.parent()
        while name not in self.zones:
            name = name.parent()
        return self.zones[name]

    def zone(self, name: str) -> Zone:
        """The zone with that origin; KeyError when there is none."""
        return self.zones[dns.name.from_text(name)]

    @property
    def trust_anchor(self) -> DS:
        """The DS record of the root's key."""
        return dns.dnssec.make_ds(dns.name.root, _dnskey(dns.name.root), dns.dnssectypes.DSDigest.SHA256)

    @property
    def trust_anchor_text(self) -> str:
        """The root's key as DS and as DNSKEY, in zone file form, one record a line."""
        key = _dnskey(dns.name.root)
        return f". {TTL} IN DS {self.trust_anchor.to_text()}\n. {TTL} IN DNSKEY {key.to_text()}\n"


def build(domains: Iterable[MailDomain], *, name_server: str, now: datetime | None = None) -> Internet:
    """Make, delegate and sign the zones of `domains`, their top-level domains and the root.

    `name_server` is the address of `ns.<zone>` of every zone; signatures are valid from an
    hour before `now` (default: the system's clock) for 30 days.
    """
    declared = {dns.name.from_text(domain.name): domain for domain in domains}
    for origin in tuple(declared):
        top = dns.name.Name(origin.labels[-2:])
        declared.setdefault(top, MailDomain(top.to_text(omit_final_dot=True)))
    declared.setdefault(dns.name.root, MailDomain("."))
    zones: dict[dns.name.Name, Zone] = {}
    for origin in sorted(declared):  # canonical order: parents come before their children
        parent = None if origin == dns.name.root else zones[_parent(origin, declared)]
        children = tuple(
            child for child in declared if child != dns.name.root and _parent(child, declared) == origin
        )
        zones[origin] = _zone(origin, declared, parent, children, name_server, now)
    return Internet(zones)


def _zone(
    origin: dns.name.Name,
    declared: Mapping[dns.name.Name, MailDomain],
    parent: Zone | None,
    children: tuple[dns.name.Name, ...],
    name_server: str,
    now: datetime | None,
) -> Zone:
    domain = declared[origin]
    _refuse_strangers((*domain.lines(), *domain.forged), origin)
    lines = [
        f"$ORIGIN {origin}",
        f"$TTL {TTL}",
        f"@ SOA {_server_of(origin)} hostmaster.{_within(origin)} 1 3600 600 86400 {NEGATIVE_TTL}",
        f"@ NS {_server_of(origin)}",
        f"{_server_of(origin)} A {name_server}",
        *domain.lines(),
    ]
    for child in children:
        lines += [f"{child} NS {_server_of(child)}", f"{_server_of(child)} A {name_server}"]
        if domain.security.signed and declared[child].security.delegated_securely:
            lines.append(f"{child} DS {_ds(child, declared[child].security).to_text()}")
    contents, forged = _contents(origin, tuple(lines), domain.forged, domain.security, now)
    names = tuple(sorted(name for name in contents if not any(_below(name, child) for child in children)))
    return Zone(origin, contents, domain.security, _status(domain.security, parent), names, forged)


@functools.lru_cache(_KEPT)
def _contents(
    origin: dns.name.Name,
    lines: tuple[str, ...],
    forged: tuple[str, ...],
    security: Security,
    now: datetime | None,
) -> tuple[dns.zone.Zone, frozenset[tuple[dns.name.Name, dns.rdatatype.RdataType]]]:
    """What is in the zone, and which of it is forged. Nobody changes it afterwards."""
    contents = dns.zone.from_text("\n".join(lines) + "\n", origin, relativize=False)
    if security.signed:
        _sign(contents, origin, security, now or datetime.now(UTC))
    return contents, _forge(contents, forged)


def _status(security: Security, parent: Zone | None) -> Status:
    if parent is not None and parent.status is not Status.SECURE:
        return parent.status  # RFC 4035 4.3: nothing below can be better than the delegation to it
    if security is Security.SECURE:
        return Status.SECURE
    return Status.BOGUS if security.delegated_securely else Status.INSECURE


def _sign(contents: dns.zone.Zone, origin: dns.name.Name, security: Security, now: datetime) -> None:
    begin = now - _CLOCK_SKEW
    if security is Security.EXPIRED:
        begin -= 2 * _LIFETIME
    with contents.writer() as transaction:
        dns.dnssec.sign_zone(
            contents,
            txn=transaction,
            keys=[(_private_key(origin), _dnskey(origin))],
            inception=begin,
            expiration=begin + _LIFETIME,
            dnskey_ttl=TTL,
            deterministic=False,  # faster, and not every OpenSSL has RFC 6979
        )
    if security is Security.BOGUS:
        for node in contents.nodes.values():
            node.rdatasets = [_spoilt(rdataset) for rdataset in node.rdatasets]


def _spoilt(rdataset: dns.rdataset.Rdataset) -> dns.rdataset.Rdataset:
    """The signatures with one bit turned; anything else, and the signature over the keys, as it is."""
    if rdataset.rdtype != dns.rdatatype.RRSIG or rdataset.covers == dns.rdatatype.DNSKEY:
        return rdataset
    signatures = [
        rrsig.replace(signature=rrsig.signature[:-1] + bytes([rrsig.signature[-1] ^ 1])) for rrsig in rdataset
    ]
    return dns.rdataset.from_rdata_list(rdataset.ttl, signatures)


def _forge(
    contents: dns.zone.Zone, lines: tuple[str, ...]
) -> frozenset[tuple[dns.name.Name, dns.rdatatype.RdataType]]:
    """Replace RRsets behind the back of their signatures; which ones, name and type."""
    if not lines:
        return frozenset()
    text = f"$TTL {TTL}\n" + "\n".join(lines) + "\n"
    forgery = dns.zone.from_text(text, contents.origin, relativize=False, check_origin=False)
    forged = set()
    for name, rdataset in forgery.iterate_rdatasets():
        contents.replace_rdataset(name, rdataset)
        forged.add((name, rdataset.rdtype))
    return frozenset(forged)


@functools.cache
def _private_key(origin: dns.name.Name) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@functools.cache
def _dnskey(origin: dns.name.Name) -> DNSKEY:
    key = _private_key(origin).public_key()
    return dns.dnssec.make_dnskey(key, dns.dnssectypes.Algorithm.ECDSAP256SHA256, flags=_KEY_FLAGS)


def _ds(origin: dns.name.Name, security: Security) -> DS:
    # Any other key will do as the wrong one; the root's is at hand.
    key = _dnskey(dns.name.root if security is Security.WRONG_DS else origin)
    return dns.dnssec.make_ds(origin, key, dns.dnssectypes.DSDigest.SHA256)


def _parent(origin: dns.name.Name, declared: Mapping[dns.name.Name, MailDomain]) -> dns.name.Name:
    name = origin.parent()
    while name not in declared:
        name = name.parent()
    return name


def _refuse_strangers(lines: Iterable[str], origin: dns.name.Name) -> None:
    """dnspython drops records of other zones without a word."""
    for line in lines:
        name = dns.name.from_text(line.split()[0])
        if not name.is_subdomain(origin):
            raise ValueError(f"{name} is not inside {origin}")


def _below(name: dns.name.Name, child: dns.name.Name) -> bool:
    return name != child and name.is_subdomain(child)


def _server_of(origin: dns.name.Name) -> str:
    return f"ns.{_within(origin)}"


def _within(origin: dns.name.Name) -> str:
    return "" if origin == dns.name.root else origin.to_text()


def _absolute(name: str) -> str:
    return name if name.endswith(".") else f"{name}."


def _address_line(name: str, address: str) -> str:
    return f"{_absolute(name)} {'AAAA' if ':' in address else 'A'} {address}"
