"""Trust anchors: the names where trust begins (RFC 4035 5, 5011), and where it is suspended (RFC 7646).

The closest anchor above a name decides: one of a private island wins over the root's. A negative anchor makes
everything below it insecure until its end, but not what a positive anchor below it holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import dns.exception
import dns.name
import dns.rdataclass
import dns.rdatatype
import dns.zonefile
from dns.rdtypes.ANY.DNSKEY import DNSKEY
from dns.rdtypes.ANY.DS import DS

from deliver.dnssec.algorithm import Digest, digest_in
from deliver.dnssec.names import KnownName, known

MAX_LINES = 10_000

# KSK-2017 and KSK-2024, as published by IANA (https://data.iana.org/root-anchors/root-anchors.xml).
ROOT = """\
. IN DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D
. IN DS 38696 8 2 683D2D0ACB8C9B712A1948B27F741219298D0A450D612C483AF444A4C0FB2B16
"""


@dataclass(frozen=True, slots=True)
class Anchor:
    """What the keys of one zone must match: a digest or the key itself, by its RDATA; one match suffices."""

    name: dns.name.Name
    ds: tuple[Digest, ...] = ()
    keys: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class NegativeAnchor:
    """Validation is suspended at and below `name` until `until` (seconds since the epoch; None: for good)."""

    name: dns.name.Name
    reason: str
    until: float | None = None


@dataclass(frozen=True, slots=True)
class TrustAnchors:
    """All anchors by name."""

    anchors: Mapping[dns.name.Name, Anchor] = field(default_factory=lambda: MappingProxyType({}))
    negative: tuple[NegativeAnchor, ...] = ()

    def closest(self, name: dns.name.Name) -> Anchor | None:
        """The anchor at `name` or closest above it."""
        if len(self.anchors) == 1:
            (only,) = self.anchors.values()
            return only if name.is_subdomain(only.name) else None
        for above in ancestors(name):
            anchor = self.anchors.get(above)
            if anchor is not None:
                return anchor
        return None

    def suspended(self, name: dns.name.Name, now: float) -> NegativeAnchor | None:
        """The negative anchor that holds for `name`, unless a positive one is as close or closer."""
        if not self.negative:
            return None
        positive = self.closest(name)
        holding = [
            anchor
            for anchor in self.negative
            if name.is_subdomain(anchor.name)
            and (anchor.until is None or now < anchor.until)
            and (positive is None or anchor.name == positive.name or anchor.name.is_subdomain(positive.name))
        ]
        return max(holding, key=lambda anchor: len(anchor.name), default=None)

    def but_not(self, negative: Iterable[NegativeAnchor]) -> TrustAnchors:
        """The same with these negative anchors."""
        return replace(self, negative=tuple(negative))


def ancestors(name: dns.name.Name) -> tuple[dns.name.Name, ...]:
    """`name` and every name above it, the root last."""
    if not isinstance(name, KnownName):
        name = known(name.labels)
    return (name, *name.above())


def parse(text: str) -> TrustAnchors:
    """DS and DNSKEY records in zone-file form (RFC 1035 5). Raises ValueError that names the line."""
    found: dict[dns.name.Name, Anchor] = {}
    for line, record in _records(text):
        for name, rdata in _read(line, record):
            anchor = found.get(name, Anchor(name))
            if isinstance(rdata, DS):
                found[name] = replace(anchor, ds=(*anchor.ds, digest_in(rdata.to_digestable())))
            else:
                found[name] = replace(anchor, keys=(*anchor.keys, rdata.to_digestable()))
    if not found:
        raise ValueError("no DS or DNSKEY record")
    return TrustAnchors(MappingProxyType(found))


def root_anchors() -> TrustAnchors:
    """Those of the root of the public DNS."""
    return parse(ROOT)


def _read(line: int, record: str) -> Iterator[tuple[dns.name.Name, DS | DNSKEY]]:
    try:
        rrsets = dns.zonefile.read_rrsets(record, rdclass=None, default_ttl=0, relativize=False)
    except (dns.exception.DNSException, ValueError) as error:
        said = str(error).removeprefix("<input>:").lstrip("0123456789: ") or type(error).__name__
        raise ValueError(f"line {line}: {said}") from error
    for rrset in rrsets:
        for rdata in rrset:
            if rrset.rdclass != dns.rdataclass.IN:
                raise ValueError(f"line {line}: the class is not IN")
            if not isinstance(rdata, DS | DNSKEY):
                raise ValueError(f"line {line}: it is neither a DNSKEY nor a DS record")
            if isinstance(rdata, DNSKEY) and (not rdata.flags & 0x0100 or rdata.protocol != 3):
                raise ValueError(f"line {line}: the DNSKEY is not a zone key")
            if isinstance(rdata, DNSKEY) and rdata.flags & 0x0080:
                raise ValueError(f"line {line}: the DNSKEY is revoked")
            yield known(rrset.name.labels), rdata


def _records(text: str) -> Iterator[tuple[int, str]]:
    """Records with the line where each begins: comments gone, parentheses joined."""
    begun, parts, depth = 0, "", 0
    lines = text.splitlines()
    if len(lines) > MAX_LINES:
        raise ValueError(f"more than {MAX_LINES} lines")
    for number, raw in enumerate(lines, 1):
        line = raw.partition(";")[0]
        if not depth:
            if not line.strip():
                continue
            if line[0].isspace():
                raise ValueError(f"line {number}: the record does not name its owner")
            begun, parts = number, ""
        depth += line.count("(") - line.count(")")
        parts += line.replace("(", " ").replace(")", " ") + " "
        if depth < 0:
            raise ValueError(f"line {number}: a parenthesis is closed that was not opened")
        if not depth:
            yield begun, parts.strip() + "\n"
    if depth:
        raise ValueError(f"line {begun}: a parenthesis is not closed")
