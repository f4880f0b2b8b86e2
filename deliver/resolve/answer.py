"""What a lookup found, as a sum type: absence, forgery and failure can never be mistaken for each other.

`Found`, `NoData` and `NxDomain` carry whether DNSSEC vouches for them. `Bogus` (validation failed) and
`Unreachable` (no answer, SERVFAIL, indeterminate) are failures: they defer, they are never an absence
(RFC 7672 2.1.2). `evidence` is what a validator went by; it is no part of an answer's identity. Names are
lower-case A-labels without the final dot; the root is the empty string.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from deliver.report.trace import Finding


class RecordType(StrEnum):
    """The record types that a delivery asks for."""

    A = "A"
    AAAA = "AAAA"
    CNAME = "CNAME"
    MX = "MX"
    TLSA = "TLSA"
    TXT = "TXT"


class Query(NamedTuple):
    """One question; class IN."""

    name: str
    type: RecordType


@dataclass(frozen=True, slots=True)
class MxRecord:
    """RFC 1035 3.3.9; `exchange` is empty for the null MX of RFC 7505."""

    preference: int
    exchange: str


@dataclass(frozen=True, slots=True)
class AddressRecord:
    """An A or AAAA record; `address` in the standard library's canonical text."""

    address: str


@dataclass(frozen=True, slots=True)
class AliasRecord:
    """A CNAME record (also one synthesised from DNAME)."""

    target: str


@dataclass(frozen=True, slots=True)
class TlsaRecord:
    """RFC 6698 2.1: certificate usage, selector, matching type, association data."""

    usage: int
    selector: int
    matching_type: int
    data: bytes

    def __str__(self) -> str:
        return f"{self.usage} {self.selector} {self.matching_type} {self.data.hex()}"


@dataclass(frozen=True, slots=True)
class TextRecord:
    """A TXT record, its strings joined."""

    text: bytes


Record = MxRecord | AddressRecord | AliasRecord | TlsaRecord | TextRecord


@dataclass(frozen=True, slots=True)
class Found:
    """Records of the type asked for; `aliases` are the names that CNAMEs led through, the owner last."""

    records: tuple[Record, ...]
    secure: bool
    ttl: int
    aliases: tuple[str, ...] = ()
    evidence: tuple[Finding, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class NoData:
    """The name exists (at the end of `aliases`), the type does not."""

    secure: bool
    ttl: int = 0
    aliases: tuple[str, ...] = ()
    evidence: tuple[Finding, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class NxDomain:
    """The name (or the target of its aliases) does not exist."""

    secure: bool
    ttl: int = 0
    aliases: tuple[str, ...] = ()
    evidence: tuple[Finding, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Bogus:
    """DNSSEC validation failed; `why` is the resolver's or validator's explanation."""

    why: str
    evidence: tuple[Finding, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Unreachable:
    """No usable answer: timeout, SERVFAIL, malformed or indeterminate."""

    why: str
    evidence: tuple[Finding, ...] = field(default=(), compare=False, repr=False)


Answer = Found | NoData | NxDomain | Bogus | Unreachable
