"""The judgement on a finished handshake, taken before one more SMTP octet is sent.

    policy.authentication   accepted when                                      verified_by
    ---------------------   ------------------------------------------------   -----------------
    NONE                    always (RFC 7435 3)                                none
    DANE                    `deliver.tls.dane` finds a TLSA record that holds   dane-ee, dane-ta
    PKIX                    `deliver.tls.pkix` finds a trusted path and name    pkix

A failed DANE judgement is never rescued by PKIX (RFC 7672 2.2). `judge` is total: whatever the peer sent as
a certificate leads to a verdict, never to an exception. Should a library fail in a way that nobody foresaw,
the verdict is a refusal with the code judgement-failed.
"""

from __future__ import annotations

from deliver.report.trace import Finding, Stage, Verdict
from deliver.tls import dane, pkix
from deliver.tls.pkix import TrustStore
from deliver.tls.policy import Authentication, TlsPolicy
from deliver.tls.verdict import Handshake, TlsVerdict, VerifiedBy


def judge(policy: TlsPolicy, handshake: Handshake, now: float, trust_store: TrustStore) -> TlsVerdict:
    """The table above; `now` in seconds since the epoch decides what has expired."""
    if policy.authentication is Authentication.NONE:
        return TlsVerdict(True, VerifiedBy.NONE, (_not_needed(handshake),))
    try:
        return _authenticate(policy, handshake, now, trust_store)
    except Exception as error:
        return TlsVerdict(False, VerifiedBy.NONE, (_failed(error),))


def _authenticate(policy: TlsPolicy, handshake: Handshake, now: float, trust_store: TrustStore) -> TlsVerdict:
    if policy.authentication is Authentication.DANE:
        return dane.verify(handshake.chain, policy.records, policy.names, now)
    return pkix.verify(handshake.chain, trust_store, policy.names, now)


def _not_needed(handshake: Handshake) -> Finding:
    return Finding(
        Stage.TLS,
        "not-authenticated",
        f"Encrypted with {handshake.version}; the policy asks for no authentication, "
        "so that the server's certificate was not judged",
        Verdict.NOTE,
        "RFC 7435 3",
        (("certificates", str(len(handshake.chain))),),
    )


def _failed(error: Exception) -> Finding:
    return Finding(
        Stage.TLS,
        "judgement-failed",
        "The server's certificate could not be judged",
        Verdict.REFUSED,
        None,
        (("error", f"{type(error).__name__}: {error}"),),
    )
