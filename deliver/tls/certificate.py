"""Reading a certificate that a peer chose: two readers, one way to say that it cannot be read.

OpenSSL reads it for building paths (`load`), `cryptography` for looking into it (`parse`). Whatever either
raises for hostile octets becomes None or ValueError here; nothing warns.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from OpenSSL import crypto

MAX_CERTIFICATE = 64 * 1024  # octets
REMEMBERED = 256  # certificates that were read; the same ones come again and again

_UNREADABLE = (
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


@lru_cache(maxsize=REMEMBERED)
def load(der: bytes) -> crypto.X509 | None:
    """A certificate as OpenSSL reads it, or None."""
    if not 0 < len(der) <= MAX_CERTIFICATE:
        return None
    try:
        return crypto.load_certificate(crypto.FILETYPE_ASN1, der)
    except (crypto.Error, ValueError):
        return None


@lru_cache(maxsize=REMEMBERED)
def parse(der: bytes) -> x509.Certificate:
    """A certificate for looking into it, lazily: use it inside `looking`. Raises ValueError."""
    if len(der) > MAX_CERTIFICATE:
        raise ValueError(f"a certificate of {len(der)} octets")
    with looking():
        return x509.load_der_x509_certificate(der)


@contextmanager
def looking() -> Iterator[None]:
    """Everything that a part of a certificate may raise when it is read is a ValueError here."""
    with warnings.catch_warnings():  # a peer's odd certificate is no affair of this program's warnings
        warnings.simplefilter("ignore")
        try:
            yield
        except _UNREADABLE as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error


def end_point(der: bytes) -> bytes | None:
    """The channel binding tls-server-end-point (RFC 5929 4.1); None for a certificate without one."""
    try:
        certificate = parse(der)
        with looking():
            algorithm = certificate.signature_hash_algorithm
    except ValueError:
        return None
    if algorithm is None:
        return None
    weak = isinstance(algorithm, hashes.MD5 | hashes.SHA1)
    return certificate.fingerprint(hashes.SHA256() if weak else algorithm)
