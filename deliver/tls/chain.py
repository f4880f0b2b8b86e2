"""A path of certificates from a server's certificate to an anchor, at a given time (RFC 5280 6).

OpenSSL builds and checks the path: signatures, dates, CA flags, path lengths, name constraints, key usage,
purpose TLS server or client. What it leaves to the security level of a connection is checked here on the path
found: keys of at least 112 bits strength, no signature with MD5 or SHA-1 (RFC 9325 4.5; the anchor's own
signature does not matter). Names are `deliver.tls.names`'s affair, anchors the caller's.

Certificates come from the peer: at most MAX_CERTIFICATES of them are used, none longer than
`certificate.MAX_CERTIFICATE`; what cannot be read is left out of the path. Nothing here raises because
of them.

The same servers come again and again, so a path that was found is remembered for its very certificates and
anchors, and at another time only the dates of all its certificates are looked at: nothing else in it depends
on time. What was refused is not remembered, and revocation is nobody's affair here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from hashlib import sha256

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_public_key
from OpenSSL import crypto

from deliver.tls import openssl, signature
from deliver.tls.certificate import REMEMBERED, load, looking, parse

MAX_CERTIFICATES = 16
MAX_PATHS = 256  # that are remembered
MAX_PATH = 64 * 1024  # octets of a path that is

_MIN_RSA = 2048  # bits, RFC 9325 4.5
_MAX_RSA = 8192  # a hostile certificate may name many keys, and each costs its length squared
_MIN_EC = 224

# X509_V_ERR_… numbers of OpenSSL's x509_vfy.h that mean more than "invalid".
_CODES = {
    2: "untrusted",  # the issuer of a certificate is unknown
    18: "untrusted",  # self-signed server certificate
    19: "untrusted",  # self-signed certificate at the top, not an anchor
    20: "untrusted",  # no issuer certificate locally
    21: "untrusted",  # a single certificate, no issuer
    27: "untrusted",  # not trusted for the purpose
    9: "not-yet-valid",
    10: "expired",
}


@dataclass(frozen=True, slots=True)
class Path:
    """A valid path in DER, the server's certificate first, the anchor last."""

    certificates: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class NoPath:
    """There is none. `code`: untrusted, expired, not-yet-valid, weak-certificate or chain-invalid."""

    code: str
    why: str


class Anchors:
    """Certificates at which a path may end."""

    def __init__(self, certificates: Iterable[crypto.X509]) -> None:
        self.certificates = tuple(certificates)

    @staticmethod
    def of(certificates: Iterable[bytes]) -> Anchors:
        """Of those among DER certificates that can be read."""
        return _anchors(tuple(certificates))

    @cached_property
    def digest(self) -> bytes:
        """Names exactly these, in this order."""
        return sha256(b"".join(sha256(_der(anchor)).digest() for anchor in self.certificates)).digest()

    @cached_property
    def _by_subject(self) -> dict[int, list[crypto.X509]]:
        found: dict[int, list[crypto.X509]] = {}
        for anchor in self.certificates:
            found.setdefault(anchor.subject_name_hash(), []).append(anchor)
        return found

    def above(self, certificates: Iterable[crypto.X509]) -> list[crypto.X509]:
        """Those that can be in a path with `certificates`: an issuer of one, or of one of these, by name.

        OpenSSL looks for issuers by the same hash, so a store of these finds what one of all would find.
        """
        chosen: dict[int, list[crypto.X509]] = {}
        waiting = list(certificates)
        while waiting:
            certificate = waiting.pop()
            for name in (openssl.issuer_name_hash(certificate), certificate.subject_name_hash()):
                if name is None:
                    return list(self.certificates)
                if name not in chosen:
                    chosen[name] = self._by_subject.get(name, [])
                    waiting.extend(chosen[name])
        return [anchor for anchors in chosen.values() for anchor in anchors]


@lru_cache(maxsize=32)  # of up to 512 KiB each, an engine's MAX_HANDSHAKE
def _anchors(certificates: tuple[bytes, ...]) -> Anchors:
    return Anchors(anchor for der in certificates if (anchor := load(der)) is not None)


@dataclass(frozen=True, slots=True)
class _Proven:
    """A path, and the times between which all its certificates are valid; seconds since the epoch."""

    path: Path
    begin: float
    end: float


_proven: OrderedDict[bytes, _Proven] = OrderedDict()


def build(
    presented: tuple[bytes, ...], anchors: Anchors, now: float, *, partial: bool, client: bool = False
) -> Path | NoPath:
    """Find a path from `presented[0]` through the others, in DER and any order, to one of `anchors`.

    `partial`: an anchor ends the path although it is not self-signed (RFC 7671 5.2). `client`: the purpose is
    TLS client instead of server. `now` in seconds since the epoch.
    """
    used = presented[:MAX_CERTIFICATES]
    key = sha256(
        b"".join((anchors.digest, bytes((partial, client)), *(sha256(der).digest() for der in used)))
    ).digest()
    known = _proven.get(key)
    if known is not None and known.begin <= now < known.end:
        _proven.move_to_end(key)
        return known.path
    found = _build(used, anchors, now, partial=partial, client=client)
    if isinstance(found, Path):
        _remember(key, found)
    return found


def forget() -> None:
    """Forget the paths that were found."""
    _proven.clear()
    _anchors.cache_clear()


def _remember(key: bytes, path: Path) -> None:
    if sum(len(der) for der in path.certificates) > MAX_PATH:
        return
    try:
        begins, ends = zip(*(_validity(der) for der in path.certificates), strict=True)
    except ValueError:
        return
    _proven[key] = _Proven(path, max(begins), min(ends))
    while len(_proven) > MAX_PATHS:
        _proven.popitem(last=False)


def _build(
    presented: tuple[bytes, ...], anchors: Anchors, now: float, *, partial: bool, client: bool
) -> Path | NoPath:
    leaf = load(presented[0]) if presented else None
    if leaf is None:
        return NoPath("chain-invalid", f"the {'client' if client else 'server'}'s certificate cannot be read")
    others = [other for der in presented[1:] if (other := load(der)) is not None]
    # A store keeps the first time that it is given, so each judgement takes a new one.
    store = crypto.X509Store()
    try:
        for anchor in anchors.above((leaf, *others)):
            store.add_cert(anchor)
        store.set_time(_moment(now))
        if client:
            openssl.demand_client_purpose(store)
        else:
            openssl.demand_server_purpose(store)
        if partial:
            openssl.allow_partial_chain(store)
        found = crypto.X509StoreContext(store, leaf, others).get_verified_chain()
    except crypto.X509StoreContextError as error:
        number, depth, text = error.errors
        return NoPath(_CODES.get(number, "chain-invalid"), f"{text} (certificate {depth} of the path)")
    except crypto.Error as error:
        return NoPath("chain-invalid", f"OpenSSL cannot check the path: {error}")
    path = tuple(_der(certificate) for certificate in found)
    weakness = _weakness(path)
    return NoPath("weak-certificate", weakness) if weakness else Path(path)


def signed_by(certificate: bytes, public_key: bytes) -> bool:
    """Whether `certificate` carries a sound signature by `public_key` (DER of a SubjectPublicKeyInfo)."""
    try:
        with looking():
            parsed, key = parse(certificate), load_der_public_key(public_key)
            if isinstance(key, rsa.RSAPublicKey) and key.key_size > _MAX_RSA:
                return False
            return not _weak_hash(parsed) and signature.verify(
                key,
                parsed.signature,
                parsed.tbs_certificate_bytes,
                parsed.signature_algorithm_parameters,
                parsed.signature_hash_algorithm,
            )
    except (InvalidSignature, ValueError):
        return False


def _der(certificate: crypto.X509) -> bytes:
    return crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)


@lru_cache(maxsize=REMEMBERED)
def _validity(der: bytes) -> tuple[float, float]:
    """From when, and up to when it is valid, seconds since the epoch. Raises ValueError."""
    with looking():
        certificate = parse(der)
        return certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()


def _weakness(path: tuple[bytes, ...]) -> str:
    """Why a path that OpenSSL accepted must not be relied on, or an empty text."""
    for place, der in enumerate(path):
        try:
            short, weak_hash = _strength(der)
        except ValueError as error:
            return f"certificate {place} of the path cannot be judged: {error}"
        if weak_hash and place < len(path) - 1:
            return f"certificate {place} of the path is signed with a broken digest"
        if short:
            return f"certificate {place} of the path has {short}"
    return ""


@lru_cache(maxsize=REMEMBERED)
def _strength(der: bytes) -> tuple[str, bool]:
    """What is wrong with the key, and whether the signature is by a broken digest. Raises ValueError."""
    with looking():
        certificate = parse(der)
        return _short_key(certificate.public_key()), _weak_hash(certificate)


def _short_key(key: CertificatePublicKeyTypes) -> str:
    if isinstance(key, ec.EllipticCurvePublicKey) and key.key_size < _MIN_EC:
        return f"an elliptic curve key of {key.key_size} bits, less than {_MIN_EC}"
    if isinstance(key, rsa.RSAPublicKey | dsa.DSAPublicKey) and key.key_size < _MIN_RSA:
        return f"a key of {key.key_size} bits, less than {_MIN_RSA}"
    return ""  # the other kinds have no short keys


def _weak_hash(certificate: x509.Certificate) -> bool:
    return isinstance(certificate.signature_hash_algorithm, signature.WEAK_HASHES)


def _moment(now: float) -> datetime:
    """Within what OpenSSL and datetime can hold."""
    return datetime.fromtimestamp(min(max(now, 0.0), 253402300799.0), UTC)
