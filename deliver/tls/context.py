"""What a TLS policy means for OpenSSL: one shared, never changed context per profile.

OpenSSL verifies nothing here (no trust store, VERIFY_NONE): the judgement comes after the handshake, from
`deliver.tls.judge`, on the whole chain. RFC 9325: TLS 1.2 at least (3.1.1), no compression (3.3), no
renegotiation (3.5), neither anonymous nor broken ciphers (4.1), whatever cipher list is set. No session is
kept here (`deliver.tls.sessions` exports them); without `tickets` none is asked for (RFC 5077). A client
certificate goes only to servers that ask for it: in TLS 1.3 in the flight that waits for the verdict, in TLS
1.2 before it. SNI belongs to the connection (`deliver.tls.engine`), not to the context.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from OpenSSL import SSL

from deliver.errors import ConfigurationError
from deliver.filemark import Mark, mark
from deliver.tls import openssl
from deliver.tls.policy import TlsPolicy

MinVersion = Literal["1.2", "1.3"]

SMALL_GROUPS = "X25519:P-256:X448:P-384:P-521"  # OpenSSL's own choice without the post-quantum ones

VERSIONS = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
# Anonymous suites authenticate nobody, so there is nothing to judge; the others are broken (RFC 9325 4.1).
_NEVER = "!aNULL:!eNULL:!EXPORT:!RC4:!3DES:!MD5:!PSK:!SRP"
_CIPHERS = f"DEFAULT:{_NEVER}".encode("ascii")


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """Paths of PEM files: the certificate with its chain, and its private key."""

    certificate: str
    key: str


def context_for(
    policy: TlsPolicy,
    min_version: MinVersion = "1.2",
    *,
    ciphers: str = "",
    groups: str = "",
    client: ClientCertificate | None = None,
    tickets: bool = True,
    large: bool = True,
) -> SSL.Context:
    """The client context for connections under `policy`; shared, not to be changed.

    `ciphers` (TLS 1.2) and `groups` are lists in OpenSSL's words, empty for the defaults. Without `large` the
    default groups are those whose key shares leave the ClientHello in one TCP segment. Raises
    ConfigurationError for a list, or a client certificate, that OpenSSL does not take.
    """
    assert policy.use_tls, "clear text needs no TLS context"
    marks = () if client is None else (mark(client.certificate), mark(client.key))
    return _client_context(
        min_version, ciphers, groups or ("" if large else SMALL_GROUPS), client, marks, tickets
    )


@lru_cache(maxsize=64)
def _client_context(
    min_version: MinVersion,
    ciphers: str,
    groups: str,
    client: ClientCertificate | None,
    _marks: tuple[Mark, ...],
    tickets: bool,
) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(VERSIONS[min_version])
    use_ciphers(context, ciphers)
    use_groups(context, groups)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    if not tickets:
        context.set_options(SSL.OP_NO_TICKET)
    context.set_verify(SSL.VERIFY_NONE)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    if client is not None:
        _present(context, client)
    return context


def use_ciphers(context: SSL.Context, ciphers: str) -> None:
    """A list for TLS 1.2 in OpenSSL's words, empty for the default, less what is never used.

    Raises ConfigurationError.
    """
    try:
        context.set_cipher_list(f"{ciphers}:{_NEVER}".encode("ascii") if ciphers else _CIPHERS)
    except (SSL.Error, UnicodeError) as error:
        raise ConfigurationError(
            f"using the cipher list {ciphers!r}", "OpenSSL knows no cipher in it", "see `openssl ciphers`"
        ) from error


def use_groups(context: SSL.Context, groups: str) -> None:
    """Groups for the key exchange in OpenSSL's words, empty for the default. Raises ConfigurationError."""
    if groups and not openssl.set_groups(context, groups):
        raise ConfigurationError(
            f"using the group list {groups!r}",
            "OpenSSL does not know it",
            'write "X25519MLKEM768:X25519:P-256"',
        )


def _present(context: SSL.Context, client: ClientCertificate) -> None:
    try:
        context.use_certificate_chain_file(client.certificate)
        context.use_privatekey_file(client.key)
        context.check_privatekey()
    except SSL.Error as error:
        reasons = "; ".join(str(entry[-1]) for entry in error.args[0]) if error.args else "unknown"
        raise ConfigurationError(
            f"using the client certificate {client.certificate} with the key {client.key}",
            reasons or "the file cannot be read",
            "set tls.client_certificate and tls.client_key_file to PEM files that belong together",
        ) from error
