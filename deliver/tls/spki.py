"""Cut subjectPublicKeyInfo and the names out of a certificate, octet for octet (RFC 5280 4.1).

TLSA selector 1 digests the key as the certificate encodes it (RFC 6698 1.3, 2.1.2), OCSP the issuer's name
likewise (RFC 6960 4.1.1); re-encoding what was parsed may differ (absent or explicit parameters, string
types). The reader is strict DER (X.690 10.1) and checks the tag of every field that it steps over, so that it
can never take another part of the certificate for the key.
"""

from __future__ import annotations

_SEQUENCE = 0x30
_INTEGER = 0x02
_VERSION = 0xA0  # [0] EXPLICIT, absent in version 1
_BIT_STRING = 0x03
_FIELDS = (_INTEGER, _SEQUENCE, _SEQUENCE, _SEQUENCE, _SEQUENCE, _SEQUENCE)
_ISSUER, _SUBJECT, _KEY = 2, 4, 5  # places in _FIELDS: serial, algorithm, issuer, validity, subject, key


def cut(certificate: bytes) -> bytes:
    """The DER of subjectPublicKeyInfo within a DER certificate. Raises ValueError if it is not there."""
    return _field(certificate, _KEY)


def issuer_name(certificate: bytes) -> bytes:
    """The DER of the issuer's name within a DER certificate. Raises ValueError."""
    return _field(certificate, _ISSUER)


def subject_name(certificate: bytes) -> bytes:
    """The DER of the subject's name within a DER certificate. Raises ValueError."""
    return _field(certificate, _SUBJECT)


def key_bits(public_key: bytes) -> bytes:
    """What the BIT STRING of a subjectPublicKeyInfo holds, for key hashes (RFC 6960). Raises ValueError."""
    start, end = _contents(public_key, 0, _SEQUENCE, len(public_key))
    start = _contents(public_key, start, _SEQUENCE, end)[1]
    start, end = _contents(public_key, start, _BIT_STRING, end)
    return public_key[start + 1 : end]  # the first octet counts unused bits


def _field(certificate: bytes, place: int) -> bytes:
    start, end = _contents(certificate, 0, _SEQUENCE, len(certificate))
    if end != len(certificate):
        raise ValueError("octets follow the certificate")
    at, end = _contents(certificate, start, _SEQUENCE, end)
    if at < end and certificate[at] == _VERSION:
        at = _contents(certificate, at, _VERSION, end)[1]
    for tag in _FIELDS[:place]:
        at = _contents(certificate, at, tag, end)[1]
    return certificate[at : _contents(certificate, at, _FIELDS[place], end)[1]]


def _contents(der: bytes, at: int, tag: int, limit: int) -> tuple[int, int]:
    """Where the contents of the element at `at` begin and end. Raises ValueError."""
    if at + 2 > limit or der[at] != tag:
        raise ValueError(f"no element with tag {tag:#04x} at octet {at}")
    length, start = der[at + 1], at + 2
    if length >= 0x80:
        octets = length & 0x7F
        if not 1 <= octets <= 4 or start + octets > limit:
            raise ValueError(f"bad length at octet {at}")
        length = int.from_bytes(der[start : start + octets], "big")
        if length < 0x80 or length >> (8 * (octets - 1)) == 0:
            raise ValueError(f"length at octet {at} is not in its shortest form")
        start += octets
    if start + length > limit:
        raise ValueError(f"the element at octet {at} is longer than what holds it")
    return start, start + length
