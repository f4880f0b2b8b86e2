"""TLS and AUTH of the relay: keys that are impossible or unsafe together.

combination                                            because
-----------------------------------------------------  ---------------------------------------------------
client_names without client_ca, or the other way       one without the other says nothing
  round
client_ca, or a way to log in, without a certificate   both happen inside TLS only
password_file and dovecot                              nobody could tell which of them counts
a way to log in without mechanisms                     nobody could log in
dovecot over TCP, not on loopback, without             passwords would go over the network
  dovecot_tls
dovecot_tls with a socket or an address; dovecot_ca    there is nothing to prove, or no name to prove
  without dovecot_tls
client_failures below max_failures                     a connection would never see all of its tries
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from deliver import endpoint
from deliver.configuration.problem import KeyPath, Problem
from deliver.errors import ConfigurationError
from deliver.settings import RelayAuth, Settings

TLS: KeyPath = ("relay", "tls")
AUTH: KeyPath = ("relay", "auth")
_LOCAL_NAMES = frozenset({"localhost"})


def problems(settings: Settings) -> Iterator[Problem]:
    """What is refused."""
    tls, auth = settings.relay.tls, settings.relay.auth
    if tls.client_names and tls.client_ca is None:
        yield Problem((*TLS, "client_names"), "client_ca is not set", "set client_ca to a PEM file")
    if tls.client_ca is not None and not tls.client_names:
        remedy = 'say whose certificates may relay: client_names = ["app.example.org"]'
        yield Problem((*TLS, "client_ca"), "client_names is empty", remedy)
    if not tls.certificate:
        remedy = "add a [[relay.tls.certificate]] with chain_file and key_file"
        if tls.client_ca is not None:
            yield Problem((*TLS, "client_ca"), "the relay has no certificate, so no TLS", remedy)
        if auth.password_file is not None or auth.dovecot:
            key = "dovecot" if auth.dovecot else "password_file"
            yield Problem((*AUTH, key), "the relay has no certificate, and AUTH is inside TLS only", remedy)
    yield from _auth(auth)
    yield from _dovecot(auth)


def misfits(settings: Settings) -> Iterator[Problem]:
    """Files that are there and cannot serve, as far as this user can read them."""
    for index, certificate in enumerate(settings.relay.tls.certificate):
        if certificate.key_file.startswith("credential:"):
            continue
        fault = _misfit(settings.path(certificate.chain_file), settings.path(certificate.key_file))
        if fault is not None:
            where = (*TLS, "certificate", index, "key_file")
            yield Problem(where, fault.happened, fault.remedy)
    secret = settings.relay.auth.password_file
    if secret is not None and not secret.startswith("credential:"):
        fault = _unreadable_passwords(settings.path(secret))
        if fault is not None:
            yield Problem((*AUTH, "password_file"), f"{fault.attempted}: {fault.happened}", fault.remedy)


def _misfit(chain: Path, key: Path) -> ConfigurationError | None:
    from deliver.tls import serving  # loads OpenSSL

    try:
        identity = serving.Identity(serving.read_chain(chain.read_bytes(), str(chain)), key.read_bytes())
        serving.server_context((identity,), (), serving.Offer(), lambda: 0.0)
    except OSError:
        return None
    except ConfigurationError as error:
        return error
    return None


def _unreadable_passwords(path: Path) -> ConfigurationError | None:
    from deliver.relay.passwords import parse  # loads cryptography

    try:
        parse(path.read_text(errors="replace"), str(path))
    except OSError:
        return None
    except ConfigurationError as error:
        return error
    return None


def _auth(auth: RelayAuth) -> Iterator[Problem]:
    if auth.password_file is not None and auth.dovecot:
        yield Problem((*AUTH, "dovecot"), "password_file is set too", "keep one of them")
    if (auth.password_file is not None or auth.dovecot) and not auth.mechanisms:
        yield Problem((*AUTH, "mechanisms"), "it is empty: nobody could log in", "remove it for all of them")
    if auth.client_failures < auth.max_failures:
        remedy = f"write {auth.max_failures} or more"
        yield Problem((*AUTH, "client_failures"), "it is less than max_failures", remedy)


def _dovecot(auth: RelayAuth) -> Iterator[Problem]:
    over_tcp = bool(auth.dovecot) and not auth.dovecot.startswith("unix:")
    host = endpoint.split(auth.dovecot)[0] if over_tcp else ""
    if over_tcp and not auth.dovecot_tls and not (endpoint.is_loopback(host) or host in _LOCAL_NAMES):
        yield Problem(
            (*AUTH, "dovecot"),
            f"passwords would go to {host} in clear text",
            "set dovecot_tls = true, or use a UNIX socket or a loopback address",
        )
    if auth.dovecot_tls and (not over_tcp or endpoint.is_address(host)):
        remedy = 'name the host: dovecot = "auth.example.org:12345"'
        yield Problem((*AUTH, "dovecot_tls"), "TLS needs the name of Dovecot's host", remedy)
    if auth.dovecot_ca is not None and not auth.dovecot_tls:
        yield Problem((*AUTH, "dovecot_ca"), "dovecot_tls is false", "set dovecot_tls = true, or remove it")
