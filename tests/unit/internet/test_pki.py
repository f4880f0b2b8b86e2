"""Certificates are what their kind says, by the standard library's own verification."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.internet.pki import Authority, Certificate, Credentials, association, authority, bundle


def handshake(credentials: Credentials, trusted: bytes, name: str = "mx.a.test") -> None:
    """In memory; ssl.SSLCertVerificationError when the client does not like the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=trusted.decode())
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server, server_hostname=name)
    server = credentials.server_context().wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert client.version() is not None


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        (Certificate.TRUSTED, None),
        (Certificate.BY_ROOT, None),
        (Certificate.EXPIRED, "expired"),
        (Certificate.NOT_YET_VALID, "not yet valid"),
        (Certificate.WRONG_NAME, "Hostname mismatch"),
        (Certificate.SELF_SIGNED, "self-signed"),
    ],
)
def test_each_kind_is_accepted_or_refused_for_its_reason(kind: Certificate, complaint: str | None) -> None:
    credentials = authority().issue("mx.a.test", kind=kind)
    if complaint is None:
        handshake(credentials, authority().root_pem)
    else:
        with pytest.raises(ssl.SSLCertVerificationError, match=complaint):
            handshake(credentials, authority().root_pem)


def test_the_chain_ends_below_the_root_unless_asked() -> None:
    without = authority().issue("mx.a.test")
    with_root = authority().issue("mx.a.test", with_root=True)
    assert without.chain[1:] == (authority().intermediate,)
    assert with_root.chain[1:] == (authority().intermediate, authority().root)


def test_association_data() -> None:
    credentials = authority().issue("mx.a.test")
    der = credentials.chain[0]
    key = x509.load_der_x509_certificate(der).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert association(der, 0, 0) == der
    assert association(der, 0, 2) == hashlib.sha512(der).digest()
    assert credentials.tlsa(3, 1, 1) == f"3 1 1 {hashlib.sha256(spki).hexdigest()}"
    intermediate = hashlib.sha256(authority().intermediate).hexdigest()
    assert credentials.tlsa(2, 0, 1, place=1) == f"2 0 1 {intermediate}"


@pytest.mark.parametrize(("selector", "matching_type"), [(2, 1), (0, 3)])
def test_unknown_tlsa_numbers_are_refused(selector: int, matching_type: int) -> None:
    with pytest.raises(ValueError, match="unknown"):
        association(authority().root, selector, matching_type)


def test_a_request_is_issued_once() -> None:
    first = Authority("Another")
    assert first.issue("mx.a.test") is first.issue("mx.a.test")
    assert first.root != authority().root


def test_files_are_complete_and_the_key_is_private(tmp_path: Path) -> None:
    credentials = authority().issue("mx.a.test", "a.test")
    chain, key = credentials.write(tmp_path)
    certificates = x509.load_pem_x509_certificates(chain.read_bytes())
    names = certificates[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["mx.a.test", "a.test"]
    assert key.stat().st_mode & 0o077 == 0
    assert bundle(credentials.chain) == chain.read_bytes()
