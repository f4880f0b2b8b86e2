"""One signature, whatever it stands on: a certificate, an OCSP response, a CRL.

RSA (PKCS #1 v1.5 and PSS), ECDSA, Ed25519 and Ed448; a key of another kind than the algorithm says never
matches. MD5 and SHA-1 are broken (RFC 9325 4.5): the caller refuses WEAK_HASHES before it asks.
"""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

WEAK_HASHES = (hashes.MD5, hashes.SHA1)

Scheme = padding.PSS | padding.PKCS1v15 | ec.ECDSA | None


def verify(
    key: PublicKeyTypes,
    signature: bytes,
    signed: bytes,
    scheme: Scheme,
    digest: hashes.HashAlgorithm | None,
) -> bool:
    """False if key and algorithm do not belong together; InvalidSignature if the signature is wrong."""
    if isinstance(key, rsa.RSAPublicKey) and digest is not None:
        if scheme is None or isinstance(scheme, ec.ECDSA):
            return False
        key.verify(signature, signed, scheme, digest)
    elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(scheme, ec.ECDSA):
        key.verify(signature, signed, scheme)
    elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey) and digest is None:
        key.verify(signature, signed)
    else:
        return False
    return True
