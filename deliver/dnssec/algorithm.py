"""Which algorithms and digests are supported, and how keys and signatures are read.

RFC 3110, 5702, 6605 and 8080 for keys and signatures, RFC 4509 and 6605 for digests.

Signatures with SHA-1 (algorithms 5 and 7) count as unsupported unless the policy says otherwise (RFC 9905).
DS digests with SHA-1 still count for validation (RFC 9904 4), where there is no better one (RFC 4509 3).
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import dns.name
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from dns.rdtypes.ANY.DNSKEY import DNSKEY
from dns.rdtypes.ANY.DS import DS

from deliver.dnssec.rule import Rule

RSASHA1, RSASHA1_NSEC3, RSASHA256, RSASHA512 = 5, 7, 8, 10
ECDSA_P256, ECDSA_P384, ED25519, ED448 = 13, 14, 15, 16

ZONE_KEY = 0x0100  # RFC 4034 2.1.1
REVOKED = 0x0080  # RFC 5011 2.1

MAX_RSA_BITS = 4096  # RFC 5702 2.1
MAX_EXPONENT_BITS = 64  # a large exponent only costs time
KEPT_KEYS = 4096

_ALGORITHMS = frozenset({RSASHA256, RSASHA512, ECDSA_P256, ECDSA_P384, ED25519, ED448})
_SHA1_ALGORITHMS = frozenset({RSASHA1, RSASHA1_NSEC3})
_DIGEST_SHA1 = 1
_DIGESTS: dict[int, Callable[[bytes], bytes]] = {
    _DIGEST_SHA1: lambda data: hashlib.sha1(data, usedforsecurity=False).digest(),
    2: lambda data: hashlib.sha256(data).digest(),
    4: lambda data: hashlib.sha384(data).digest(),
}

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey


@dataclass(frozen=True, slots=True)
class Policy:
    """What is accepted; `sha1` is `dns.sha1` of the settings."""

    sha1: bool = False

    def supports(self, algorithm: int) -> bool:
        """Whether signatures and keys of this algorithm count."""
        return algorithm in _ALGORITHMS or (self.sha1 and algorithm in _SHA1_ALGORITHMS)

    def supports_digest(self, digest_type: int) -> bool:
        """Whether DS records of this digest type count."""
        return digest_type in _DIGESTS

    def usable(self, records: tuple[DS, ...]) -> tuple[DS, ...]:
        """The DS records that count; SHA-1 digests do not where there is a better one (RFC 4509 3)."""
        supported = tuple(
            ds for ds in records if self.supports(ds.algorithm) and self.supports_digest(ds.digest_type)
        )
        better = tuple(ds for ds in supported if ds.digest_type != _DIGEST_SHA1)
        return better or supported


def key_fault(key: DNSKEY) -> Rule | None:
    """Why a DNSKEY can never verify zone data, or None (RFC 4034 2.1, 5011 2.1)."""
    flags = int(key.flags)
    if not flags & ZONE_KEY:
        return Rule.KEY_NOT_ZONE
    if key.protocol != 3:
        return Rule.KEY_PROTOCOL
    if flags & REVOKED:
        return Rule.KEY_REVOKED
    return None


def matches(ds: DS, owner: dns.name.Name, key: DNSKEY) -> bool:
    """Whether the digest of a DS record is that of the key (RFC 4034 5.1.4). Tags are not compared."""
    digest = _DIGESTS.get(ds.digest_type)
    if digest is None or ds.algorithm != key.algorithm:
        return False
    return digest(owner.to_digestable() + key.to_digestable()) == ds.digest


@functools.lru_cache(maxsize=KEPT_KEYS)
def load(algorithm: int, key: bytes) -> PublicKey | None:
    """The public key of a DNSKEY record, None where it is malformed or its algorithm unknown."""
    try:
        match algorithm:
            case 5 | 7 | 8 | 10:
                return _load_rsa(key)
            case 13 if len(key) == 64:
                return _load_ec(key, ec.SECP256R1())
            case 14 if len(key) == 96:
                return _load_ec(key, ec.SECP384R1())
            case 15:
                return ed25519.Ed25519PublicKey.from_public_bytes(key)
            case 16:
                return ed448.Ed448PublicKey.from_public_bytes(key)
            case _:
                return None
    except (ValueError, UnsupportedAlgorithm):
        return None


def _load_rsa(key: bytes) -> rsa.RSAPublicKey:
    """RFC 3110 2: exponent length, exponent, modulus. Raises ValueError."""
    if not key:
        raise ValueError("empty key")
    size, start = key[0], 1
    if size == 0:
        size, start = int.from_bytes(key[1:3], "big"), 3
    exponent = int.from_bytes(key[start : start + size], "big")
    modulus = int.from_bytes(key[start + size :], "big")
    if exponent.bit_length() > MAX_EXPONENT_BITS or modulus.bit_length() > MAX_RSA_BITS:
        raise ValueError("oversized key")
    return rsa.RSAPublicNumbers(exponent, modulus).public_key()


def _load_ec(key: bytes, curve: ec.EllipticCurve) -> ec.EllipticCurvePublicKey:
    return ec.EllipticCurvePublicKey.from_encoded_point(curve, b"\x04" + key)


_RSA_HASHES: dict[int, hashes.HashAlgorithm] = {
    RSASHA1: hashes.SHA1(),  # noqa: S303 - only if the policy accepts it
    RSASHA1_NSEC3: hashes.SHA1(),  # noqa: S303 - the same
    RSASHA256: hashes.SHA256(),
    RSASHA512: hashes.SHA512(),
}
_ECDSA_P256 = ec.ECDSA(hashes.SHA256())
_ECDSA_P384 = ec.ECDSA(hashes.SHA384())


def verify(public: PublicKey, algorithm: int, signature: bytes, data: bytes) -> bool:
    """Whether `signature` is that of `data` by the private half of `public`."""
    try:
        match public:
            case rsa.RSAPublicKey():
                public.verify(signature, data, padding.PKCS1v15(), _RSA_HASHES[algorithm])
            case ec.EllipticCurvePublicKey():
                half = public.key_size // 8
                if len(signature) != 2 * half:  # RFC 6605 4
                    return False
                r, s = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
                method = _ECDSA_P256 if algorithm == ECDSA_P256 else _ECDSA_P384
                public.verify(encode_dss_signature(r, s), data, method)
            case _:
                public.verify(signature, data)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True
