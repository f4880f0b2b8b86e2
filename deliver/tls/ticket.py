"""An SSL_SESSION in DER, looked into before OpenSSL is: what it is for, how long it lives, whose it is.

OpenSSL writes it (`i2d_SSL_SESSION`), the hints keep it, and whoever can write to them can change it; so
every length is checked and nothing may follow. The fields (OpenSSL's ssl_asn1.c): version, protocol, cipher,
id, master secret, then by tag [1] time, [2] timeout, [3] the server's certificate, [9] the ticket's lifetime
hint, [10] the ticket. The secrets in it are not read.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_SESSION = 16 * 1024  # octets, as the hints keep

_VERSIONS = {0x0303: "TLSv1.2", 0x0304: "TLSv1.3"}
_SEQUENCE, _INTEGER, _OCTETS = 0x30, 0x02, 0x04
_TIMEOUT, _PEER, _LIFETIME, _TICKET = 0xA2, 0xA3, 0xA9, 0xAA
_WEEK = 7 * 86400  # RFC 8446 4.6.1: no ticket lives longer
_TIMEOUT_OF_ID = 7200  # seconds for which a server of TLS 1.2 may be expected to know a session


@dataclass(frozen=True, slots=True)
class Ticket:
    """What may be known of a session. `lifetime`: seconds from when it was issued; 0: not to be used again.

    `peer`: the server's certificate in DER. `ticket`: what the server wants to see again; in TLS 1.2 without
    tickets the session's id.
    """

    version: str
    peer: bytes
    ticket: bytes
    lifetime: int


def read(der: bytes) -> Ticket:
    """Raises ValueError for what is no session that a server would know again."""
    if len(der) > MAX_SESSION:
        raise ValueError(f"a session of {len(der)} octets")
    body, rest = _element(der, _SEQUENCE)
    if rest:
        raise ValueError("octets follow the session")
    _, body = _element(body, _INTEGER)
    protocol, body = _element(body, _INTEGER)
    _, body = _element(body, _OCTETS)  # cipher
    identity, body = _element(body, _OCTETS)
    _, body = _element(body, _OCTETS)  # master secret
    tagged: dict[int, bytes] = {}
    while body:
        tag = body[0]
        if tag in tagged:
            raise ValueError(f"field {tag:#04x} twice")
        tagged[tag], body = _element(body, tag)
    version = _VERSIONS.get(int.from_bytes(protocol))
    if version is None:
        raise ValueError("neither TLS 1.2 nor 1.3")
    ticket = _inner(tagged, _TICKET, _OCTETS)
    if not (ticket or (identity and version == "TLSv1.2")):
        raise ValueError("there is no ticket in it")
    return Ticket(version, tagged.get(_PEER, b""), ticket or identity, _lifetime(version, tagged))


def _lifetime(version: str, tagged: dict[int, bytes]) -> int:
    """RFC 8446 4.6.1: 0 means at once; RFC 5077 3.3: 0 means unspecified."""
    hint = int.from_bytes(_inner(tagged, _LIFETIME, _INTEGER))
    if version == "TLSv1.2" and not hint:
        hint = min(int.from_bytes(_inner(tagged, _TIMEOUT, _INTEGER)), _TIMEOUT_OF_ID)
    return min(hint, _WEEK)


def _inner(tagged: dict[int, bytes], tag: int, kind: int) -> bytes:
    if tag not in tagged:
        return b""
    value, rest = _element(tagged[tag], kind)
    if rest:
        raise ValueError(f"octets follow the value of field {tag:#04x}")
    return value


def _element(der: bytes, tag: int) -> tuple[bytes, bytes]:
    """The contents of the first element, and what follows it. Raises ValueError."""
    if len(der) < 2 or der[0] != tag:
        raise ValueError(f"no element with tag {tag:#04x}")
    length, start = der[1], 2
    if length >= 0x80:
        octets = length & 0x7F
        if not 1 <= octets <= 3 or len(der) < 2 + octets:
            raise ValueError("bad length")
        length, start = int.from_bytes(der[2 : 2 + octets]), 2 + octets
    if start + length > len(der):
        raise ValueError("an element is longer than what holds it")
    return der[start : start + length], der[start + length :]
