"""TLS sessions out of a connection and into another: the one place that binds OpenSSL's session functions.

pyOpenSSL can hand a session on within a process; to keep one it takes i2d and d2i of its private `_lib`. What
is missing there, or does not do what it should, turns resumption off: `unavailable` says why, after a trial
in memory that is made once. Nothing else depends on it.

What is exported holds the secrets of the connection: key material, never to be printed. What is imported may
be hostile; `deliver.tls.ticket` reads it first. OpenSSL judges nothing when it resumes (RFC 8446 4.6.1: the
server sends no certificate), so whoever offers a session judges what it rests on.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from deliver.tls.ticket import MAX_SESSION

_NEEDED = (
    *("i2d_SSL_SESSION", "d2i_SSL_SESSION", "SSL_get1_session", "SSL_set_session"),
    *("SSL_SESSION_free", "SSL_session_reused", "ERR_clear_error"),
)
_PIECE = 16384


def export(connection: SSL.Connection) -> bytes | None:
    """The session of a connection in DER; in TLS 1.3 with a ticket once application data was read."""
    if unavailable():
        return None
    return _export(connection)


def offer(connection: SSL.Connection, session: bytes) -> bool:
    """Offer a session in a client's handshake that has not begun; False: it cannot be offered."""
    return not unavailable() and len(session) <= MAX_SESSION and _offer(connection, session)


@cache
def unavailable() -> str:
    """Why sessions cannot be kept with this pyOpenSSL; empty if they can."""
    lib: Any = getattr(SSL, "_lib", None)
    missing = [name for name in _NEEDED if not hasattr(lib, name)]
    if lib is None or not hasattr(SSL, "_ffi"):
        return "pyOpenSSL has no private binding of OpenSSL any more"
    if missing:
        return f"pyOpenSSL does not bind {', '.join(missing)} any more"
    try:
        return _trial()
    except Exception as error:  # whatever a changed binding may raise
        return f"the trial failed: {type(error).__name__}: {error}"


def _export(connection: SSL.Connection) -> bytes | None:
    lib: Any = SSL._lib  # type: ignore[attr-defined]
    ffi: Any = SSL._ffi  # type: ignore[attr-defined]
    private: Any = connection
    session = lib.SSL_get1_session(private._ssl)
    if session == ffi.NULL:
        return None
    try:
        length = lib.i2d_SSL_SESSION(session, ffi.NULL)
        if not 0 < length <= MAX_SESSION:
            return None
        target = ffi.new("unsigned char[]", length)
        place = ffi.new("unsigned char **", target)
        written = lib.i2d_SSL_SESSION(session, place)
        return bytes(ffi.buffer(target, length)) if written == length else None
    finally:
        lib.SSL_SESSION_free(session)


def _offer(connection: SSL.Connection, session: bytes) -> bool:
    lib: Any = SSL._lib  # type: ignore[attr-defined]
    ffi: Any = SSL._ffi  # type: ignore[attr-defined]
    private: Any = connection
    source = ffi.from_buffer(session)
    place = ffi.new("unsigned char const **", ffi.cast("unsigned char const *", source))
    read = lib.d2i_SSL_SESSION(ffi.NULL, place, len(session))
    if read == ffi.NULL:
        lib.ERR_clear_error()
        return False
    try:
        whole = place[0] == ffi.cast("unsigned char const *", source) + len(session)
        taken = whole and lib.SSL_set_session(private._ssl, read) == 1
        if not taken:
            lib.ERR_clear_error()
        return bool(taken)
    finally:
        lib.SSL_SESSION_free(read)


def _trial() -> str:
    """Shake hands twice in memory, the second time with the session of the first."""
    server = _trial_server()
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    first = _converse(SSL.Connection(context, None), server)
    kept = _export(first)
    if kept is None:
        return "a session could not be exported"
    second = SSL.Connection(context, None)
    if not _offer(second, kept):
        return "an exported session could not be offered"
    _converse(second, server)
    lib: Any = SSL._lib  # type: ignore[attr-defined]
    private: Any = second
    leaf = second.get_peer_certificate()
    if lib.SSL_session_reused(private._ssl) != 1 or leaf is None:
        return "an exported session was not resumed"
    return "" if _offer_garbage(context) else "OpenSSL takes garbage for a session"


def _offer_garbage(context: SSL.Context) -> bool:
    return not _offer(SSL.Connection(context, None), b"\x30\x03\x02\x01\x01")


def _converse(client: SSL.Connection, context: SSL.Context) -> SSL.Connection:
    """A handshake and one octet from the server, behind which the tickets are."""
    server = SSL.Connection(context, None)
    client.set_connect_state()
    server.set_accept_state()
    for _ in range(4):
        for one, other in ((client, server), (server, client)):
            with suppress(SSL.WantReadError):
                one.do_handshake()
            with suppress(SSL.WantReadError):
                other.bio_write(one.bio_read(_PIECE))
    server.send(b"x")
    client.bio_write(server.bio_read(_PIECE))
    client.recv(1)
    return client


def _trial_server() -> SSL.Context:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "trial")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate(certificate)
    context.use_privatekey(key)
    return context
