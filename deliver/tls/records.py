"""TLSA records for a certificate that a server uses or will use (RFC 6698 2, RFC 7672 3.1).

What is recommended for SMTP is `3 1 1` for the server's own key: it outlives renewals that keep the key, and
depends on nobody else. `2 1 1` for an issuer's key works only if the server presents that issuer's
certificate (RFC 7672 3.1.2), and binds names and dates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from deliver.resolve.answer import TlsaRecord
from deliver.resolve.tlsa import DANE_EE, DANE_TA, FULL, SHA256, SHA512
from deliver.tls import dane, spki

CERTIFICATE, KEY = 0, 1


@dataclass(frozen=True, slots=True)
class Compared:
    """A published record: `matches` says which certificate of the chain it fits (0: the server's own)."""

    record: TlsaRecord
    matches: int | None


def make(certificate: bytes, usage: int, selector: int = KEY, matching_type: int = SHA256) -> TlsaRecord:
    """The record for a DER certificate. Raises ValueError if it cannot be read or a number is unknown."""
    if usage not in (DANE_TA, DANE_EE):
        raise ValueError(f"usage {usage} is not for SMTP (RFC 7672 3.1.3): 2 and 3 are")
    if selector not in (CERTIFICATE, KEY):
        raise ValueError(f"selector {selector} is unknown: 0 and 1 are")
    selected = spki.cut(certificate)  # also proves that it is a certificate
    if selector == CERTIFICATE:
        selected = certificate
    digests = {SHA256: hashlib.sha256, SHA512: hashlib.sha512}
    if matching_type in digests:
        selected = digests[matching_type](selected).digest()
    elif matching_type != FULL:
        raise ValueError(f"matching type {matching_type} is unknown: 0, 1 and 2 are")
    return TlsaRecord(usage, selector, matching_type, selected)


def recommended(chain: tuple[bytes, ...]) -> tuple[TlsaRecord, ...]:
    """`3 1 1` for the server's own key, and `2 1 1` for each issuer in the chain as a second choice."""
    return tuple(
        make(certificate, DANE_EE if place == 0 else DANE_TA) for place, certificate in enumerate(chain)
    )


def compare(records: Iterable[TlsaRecord], chain: tuple[bytes, ...]) -> tuple[Compared, ...]:
    """Each published record: DANE-EE against the server's own certificate, DANE-TA against those above it."""
    return tuple(Compared(record, _place(record, chain)) for record in records)


def _place(record: TlsaRecord, chain: tuple[bytes, ...]) -> int | None:
    for place, certificate in enumerate(chain):
        fits = record.usage == DANE_EE if place == 0 else record.usage == DANE_TA
        if fits and dane.matches(record, certificate):
            return place
    return None
