"""Revocation lists that the administrator provides, against a path that was accepted (RFC 5280 6.3).

Every certificate of the path below its anchor is looked up in the lists of its issuer: those with its name
and a sound signature by its key, which must be allowed to sign lists, current at `now`, complete and direct
(no critical extension: delta, indirect and partial lists are not used).

    state    when
    -------  --------------------------------------------------------
    good     in none of the lists of its issuer
    revoked  in one of them
    unknown  there is no usable list of its issuer

The file is the administrator's, and is read again when it changes: `load`, ConfigurationError if it cannot be
read or holds no list. Nothing raises because of a peer's certificates.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from deliver.errors import ConfigurationError
from deliver.filemark import Mark, mark
from deliver.tls import signature, spki
from deliver.tls.certificate import looking, parse

MAX_FILE = 64 * 1024 * 1024  # octets

_PEM = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)


class State(StrEnum):
    """The table above."""

    GOOD = "good"
    REVOKED = "revoked"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class RevocationLists:
    """The lists of a file; `source` names it."""

    lists: tuple[x509.CertificateRevocationList, ...]
    source: str
    _sound: dict[tuple[int, bytes], bool] = field(default_factory=dict, compare=False)

    @classmethod
    def from_pem(cls, pem: bytes, source: str) -> RevocationLists:
        """The lists in `pem`. Raises ConfigurationError when one cannot be read or none is there."""
        try:
            lists = tuple(x509.load_pem_x509_crl(block) for block in _PEM.findall(pem))
        except ValueError as error:
            raise _unusable(source, f"a list in it cannot be read: {error}") from error
        if not lists:
            raise _unusable(source, "there is no PEM revocation list in it")
        return cls(lists, source)

    def state(self, certificate: bytes, issuer: bytes, now: float) -> State:
        """Of a DER certificate whose issuer has the DER certificate `issuer`."""
        try:
            with looking():
                return self._look_up(certificate, issuer, now)
        except ValueError:
            return State.UNKNOWN

    def _look_up(self, certificate: bytes, issuer: bytes, now: float) -> State:
        serial, name = parse(certificate).serial_number, spki.issuer_name(certificate)
        key = spki.cut(issuer)
        if not _may_sign(issuer):
            return State.UNKNOWN
        state = State.UNKNOWN
        for place, each in enumerate(self.lists):
            if each.issuer.public_bytes() != name or not _current(each, now):
                continue
            if any(extension.critical for extension in each.extensions) or not self._signed(place, key):
                continue
            if each.get_revoked_certificate_by_serial_number(serial) is not None:
                return State.REVOKED
            state = State.GOOD
        return state

    def _signed(self, place: int, key: bytes) -> bool:
        """Whether list `place` is signed by `key`; remembered, lists are long."""
        known = self._sound.get((place, key))
        if known is None:
            if len(self._sound) > 1024:
                self._sound.clear()
            known = self._sound[place, key] = _signed(self.lists[place], key)
        return known


NO_LISTS = RevocationLists((), "no file")


def load(path: str) -> RevocationLists:
    """Read a PEM file, again only when it has changed. Raises ConfigurationError."""
    try:
        return _load(path, mark(path))
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from error


@lru_cache(maxsize=16)
def _load(path: str, _mark: Mark) -> RevocationLists:
    with open(path, "rb") as file:
        pem = file.read(MAX_FILE + 1)
    if len(pem) > MAX_FILE:
        raise _unusable(path, f"it is longer than {MAX_FILE} octets")
    return RevocationLists.from_pem(pem, path)


def _may_sign(issuer: bytes) -> bool:
    """RFC 5280 6.3.3 (f)."""
    try:
        return parse(issuer).extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
    except x509.ExtensionNotFound:
        return True


def _current(each: x509.CertificateRevocationList, now: float) -> bool:
    end = each.next_update_utc
    return each.last_update_utc.timestamp() <= now and (end is None or now < end.timestamp())


def _signed(each: x509.CertificateRevocationList, key: bytes) -> bool:
    digest = each.signature_hash_algorithm
    if isinstance(digest, signature.WEAK_HASHES):
        return False
    try:
        return signature.verify(
            load_der_public_key(key),
            each.signature,
            each.tbs_certlist_bytes,
            each.signature_algorithm_parameters,
            digest,
        )
    except InvalidSignature:
        return False


def _unusable(source: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"reading the revocation lists of {source}", why, "set tls.crl to a PEM file of X.509 CRLs"
    )
