"""TLS as a server: what our certificates mean for OpenSSL, by the name that a client asks for.

    asked for (SNI, RFC 6066 3)         what is presented
    ----------------------------------  ------------------------------------------------------------------
    a name that a certificate carries   that one; of several the first of each kind of key
    anything else, or nothing           as for the first certificate: mail clients often ask for other names

A staple goes out with the certificate that it is about (RFC 6960 4.1.1) and only while it says `good` at
that very moment: an expired, revoked, forged or foreign one is never sent. The issuer must be in the chain.

RFC 9325: TLS 1.2 at least (3.1.1), no compression (3.3), no renegotiation (3.5), our order of ciphers.
Tickets are sealed by keys that OpenSSL makes for each context and keeps in memory, so that a new context is
their rotation. Where client certificates count nothing is resumed: each connection shows its own.

Whoever connects may be asked for a certificate; it is not judged here, but by `client_names`.
"""

from __future__ import annotations

import re
import tempfile
from base64 import b64decode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates
from OpenSSL import SSL, crypto

from deliver.errors import ConfigurationError
from deliver.tls import chain, names, ocsp
from deliver.tls.certificate import looking
from deliver.tls.context import VERSIONS, MinVersion, use_ciphers, use_groups
from deliver.tls.pkix import TrustStore

MAX_RESPONSES = 64  # of one file
MAX_CLIENT_NAMES = 32  # of one certificate that are looked at
SESSION_CONTEXT = b"outrider relay"

_RESPONSE = re.compile(
    rb"-----BEGIN OCSP RESPONSE-----([A-Za-z0-9+/=\s]+?)-----END OCSP RESPONSE-----", re.DOTALL
)


_Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey
_KINDS = (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate of ours: `chain` in DER, ours first; `key` in PEM, without a passphrase."""

    chain: tuple[bytes, ...]
    key: bytes = field(repr=False)

    @property
    def leaf(self) -> bytes:
        """Our own certificate."""
        return self.chain[0]

    @property
    def issuer(self) -> ocsp.Issuer | None:
        """Who issued it; found in the chain only."""
        return _issuer(self.chain)


@dataclass(frozen=True, slots=True)
class Offer:
    """What all connections have in common. `lifetime` of a ticket in seconds.

    `clients`: who issues the certificates that clients are asked for; None: they are not asked.
    """

    min_version: MinVersion = "1.2"
    ciphers: str = ""
    groups: str = ""
    tickets: bool = True
    lifetime: int = 12 * 3600
    clients: TrustStore | None = None


@lru_cache(maxsize=64)
def _issuer(chain: tuple[bytes, ...]) -> ocsp.Issuer | None:
    return ocsp.issuer_among(chain[0], chain[1:])


def read_chain(pem: bytes, source: str) -> tuple[bytes, ...]:
    """The certificates of a PEM file in DER, in its order. Raises ConfigurationError."""
    try:
        with looking():
            found = tuple(each.public_bytes(Encoding.DER) for each in load_pem_x509_certificates(pem))
            names.presented_names(found[0], common_name=True)  # what nobody can read serves nobody
    except ValueError as error:
        raise ConfigurationError(
            f"reading the certificate {source}", str(error), "give a chain in PEM form, our own first"
        ) from None
    return found[: chain.MAX_CERTIFICATES]


def read_responses(content: bytes) -> tuple[bytes, ...]:
    """OCSP responses in DER out of a file in DER (one) or PEM (several); nothing is judged."""
    blocks = _RESPONSE.findall(content)
    if not blocks:
        return (content,) if content else ()
    return tuple(b64decode(block) for block in blocks[:MAX_RESPONSES])


def staple(identity: Identity, responses: Sequence[bytes], now: float) -> bytes | None:
    """The response to send with a certificate at `now`: good, current and verified; else None.

    Of several the one that holds longest. A client's clock may be off: nothing here is lenient.
    """
    issuer = identity.issuer
    judged = ((ocsp.check(each, identity.leaf, issuer, now, 0.0), each) for each in responses)
    good = [(said.until or 0.0, each) for said, each in judged if said.status is ocsp.Status.GOOD]
    return max(good)[1] if good else None


def server_context(
    identities: Sequence[Identity],
    responses: Sequence[bytes],
    offer: Offer,
    now: Callable[[], float],
) -> SSL.Context:
    """The context for connections that come; shared, not to be changed, and with ticket keys of its own.

    Raises ConfigurationError for a key that does not belong to its certificate, or lists that OpenSSL does
    not take.
    """
    assert identities, "a server has a certificate"
    for identity in identities:  # each must do by itself, whatever is put together later
        _context((identity,), responses, offer, now)
    choice = _Choice(tuple(identities))
    made: dict[tuple[int, ...], SSL.Context] = {}

    def context_of(places: tuple[int, ...]) -> SSL.Context:
        if places not in made:
            made[places] = _context([identities[place] for place in places], responses, offer, now)
        return made[places]

    entry = context_of(choice.default)

    def asked(connection: SSL.Connection) -> None:
        places = choice.of((connection.get_servername() or b"").decode("latin-1"))
        if places != choice.default:
            connection.set_context(context_of(places))

    entry.set_tlsext_servername_callback(asked)
    return entry


def client_names(
    presented: tuple[bytes, ...], authorities: TrustStore, now: float
) -> tuple[tuple[str, ...], str]:
    """Whom a client's certificate (DER, its own first) names: the dNSNames of its subjectAltName.

    No names: there is none, or it cannot be believed; the text then says why, and is empty otherwise.
    """
    if not presented:
        return (), "the client presented no certificate"
    path = chain.build(presented, authorities.anchors, now, partial=False, client=True)
    if isinstance(path, chain.NoPath):
        return (), path.why
    try:
        found = names.presented_names(presented[0], common_name=True)[:MAX_CLIENT_NAMES]
    except ValueError as error:
        return (), f"its names cannot be read: {error}"
    usable = tuple(name.lower() for name in found if names.matches(name, name))  # no wildcards, no odd octets
    return usable, "" if usable else "it has no name"


class _Choice:
    """Which certificates go together under which name."""

    def __init__(self, identities: tuple[Identity, ...]) -> None:
        self._carried = [names.presented_names(each.leaf, common_name=True) for each in identities]
        self._kinds = [_kind(each) for each in identities]
        own = [name for name in self._carried[0] if not name.startswith("*.")]
        best = self._matching(own[0]) if own else ()
        self.default = best if 0 in best else (0,)

    def of(self, name: str) -> tuple[int, ...]:
        """Places of the certificates to present to a client that asks for `name`."""
        return self._matching(name) or self.default

    def _matching(self, name: str) -> tuple[int, ...]:
        first: dict[int, int] = {}
        for place, carried in enumerate(self._carried):
            if any(names.matches(each, name) for each in carried):
                first.setdefault(self._kinds[place], place)
        return tuple(first.values())


def _kind(identity: Identity) -> int:
    return crypto.load_certificate(crypto.FILETYPE_ASN1, identity.leaf).get_pubkey().type()


def _context(
    identities: Sequence[Identity], responses: Sequence[bytes], offer: Offer, now: Callable[[], float]
) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(VERSIONS[offer.min_version])
    use_ciphers(context, offer.ciphers)
    use_groups(context, offer.groups)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # clients that are idle hold none
    for identity in identities:
        _present(context, identity)
    _resume(context, offer)
    if offer.clients is not None:
        for authority in offer.clients.anchors.certificates:
            context.add_client_ca(authority.to_cryptography())
        context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    else:
        context.set_verify(SSL.VERIFY_NONE)
    own = {identity.leaf: identity for identity in identities}

    def staple_for(connection: SSL.Connection, _: object) -> bytes:
        certificate = connection.get_certificate()
        leaf = b"" if certificate is None else crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)
        identity = own.get(leaf)
        return b"" if identity is None else staple(identity, responses, now()) or b""

    context.set_ocsp_server_callback(staple_for)
    return context


def _resume(context: SSL.Context, offer: Offer) -> None:
    """Tickets only: no session is kept here, and none counts where each client shows its certificate."""
    context.set_session_id(SESSION_CONTEXT)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_timeout(offer.lifetime)
    if not offer.tickets or offer.clients is not None:
        context.set_options(SSL.OP_NO_TICKET)


def _present(context: SSL.Context, identity: Identity) -> None:
    try:
        with tempfile.NamedTemporaryFile(prefix="outrider-chain-") as file:
            file.write(b"".join(_pem(der) for der in identity.chain))
            file.flush()
            context.use_certificate_chain_file(file.name)  # only a file gives each certificate its own chain
        context.use_privatekey(_private_key(identity.key))
        context.check_privatekey()
    except (SSL.Error, crypto.Error, ValueError) as error:
        subject = ", ".join(names.presented_names(identity.leaf, common_name=True)) or "without a name"
        raise ConfigurationError(
            f"using the certificate {subject}",
            _reason(error),
            "give a PEM chain and the PEM key, without a passphrase, that belongs to its first certificate",
        ) from error


def _private_key(pem: bytes) -> _Key:
    try:
        key = load_pem_private_key(pem, None)
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"the key cannot be read: {error}"[:200]) from None
    if not isinstance(key, _KINDS):
        raise ValueError("the key is of a kind that TLS does not know")
    return key


def _pem(der: bytes) -> bytes:
    return crypto.dump_certificate(crypto.FILETYPE_PEM, crypto.load_certificate(crypto.FILETYPE_ASN1, der))


def _reason(error: Exception) -> str:
    if isinstance(error, ValueError):
        return str(error)
    queue = error.args[0] if error.args else ()
    reasons = [str(entry[-1]) for entry in queue if isinstance(entry, tuple) and entry and entry[-1]]
    return "; ".join(dict.fromkeys(reasons)) or "the key cannot be used"
