"""Chains that prove what a zone does not hold: NSEC (RFC 4034 4) and NSEC3 (RFC 5155 7.1), with opt-out.

Both are computed from finished, unsigned contents: delegations and DS records are in place, and every RRset that
will be signed counts as signed. Names below a delegation (glue) take no part.
"""

from __future__ import annotations

from dataclasses import dataclass

import dns.dnssec
import dns.name
import dns.node
import dns.rdata
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
import dns.rdtypes.ANY.NSEC
import dns.rdtypes.util
import dns.zone
from dns.rdtypes.ANY.NSEC3 import NSEC3
from dns.rdtypes.ANY.NSEC3PARAM import NSEC3PARAM

OPT_OUT = 0x01  # RFC 5155 3.1.2.1
_SHA1 = 1  # RFC 5155 11: the only hash there is


@dataclass(frozen=True, slots=True)
class Nsec:
    """Denial by NSEC."""


@dataclass(frozen=True, slots=True)
class Nsec3:
    """Denial by NSEC3. `salt` is hexadecimal; `flags` are set on every record beside opt-out.

    Empty non-terminals have records even if only insecure delegations are below them: RFC 5155 7.1 lets a signer
    leave these out, but NSD then cannot prove their absence of DS.
    """

    iterations: int = 0
    salt: str = ""
    opt_out: bool = False
    flags: int = 0
    hash: int = _SHA1

    def digest(self, name: dns.name.Name) -> str:
        """The hash of `name`, as the label of its NSEC3 record (RFC 5155 5)."""
        return dns.dnssec.nsec3_hash(name, self.salt or None, self.iterations, _SHA1).lower()


Denial = Nsec | Nsec3
NSEC = Nsec()


def add_chain(contents: dns.zone.Zone, denial: Denial, ttl: int) -> None:
    """Add the NSEC or NSEC3 records (and NSEC3PARAM) of the zone."""
    if isinstance(denial, Nsec):
        _add_nsec(contents, ttl)
    else:
        _add_nsec3(contents, denial, ttl)


def cuts(contents: dns.zone.Zone) -> frozenset[dns.name.Name]:
    """The owner names of delegations."""
    return frozenset(
        name
        for name, node in contents.nodes.items()
        if name != contents.origin and node.get_rdataset(dns.rdataclass.IN, dns.rdatatype.NS) is not None
    )


def authoritative(contents: dns.zone.Zone) -> tuple[dns.name.Name, ...]:
    """The owner names in canonical order (RFC 4034 6.1), delegations included and glue left out."""
    delegations = cuts(contents)
    return tuple(
        sorted(
            name
            for name in contents.nodes
            if not any(name != cut and name.is_subdomain(cut) for cut in delegations)
        )
    )


def signed_types(node: dns.node.Node, cut: bool) -> tuple[dns.rdatatype.RdataType, ...]:
    """The types of a node that get signatures: at a delegation only DS and NSEC (RFC 4035 2.2)."""
    types = (r.rdtype for r in node.rdatasets if r.rdtype != dns.rdatatype.RRSIG)
    if cut:
        return tuple(t for t in types if t in (dns.rdatatype.DS, dns.rdatatype.NSEC))
    return tuple(types)


def windows(types: set[dns.rdatatype.RdataType]) -> tuple[tuple[int, bytes], ...]:
    """The type bit maps field (RFC 4034 4.1.2)."""
    return tuple(dns.rdtypes.util.Bitmap.from_rdtypes(sorted(types)).windows)


def _add_nsec(contents: dns.zone.Zone, ttl: int) -> None:
    delegations = cuts(contents)
    names = authoritative(contents)
    for place, name in enumerate(names):
        types = _shown_types(contents.nodes[name], name in delegations)
        types |= {dns.rdatatype.NSEC, dns.rdatatype.RRSIG}
        following = names[(place + 1) % len(names)]
        record = dns.rdtypes.ANY.NSEC.NSEC(  # type: ignore[no-untyped-call]
            dns.rdataclass.IN, dns.rdatatype.NSEC, following, windows(types)
        )
        contents.replace_rdataset(name, dns.rdataset.from_rdata(ttl, record))


def _add_nsec3(contents: dns.zone.Zone, denial: Nsec3, ttl: int) -> None:
    assert contents.origin is not None
    salt = bytes.fromhex(denial.salt)
    parameters = NSEC3PARAM(  # type: ignore[no-untyped-call]
        dns.rdataclass.IN, dns.rdatatype.NSEC3PARAM, denial.hash, 0, denial.iterations, salt
    )
    contents.replace_rdataset(contents.origin, dns.rdataset.from_rdata(ttl, parameters))
    delegations = cuts(contents)
    bitmaps: dict[dns.name.Name, set[dns.rdatatype.RdataType]] = {}
    for name in authoritative(contents):
        node = contents.nodes[name]
        types: set[dns.rdatatype.RdataType] | None = _shown_types(node, name in delegations)
        assert types is not None
        if signed_types(node, name in delegations):
            types |= {dns.rdatatype.RRSIG}
        elif denial.opt_out and name in delegations:
            types = None  # RFC 5155 7.1: an insecure delegation needs no record where opt-out is set
        if types is not None:
            bitmaps[name] = types
        while (name := name.parent()).is_subdomain(contents.origin) and name not in contents.nodes:
            bitmaps.setdefault(name, set())  # an empty non-terminal
    hashed = sorted((denial.digest(name), types) for name, types in bitmaps.items())
    flags = denial.flags | (OPT_OUT if denial.opt_out else 0)
    for place, (label, types) in enumerate(hashed):
        following = dns.rdata.from_text(
            "IN",
            "NSEC3",
            f"{denial.hash} {flags} {denial.iterations} {denial.salt or '-'} {hashed[(place + 1) % len(hashed)][0]} A",
        )
        assert isinstance(following, NSEC3)
        record = following.replace(windows=windows(types))
        owner = dns.name.from_text(label, contents.origin)
        contents.replace_rdataset(owner, dns.rdataset.from_rdata(ttl, record))


def _shown_types(node: dns.node.Node, cut: bool) -> set[dns.rdatatype.RdataType]:
    """The types in the bit map; glue at a delegation is not the zone's (RFC 4034 4.1.2)."""
    types = {r.rdtype for r in node.rdatasets if r.rdtype != dns.rdatatype.RRSIG}
    return types & {dns.rdatatype.NS, dns.rdatatype.DS} if cut else types
