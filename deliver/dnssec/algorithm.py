"""Which algorithms and digests are supported, and how keys and signatures are read.

RFC 3110, 5702, 6605 and 8080 for keys and signatures, RFC 4509 and 6605 for digests.

Signatures with SHA-1 (algorithms 5 and 7) count as unsupported unless the policy says otherwise (RFC 9905).
DS digests with SHA-1 still count for validation (RFC 9904 4), where there is no better one (RFC 4509 3).
"""

from __future__ import annotations

import functools
import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import dns.name
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from deliver.dnssec.rule import Rule

RSAMD5, RSASHA1, RSASHA1_NSEC3, RSASHA256, RSASHA512 = 1, 5, 7, 8, 10
ECDSA_P256, ECDSA_P384, ED25519, ED448 = 13, 14, 15, 16

ZONE_KEY = 0x0100  # RFC 4034 2.1.1
REVOKED = 0x0080  # RFC 5011 2.1

MAX_RSA_BITS = 4096  # RFC 5702 2.1
MAX_EXPONENT_BITS = 64  # a large exponent only costs time
KEPT_KEYS = 4096

_ALGORITHMS = frozenset({RSASHA256, RSASHA512, ECDSA_P256, ECDSA_P384, ED25519, ED448})
_SHA1_ALGORITHMS = frozenset({RSASHA1, RSASHA1_NSEC3})
_DIGEST_SHA1 = 1
_DIGEST_LENGTHS = {_DIGEST_SHA1: 20, 2: 32, 3: 32, 4: 48}  # octets
_DS = struct.Struct("!HBB")
_DIGESTS: dict[int, Callable[[bytes], bytes]] = {
    _DIGEST_SHA1: lambda data: hashlib.sha1(data, usedforsecurity=False).digest(),
    2: lambda data: hashlib.sha256(data).digest(),
    4: lambda data: hashlib.sha384(data).digest(),
}

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey


class Digest(NamedTuple):
    """A DS record (RFC 4034 5.1)."""

    key_tag: int
    algorithm: int
    digest_type: int
    digest: bytes


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

    def usable(self, records: tuple[Digest, ...]) -> tuple[Digest, ...]:
        """The DS records that count; SHA-1 digests do not where there is a better one (RFC 4509 3)."""
        supported = tuple(
            ds for ds in records if self.supports(ds.algorithm) and self.supports_digest(ds.digest_type)
        )
        better = tuple(ds for ds in supported if ds.digest_type != _DIGEST_SHA1)
        return better or supported


def key_fault(flags: int, protocol: int) -> Rule | None:
    """Why a DNSKEY can never verify zone data, or None (RFC 4034 2.1, 5011 2.1)."""
    if not flags & ZONE_KEY:
        return Rule.KEY_NOT_ZONE
    if protocol != 3:
        return Rule.KEY_PROTOCOL
    if flags & REVOKED:
        return Rule.KEY_REVOKED
    return None


def digest_in(octets: bytes) -> Digest:
    """A DS record by its RDATA. Raises ValueError for one of a length that its digest cannot have."""
    if len(octets) < _DS.size:
        raise ValueError("a DS record that is cut")
    tag, algorithm, digest_type = _DS.unpack_from(octets)
    found = Digest(tag, algorithm, digest_type, octets[_DS.size :])
    if digest_type == 0 or len(found.digest) != _DIGEST_LENGTHS.get(digest_type, len(found.digest)):
        raise ValueError(f"a DS record whose digest of type {digest_type} has {len(found.digest)} octets")
    return found


def key_tag(key: bytes) -> int:
    """Of a DNSKEY record by its RDATA of at least four octets (RFC 4034 B)."""
    if key[3] == RSAMD5:
        return int.from_bytes(key[-3:-1], "big")
    total = (sum(key[::2]) << 8) + sum(key[1::2])
    return total + (total >> 16 & 0xFFFF) & 0xFFFF


def matches(ds: Digest, owner: dns.name.Name, key: bytes) -> bool:
    """Whether the digest of a DS record is that of the key, given by its RDATA (RFC 4034 5.1.4).

    Tags are not compared.
    """
    digest = _DIGESTS.get(ds.digest_type)
    if digest is None or ds.algorithm != key[3]:
        return False
    return digest(owner.to_digestable() + key) == ds.digest


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
# Octets of a signature's halves, and the method.
_ECDSA = {ECDSA_P256: (32, ec.ECDSA(hashes.SHA256())), ECDSA_P384: (48, ec.ECDSA(hashes.SHA384()))}


def verify(public: PublicKey, algorithm: int, signature: bytes, data: bytes) -> bool:
    """Whether `signature` is that of `data` by the private half of `public`."""
    try:
        match public:
            case ec.EllipticCurvePublicKey():
                half, method = _ECDSA[algorithm]
                if len(signature) != 2 * half:  # RFC 6605 4
                    return False
                r, s = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
                public.verify(encode_dss_signature(r, s), data, method)
            case rsa.RSAPublicKey():
                public.verify(signature, data, padding.PKCS1v15(), _RSA_HASHES[algorithm])
            case _:
                public.verify(signature, data)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True
