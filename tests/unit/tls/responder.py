"""OCSP responses and CRLs made to measure."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from deliver.tls import spki
from tests.unit.tls.certificates import NOW, Issued, Wish, issue

HOUR = 3600.0
DELEGATE = Wish("responder", purpose=ExtendedKeyUsageOID.OCSP_SIGNING)


@dataclass(frozen=True)
class Answer:
    """What a response shall say; without a signer the issuer signs, without an issuer the certificate's own."""

    certificate: Issued
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD
    this_update: float = NOW - HOUR
    next_update: float | None = NOW + HOUR
    signer: Issued | None = None
    issuer: Issued | None = None
    named_by: ocsp.OCSPResponderEncoding = ocsp.OCSPResponderEncoding.HASH
    named: Issued | None = None
    send_certificate: bool = True
    id_digest: hashes.HashAlgorithm = field(default_factory=hashes.SHA1)
    name_hash: bytes | None = None
    extension: tuple[x509.ExtensionType, bool] | None = None  # and whether it is critical


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(seconds=seconds)


def digest(algorithm: hashes.HashAlgorithm, data: bytes) -> bytes:
    made = hashes.Hash(algorithm)
    made.update(data)
    return made.finalize()


def respond(answer: Answer) -> bytes:
    """The response in DER."""
    issuer = answer.issuer or answer.certificate.issuer or answer.certificate
    signer = answer.signer or issuer
    revoked = answer.status is ocsp.OCSPCertStatus.REVOKED
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response_by_hash(
            answer.name_hash or digest(answer.id_digest, issuer.certificate.subject.public_bytes()),
            digest(answer.id_digest, spki.key_bits(issuer.spki)),
            answer.certificate.certificate.serial_number,
            algorithm=answer.id_digest,
            cert_status=answer.status,
            this_update=moment(answer.this_update),
            next_update=None if answer.next_update is None else moment(answer.next_update),
            revocation_time=moment(answer.this_update - HOUR) if revoked else None,
            revocation_reason=x509.ReasonFlags.key_compromise if revoked else None,
        )
        .responder_id(answer.named_by, (answer.named or signer).certificate)
    )
    if answer.extension is not None:
        builder = builder.add_extension(answer.extension[0], critical=answer.extension[1])
    if answer.signer is not None and answer.send_certificate:
        builder = builder.certificates([answer.signer.certificate])
    hashed = None if isinstance(signer.key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(signer.key, hashed).public_bytes(Encoding.DER)


def refusal(status: ocsp.OCSPResponseStatus) -> bytes:
    """A responder's error in DER."""
    return ocsp.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(Encoding.DER)


def delegate(issuer: Issued, **changes: object) -> Issued:
    """A responder's certificate."""
    values = {name: getattr(DELEGATE, name) for name in DELEGATE.__dataclass_fields__}
    return issue(Wish(**{**values, **changes}), issuer)


def revocation_list(
    issuer: Issued,
    *revoked: Issued,
    signer: Issued | None = None,
    this_update: float = NOW - HOUR,
    next_update: float = NOW + HOUR,
    critical: x509.ExtensionType | None = None,
) -> bytes:
    """A CRL in PEM."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(moment(this_update))
        .next_update(moment(next_update))
    )
    for each in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(each.certificate.serial_number)
        builder = builder.add_revoked_certificate(entry.revocation_date(moment(this_update - HOUR)).build())
    if critical is not None:
        builder = builder.add_extension(critical, critical=True)
    key = (signer or issuer).key
    hashed = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, hashed).public_bytes(Encoding.PEM)


def respond_together(
    directory: Path, answers: dict[Issued, ocsp.OCSPCertStatus], *, digest: str = "sha1"
) -> bytes:
    """One response by `openssl ocsp` with a single response per certificate, all of one issuer; valid a day from now."""
    (issuer,) = {one.issuer for one in answers}
    assert issuer is not None
    marks = {ocsp.OCSPCertStatus.GOOD: "V", ocsp.OCSPCertStatus.REVOKED: "R"}
    lines = [
        "\t".join(
            (
                marks[status],
                "491231235959Z",
                "260101000000Z" if marks[status] == "R" else "",
                one.certificate.serial_number.to_bytes(20).lstrip(b"\0").hex().upper(),
                "unknown",
                one.certificate.subject.rfc4514_string(),
            )
        )
        for one, status in answers.items()
        if status in marks
    ]
    (directory / "index.txt").write_text("".join(f"{line}\n" for line in lines))
    (directory / "issuer.pem").write_bytes(issuer.pem)
    (directory / "issuer.key").write_bytes(issuer.key_pem)
    asked: list[str] = []
    for place, one in enumerate(answers):
        (directory / f"{place}.pem").write_bytes(one.pem)
        asked += ["-cert", f"{place}.pem"]
    command = ["openssl", "ocsp", "-index", "index.txt", "-CA", "issuer.pem", "-rsigner", "issuer.pem"]
    command += ["-rkey", "issuer.key", "-issuer", "issuer.pem", f"-{digest}", *asked, "-ndays", "1"]
    subprocess.run([*command, "-respout", "together.der"], cwd=directory, check=True, capture_output=True)
    return (directory / "together.der").read_bytes()
