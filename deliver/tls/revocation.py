"""Whether a certificate that was accepted is revoked: the staple, must-staple, what the policy requires.

                                               authenticated by     DANE-EE, or not
    what the staple says, or fails to          PKIX or DANE-TA      authenticated
    -----------------------------------------  -------------------  ----------------------
    good                                       accepted             accepted
    revoked                                    refused              a note (RFC 7671 5.1)
    none or not usable, must-staple            refused (RFC 7633)   a note
    none, not usable or unknown                accepted             accepted
    anything but good, `require_ocsp`          refused              refused
    not asked for                              accepted             accepted

The administrator's CRLs (`deliver.tls.crl`) are looked at where PKIX or DANE-TA found a path: a revoked
certificate in it is refused, and with `require_crl` one whose issuer has no usable list.

Codes: ocsp-good, ocsp-unknown, ocsp-invalid, ocsp-revoked, must-staple, ocsp-required, crl-good, crl-revoked,
crl-required. Every refusal is temporary: another host, or a new certificate, may do.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from deliver.report.trace import Finding, Stage, Verdict
from deliver.resolve.tlsa import DANE_TA, FULL
from deliver.tls import chain, ocsp, spki
from deliver.tls.crl import RevocationLists, State
from deliver.tls.policy import TlsPolicy
from deliver.tls.verdict import Handshake, TlsVerdict, VerifiedBy

_KEY = 1  # the selector
ENFORCED = (VerifiedBy.PKIX, VerifiedBy.DANE_TA)


def judge_staple(policy: TlsPolicy, handshake: Handshake, verdict: TlsVerdict, now: float) -> TlsVerdict:
    """`verdict`, which accepts, with what the staple says; the table above."""
    if not policy.request_ocsp or not handshake.chain:
        return verdict
    leaf = handshake.chain[0]
    issuer = _issuer(policy, handshake, verdict) if handshake.staple else None
    found = ocsp.check(handshake.staple, leaf, issuer, now, policy.demands.skew)
    refusals = tuple(_refusals(policy, leaf, found, enforced=verdict.verified_by in ENFORCED))
    refused = any(finding.verdict is Verdict.REFUSED for finding in refusals)
    findings = (*verdict.findings, *_findings(found), *refusals)
    if refused:
        return TlsVerdict(False, VerifiedBy.NONE, findings, verdict.path, found.status)
    until = found.until if found.status is ocsp.Status.GOOD else None
    return replace(verdict, findings=findings, ocsp=found.status, staple_until=until)


def judge_lists(policy: TlsPolicy, verdict: TlsVerdict, lists: RevocationLists, now: float) -> TlsVerdict:
    """`verdict`, which accepts, with what the administrator's CRLs say about its path."""
    required = policy.demands.require_crl
    if verdict.verified_by not in ENFORCED or not (lists.lists or required):
        return verdict
    unknown = []
    for place, (certificate, issuer) in enumerate(pairwise(verdict.path)):
        state = lists.state(certificate, issuer, now)
        if state is State.REVOKED:
            text = f"Certificate {place} of the path is revoked by a list of {lists.source}"
            return _refuse(verdict, Finding(Stage.TLS, "crl-revoked", text, Verdict.REFUSED, "RFC 5280 6.3"))
        if state is State.UNKNOWN:
            unknown.append(str(place))
    if unknown and required:
        text = f"No usable list of {lists.source} covers certificate {', '.join(unknown)} of the path"
        return _refuse(verdict, Finding(Stage.TLS, "crl-required", text, Verdict.REFUSED, "RFC 5280 6.3"))
    if unknown:
        return verdict
    text = f"No certificate of the path is revoked by the lists of {lists.source}"
    found = Finding(Stage.TLS, "crl-good", text, Verdict.OK, "RFC 5280 6.3")
    return replace(verdict, findings=(*verdict.findings, found))


def _refuse(verdict: TlsVerdict, finding: Finding) -> TlsVerdict:
    return TlsVerdict(False, VerifiedBy.NONE, (*verdict.findings, finding), verdict.path)


def _issuer(policy: TlsPolicy, handshake: Handshake, verdict: TlsVerdict) -> ocsp.Issuer | None:
    """From the path that was accepted; without one, who among the presented signed the certificate."""
    leaf = handshake.chain[0]
    if len(verdict.path) > 1:
        return ocsp.Issuer.of(verdict.path[1])
    found = ocsp.issuer_among(leaf, handshake.chain)
    if found is not None:
        return found
    for record in policy.records:  # `2 1 0`: the key alone is the anchor (RFC 7671 5.2.3)
        bare = record.usage == DANE_TA and record.selector == _KEY and record.matching_type == FULL
        if bare and chain.signed_by(leaf, record.data):
            return ocsp.Issuer(spki.issuer_name(leaf), record.data)
    return None


def _refusals(policy: TlsPolicy, leaf: bytes, found: ocsp.Result, *, enforced: bool) -> list[Finding]:
    weight = Verdict.REFUSED if enforced else Verdict.NOTE
    refusals = []
    if found.status is ocsp.Status.REVOKED:
        text = f"The server's certificate is revoked: {found.why}"
        refusals.append(Finding(Stage.TLS, "ocsp-revoked", text, weight, "RFC 6960 2.2"))
    elif found.status is not ocsp.Status.GOOD and ocsp.must_staple(leaf):
        text = f"The server's certificate demands an OCSP staple that can be relied on, but {_fault(found)}"
        refusals.append(Finding(Stage.TLS, "must-staple", text, weight, "RFC 7633 4.3.3"))
    if policy.demands.require_ocsp and found.status is not ocsp.Status.GOOD:
        text = f"The settings require a good OCSP staple (tls.require_ocsp), but {_fault(found)}"
        refusals.append(Finding(Stage.TLS, "ocsp-required", text, Verdict.REFUSED))
    return refusals


def _fault(found: ocsp.Result) -> str:
    return f"the staple cannot be used: {found.why}" if found.status is ocsp.Status.INVALID else found.why


def _findings(found: ocsp.Result) -> tuple[Finding, ...]:
    """What the staple says, unless there is none or `_refusals` says it."""
    if found.status in (ocsp.Status.NONE, ocsp.Status.REVOKED):
        return ()
    text = {
        ocsp.Status.GOOD: "The OCSP staple says that the certificate is not revoked",
        ocsp.Status.UNKNOWN: f"The OCSP staple says: {found.why}",
        ocsp.Status.INVALID: f"The OCSP staple cannot be used and counts as none: {found.why}",
    }[found.status]
    verdict = Verdict.OK if found.status is ocsp.Status.GOOD else Verdict.NOTE
    times = (("this_update", found.this_update), ("until", found.until))
    evidence = tuple((name, f"{value:.0f}") for name, value in times if value is not None)
    return (Finding(Stage.TLS, f"ocsp-{found.status}", text, verdict, "RFC 6960 3.2", evidence),)
