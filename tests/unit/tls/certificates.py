"""Certificates made to measure: EC P-256, valid for thirty days around `NOW` unless told otherwise."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from deliver.resolve.answer import TlsaRecord

NOW = 1_800_000_000.0  # 15 January 2027
DAY = 86400.0

KEY_USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@functools.cache
def rsa_key(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


@dataclass(frozen=True)
class Issued:
    """A certificate with its key and who issued it (None: itself)."""

    certificate: x509.Certificate
    key: PrivateKey
    issuer: Issued | None = None

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def spki(self) -> bytes:
        return self.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def tlsa(self, usage: int, selector: int, matching_type: int) -> TlsaRecord:
        data = self.spki if selector == 1 else self.der
        if matching_type == 1:
            data = hashlib.sha256(data).digest()
        elif matching_type == 2:
            data = hashlib.sha512(data).digest()
        return TlsaRecord(usage, selector, matching_type, data)


@dataclass(frozen=True)
class Wish:
    """What a certificate shall look like."""

    common_name: str = "unnamed"
    dns_names: tuple[str, ...] = ()
    authority: bool = False
    path_length: int | None = None
    not_before: float = NOW - 30 * DAY
    not_after: float = NOW + 30 * DAY
    purpose: x509.ObjectIdentifier | None = None
    key: PrivateKey | None = None
    digest: hashes.HashAlgorithm | None = field(default_factory=hashes.SHA256)
    permitted: tuple[str, ...] = ()
    alternative_names: tuple[x509.GeneralName, ...] = ()
    must_staple: bool = False
    usage: str = ""  # the one bit of keyUsage that is set, such as "crl_sign"


def issue(wish: Wish, issuer: Issued | None = None) -> Issued:
    """A certificate as wished, self-signed without an issuer."""
    key = wish.key or new_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, wish.common_name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_moment(wish.not_before))
        .not_valid_after(_moment(wish.not_after))
    )
    if wish.authority:
        builder = builder.add_extension(x509.BasicConstraints(True, wish.path_length), critical=True)
    alternative = [*(x509.DNSName(name) for name in wish.dns_names), *wish.alternative_names]
    if alternative:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternative), critical=False)
    if wish.usage:
        bits = dict.fromkeys(KEY_USAGES, False) | {wish.usage: True}
        builder = builder.add_extension(x509.KeyUsage(**bits), critical=True)
    if wish.must_staple:
        feature = x509.TLSFeature([x509.TLSFeatureType.status_request])
        builder = builder.add_extension(feature, critical=False)
    if wish.purpose is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([wish.purpose]), critical=False)
    if wish.permitted:
        permitted = [x509.DNSName(name) for name in wish.permitted]
        builder = builder.add_extension(x509.NameConstraints(permitted, None), critical=True)
    signer = issuer.key if issuer else key
    digest = None if isinstance(signer, ed25519.Ed25519PrivateKey) else wish.digest
    return Issued(builder.sign(signer, digest), key, issuer)


def with_sha1_signature(issued: Issued) -> bytes:
    """The same certificate signed with SHA-1, which certificate builders no longer do; DER."""
    assert issued.issuer is not None
    signer = issued.issuer.key
    assert isinstance(signer, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    if isinstance(signer, rsa.RSAPrivateKey):  # AlgorithmIdentifiers
        with_sha256 = bytes.fromhex("300d06092a864886f70d01010b0500")
        with_sha1 = bytes.fromhex("300d06092a864886f70d0101050500")
    else:
        with_sha256 = bytes.fromhex("300a06082a8648ce3d040302")
        with_sha1 = bytes.fromhex("300906072a8648ce3d0401")
    body = issued.certificate.tbs_certificate_bytes.replace(with_sha256, with_sha1)
    signed = element(0x30, body[3:] if body[1] == 0x81 else body[4:])
    if isinstance(signer, rsa.RSAPrivateKey):
        signature = signer.sign(signed, padding.PKCS1v15(), hashes.SHA1())
    else:
        signature = signer.sign(signed, ec.ECDSA(hashes.SHA1()))
    return element(0x30, signed + with_sha1 + element(0x03, b"\0" + signature))


def element(tag: int, contents: bytes) -> bytes:
    """One DER element."""
    length = len(contents)
    if length < 0x80:
        return bytes([tag, length]) + contents
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + contents


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(seconds=seconds)


CLIENT_ONLY = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER = ExtendedKeyUsageOID.SERVER_AUTH


@dataclass(frozen=True)
class House:
    """A root, an intermediate under it and a server `mx.example.org` under that; a stranger beside them."""

    root: Issued
    intermediate: Issued
    server: Issued
    stranger: Issued

    @property
    def chain(self) -> tuple[bytes, ...]:
        return (self.server.der, self.intermediate.der)

    @property
    def full_chain(self) -> tuple[bytes, ...]:
        return (*self.chain, self.root.der)


def build_house() -> House:
    root = issue(Wish("Test Root", authority=True))
    intermediate = issue(Wish("Test Intermediate", authority=True), root)
    server = issue(Wish("server", dns_names=("mx.example.org",)), intermediate)
    stranger = issue(Wish("Stranger Root", authority=True))
    return House(root, intermediate, server, stranger)
