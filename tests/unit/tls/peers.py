"""TLS peers for tests: server contexts of pyOpenSSL, and the standard library's ssl as an independent one."""

from __future__ import annotations

import contextlib
import ssl
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL

from deliver.tls.policy import Authentication, Level, TlsPolicy
from tests.unit.tls.certificates import House

NAME = "mx.example.org"
MAY = TlsPolicy(Level.MAY, True, False, Authentication.NONE, NAME)


def server_context(house: House, *, max_version: int | None = None) -> SSL.Context:
    """A pyOpenSSL server that presents the house's server and intermediate certificates."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    key = load_pem_private_key(house.server.key_pem, None)
    context.use_certificate(house.server.certificate)
    context.use_privatekey(key)  # type: ignore[arg-type]
    context.add_extra_chain_cert(x509.load_pem_x509_certificate(house.intermediate.pem))
    if max_version is not None:
        context.set_max_proto_version(max_version)
    return context


def stdlib_server_context(house: House, version: ssl.TLSVersion) -> ssl.SSLContext:
    """The standard library's server for exactly one TLS version."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "server.pem"
        file.write_bytes(house.server.key_pem + house.server.pem + house.intermediate.pem)
        context.load_cert_chain(file)
    return context


class StdlibServer:
    """A sans-IO server over the standard library's memory BIOs."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.seen_name: str | None = None

        def note(_socket: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
            self.seen_name = name

        context.sni_callback = note  # type: ignore[assignment]
        self.object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.completed = False

    def take(self, data: bytes) -> bytes:
        """Octets from the client in, octets for it out; raises ssl.SSLError."""
        self._incoming.write(data)
        if not self.completed:
            try:
                self.object.do_handshake()
                self.completed = True
            except ssl.SSLWantReadError:
                pass
        return self._outgoing.read()

    def read(self) -> bytes | None:
        try:
            return self.object.read(65536)
        except ssl.SSLWantReadError:
            return None

    def write(self, data: bytes) -> bytes:
        self.object.write(data)
        return self._outgoing.read()

    def close(self) -> bytes:
        """close_notify for the client."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.object.unwrap()
        return self._outgoing.read()
