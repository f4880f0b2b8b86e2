"""What a TLS policy means for OpenSSL: one shared, never changed context per profile.

OpenSSL verifies nothing here (no trust store, VERIFY_NONE): the judgement comes after the handshake, from
`deliver.tls.judge`, on the whole chain. RFC 9325: TLS 1.2 at least (3.1.1), no compression (3.3), no
renegotiation (3.5), neither anonymous nor broken ciphers (4.1). No session is kept and no client certificate
is sent. SNI belongs to the connection (`deliver.tls.engine`), not to the context.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

from OpenSSL import SSL

from deliver.tls.policy import TlsPolicy

MinVersion = Literal["1.2", "1.3"]

_VERSION = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
# Anonymous suites authenticate nobody, so there is nothing to judge; the others are broken (RFC 9325 4.1).
_CIPHERS = b"DEFAULT:!aNULL:!eNULL:!EXPORT:!RC4:!3DES:!MD5:!PSK:!SRP"


def context_for(policy: TlsPolicy, min_version: MinVersion = "1.2") -> SSL.Context:
    """The client context for connections under `policy`; shared, not to be changed."""
    assert policy.use_tls, "clear text needs no TLS context"
    return _client_context(min_version)


@cache
def _client_context(min_version: MinVersion) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(_VERSION[min_version])
    context.set_cipher_list(_CIPHERS)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_verify(SSL.VERIFY_NONE)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    return context
