"""TLSA record sets: which records a client may use, and where they are published (RFC 6698, 7671, 7672).

A record is usable for SMTP if its usage is DANE-TA(2) or DANE-EE(3), its selector Cert(0) or SPKI(1), its
matching type Full(0), SHA-256(1) or SHA-512(2), and its data has the right length. A malformed record is
unusable, never an error (RFC 7672 3.1, 3.1.3). Digest agility: among records of one usage and selector only
the strongest matching type is kept, Full always (RFC 7671 9).
"""

from __future__ import annotations

from dataclasses import dataclass

import dns.exception

from deliver.dnssec.names import named
from deliver.resolve.answer import TlsaRecord

DANE_TA = 2
DANE_EE = 3
FULL = 0
SHA256 = 1
SHA512 = 2

_DIGEST_LENGTH = {SHA256: 32, SHA512: 64}
_MAX_FULL = 16384  # octets; a full certificate or key longer than that is no real one


@dataclass(frozen=True, slots=True)
class TlsaNotAsked:
    """No TLSA query was due: the address answer is not secure, or the level does not want DANE."""

    why: str


@dataclass(frozen=True, slots=True)
class TlsaAbsent:
    """Proven or insecure absence, or an insecure answer: no DANE for this host."""

    secure: bool


@dataclass(frozen=True, slots=True)
class TlsaRecords:
    """A secure answer. `usable` may be empty: then TLS is required but not authenticated (RFC 7672 2.2)."""

    base_domain: str
    usable: tuple[TlsaRecord, ...]
    unusable: tuple[tuple[TlsaRecord, str], ...]


@dataclass(frozen=True, slots=True)
class TlsaFailed:
    """Bogus or no answer: the host cannot be used now (RFC 7672 2.1.2)."""

    why: str


TlsaStatus = TlsaNotAsked | TlsaAbsent | TlsaRecords | TlsaFailed


def owner_name(base_domain: str, port: int) -> str:
    """RFC 6698 3 with the port actually used."""
    return f"_{port}._tcp.{base_domain}"


def fits_a_name(owner: str) -> bool:
    """Whether there can be such a name: at most 255 octets in labels of at most 63 (RFC 1035 2.3.4)."""
    try:
        named(f"{owner}.")
    except dns.exception.DNSException:
        return False
    return True


def unusable_because(record: TlsaRecord) -> str | None:
    """Why SMTP cannot use `record`, or None when it can."""
    if record.usage in (0, 1):
        return "certificate usages PKIX-TA(0) and PKIX-EE(1) are not for SMTP (RFC 7672 3.1.3)"
    if record.usage not in (DANE_TA, DANE_EE):
        return f"unknown certificate usage {record.usage}"
    if record.selector not in (0, 1):
        return f"unknown selector {record.selector}"
    if record.matching_type == FULL:
        return None if 0 < len(record.data) <= _MAX_FULL else "the full data is empty or too long"
    wanted = _DIGEST_LENGTH.get(record.matching_type)
    if wanted is None:
        return f"unknown matching type {record.matching_type}"
    if len(record.data) != wanted:
        return f"the digest has {len(record.data)} octets instead of {wanted}"
    return None


def classify(base_domain: str, records: tuple[TlsaRecord, ...]) -> TlsaRecords:
    """Sort a secure TLSA RRset into usable and unusable records, strongest digest per usage and selector."""
    sound = tuple(record for record in records if unusable_because(record) is None)
    unusable = [(record, why) for record in records if (why := unusable_because(record)) is not None]
    strongest: dict[tuple[int, int], int] = {}
    for record in sound:
        key = (record.usage, record.selector)
        strongest[key] = max(strongest.get(key, FULL), record.matching_type)
    usable = []
    for record in sound:
        best = strongest[(record.usage, record.selector)]
        if record.matching_type in (FULL, best):
            usable.append(record)
        else:
            unusable.append((record, f"a stronger digest is published too (matching type {best})"))
    return TlsaRecords(base_domain, tuple(usable), tuple(unusable))
