"""Signing keys of every DNSSEC algorithm (RFC 3110, 5702, 6605, 8080), the same in every run where that is cheap.

Elliptic keys are derived from the zone's name, the algorithm and a number, so that key tags never change between
runs; RSA keys are generated once a process. A key can be published with any flags, protocol or algorithm number,
because half the zoo consists of keys that a validator must not use. For algorithms that nobody here can sign with
the key and its signatures are octets without meaning.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from dataclasses import dataclass
from enum import Enum

import dns.dnssec
import dns.name
import dns.rdataclass
import dns.rdatatype
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from dns.rdtypes.ANY.DNSKEY import DNSKEY

ZONE = 0x0100  # RFC 4034 2.1.1
REVOKE = 0x0080  # RFC 5011 3
SEP = 0x0001
RSA_BITS = 1536  # small for speed; validators and OpenSSL accept it
_MEANINGLESS_OCTETS = 64

RSASHA1, RSASHA1_NSEC3, RSASHA256, RSASHA512 = 5, 7, 8, 10
P256, P384, ED25519, ED448 = 13, 14, 15, 16

_RSA_HASH: dict[int, hashes.HashAlgorithm] = {
    RSASHA1: hashes.SHA1(),
    RSASHA1_NSEC3: hashes.SHA1(),
    RSASHA256: hashes.SHA256(),
    RSASHA512: hashes.SHA512(),
}
_CURVE: dict[int, tuple[ec.EllipticCurve, hashes.HashAlgorithm, int]] = {
    P256: (ec.SECP256R1(), hashes.SHA256(), 32),
    P384: (ec.SECP384R1(), hashes.SHA384(), 48),
}

Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey


class Signs(Enum):
    """What a key signs."""

    ALL = "all"
    KEYS = "keys"  # the DNSKEY RRset
    DATA = "data"  # everything else
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class KeyPlan:
    """A key of a zone. `number` tells apart keys that are otherwise alike; `delegated`: the parent gets a DS for it."""

    algorithm: int = P256
    flags: int = ZONE | SEP
    signs: Signs = Signs.ALL
    number: int = 0
    published: bool = True
    delegated: bool = True
    protocol: int = 3


CSK = KeyPlan()
KSK = KeyPlan(signs=Signs.KEYS)
ZSK = KeyPlan(flags=ZONE, signs=Signs.DATA, number=1, delegated=False)


def split(algorithm: int) -> tuple[KeyPlan, KeyPlan]:
    """A key-signing and a zone-signing key of that algorithm."""
    return (
        KeyPlan(algorithm, signs=Signs.KEYS),
        KeyPlan(algorithm, flags=ZONE, signs=Signs.DATA, number=1, delegated=False),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """A finished key: what is published, and how to sign with it."""

    plan: KeyPlan
    dnskey: DNSKEY
    private: Private | None

    @property
    def tag(self) -> int:
        """The key tag (RFC 4034 appendix B)."""
        return dns.dnssec.key_id(self.dnskey)

    def sign(self, octets: bytes) -> bytes:
        """The signature field of an RRSIG over `octets`."""
        match self.private:
            case None:
                return hashlib.shake_128(octets).digest(_MEANINGLESS_OCTETS)
            case rsa.RSAPrivateKey():
                return self.private.sign(octets, padding.PKCS1v15(), _RSA_HASH[self.plan.algorithm])
            case ec.EllipticCurvePrivateKey():
                _, digest, size = _CURVE[self.plan.algorithm]
                r, s = decode_dss_signature(self.private.sign(octets, ec.ECDSA(digest)))
                return r.to_bytes(size) + s.to_bytes(size)
            case _:
                return self.private.sign(octets)


def make(origin: dns.name.Name, plan: KeyPlan) -> Key:
    """The key of that zone and plan; the same one whenever it is asked for."""
    return _make(origin.to_text().lower(), plan)


def colliding(origin: str, algorithm: int = P256, flags: int = ZONE | SEP) -> tuple[int, int]:
    """Two numbers whose keys (of that zone, algorithm and flags) have the same key tag.

    About 300 keys are enough for two that agree in 16 bits. RSA keys would take too long.
    """
    seen: dict[int, int] = {}
    for number in itertools.count(100):
        tag = _make(dns.name.from_text(origin).to_text(), KeyPlan(algorithm, flags, number=number)).tag
        if tag in seen:
            return seen[tag], number
        seen[tag] = number
    raise AssertionError("unreachable")


def disguised(key: Key, rotation: int) -> DNSKEY:
    """A DNSKEY with the tag and algorithm of `key` and another key inside, which cannot verify anything.

    The tag is a sum of 16-bit words, so that it survives their rotation (the KeyTrap attack, CVE-2023-50387). The
    first four octets, which may hold an RSA exponent, stay.
    """
    octets = key.dnskey.key
    head, body = octets[:4], octets[4 : len(octets) & ~1]
    turn = 2 * rotation % len(body)
    other = key.dnskey.replace(key=head + body[turn:] + body[:turn] + octets[4 + len(body) :])
    assert isinstance(other, DNSKEY)
    return other


@functools.cache
def _make(origin: str, plan: KeyPlan) -> Key:
    private = _private(origin, plan.algorithm, plan.number)
    dnskey = DNSKEY(  # type: ignore[no-untyped-call]
        dns.rdataclass.IN,
        dns.rdatatype.DNSKEY,
        plan.flags,
        plan.protocol,
        plan.algorithm,
        _public_octets(origin, plan, private),
    )
    return Key(plan, dnskey, private)


@functools.cache
def _private(origin: str, algorithm: int, number: int) -> Private | None:
    if algorithm in _RSA_HASH:
        return rsa.generate_private_key(65537, RSA_BITS)
    seed = hashlib.shake_256(f"{origin}/{algorithm}/{number}".encode())
    if algorithm in _CURVE:
        curve, _, size = _CURVE[algorithm]
        return ec.derive_private_key(int.from_bytes(seed.digest(size - 1)) + 1, curve)
    if algorithm == ED25519:
        return ed25519.Ed25519PrivateKey.from_private_bytes(seed.digest(32))
    if algorithm == ED448:
        return ed448.Ed448PrivateKey.from_private_bytes(seed.digest(57))
    return None


def _public_octets(origin: str, plan: KeyPlan, private: Private | None) -> bytes:
    """The public key field (RFC 3110 2, RFC 6605 4, RFC 8080 3)."""
    match private:
        case None:
            return hashlib.shake_128(f"{origin}/{plan}".encode()).digest(_MEANINGLESS_OCTETS)
        case rsa.RSAPrivateKey():
            numbers = private.public_key().public_numbers()
            exponent = numbers.e.to_bytes((numbers.e.bit_length() + 7) // 8)
            return bytes([len(exponent)]) + exponent + numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8)
        case ec.EllipticCurvePrivateKey():
            point = private.public_key().public_bytes(
                serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
            )
            return point[1:]
        case _:
            return private.public_key().public_bytes_raw()
