"""What the settings point at: trust store, trust anchors and secrets, looked at when the settings are read.

A secret is the first line of a file that others cannot read, or a systemd credential (`credential:NAME`,
systemd.exec(5)); it never stands in the settings themselves.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from deliver.configuration import actions, relaysecurity
from deliver.configuration.problem import KeyPath, Problem
from deliver.errors import ConfigurationError
from deliver.settings import Settings, as_mapping

CREDENTIAL = "credential:"
MAX_FILE = 4 * 1024 * 1024  # octets; the largest system trust stores have a fifth of it
MAX_SECRET = 4096

_CERTIFICATE = re.compile(
    r"-----BEGIN (?:TRUSTED )?CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END [A-Z ]+-----", re.ASCII
)


def problems(settings: Settings, environ: Mapping[str, str]) -> Iterator[Problem]:
    """Files that are named and cannot serve."""
    if settings.dns.trust_anchors is not None:
        fault = _trust_anchor_fault(settings.path(settings.dns.trust_anchors))
        if fault:
            yield Problem(("dns", "trust_anchors"), fault, "give DNSKEY or DS records in zone-file form")
    stores: list[tuple[KeyPath, str | None]] = [(("tls", "trust_store"), settings.tls.trust_store)]
    stores += [
        (("rule", index, "tls", "trust_store"), rule.tls.get("trust_store"))
        for index, rule in enumerate(settings.rule)
    ]
    for path, store in stores:
        if isinstance(store, str) and (fault := _trust_store_fault(settings.path(store))):
            yield Problem(path, fault, "give a file of CA certificates in PEM form, or remove the key")
    for where, tls in _tls_tables(settings):
        yield from _tls_file_faults(settings, where, tls, environ)
    for path, action, _ in actions.placed(settings):
        if action.password_file is not None:
            trouble = _secret_fault(settings, action.password_file, environ)
            if trouble:
                yield Problem((*path, "password_file"), *trouble)
    if settings.queue.password_file is not None:
        trouble = _secret_fault(settings, settings.queue.password_file, environ)
        if trouble:
            yield Problem(("queue", "password_file"), *trouble)
    yield from _relay_faults(settings, environ)
    for index, route in enumerate(settings.route):
        if route.password_file is not None:
            trouble = _secret_fault(settings, route.password_file, environ)
            if trouble:
                yield Problem(("route", index, "password_file"), *trouble)


def _tls_tables(settings: Settings) -> Iterator[tuple[KeyPath, Mapping[str, object]]]:
    yield ("tls",), as_mapping(settings.tls)
    for index, rule in enumerate(settings.rule):
        yield ("rule", index, "tls"), rule.tls


def _tls_file_faults(
    settings: Settings, where: KeyPath, tls: Mapping[str, object], environ: Mapping[str, str]
) -> Iterator[Problem]:
    lists, certificate, key = (tls.get(name) for name in ("crl", "client_certificate", "client_key_file"))
    if isinstance(lists, str) and (fault := _lists_fault(settings.path(lists))):
        yield Problem((*where, "crl"), fault, "give a file of X.509 CRLs in PEM form, or remove the key")
    if isinstance(certificate, str) and (fault := _certificate_fault(settings.path(certificate))):
        yield Problem((*where, "client_certificate"), fault, "give a certificate in PEM form")
    if isinstance(key, str) and (trouble := _secret_fault(settings, key, environ)):
        yield Problem((*where, "client_key_file"), *trouble)


def _relay_faults(settings: Settings, environ: Mapping[str, str]) -> Iterator[Problem]:
    """The files of `relay.tls` and `relay.auth`."""
    found = [*_absent_relay_files(settings, environ)]
    yield from found or relaysecurity.misfits(settings)


def _absent_relay_files(settings: Settings, environ: Mapping[str, str]) -> Iterator[Problem]:
    tls, auth = settings.relay.tls, settings.relay.auth
    for index, certificate in enumerate(tls.certificate):
        where: KeyPath = ("relay", "tls", "certificate", index)
        if fault := _certificate_fault(settings.path(certificate.chain_file)):
            yield Problem((*where, "chain_file"), fault, "give a chain in PEM form, our own first")
        if trouble := _secret_fault(settings, certificate.key_file, environ):
            yield Problem((*where, "key_file"), *trouble)
        ocsp = certificate.ocsp_file
        if ocsp is not None and not certificate.ocsp_fetch and not settings.path(ocsp).exists():
            remedy = "make it with `outrider ocsp fetch`, or set ocsp_fetch = true"
            yield Problem((*where, "ocsp_file"), f"{settings.path(ocsp)} does not exist", remedy)
    stores: list[tuple[KeyPath, str | None]] = [(("relay", "tls", "client_ca"), tls.client_ca)]
    stores.append((("relay", "auth", "dovecot_ca"), auth.dovecot_ca))
    for path, store in stores:
        if store is not None and (fault := _trust_store_fault(settings.path(store))):
            yield Problem(path, fault, "give a file of CA certificates in PEM form")
    if auth.password_file is not None and (trouble := _secret_fault(settings, auth.password_file, environ)):
        yield Problem(("relay", "auth", "password_file"), *trouble)


def _lists_fault(path: Path) -> str | None:
    from deliver.tls import crl  # loads OpenSSL

    try:
        crl.load(str(path))
    except ConfigurationError as error:
        return error.happened if str(path) in error.happened else f"{path}: {error.happened}"
    return None


def _certificate_fault(path: Path) -> str | None:
    try:
        text = _read(path, MAX_FILE)
    except ValueError as error:
        return str(error)
    return None if _CERTIFICATE.search(text) else f"{path} holds no PEM certificate"


def read_secret(settings: Settings, value: str, environ: Mapping[str, str] = os.environ) -> str:
    """The secret that a `*_file` key names: the first line of its file.

    Raises ConfigurationError when there is none or others can read it; the text never shows the secret.
    """
    attempted = f"reading the secret {value}"
    path = _secret_path(settings, value, environ)
    if path is None:
        raise ConfigurationError(
            attempted, "$CREDENTIALS_DIRECTORY is not set", "start the service by systemd"
        )
    fault = _secret_fault(settings, value, environ)
    if fault:
        raise ConfigurationError(attempted, *fault)
    try:
        text = _read(path, MAX_SECRET)
    except ValueError as error:
        raise ConfigurationError(attempted, str(error), "make it readable for this user") from None
    secret, _, _ = text.partition("\n")
    if not secret:
        raise ConfigurationError(attempted, f"{path} is empty", "write the secret on its first line")
    return secret


def secret_path(settings: Settings, value: str, environ: Mapping[str, str] = os.environ) -> Path:
    """Where the secret of a `*_file` key lies, for libraries that read it. Raises ConfigurationError."""
    path = _secret_path(settings, value, environ)
    if path is None:
        raise ConfigurationError(
            f"reading the secret {value}", "$CREDENTIALS_DIRECTORY is not set", "start the service by systemd"
        )
    return path


def _secret_path(settings: Settings, value: str, environ: Mapping[str, str]) -> Path | None:
    if not value.startswith(CREDENTIAL):
        return settings.path(value)
    directory = environ.get("CREDENTIALS_DIRECTORY")
    return Path(directory) / value.removeprefix(CREDENTIAL) if directory else None


def _secret_fault(settings: Settings, value: str, environ: Mapping[str, str]) -> tuple[str, str] | None:
    """Existence and permissions only: a command that needs no secret may run as a user who cannot read it."""
    path = _secret_path(settings, value, environ)
    if path is None:
        return None  # outside the service: credentials exist only there
    try:
        found = path.stat()
    except OSError as error:
        return f"{path}: {error.strerror}", "create the file or correct the path"
    if not stat.S_ISREG(found.st_mode):
        return f"{path} is not a file", "correct the path"
    if found.st_mode & stat.S_IRWXO:
        return f"{path} is open to every user (mode {found.st_mode & 0o777:o})", f"chmod o= {path}"
    return None


def _read(path: Path, limit: int) -> str:
    """The text of a file of at most `limit` octets. Raises ValueError, its text a phrase."""
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    if len(content) > limit:
        raise ValueError(f"{path} is larger than {limit} octets")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file") from None


def _trust_store_fault(path: Path) -> str | None:
    import ssl  # loaded only where a store is configured

    try:
        text = _read(path, MAX_FILE)
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=_certificates(text))
    except ssl.SSLError:
        return f"{path} holds no usable PEM certificates"
    except ValueError as error:
        return str(error)
    return None


def _certificates(text: str) -> str:
    """The certificates alone: comments between them need not be ASCII."""
    return "\n".join(_CERTIFICATE.findall(text)) or "none"


def _trust_anchor_fault(path: Path) -> str | None:
    from deliver.dnssec.anchors import parse  # loads dnspython

    try:
        parse(_read(path, MAX_FILE))
    except ValueError as error:
        said = str(error)
        return said if str(path) in said else f"{path}: {said}"
    return None
