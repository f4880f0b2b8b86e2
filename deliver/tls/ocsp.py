"""An OCSP response about a server's certificate: what it says, if it may be believed (RFC 6960).

    status   when
    -------  ------------------------------------------------------------------------------------------------
    none     there is no response
    good     believed, and not revoked
    revoked  believed, and revoked
    unknown  believed, but the responder does not know the certificate
    invalid  not to be believed, so that it counts as none; `why` says what is wrong

Believed (RFC 6960 3.2) is a successful response that

    1. has a single response for this certificate: serial, and issuer's name and key by their hashes (4.1.1);
    2. is signed by the issuer, or by a delegate that the issuer issued directly, with OCSPSigning among its
       extended key usages, and valid now (4.2.2.2); the responder's id names the signer (4.2.1);
    3. is current: thisUpdate is not in the future and nextUpdate not past (4.2.2.1), give or take `skew`;
       without nextUpdate it is believed for UNLIMITED_AGE after thisUpdate.

Where several current single responses are for this certificate the worst counts. A delegate's own revocation
is not looked at, as if it had id-pkix-ocsp-nocheck: there is nobody to ask. Nonces play no role in a staple.

The octets come from the peer: at most MAX_RESPONSE of them, MAX_SINGLE single responses and MAX_CERTIFICATES
certificates are looked at. Nothing here raises because of them.

What does not depend on time (1, the signatures of 2) is remembered for a response and its certificate: a
server staples the same response for days. All that does is looked at each time.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import sha1, sha256

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, SignatureAlgorithmOID as Oid

from deliver.tls import chain, signature, spki
from deliver.tls.certificate import looking, parse

MAX_RESPONSE = 64 * 1024  # octets
MAX_SINGLE = 64
MAX_CERTIFICATES = 8
MAX_REMEMBERED = 256  # responses
UNLIMITED_AGE = 86400.0  # seconds
SKEW = 300.0  # seconds

_RSA = (Oid.RSA_WITH_SHA224, Oid.RSA_WITH_SHA256, Oid.RSA_WITH_SHA384, Oid.RSA_WITH_SHA512)
_ECDSA = (Oid.ECDSA_WITH_SHA224, Oid.ECDSA_WITH_SHA256, Oid.ECDSA_WITH_SHA384, Oid.ECDSA_WITH_SHA512)


class Status(StrEnum):
    """The table above; the values stand in events and in `TlsFacts.ocsp`."""

    NONE = "none"
    GOOD = "good"
    REVOKED = "revoked"
    UNKNOWN = "unknown"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who issued a certificate: name and subjectPublicKeyInfo in DER, as the certificates encode them."""

    name: bytes
    key: bytes

    @classmethod
    def of(cls, certificate: bytes) -> Issuer:
        """The subject of a DER certificate as an issuer. Raises ValueError."""
        return cls(spki.subject_name(certificate), spki.cut(certificate))


@dataclass(frozen=True, slots=True)
class Result:
    """What a response says. `until`: the time up to which it may be believed, in seconds since the epoch."""

    status: Status
    why: str
    this_update: float | None = None
    until: float | None = None


class _Unusable(ValueError):
    """The response must not be believed; the text says why."""


@dataclass(frozen=True, slots=True)
class _Single:
    status: ocsp.OCSPCertStatus
    this_update: float
    until: float
    text: str


@dataclass(frozen=True, slots=True)
class _Signer:
    """Whose signature holds: the issuer's, always, or a delegate's while its certificate is valid."""

    begin: float = -math.inf
    end: float = math.inf


@dataclass(frozen=True, slots=True)
class _Statement:
    """What a response says about a certificate, and who signed it; true at any time."""

    singles: tuple[_Single, ...]
    signers: tuple[_Signer, ...]


_remembered: OrderedDict[bytes, _Statement] = OrderedDict()


def check(
    response: bytes | None, certificate: bytes, issuer: Issuer | None, now: float, skew: float = SKEW
) -> Result:
    """Judge an OCSP response in DER about `certificate`; None or no octets: there is none."""
    if not response:
        return Result(Status.NONE, "the server stapled no OCSP response")
    if issuer is None:
        return Result(Status.INVALID, "the issuer of the certificate is not known")
    if len(response) > MAX_RESPONSE:
        return Result(Status.INVALID, f"it has {len(response)} octets")
    try:
        with looking():
            return _current(_signed_singles(response, certificate, issuer), now, skew)
    except _Unusable as error:
        return Result(Status.INVALID, str(error))
    except (ValueError, OverflowError) as error:
        return Result(Status.INVALID, f"it cannot be read: {error}")


def issuer_among(certificate: bytes, candidates: tuple[bytes, ...]) -> Issuer | None:
    """The issuer of a DER certificate among DER certificates, by name and by signature."""
    try:
        name = spki.issuer_name(certificate)
    except ValueError:
        return None
    for candidate in candidates[: chain.MAX_CERTIFICATES]:
        try:
            issuer = Issuer.of(candidate)
        except ValueError:
            continue
        if issuer.name == name and chain.signed_by(certificate, issuer.key):
            return issuer
    return None


def must_staple(certificate: bytes) -> bool:
    """Whether a DER certificate demands a staple (RFC 7633 4.1: TLS feature status_request)."""
    try:
        with looking():
            features = parse(certificate).extensions.get_extension_for_class(x509.TLSFeature).value
            return x509.TLSFeatureType.status_request in features
    except (ValueError, x509.ExtensionNotFound):
        return False


def forget() -> None:
    """Forget the responses that were verified."""
    _remembered.clear()


def _signed_singles(der: bytes, certificate: bytes, issuer: Issuer) -> _Statement:
    parts = (der, certificate, issuer.name, issuer.key)
    key = sha256(b"".join(sha256(part).digest() for part in parts)).digest()
    known = _remembered.get(key)
    if known is not None:
        _remembered.move_to_end(key)
        return known
    found = _remembered[key] = _read(der, certificate, issuer)
    while len(_remembered) > MAX_REMEMBERED:
        _remembered.popitem(last=False)
    return found


def _current(said: _Statement, now: float, skew: float) -> Result:
    if not any(signer.begin <= now <= signer.end for signer in said.signers):
        raise _Unusable("its signer's certificate is not valid now")
    current = [each for each in said.singles if each.this_update - skew <= now < each.until + skew]
    if not current:
        early = all(now < each.this_update for each in said.singles)
        raise _Unusable("it is not valid yet" if early else "it is out of date")
    return _worst(current)


def _read(der: bytes, certificate: bytes, issuer: Issuer) -> _Statement:
    response = ocsp.load_der_ocsp_response(der)
    if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        name = response.response_status.name.lower().replace("_", " ")
        raise _Unusable(f"the responder answered with an error: {name}")
    own = [single for single in _singles(response) if _about(single, certificate, issuer)]
    if not own:
        raise _Unusable("it is about another certificate")
    _refuse_critical(response)
    signers = _verify(response, issuer)
    return _Statement(tuple(_single(each) for each in own), signers)


def _singles(response: ocsp.OCSPResponse) -> Iterator[ocsp.OCSPSingleResponse]:
    for place, single in enumerate(response.responses):
        if place == MAX_SINGLE:
            raise _Unusable(f"it has more than {MAX_SINGLE} single responses")
        yield single


def _about(single: ocsp.OCSPSingleResponse, certificate: bytes, issuer: Issuer) -> bool:
    """RFC 6960 4.1.1: the certificate's id."""
    return (
        single.serial_number == parse(certificate).serial_number
        and single.issuer_name_hash == _hash(single.hash_algorithm, spki.issuer_name(certificate))
        and single.issuer_key_hash == _hash(single.hash_algorithm, spki.key_bits(issuer.key))
    )


def _hash(algorithm: hashes.HashAlgorithm, data: bytes) -> bytes:
    digest = hashes.Hash(algorithm)
    digest.update(data)
    return digest.finalize()


def _refuse_critical(response: ocsp.OCSPResponse) -> None:
    """RFC 5280 4.2, RFC 6960 4.4: what is critical and not understood forbids relying on the response."""
    for extension in response.extensions:
        if extension.critical and isinstance(extension.value, x509.UnrecognizedExtension):
            raise _Unusable(f"it has the critical extension {extension.oid.dotted_string}")


def _verify(response: ocsp.OCSPResponse, issuer: Issuer) -> tuple[_Signer, ...]:
    """Everyone who may sign for the issuer and did."""
    if _named(response, issuer) and _signed(response, issuer.key):
        return (_Signer(),)
    why = "its signature is not the issuer's"
    signers = []
    for delegate in response.certificates[:MAX_CERTIFICATES]:
        der = delegate.public_bytes(Encoding.DER)
        try:
            who = Issuer.of(der)
        except ValueError:
            continue
        if not _named(response, who):
            continue
        fault = _unfit(delegate, der, issuer)
        if fault is None and _signed(response, who.key):
            begin, end = _seconds(delegate.not_valid_before_utc), _seconds(delegate.not_valid_after_utc)
            signers.append(_Signer(begin, end))
        why = fault or "its signature is wrong"
    if not signers:
        raise _Unusable(why)
    return tuple(signers)


def _named(response: ocsp.OCSPResponse, signer: Issuer) -> bool:
    """Whether the responder's id means `signer`, by name or by the SHA-1 of its key (RFC 6960 4.2.1)."""
    if response.responder_key_hash is not None:
        return response.responder_key_hash == sha1(spki.key_bits(signer.key), usedforsecurity=False).digest()
    name = response.responder_name
    return name is not None and name.public_bytes() == signer.name


def _unfit(delegate: x509.Certificate, der: bytes, issuer: Issuer) -> str | None:
    """Why a certificate may not sign for the issuer (RFC 6960 4.2.2.2), or None."""
    if spki.issuer_name(der) != issuer.name or not chain.signed_by(der, issuer.key):
        return "its signer was not issued by the issuer of the certificate"
    try:
        purposes = delegate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return "its signer's certificate is not for OCSP"
    if ExtendedKeyUsageOID.OCSP_SIGNING not in purposes:
        return "its signer's certificate is not for OCSP"
    try:
        usage = delegate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return None
    return None if usage.digital_signature else "its signer's key is not for signatures"


def _signed(response: ocsp.OCSPResponse, key: bytes) -> bool:
    algorithm = response.signature_algorithm_oid
    digest = response.signature_hash_algorithm
    if isinstance(digest, signature.WEAK_HASHES):
        raise _Unusable("it is signed with a broken digest")
    scheme: signature.Scheme = None
    if digest is not None and algorithm in _RSA:
        scheme = padding.PKCS1v15()
    elif digest is not None and algorithm in _ECDSA:
        scheme = ec.ECDSA(digest)
    elif algorithm not in (Oid.ED25519, Oid.ED448):
        raise _Unusable(f"its signature algorithm {algorithm.dotted_string} is not supported")
    try:
        return signature.verify(
            load_der_public_key(key), response.signature, response.tbs_response_bytes, scheme, digest
        )
    except InvalidSignature:
        return False


def _single(single: ocsp.OCSPSingleResponse) -> _Single:
    begin = _seconds(single.this_update_utc)
    until = begin + UNLIMITED_AGE if single.next_update_utc is None else _seconds(single.next_update_utc)
    if until < begin:
        raise _Unusable("its nextUpdate is before its thisUpdate")
    text = ""
    if single.certificate_status is ocsp.OCSPCertStatus.REVOKED:
        reason = single.revocation_reason
        text = f"revoked at {single.revocation_time_utc:%Y-%m-%d %H:%M} UTC" + (
            f", reason {reason.value}" if reason else ""
        )
    return _Single(single.certificate_status, begin, until, text)


def _worst(singles: list[_Single]) -> Result:
    """A revocation counts before ignorance, ignorance before good."""
    until = min(each.until for each in singles)
    order = (
        (ocsp.OCSPCertStatus.REVOKED, Status.REVOKED, "the certificate was "),
        (ocsp.OCSPCertStatus.UNKNOWN, Status.UNKNOWN, "the responder does not know the certificate"),
    )
    for theirs, status, text in order:
        for each in singles:
            if each.status is theirs:
                return Result(status, text + each.text, each.this_update, until)
    return Result(Status.GOOD, "the certificate is not revoked", singles[0].this_update, until)


def _seconds(moment: datetime) -> float:
    return moment.timestamp()
