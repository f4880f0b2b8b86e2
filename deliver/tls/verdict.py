"""What a finished handshake showed, and the judgement on it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from deliver.report.trace import Finding


class VerifiedBy(StrEnum):
    """What authenticated the server."""

    DANE_EE = "dane-ee"
    DANE_TA = "dane-ta"
    PKIX = "pkix"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Handshake:
    """Facts of a finished TLS handshake. `chain` is DER, the server's certificate first, as presented."""

    version: str
    cipher: str
    group: str | None
    chain: tuple[bytes, ...]
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class TlsVerdict:
    """Whether one more SMTP octet may be sent, because of what, on which evidence."""

    ok: bool
    verified_by: VerifiedBy
    findings: tuple[Finding, ...]
