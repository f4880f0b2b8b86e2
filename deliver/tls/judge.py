"""The judgement on a finished handshake, taken before one more SMTP octet is sent.

    policy.authentication   accepted when                                      verified_by
    ---------------------   ------------------------------------------------   -----------------
    NONE                    always (RFC 7435 3)                                none
    DANE                    `deliver.tls.dane` finds a TLSA record that holds   dane-ee, dane-ta
    PKIX                    `deliver.tls.pkix` finds a trusted path and name    pkix
    TRIED                   always; as PKIX where that accepts                  pkix, else none

Who is accepted is then looked at for revocation (`deliver.tls.revocation`). A failed DANE judgement is never
rescued by PKIX (RFC 7672 2.2). `judge` is total: whatever the peer sent as a certificate or staple leads to a
verdict, never to an exception. Should a library fail in a way that nobody foresaw, the verdict is a refusal
with the code judgement-failed; a note where revocation could change nothing.
"""

from __future__ import annotations

from dataclasses import replace

from deliver.report.trace import Finding, Stage, Verdict
from deliver.tls import dane, pkix
from deliver.tls.crl import NO_LISTS, RevocationLists
from deliver.tls.pkix import TrustStore
from deliver.tls.policy import Authentication, TlsPolicy
from deliver.tls.revocation import ENFORCED, judge_lists, judge_staple
from deliver.tls.verdict import Handshake, TlsVerdict, VerifiedBy


def judge(
    policy: TlsPolicy,
    handshake: Handshake,
    now: float,
    trust_store: TrustStore,
    lists: RevocationLists = NO_LISTS,
) -> TlsVerdict:
    """The table above; `now` in seconds since the epoch decides what has expired."""
    if policy.authentication is Authentication.TRIED:
        strict = replace(policy, authentication=Authentication.PKIX)
        return _accept_anyway(judge(strict, handshake, now, trust_store, lists))
    try:
        verdict = _authenticate(policy, handshake, now, trust_store)
    except Exception as error:
        return TlsVerdict(False, VerifiedBy.NONE, (_failed(error),))
    if not verdict.ok:
        return verdict
    try:
        verdict = judge_lists(policy, verdict, lists, now)
        return judge_staple(policy, handshake, verdict, now) if verdict.ok else verdict
    except Exception as error:
        if policy.demands.authenticated or verdict.verified_by in ENFORCED:
            return TlsVerdict(False, VerifiedBy.NONE, (*verdict.findings, _failed(error)))
        note = replace(_failed(error), verdict=Verdict.NOTE)
        return replace(verdict, findings=(*verdict.findings, note), ocsp="invalid")


def _authenticate(policy: TlsPolicy, handshake: Handshake, now: float, trust_store: TrustStore) -> TlsVerdict:
    if policy.authentication is Authentication.NONE:
        return TlsVerdict(True, VerifiedBy.NONE, (_not_needed(handshake),))
    if policy.authentication is Authentication.DANE:
        return dane.verify(handshake.chain, policy.records, policy.names, now)
    verdict = pkix.verify(handshake.chain, trust_store, policy.names, now)
    if verdict.ok and policy.also is not None:
        return pkix.verify(handshake.chain, trust_store, (policy.also,), now)
    return verdict


def _accept_anyway(verdict: TlsVerdict) -> TlsVerdict:
    """Verification was tried: a refusal becomes a fact."""
    if verdict.ok:
        return verdict
    refusals = [found.text for found in verdict.findings if found.verdict is Verdict.REFUSED]
    findings = tuple(
        replace(found, verdict=Verdict.NOTE) if found.verdict is Verdict.REFUSED else found
        for found in verdict.findings
    )
    why = "; ".join(refusals)
    return TlsVerdict(True, VerifiedBy.NONE, findings, ocsp=verdict.ocsp, not_verified=why)


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
