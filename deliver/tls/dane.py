"""DANE: the server's certificate chain against a secure TLSA RRset (RFC 6698, RFC 7671, RFC 7672 3).

    1. DANE-EE(3), any record that matches the server's certificate or key: accepted. Neither names nor dates
       nor the rest of the chain count (RFC 7672 3.1.1, RFC 7671 5.1).
    2. DANE-TA(2), any record that names an anchor: a valid path from the server's certificate to it, dates
       included, and one of the reference identifiers in the certificate (RFC 7672 3.1.2, 3.2.2). Anchors are
         - presented certificates other than the server's own (its own only if self-signed), which a record
           matches; a path may end at one that is not self-signed (RFC 7671 5.2.2);
         - the certificate inside a `2 0 0` record, presented or not (RFC 7671 5.2);
         - a presented certificate that the bare key of a `2 1 0` record signed: that key is the anchor, the
           certificate is the top of the path (RFC 7671 5.2.3).
    3. Otherwise refused: temporary, never rescued by PKIX.

Codes of the findings: dane-ee-match, dane-ta-match; refused: tlsa-mismatch, name-mismatch, expired,
not-yet-valid, weak-certificate, chain-invalid, no-certificate, no-records. Matching works on the octets of
the certificates; one that no parser understands can still match `3 0 x`.

Bounds: MAX_RECORDS records, `chain.MAX_CERTIFICATES` certificates, MAX_SIGNATURES trials of bare keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from deliver.report.trace import Finding, Stage, Verdict
from deliver.resolve.answer import TlsaRecord
from deliver.resolve.tlsa import DANE_EE, DANE_TA, FULL, SHA256, SHA512
from deliver.tls import chain, names, spki
from deliver.tls.certificate import MAX_CERTIFICATE
from deliver.tls.verdict import TlsVerdict, VerifiedBy, certificate_evidence, presented_evidence

MAX_RECORDS = 64
MAX_SIGNATURES = 64

_CERTIFICATE = 0
_KEY = 1


@dataclass(frozen=True, slots=True)
class _Anchor:
    """A certificate at which a path may end, because `record` says so."""

    certificate: bytes
    record: TlsaRecord
    how: str


def verify(
    presented: tuple[bytes, ...], records: tuple[TlsaRecord, ...], references: tuple[str, ...], now: float
) -> TlsVerdict:
    """Judge a chain (DER, the server's certificate first, the rest in any order) against usable `records`.

    `references` are the names that a DANE-TA certificate may carry, `now` is in seconds since the epoch.
    """
    if not presented:
        return _refuse(
            "no-certificate", "The server presented no certificate to compare with TLSA", "RFC 7671 5"
        )
    if not records:
        return _refuse("no-records", "There is no usable TLSA record to compare with", "RFC 7672 2.2")
    records = records[:MAX_RECORDS]
    for record in records:
        if record.usage == DANE_EE and matches(record, presented[0]):
            return _accept_end_entity(record, presented[0])
    anchors = tuple(_anchors(presented, records))
    if not anchors:
        return _mismatch(presented, records)
    return _trust_anchor(presented, anchors, references, now)


def matches(record: TlsaRecord, certificate: bytes) -> bool:
    """Whether selector, matching type and data of `record` fit a DER certificate (RFC 6698 2.1)."""
    if len(certificate) > MAX_CERTIFICATE:
        return False
    if record.selector == _CERTIFICATE:
        selected = certificate
    elif record.selector == _KEY:
        try:
            selected = spki.cut(certificate)
        except ValueError:
            return False
    else:
        return False
    if record.matching_type == SHA256:
        selected = hashlib.sha256(selected).digest()
    elif record.matching_type == SHA512:
        selected = hashlib.sha512(selected).digest()
    elif record.matching_type != FULL:
        return False
    return selected == record.data


def _anchors(presented: tuple[bytes, ...], records: tuple[TlsaRecord, ...]) -> Iterator[_Anchor]:
    leaf = presented[0]
    candidates = presented[: chain.MAX_CERTIFICATES]
    leaf_may_anchor = _self_signed(leaf)
    eligible = tuple(der for der in candidates if der != leaf or leaf_may_anchor)
    trials = MAX_SIGNATURES
    for record in (record for record in records if record.usage == DANE_TA):
        for der in eligible:
            if matches(record, der):
                yield _Anchor(der, record, "it is among the certificates that the server presented")
        if record.matching_type != FULL:
            continue
        if record.selector == _CERTIFICATE and (record.data != leaf or leaf_may_anchor):
            yield _Anchor(record.data, record, "the record contains it")
        elif record.selector == _KEY:
            for der in candidates[:trials]:
                trials -= 1
                if chain.signed_by(der, record.data):
                    yield _Anchor(der, record, "the record contains the key that signed the top of the path")


def _trust_anchor(
    presented: tuple[bytes, ...], anchors: tuple[_Anchor, ...], references: tuple[str, ...], now: float
) -> TlsVerdict:
    unique = dict.fromkeys(anchor.certificate for anchor in anchors)
    path = chain.build(presented, chain.Anchors.of(unique), now, partial=True)
    evidence = certificate_evidence(presented[0])
    shown = (*evidence, ("records", " | ".join(dict.fromkeys(_show(anchor.record) for anchor in anchors))))
    if isinstance(path, chain.NoPath):
        if path.code == "untrusted":
            text = f"The server's certificate was not issued under an anchor that TLSA names: {path.why}"
            return _refuse("tlsa-mismatch", text, "RFC 7672 3.1.2", shown)
        text = f"TLSA names an anchor, but the path to it is not valid: {path.why}"
        return _refuse(path.code, text, "RFC 7671 5.2", shown)
    anchor = next((anchor for anchor in anchors if anchor.certificate == path.certificates[-1]), None)
    if anchor is None:
        return _refuse("chain-invalid", "The path ends at no anchor that TLSA names", "RFC 7671 5.2", shown)
    name = names.check(presented[0], references, common_name=True)
    if isinstance(name, names.NameMismatch):
        text = f"The server's certificate is not for {' or '.join(references) or 'any name we know'}"
        if name.why:
            text = f"{text}: {name.why}"
        return _refuse("name-mismatch", text, "RFC 7672 3.2.2", (*shown, *presented_evidence(name.presented)))
    return _accept_trust_anchor(anchor, evidence, name, path)


def _accept_end_entity(record: TlsaRecord, certificate: bytes) -> TlsVerdict:
    finding = Finding(
        Stage.TLS,
        "dane-ee-match",
        f"The server's certificate matches the TLSA record {_show(record)}",
        Verdict.OK,
        "RFC 7672 3.1.1",
        (*certificate_evidence(certificate), ("record", _show(record))),
    )
    return TlsVerdict(True, VerifiedBy.DANE_EE, (finding,))


def _accept_trust_anchor(
    anchor: _Anchor, evidence: tuple[tuple[str, str], ...], name: names.NameMatch, path: chain.Path
) -> TlsVerdict:
    finding = Finding(
        Stage.TLS,
        "dane-ta-match",
        f"The server's certificate is for {name.reference} and was issued under the anchor "
        f"of the TLSA record {_show(anchor.record)}; {anchor.how}",
        Verdict.OK,
        "RFC 7672 3.1.2",
        (*evidence, ("record", _show(anchor.record)), ("matched_name", name.presented)),
    )
    return TlsVerdict(True, VerifiedBy.DANE_TA, (finding,), path.certificates)


def _mismatch(presented: tuple[bytes, ...], records: tuple[TlsaRecord, ...]) -> TlsVerdict:
    evidence = [*certificate_evidence(presented[0])]
    try:
        evidence.append(("key_sha256", hashlib.sha256(spki.cut(presented[0])).hexdigest()))
    except ValueError:
        evidence.append(("key_sha256", "the certificate cannot be read"))
    evidence.append(("records", " | ".join(_show(record) for record in records)))
    which = (
        "The TLSA record does not match"
        if len(records) == 1
        else f"None of {len(records)} TLSA records matches"
    )
    text = f"{which} the certificate that the server presented"
    return _refuse("tlsa-mismatch", text, "RFC 7672 3.1", tuple(evidence))


def _refuse(code: str, text: str, rfc: str, evidence: tuple[tuple[str, str], ...] = ()) -> TlsVerdict:
    finding = Finding(Stage.TLS, code, text, Verdict.REFUSED, rfc, evidence)
    return TlsVerdict(False, VerifiedBy.NONE, (finding,))


def _self_signed(certificate: bytes) -> bool:
    try:
        same = spki.issuer_name(certificate) == spki.subject_name(certificate)
        return same and chain.signed_by(certificate, spki.cut(certificate))
    except ValueError:
        return False


def _show(record: TlsaRecord) -> str:
    text = str(record)
    return text if len(text) <= 80 else f"{text[:77]}..."
