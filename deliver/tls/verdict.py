"""What a finished handshake showed, and the judgement on it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from deliver.report.trace import Finding

_SHOWN_NAMES = 8


class VerifiedBy(StrEnum):
    """What authenticated the server."""

    DANE_EE = "dane-ee"
    DANE_TA = "dane-ta"
    PKIX = "pkix"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Handshake:
    """Facts of a finished TLS handshake. `chain` is DER, the server's certificate first, as presented.

    `staple` is the OCSP response in DER that came with it, not looked at yet.
    """

    version: str
    cipher: str
    group: str | None
    chain: tuple[bytes, ...]
    resumed: bool = False
    staple: bytes | None = None


@dataclass(frozen=True, slots=True)
class TlsVerdict:
    """Whether one more SMTP octet may be sent, because of what, on which evidence.

    `path`: the valid path in DER where one was found, the server's certificate first. `ocsp`: what the staple
    said (see `deliver.tls.ocsp.Status`); `staple_until`: the end of a good one, seconds since the epoch.
    `not_verified`: why a server was accepted although verification, which was only tried, failed.
    """

    ok: bool
    verified_by: VerifiedBy
    findings: tuple[Finding, ...]
    path: tuple[bytes, ...] = ()
    ocsp: str = "none"
    staple_until: float | None = None
    not_verified: str = ""


def certificate_evidence(certificate: bytes) -> tuple[tuple[str, str], ...]:
    """How a finding names a DER certificate: by its digest, which a person can compare."""
    return (("certificate_sha256", hashlib.sha256(certificate).hexdigest()),)


def presented_evidence(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """The names in a certificate, printable and bounded: the peer chose them."""
    shown = ", ".join(ascii(name[:80])[1:-1] for name in names[:_SHOWN_NAMES])
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return (("presented_names", f"{shown}{more}" or "none"),)
