"""TLS as a sans-IO machine over OpenSSL's memory BIOs: octets in, octets out, no await.

    feed(data)   octets from the peer; b"" is the end of its stream
    handshake()  one step; True once this side has finished
    outgoing()   octets for the peer; drain it after every call, also after one that failed (an alert waits)
    read, write  application octets; close() queues close_notify

Verification is not done here: the context verifies nothing, and `deliver.tls.judge` judges the facts that
`facts` returns. In TLS 1.3 (RFC 8446 4.4.4) `handshake` is True while the client's Finished still lies in
the outgoing buffer, so that a judgement can come before it leaves; a TLS 1.2 client sends Finished before
it can know the server's (RFC 5246 7.3). Failure: `TlsError`, the machine is then dead for good.
"""

from __future__ import annotations

import ipaddress

from OpenSSL import SSL, crypto

from deliver.errors import PeerError
from deliver.tls import openssl, sessions
from deliver.tls.verdict import Handshake

MAX_HANDSHAKE = 512 * 1024  # octets from the peer before the handshake is over; real ones take under 20 KiB
PIECE = 64 * 1024  # octets decrypted at a time
MAX_WRITE = 160 * 1024  # octets encrypted at a time: a first chunk and its envelope
_OVERHEAD = 128  # octets that a record takes at most beside what it protects (RFC 8446 5.2, RFC 5246 6.2.3)
_RECORD = 16 * 1024  # octets that it protects (RFC 8446 5.1)

_KINDER = {
    "wrong version number": "the peer did not answer in TLS (wrong version number)",
    "packet length too long": "the peer did not answer in TLS (packet length too long)",
    "http request": "the peer did not answer in TLS (http request)",
    "unexpected eof while reading": "the peer closed the connection",
}


class TlsError(PeerError):
    """TLS with the peer failed. `happened` names OpenSSL's reason.

    `truncated`: the stream ended without close_notify, so that its end may be an attacker's (RFC 8446 6.1).
    """

    def __init__(self, attempted: str, happened: str, remedy: str = "", *, truncated: bool = False) -> None:
        super().__init__(attempted, happened, remedy)
        self.truncated = truncated


class TlsEngine:
    """One TLS connection. `server_name` goes into SNI (A-labels; none if empty or an IP address).

    `request_staple`: ask the server for an OCSP response about its certificate (RFC 6066 8). `resume`: a
    session in DER to offer; `offered` says whether OpenSSL took it.
    """

    def __init__(
        self,
        context: SSL.Context,
        server_name: str = "",
        *,
        server_side: bool = False,
        request_staple: bool = False,
        resume: bytes | None = None,
    ) -> None:
        self._connection = SSL.Connection(context, None)
        self._failure: TlsError | None = None
        self._fed = 0
        self._ended = False
        self._unsent = True  # there may be something for `outgoing`
        self._expected = PIECE  # and as much as this, at a guess
        self._unread = True  # there may be something for `read`
        self.server_side = server_side
        self.finished = False
        self.offered = False
        if server_side:
            self._connection.set_accept_state()
        else:
            self._connection.set_connect_state()
            if server_name and not _is_address(server_name):
                self._connection.set_tlsext_host_name(server_name.encode("ascii"))
            if request_staple:
                self._connection.request_ocsp()
            if resume is not None:
                self.offered = sessions.offer(self._connection, resume)

    @property
    def holds_last_flight(self) -> bool:
        """Whether what `outgoing` returns right after the handshake may wait.

        A client's Finished (TLS 1.3, or resumed TLS 1.2) waits for the judgement. A TLS 1.3 server's tickets
        wait for its first write, lest both sides write and neither reads. A TLS 1.2 server's Finished is
        what the client waits for.
        """
        return not self.server_side or self._connection.get_protocol_version_name() == "TLSv1.3"

    def feed(self, data: bytes) -> None:
        """Octets from the peer; b"" when it closed its side. Raises TlsError if the handshake has no end."""
        self._check()
        if not data:
            self._ended = True
            self._connection.bio_shutdown()
            return
        if not self.finished:
            self._fed += len(data)
            if self._fed > MAX_HANDSHAKE:
                raise self._fail("negotiating TLS", f"the handshake took more than {MAX_HANDSHAKE} octets")
        self._unread = True
        while data:
            data = data[self._connection.bio_write(data) :]

    def outgoing(self) -> bytes:
        """Everything that waits to be sent, also after a failure."""
        if not self._unsent:
            return b""
        self._unsent, size = False, self._expected
        self._expected = PIECE
        pieces = []
        while True:
            try:
                pieces.append(self._connection.bio_read(size))
            except SSL.Error:  # WantReadError: empty
                break
            if len(pieces[-1]) < size:
                break
        return b"".join(pieces) if len(pieces) != 1 else pieces[0]

    def handshake(self) -> bool:
        """One step; True when this side has finished. Raises TlsError."""
        self._check()
        self._unsent = self._unread = True
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            if self._ended:
                raise self._lost("negotiating TLS") from None
            return False
        except (SSL.Error, crypto.Error) as error:
            raise self._translate("negotiating TLS", error) from error
        self.finished = True
        return True

    def facts(self) -> Handshake:
        """What the finished handshake showed. The chain is empty on a resumed session."""
        assert self.finished, "the handshake is not finished"
        connection = self._connection
        return Handshake(
            version=connection.get_protocol_version_name(),
            cipher=connection.get_cipher_name() or "",
            group=connection.get_group_name(),
            chain=_chain(connection),
            resumed=openssl.session_reused(connection),
            staple=None if self.server_side else openssl.stapled_response(connection),
        )

    def leaf(self) -> bytes | None:
        """The server's certificate in DER; on a resumed connection the one inside the session."""
        certificate = self._connection.get_peer_certificate()
        return None if certificate is None else crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)

    def own_leaf(self) -> bytes | None:
        """The certificate in DER that we have presented as a server."""
        certificate = self._connection.get_certificate()
        return None if certificate is None else crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)

    def asked_name(self) -> str:
        """The server name that the client asked for (RFC 6066 3); hostile, "" if none."""
        return (self._connection.get_servername() or b"").decode("ascii", "replace")

    def keying_material(self, label: bytes, length: int) -> bytes:
        """`length` octets that only the two ends of this connection know (RFC 5705, empty context)."""
        assert self.finished, "the handshake is not finished"
        return self._connection.export_keying_material(label, length, b"")

    def session(self) -> bytes | None:
        """The session in DER, with its secrets; see `deliver.tls.sessions.export`."""
        return sessions.export(self._connection) if self.finished and not self.server_side else None

    def write(self, data: bytes) -> None:
        """Encrypt at most MAX_WRITE octets into the outgoing buffer. Raises TlsError."""
        self._check()
        assert len(data) <= MAX_WRITE, "write in pieces"
        if not data:
            return
        self._unsent = True
        self._expected += len(data) + _OVERHEAD * (1 + len(data) // _RECORD)
        try:
            self._connection.sendall(data)
        except SSL.Error as error:
            raise self._translate("sending over TLS", error) from error

    def read(self, limit: int = PIECE) -> bytes | None:
        """At most `limit` octets; None: feed more; b"": the peer sent close_notify.

        Raises TlsError, with `truncated` set if the stream ended without close_notify.
        """
        self._check()
        if not (self._unread or self._ended):
            return None
        self._unsent = True  # such as the answer to a key update, or an alert
        try:
            return self._connection.recv(min(limit, PIECE))
        except SSL.WantReadError:
            if self._ended:
                raise self._lost("reading over TLS") from None
            self._unread = False
            return None
        except SSL.ZeroReturnError:
            return b""
        except SSL.Error as error:
            raise self._translate("reading over TLS", error) from error

    def close(self) -> None:
        """Queue close_notify; harmless when the machine is dead or unfinished."""
        if self._failure is not None or not self.finished:
            return
        self._unsent = True
        try:
            self._connection.shutdown()
        except SSL.Error:  # the peer is past hearing it
            return

    def _check(self) -> None:
        if self._failure is not None:
            raise TlsError(
                self._failure.attempted,
                self._failure.happened,
                self._failure.remedy,
                truncated=self._failure.truncated,
            )

    def _fail(self, attempted: str, happened: str, *, truncated: bool = False) -> TlsError:
        self._failure = TlsError(attempted, happened, truncated=truncated)
        return self._failure

    def _lost(self, attempted: str) -> TlsError:
        return self._fail(attempted, "the peer closed the connection without close_notify", truncated=True)

    def _translate(self, attempted: str, error: Exception) -> TlsError:
        if isinstance(error, SSL.SysCallError):
            return self._lost(attempted)
        if isinstance(error, SSL.ZeroReturnError):
            return self._fail(attempted, "the peer closed the connection with close_notify")
        return self._fail(attempted, _reason(error), truncated="eof while reading" in str(error))


def _is_address(name: str) -> bool:
    """SNI carries host names only (RFC 6066 3)."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _reason(error: Exception) -> str:
    """OpenSSL's words for an error queue; the innermost reason counts."""
    queue = error.args[0] if error.args else ()
    reasons = [str(entry[-1]) for entry in queue if isinstance(entry, tuple) and entry and entry[-1]]
    if not reasons:
        return "OpenSSL gave no reason"
    return _KINDER.get(reasons[0], "; ".join(dict.fromkeys(reasons)))


def _chain(connection: SSL.Connection) -> tuple[bytes, ...]:
    presented = connection.get_peer_cert_chain() or ()
    return tuple(crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate) for certificate in presented)
