"""What ties an exchange to one TLS connection: channel bindings for SASL (RFC 5056)."""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes

EXPORTER = "tls-exporter"  # RFC 9266, from TLS 1.3 on
EXPORTER_LABEL = b"EXPORTER-Channel-Binding"
EXPORTER_LENGTH = 32  # octets
END_POINT = "tls-server-end-point"  # RFC 5929 4


def end_point(leaf: bytes | None) -> bytes | None:
    """The data of tls-server-end-point for the server's certificate in DER; None where it is not defined."""
    if leaf is None:
        return None
    try:
        certificate = x509.load_der_x509_certificate(leaf)
        algorithm = certificate.signature_hash_algorithm
    except (ValueError, UnsupportedAlgorithm):
        return None
    if algorithm is None:
        return None
    weak = isinstance(algorithm, hashes.MD5 | hashes.SHA1)
    return certificate.fingerprint(hashes.SHA256() if weak else algorithm)
