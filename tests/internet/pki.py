"""A small certification authority: root, intermediate, good and bad server certificates, TLSA data (RFC 5280, 6698).

All keys are EC P-256. Keys are made once per process and purpose, certificates once per authority and request.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import shutil
import ssl
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = timedelta(days=1)
_YEAR = timedelta(days=365)


class Certificate(StrEnum):
    """Kinds of server certificate."""

    TRUSTED = "trusted"  # by the intermediate, with the right name, valid now
    BY_ROOT = "by-root"  # the same, by the root itself
    EXPIRED = "expired"  # by the intermediate, valid until yesterday
    NOT_YET_VALID = "not-yet-valid"
    WRONG_NAME = "wrong-name"  # by the intermediate, for `elsewhere.invalid`
    SELF_SIGNED = "self-signed"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a server presents: its key and its chain in DER, its own certificate first, the root last if `root`."""

    private_key_pem: bytes
    chain: tuple[bytes, ...]

    @property
    def chain_pem(self) -> bytes:
        """The chain as PEM, in the order in which it is presented."""
        return b"".join(pem(certificate) for certificate in self.chain)

    def tlsa(self, usage: int, selector: int, matching_type: int, *, place: int = 0) -> str:
        """TLSA record data over the certificate at `place` of the chain (RFC 6698 2.1), as zone file text."""
        data = association(self.chain[place], selector, matching_type)
        return f"{usage} {selector} {matching_type} {data.hex()}"

    def write(self, directory: Path) -> tuple[Path, Path]:
        """Write `chain.pem` and `key.pem` there and return their paths."""
        chain, key = directory / "chain.pem", directory / "key.pem"
        chain.write_bytes(self.chain_pem)
        key.touch(mode=0o600)
        key.write_bytes(self.private_key_pem)
        return chain, key

    def server_context(self) -> ssl.SSLContext:
        """A new server context of the standard library, TLS 1.2 and later."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(*_files(self))
        return context


@functools.cache
def _files(credentials: Credentials) -> tuple[Path, Path]:
    """They are there as long as the process."""
    return credentials.write(Path(tempfile.mkdtemp(dir=_directory())))


@functools.cache
def _directory() -> str:
    directory = tempfile.mkdtemp(prefix="internet-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


class Authority:
    """A root and one intermediate, and what they issue. `now` (default: the system's clock) dates everything."""

    def __init__(self, name: str = "Miniature Internet", *, now: datetime | None = None) -> None:
        self.name = name
        self._now = (now or datetime.now(UTC)).replace(microsecond=0)
        self._issued: dict[tuple[Certificate, tuple[str, ...], bool], Credentials] = {}
        self._root_key = _private_key(f"{name} root")
        self._intermediate_key = _private_key(f"{name} intermediate")
        root_name, intermediate_name = _subject(f"{name} Root CA"), _subject(f"{name} Intermediate CA")
        self._root = self._authority(root_name, self._root_key, root_name, self._root_key, None)
        self._intermediate = self._authority(
            intermediate_name, self._intermediate_key, root_name, self._root_key, 0
        )

    @property
    def root(self) -> bytes:
        """The root certificate in DER."""
        return self._root.public_bytes(Encoding.DER)

    @property
    def intermediate(self) -> bytes:
        """The intermediate certificate in DER."""
        return self._intermediate.public_bytes(Encoding.DER)

    @property
    def root_pem(self) -> bytes:
        """The root certificate in PEM: the content of a trust store."""
        return pem(self.root)

    def issue(
        self, *names: str, kind: Certificate = Certificate.TRUSTED, with_root: bool = False
    ) -> Credentials:
        """A certificate with `names` as its DNS names, and its chain up to the root, which is added if `with_root`.

        RFC 7672 3.1.1: a trust anchor that is published as a digest must be in the presented chain.
        """
        request = (kind, names, with_root)
        if request not in self._issued:
            self._issued[request] = self._new(names, kind, with_root)
        return self._issued[request]

    def _new(self, names: tuple[str, ...], kind: Certificate, with_root: bool) -> Credentials:
        key = _private_key(f"{self.name} {kind} {names}")
        wanted = ("elsewhere.invalid",) if kind is Certificate.WRONG_NAME else names
        begin, end = self._validity(kind)
        builder = self._builder(_subject(wanted[0]), key, begin, end).add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name) for name in wanted]), critical=False
        )
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        ).add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        upper: tuple[x509.Certificate, ...]
        match kind:
            case Certificate.SELF_SIGNED:
                certificate, upper = self._signed(builder, _subject(wanted[0]), key), ()
            case Certificate.BY_ROOT:
                certificate = self._signed(builder, self._root.subject, self._root_key)
                upper = (self._root,) if with_root else ()
            case _:
                certificate = self._signed(builder, self._intermediate.subject, self._intermediate_key)
                upper = (self._intermediate, self._root) if with_root else (self._intermediate,)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Credentials(private, tuple(c.public_bytes(Encoding.DER) for c in (certificate, *upper)))

    def _validity(self, kind: Certificate) -> tuple[datetime, datetime]:
        match kind:
            case Certificate.EXPIRED:
                return self._now - 30 * _DAY, self._now - _DAY
            case Certificate.NOT_YET_VALID:
                return self._now + _DAY, self._now + 30 * _DAY
            case _:
                return self._now - _DAY, self._now + 90 * _DAY

    def _authority(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        issuer: x509.Name,
        issuer_key: ec.EllipticCurvePrivateKey,
        path_length: int | None,
    ) -> x509.Certificate:
        builder = self._builder(subject, key, self._now - _DAY, self._now + 10 * _YEAR)
        builder = builder.add_extension(
            x509.BasicConstraints(ca=True, path_length=path_length), critical=True
        ).add_extension(_certificate_signing(), critical=True)
        return self._signed(builder, issuer, issuer_key)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, begin: datetime, end: datetime
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )

    def _signed(
        self, builder: x509.CertificateBuilder, issuer: x509.Name, issuer_key: ec.EllipticCurvePrivateKey
    ) -> x509.Certificate:
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
        builder = builder.issuer_name(issuer).add_extension(identifier, critical=False)
        return builder.sign(issuer_key, hashes.SHA256())


@functools.cache
def authority() -> Authority:
    """The one authority of this process."""
    return Authority()


def association(certificate: bytes, selector: int, matching_type: int) -> bytes:
    """Certificate association data (RFC 6698 2.1.4) for a certificate in DER. ValueError for unknown numbers."""
    match selector:
        case 0:
            selected = certificate
        case 1:
            public_key = x509.load_der_x509_certificate(certificate).public_key()
            selected = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        case _:
            raise ValueError(f"unknown selector {selector}")
    match matching_type:
        case 0:
            return selected
        case 1:
            return hashlib.sha256(selected).digest()
        case 2:
            return hashlib.sha512(selected).digest()
    raise ValueError(f"unknown matching type {matching_type}")


def pem(certificate: bytes) -> bytes:
    """DER to PEM."""
    return ssl.DER_cert_to_PEM_cert(certificate).encode("ascii")


def bundle(certificates: Iterable[bytes]) -> bytes:
    """Several certificates in one PEM text: a trust store."""
    return b"".join(pem(certificate) for certificate in certificates)


@functools.cache
def _private_key(purpose: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _certificate_signing() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
