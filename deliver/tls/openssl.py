"""The one place that reaches below pyOpenSSL's public interface.

pyOpenSSL exposes neither the purpose of an X.509 store, nor whether a session was resumed, nor a stapled OCSP
response after the handshake; all are bound in its private `_lib`. The names are looked up at import: if a
release drops one, nothing starts, instead of certificates being judged without their purpose.
"""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL, crypto

_lib: Any = SSL._lib  # type: ignore[attr-defined]
_ffi: Any = SSL._ffi  # type: ignore[attr-defined]
_stapled = _lib.SSL_get_tlsext_status_ocsp_resp
_set_groups = _lib.SSL_CTX_set1_curves_list
_set_purpose = _lib.X509_STORE_set_purpose
_session_reused = _lib.SSL_session_reused
_PURPOSE_SSL_SERVER: int = _lib.X509_PURPOSE_SSL_SERVER
_PURPOSE_SSL_CLIENT: int = _lib.X509_PURPOSE_SSL_CLIENT
_PARTIAL_CHAIN: int = _lib.X509_V_FLAG_PARTIAL_CHAIN


def demand_server_purpose(store: crypto.X509Store) -> None:
    """Accept only leaves that may be TLS servers, and authorities for such (RFC 5280 4.2.1.12)."""
    private: Any = store
    if _set_purpose(private._store, _PURPOSE_SSL_SERVER) != 1:
        raise RuntimeError("OpenSSL refused the server purpose on a certificate store")


def demand_client_purpose(store: crypto.X509Store) -> None:
    """Accept only leaves that may be TLS clients, and authorities for such (RFC 5280 4.2.1.12)."""
    private: Any = store
    if _set_purpose(private._store, _PURPOSE_SSL_CLIENT) != 1:
        raise RuntimeError("OpenSSL refused the client purpose on a certificate store")


def allow_partial_chain(store: crypto.X509Store) -> None:
    """Let any certificate in `store` end a chain, self-signed or not."""
    store.set_flags(_PARTIAL_CHAIN)


def session_reused(connection: SSL.Connection) -> bool:
    """Whether the handshake resumed an earlier session (no certificate was sent then)."""
    private: Any = connection
    return bool(_session_reused(private._ssl))


def stapled_response(connection: SSL.Connection) -> bytes | None:
    """The OCSP response that came with the server's certificate (RFC 6066 8), or None."""
    private: Any = connection
    pointer = _ffi.new("unsigned char **")
    length = _stapled(private._ssl, pointer)
    return bytes(_ffi.buffer(pointer[0], length)) if length > 0 else None


def issuer_name_hash(certificate: crypto.X509) -> int | None:
    """OpenSSL's hash of the issuer's name, as `subject_name_hash` is of the subject's; None: not bound."""
    private: Any = certificate
    try:
        return int(_lib.X509_NAME_hash(_lib.X509_get_issuer_name(private._x509)))
    except AttributeError:
        return None


def set_groups(context: SSL.Context, names: str) -> bool:
    """Offer these groups for the key exchange, in this order; False if OpenSSL does not know one."""
    private: Any = context
    known = names.isascii() and _set_groups(private._context, names.encode("ascii")) == 1
    if not known:
        _lib.ERR_clear_error()
    return known
