"""PKIX: a path to a trust store's root and the right name (RFC 5280 6, RFC 9525), judged after the handshake.

Codes of the findings: pkix-ok; refused: no-certificate, pkix-untrusted, expired, not-yet-valid,
weak-certificate, chain-invalid, name-mismatch. Revocation is not checked here.

A `TrustStore` is read once, from a PEM file or from where the operating system keeps its roots, and is then
immutable. Failure to read it is a ConfigurationError at that moment, never an empty store in silence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path as FilePath

from OpenSSL import crypto

from deliver.errors import ConfigurationError
from deliver.filemark import Mark, mark
from deliver.report.trace import Finding, Stage, Verdict
from deliver.tls import chain, names
from deliver.tls.certificate import load
from deliver.tls.verdict import TlsVerdict, VerifiedBy, certificate_evidence, presented_evidence

# Debian, Fedora and RHEL, SUSE, Alpine and the BSDs.
SYSTEM_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_MAX_FILE = 16 * 1024 * 1024  # octets

_PEM = re.compile(rb"-----BEGIN (?:X509 )?CERTIFICATE-----.+?-----END (?:X509 )?CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class TrustStore:
    """The roots that the administrator trusts; `source` says where they come from."""

    anchors: chain.Anchors
    source: str

    @classmethod
    def load(cls, path: str | None = None) -> TrustStore:
        """A PEM file, or the system's with None; read again when it has changed, or been replaced.

        Raises ConfigurationError when there is no file, or no certificate in it.
        """
        found = path if path is not None else _system_file()
        return _load(found, mark(found))

    @classmethod
    def from_pem(cls, pem: bytes, source: str) -> TrustStore:
        """The certificates in `pem`. Raises ConfigurationError when one cannot be read or none is there."""
        blocks = _PEM.findall(pem)
        try:
            anchors = tuple(crypto.load_certificate(crypto.FILETYPE_PEM, block) for block in blocks)
        except crypto.Error as error:
            raise _unusable(source, f"a certificate in it cannot be read: {error}") from error
        if not anchors:
            raise _unusable(source, "there is no PEM certificate in it")
        return cls(chain.Anchors(anchors), source)

    @classmethod
    def empty(cls) -> TrustStore:
        """Trusts nobody: for policies that never ask for PKIX."""
        return cls(chain.Anchors(()), "no trust store")


def verify(
    presented: tuple[bytes, ...], trust_store: TrustStore, references: tuple[str, ...], now: float
) -> TlsVerdict:
    """Judge a chain (DER, the server's certificate first, the rest in any order) at `now`."""
    if not presented:
        return _refuse("no-certificate", "The server presented no certificate", "RFC 9525 6")
    if load(presented[0]) is None:
        return _refuse("chain-invalid", "The server's certificate cannot be read", "RFC 5280 4.1")
    path = chain.build(presented, trust_store.anchors, now, partial=False)
    evidence = certificate_evidence(presented[0])
    if isinstance(path, chain.NoPath):
        code = "pkix-untrusted" if path.code == "untrusted" else path.code
        text = f"The server's certificate does not lead to a root of {trust_store.source}: {path.why}"
        return _refuse(code, text, "RFC 5280 6.1", evidence)
    name = names.check(presented[0], references, common_name=False)
    if isinstance(name, names.NameMismatch):
        text = f"The server's certificate is not for {' or '.join(references) or 'any name we know'}"
        if name.why:
            text = f"{text}: {name.why}"
        return _refuse(
            "name-mismatch", text, "RFC 9525 6.3", (*evidence, *presented_evidence(name.presented))
        )
    return TlsVerdict(
        True,
        VerifiedBy.PKIX,
        (
            Finding(
                Stage.TLS,
                "pkix-ok",
                f"The server's certificate is for {name.reference} "
                f"and leads to a root of {trust_store.source}",
                Verdict.OK,
                "RFC 9525 6",
                (*evidence, ("matched_name", name.presented), ("path_length", str(len(path.certificates)))),
            ),
        ),
        path.certificates,
    )


def _refuse(code: str, text: str, rfc: str, evidence: tuple[tuple[str, str], ...] = ()) -> TlsVerdict:
    finding = Finding(Stage.TLS, code, text, Verdict.REFUSED, rfc, evidence)
    return TlsVerdict(False, VerifiedBy.NONE, (finding,))


@lru_cache(maxsize=8)
def _load(path: str, _mark: Mark) -> TrustStore:
    return TrustStore.from_pem(_read(path), path)


def _system_file() -> str:
    for candidate in SYSTEM_FILES:
        if FilePath(candidate).is_file():
            return candidate
    raise _unusable("the system", f"none of {', '.join(SYSTEM_FILES)} exists")


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            pem = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from error
    if len(pem) > _MAX_FILE:
        raise _unusable(path, f"it is longer than {_MAX_FILE} octets")
    return pem


def _unusable(source: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"reading the trust store of {source}", why, "set tls.trust_store to a PEM file of root certificates"
    )
