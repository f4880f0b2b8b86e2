"""The TLS settings of a destination, as the decisions of `deliver.tls` take them.

Files that the settings name are read when they are first needed; one that cannot be read is a
ConfigurationError, which `outrider config check` finds too.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from OpenSSL import SSL

from deliver.configuration.files import secret_path
from deliver.errors import ConfigurationError
from deliver.filemark import Mark, mark
from deliver.relay.route import Login
from deliver.report.trace import Finding, Stage
from deliver.resolve.mx import HostPlan, MxPlan
from deliver.settings import Settings, Tls
from deliver.tls import crl
from deliver.tls.context import ClientCertificate, context_for
from deliver.tls.policy import Authentication, Demands, Refuse, TlsPolicy, decide, verified
from deliver.tls.requiretls import required_by_sender

if TYPE_CHECKING:
    from deliver.candidates import Candidate


@lru_cache(maxsize=256)
def demands_of(tls: Tls) -> Demands:
    """What is asked for beyond the level."""
    return Demands(
        names=tuple(name.lower().rstrip(".") for name in tls.verify_names),
        request_ocsp=tls.request_ocsp,
        require_ocsp=tls.require_ocsp,
        require_crl=tls.require_crl,
        skew=tls.ocsp_skew,
    )


def pinned_by(candidate: Candidate) -> tuple[str, ...]:
    """The names for certificates that the settings give the domain, whatever its hosts."""
    return demands_of(candidate.domain_tls).names


def policy_for(
    candidate: Candidate, host: HostPlan, login: Login | None, *, requires_tls: bool = False
) -> TlsPolicy | Refuse:
    """What the settings and DNS ask of the host as it was found, raised by a login and by REQUIRETLS."""
    tls, plan, pinned = candidate.destination.tls, candidate.plan, pinned_by(candidate)
    policy = raised_for(login, decide(tls.level, plan, host, demands_of(tls)), plan, host, pinned)
    return required_by_sender(policy, plan, host, pinned) if requires_tls else policy


def raised_for(
    login: Login | None,
    policy: TlsPolicy | Refuse,
    plan: MxPlan,
    host: HostPlan,
    pinned: tuple[str, ...] = (),
) -> TlsPolicy | Refuse:
    """The policy of a host where we log in: at least `verify`, unless it may go in clear text. Pure.

    `pinned`: see `pinned_by`.
    """
    if login is None or login.in_clear or isinstance(policy, Refuse):
        return policy
    if policy.required and policy.authentication is Authentication.DANE:
        return policy
    raised = verified(plan, host, policy.demands, pinned=pinned)
    asked = policy.names, policy.also
    if (
        policy.required
        and policy.authentication is Authentication.PKIX
        and asked == (raised.names, raised.also)
    ):
        return policy
    text = f"A password is told to {host.host} only where its certificate is valid: level verify"
    return replace(
        raised, findings=(Finding(Stage.POLICY, "login-verify", text, rfc="RFC 4954 4"), *raised.findings)
    )


def context_of(settings: Settings, tls: Tls, policy: TlsPolicy, *, large: bool = True) -> SSL.Context:
    """The shared OpenSSL context; `large`: with the post-quantum share. Raises ConfigurationError."""
    client = None
    if tls.client_certificate is not None and tls.client_key_file is not None:
        key = secret_path(settings, tls.client_key_file)
        client = ClientCertificate(str(settings.path(tls.client_certificate)), str(key))
    return context_for(
        policy,
        tls.min_version,
        ciphers=tls.ciphers,
        groups=tls.groups,
        client=client,
        tickets=tls.resumption,
        large=large,
    )


def client_digest(settings: Settings, tls: Tls) -> str:
    """The file of our client certificate by its SHA-256, "" without one. Raises ConfigurationError."""
    if tls.client_certificate is None:
        return ""
    path = str(settings.path(tls.client_certificate))
    return _digest(path, mark(path))


@lru_cache(maxsize=16)
def _digest(path: str, _mark: Mark) -> str:
    try:
        return sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigurationError(
            f"reading the client certificate {path}",
            error.strerror or str(error),
            "set tls.client_certificate",
        ) from error


def lists_of(settings: Settings, tls: Tls) -> crl.RevocationLists:
    """The administrator's CRLs, read again when the file changed. Raises ConfigurationError."""
    return crl.NO_LISTS if tls.crl is None else crl.load(str(settings.path(tls.crl)))
