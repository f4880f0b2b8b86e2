"""RRsets and signatures as they are judged: their canonical octets, read only as far as somebody asks.

`RecordSet` is all records of one name and type in class IN; `Signature` an RRSIG record (RFC 4034 3.1).
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
from msgspec import Struct

_SIGNATURE = struct.Struct("!HBBIIIH")  # RFC 4034 3.1, up to the signer's name


@dataclass(slots=True)
class RecordSet:
    """`canonical` holds the RDATA in canonical form (RFC 4034 6.2), without duplicates; `ttl` in seconds.

    As a sequence it is that of dnspython's objects. Reading them raises DNSException for what is malformed.
    """

    name: dns.name.Name
    rdtype: dns.rdatatype.RdataType
    ttl: int
    canonical: tuple[bytes, ...]
    _read: tuple[dns.rdata.Rdata, ...] | None = field(default=None, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.canonical)

    def __iter__(self) -> Iterator[dns.rdata.Rdata]:
        return iter(self._records())

    def __getitem__(self, place: int) -> dns.rdata.Rdata:
        return self._records()[place]

    def _records(self) -> tuple[dns.rdata.Rdata, ...]:
        if self._read is None:
            self._read = tuple(
                dns.rdata.from_wire(dns.rdataclass.IN, self.rdtype, octets, 0, len(octets))
                for octets in self.canonical
            )
        return self._read


class Signature(Struct, frozen=True):
    """An RRSIG record; times in seconds since the epoch, as 32-bit serials."""

    type_covered: int
    algorithm: int
    labels: int
    original_ttl: int
    expiration: int
    inception: int
    key_tag: int
    signer: dns.name.Name
    signature: bytes

    def signed_fields(self) -> bytes:
        """Its RDATA without the signature, in canonical form (RFC 4034 3.1.8.1)."""
        return (
            _SIGNATURE.pack(
                self.type_covered,
                self.algorithm,
                self.labels,
                self.original_ttl,
                self.expiration,
                self.inception,
                self.key_tag,
            )
            + self.signer.to_digestable()
        )


@functools.cache
def type_name(rdtype: dns.rdatatype.RdataType) -> str:
    """As in zone files; there are at most 65536."""
    return dns.rdatatype.to_text(rdtype)


def negative_ttl(soa: RecordSet) -> int:
    """For how many seconds an absence holds by the SOA record of its zone (RFC 2308 5)."""
    return min(soa.ttl, int.from_bytes(soa.canonical[0][-4:], "big"))


def unique(octets: Sequence[bytes]) -> tuple[bytes, ...]:
    """Without duplicates, in the order of arrival (RFC 4034 6.3)."""
    return tuple(octets) if len(octets) == 1 else tuple(dict.fromkeys(octets))
