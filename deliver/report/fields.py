"""What events say of outcomes, servers and certificates: their fields, from our values. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256

from deliver.outcome import Deferred, Failed, Outcome, Phase, Resumption
from deliver.tls.certificate import REMEMBERED, looking, parse
from deliver.tls.policy import TlsPolicy
from events.catalogue import Scalar

# Exim's internal error numbers, which administrators match on (event_defer_errno).
DNS_OR_DANE = -36
TLS_FAILED = -37
TLS_REQUIRED = -38
CONNECT_TIMEOUT = -43
AUTH_FAILED = -42
_ERRNO_OF_PHASE = {
    Phase.CONNECT: CONNECT_TIMEOUT,
    Phase.STARTTLS: TLS_REQUIRED,
    Phase.TLS: TLS_FAILED,
    Phase.AUTH: AUTH_FAILED,
    Phase.MAIL: -45,
    Phase.RCPT: -44,
    Phase.DATA: -46,
    Phase.BODY: -46,
}
CONNECTION_CLOSED = -18

_USED, _OFFERED = int(Resumption.USED), int(Resumption.OFFERED)


def fault_fields(outcome: Deferred | Failed) -> dict[str, Scalar]:
    """What went wrong, where, and whose fault it is."""
    number = _ERRNO_OF_PHASE.get(outcome.phase, CONNECTION_CLOSED) if outcome.phase else DNS_OR_DANE
    return {
        "event_defer_errno": number,
        "phase": outcome.phase.name if outcome.phase else None,
        "blame": outcome.blame,
        "smtp_code": outcome.reply.code if outcome.reply else None,
        "enhanced_code": str(outcome.enhanced),
        "in_doubt": int(isinstance(outcome, Deferred) and outcome.in_doubt),
    }


def server_fields(outcome: Outcome) -> dict[str, Scalar]:
    """The server that gave the outcome, and its TLS; nothing where there was none."""
    contact = outcome.contact
    if contact is None:
        return {}
    fields: dict[str, Scalar] = {
        "host": contact.host,
        "host_address": contact.address,
        "host_port": contact.port,
        "connection_reused": int(contact.reused),
    }
    if contact.tls is not None:
        fields |= {
            "tls_version": contact.tls.version,
            "tls_cipher": contact.tls.cipher,
            "tls_group": contact.tls.group,
            "tls_level": str(contact.tls.level),
            "tls_verified_by": contact.tls.verified_by,
            "tls_out_dane": "yes" if contact.tls.verified_by.startswith("dane") else "no",
            "tls_out_ocsp": ocsp_number(contact.tls.ocsp, requested=contact.tls.ocsp_requested),
            "tls_ocsp": contact.tls.ocsp,
            "tls_out_resumption": int(contact.tls.resumption),
            "tls_resumption": resumption_word(contact.tls.resumption),
        }
    return fields


def ocsp_number(status: str, *, requested: bool) -> int:
    """Exim's numbers: 0 not requested, 1 no response, 3 not good, 4 good."""
    if not requested:
        return 0
    return {"none": 1, "good": 4}.get(status, 3)


def resumption_word(known: Resumption) -> str:
    """off, full, offered (and not taken) or resumed."""
    bits = int(known)  # to ask a Flag for its members costs ten times as much
    if bits & _USED:
        return "resumed"
    if bits & _OFFERED:
        return "offered"
    return "full" if bits else "off"


def usage_bits(policy: TlsPolicy) -> int:
    """Exim's bit field: 4 for DANE-TA, 8 for DANE-EE."""
    bits = 0
    for record in policy.records:
        bits |= 1 << record.usage
    return bits


@lru_cache(maxsize=REMEMBERED)
def certificate_fields(der: bytes) -> Mapping[str, Scalar]:
    """What tls:cert says of one certificate; nothing but its digest where it cannot be read."""
    known: dict[str, Scalar] = {
        "tls_out_peercert_sha256": sha256(der).hexdigest(),
        "tls_out_peerdn": None,
        "tls_cert_issuer": None,
        "tls_cert_expires_at": None,
    }
    try:
        with looking():
            certificate = parse(der)
            known["tls_out_peerdn"] = certificate.subject.rfc4514_string()
            known["tls_cert_issuer"] = certificate.issuer.rfc4514_string()
            known["tls_cert_expires_at"] = certificate.not_valid_after_utc.timestamp()
    except ValueError:
        pass  # judged elsewhere; what could be read is told
    return known


def subject_of(der: bytes) -> Scalar:
    """The subject of a certificate; None where it cannot be read."""
    return certificate_fields(der)["tls_out_peerdn"]
