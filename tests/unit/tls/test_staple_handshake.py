"""A staple on the wire: asked for, sent by a pyOpenSSL server, found in the facts of the handshake."""

from __future__ import annotations

from pathlib import Path

import pytest
from OpenSSL import SSL

from deliver.tls import crl, openssl
from deliver.tls.context import ClientCertificate, context_for
from deliver.tls.engine import TlsEngine
from tests.unit.tls.certificates import Wish, build_house, issue
from tests.unit.tls.peers import MAY, NAME, server_context
from tests.unit.tls.responder import Answer, delegate, respond

HOUSE = build_house()
STAPLE = respond(Answer(HOUSE.server))
VERSIONS = pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])


def stapling_context(staple: bytes, version: int) -> SSL.Context:
    context = server_context(HOUSE, max_version=version)
    context.set_ocsp_server_callback(lambda connection, data: staple)
    return context


def shake_hands(client: TlsEngine, server: TlsEngine) -> None:
    """Until the client has finished; the server may not have heard of it."""
    while not client.handshake():
        server.feed(client.outgoing())
        server.handshake()
        client.feed(server.outgoing())


@VERSIONS
def test_a_staple_arrives_where_it_was_asked_for(version: int) -> None:
    for asked in (True, False):
        client = TlsEngine(context_for(MAY), NAME, request_staple=asked)
        shake_hands(client, TlsEngine(stapling_context(STAPLE, version), server_side=True))
        assert client.facts().staple == (STAPLE if asked else None)


@VERSIONS
def test_a_server_without_a_staple(version: int) -> None:
    client = TlsEngine(context_for(MAY), NAME, request_staple=True)
    shake_hands(client, TlsEngine(stapling_context(b"", version), server_side=True))
    assert client.facts().staple is None


@VERSIONS
def test_a_large_staple_arrives_whole(version: int) -> None:
    names = tuple(f"{place}.{'a' * 50}.example" for place in range(150))
    large = respond(Answer(HOUSE.server, signer=delegate(HOUSE.intermediate, dns_names=names)))
    client = TlsEngine(context_for(MAY), NAME, request_staple=True)
    shake_hands(client, TlsEngine(stapling_context(large, version), server_side=True))
    assert client.facts().staple == large
    assert len(large) > 8_000


def test_groups_are_offered_in_the_order_of_the_settings() -> None:
    client = TlsEngine(context_for(MAY, groups="P-256:X25519"), NAME)
    shake_hands(client, TlsEngine(server_context(HOUSE), server_side=True))
    assert client.facts().group == "secp256r1"


def test_a_cipher_list_never_brings_back_what_is_broken() -> None:
    context = context_for(MAY, ciphers="ALL:COMPLEMENTOFALL:@SECLEVEL=0")
    names = SSL.Connection(context, None).get_cipher_list()
    assert "ECDHE-ECDSA-AES256-GCM-SHA384" in names
    for word in ("ADH", "AECDH", "NULL", "RC4", "3DES", "PSK", "SRP"):
        assert not [name for name in names if word in name]


@pytest.mark.parametrize("names", ["nix", "X25519:nix", "ü"])
def test_unknown_groups_are_said(names: str) -> None:
    assert not openssl.set_groups(SSL.Context(SSL.TLS_CLIENT_METHOD), names)


def test_a_client_certificate_waits_for_the_verdict_under_tls_1_3(tmp_path: Path) -> None:
    directory = tmp_path
    ours = issue(Wish("client.example"))
    (directory / "client.pem").write_bytes(ours.pem)
    (directory / "client.key").write_bytes(ours.key_pem)
    theirs = server_context(HOUSE, max_version=SSL.TLS1_3_VERSION)
    theirs.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    server = TlsEngine(theirs, server_side=True)
    paths = ClientCertificate(str(directory / "client.pem"), str(directory / "client.key"))
    client = TlsEngine(context_for(MAY, client=paths), NAME)
    shake_hands(client, server)
    held = client.outgoing()
    assert server._connection.get_peer_certificate() is None
    server.feed(held)
    assert server.handshake()
    shown = server._connection.get_peer_certificate(as_cryptography=True)
    assert shown == ours.certificate


def test_no_lists_revoke_nothing() -> None:
    assert crl.NO_LISTS.state(HOUSE.server.der, HOUSE.intermediate.der, 0.0) is crl.State.UNKNOWN
    assert crl.NO_LISTS.state(b"garbage", b"garbage", 0.0) is crl.State.UNKNOWN
