"""The shared client contexts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from OpenSSL import SSL

from deliver.tls.context import ClientCertificate, context_for
from deliver.tls.engine import TlsEngine, TlsError
from deliver.tls.policy import Level
from tests.unit.tls.certificates import House, Wish, issue
from tests.unit.tls.peers import MAY, server_context


def test_contexts_are_shared_by_what_matters() -> None:
    assert context_for(MAY) is context_for(replace(MAY, level=Level.DANE, sni="other.example"))
    assert context_for(MAY, "1.3") is not context_for(MAY, "1.2")


def test_a_renewed_client_certificate_is_presented(house: House, tmp_path: Path) -> None:
    ours = ClientCertificate(str(tmp_path / "certificate.pem"), str(tmp_path / "key.pem"))

    def presented() -> str:
        own = SSL.Connection(context_for(MAY, client=ours), None).get_certificate()
        assert own is not None
        return own.to_cryptography().subject.rfc4514_string()

    for name in ("first", "second"):
        issued = issue(Wish(name))
        (tmp_path / "certificate.pem").write_bytes(issued.pem)
        (tmp_path / "key.pem").write_bytes(issued.key_pem)
        assert presented() == f"CN={name}"
    assert context_for(MAY, client=ours) is context_for(MAY, client=ours)


def test_openssl_itself_verifies_nothing() -> None:
    assert context_for(MAY).get_verify_mode() == SSL.VERIFY_NONE
    assert context_for(MAY).get_session_cache_mode() == SSL.SESS_CACHE_OFF


def test_clear_text_has_no_context() -> None:
    with pytest.raises(AssertionError):
        context_for(replace(MAY, use_tls=False))


def test_neither_anonymous_nor_broken_ciphers_are_offered() -> None:
    names = SSL.Connection(context_for(MAY), None).get_cipher_list()
    assert "TLS_AES_256_GCM_SHA384" in names
    assert "ECDHE-ECDSA-AES256-GCM-SHA384" in names
    for word in ("ADH", "AECDH", "NULL", "RC4", "DES", "MD5", "PSK", "EXP"):
        assert not [name for name in names if word in name]


@pytest.mark.parametrize("ours", ["1.2", "1.3"])
def test_the_minimum_version_is_kept(house: House, ours: str) -> None:
    server = TlsEngine(server_context(house, max_version=SSL.TLS1_2_VERSION), server_side=True)
    client = TlsEngine(context_for(MAY, ours))  # type: ignore[arg-type]
    client.handshake()
    server.feed(client.outgoing())
    if ours == "1.3":
        with pytest.raises(TlsError, match="protocol"):
            server.handshake()
    else:
        assert server.handshake() is False
        assert server.outgoing()


def test_the_hybrid_key_exchange_is_used_where_the_server_has_it(house: House) -> None:
    server = TlsEngine(server_context(house), server_side=True)
    client = TlsEngine(context_for(MAY))
    while not client.handshake():
        server.feed(client.outgoing())
        server.handshake()
        client.feed(server.outgoing())
    assert client.facts().group == "X25519MLKEM768"


def test_both_ends_of_a_connection_and_nobody_else_know_its_keying_material(house: House) -> None:
    def connected() -> tuple[TlsEngine, TlsEngine]:
        server = TlsEngine(server_context(house), server_side=True)
        client = TlsEngine(context_for(MAY))
        finished = [False, False]
        while not all(finished):
            finished[0] = client.handshake()
            server.feed(client.outgoing()) if not finished[1] else None
            finished[1] = finished[1] or server.handshake()
            client.feed(server.outgoing())
        return client, server

    label = b"EXPORTER-Channel-Binding"
    client, server = connected()
    ours = client.keying_material(label, 32)
    assert len(ours) == 32
    assert ours == server.keying_material(label, 32)
    assert ours != client.keying_material(b"EXPORTER-Other", 32)
    assert ours != connected()[0].keying_material(label, 32)


def test_the_server_cannot_renegotiate(house: House) -> None:
    server = TlsEngine(server_context(house, max_version=SSL.TLS1_2_VERSION), server_side=True)
    client = TlsEngine(context_for(MAY))
    finished = [False, False]
    while not all(finished):
        finished[0] = client.handshake()
        if data := client.outgoing():
            server.feed(data)
        finished[1] = server.handshake()
        if data := server.outgoing():
            client.feed(data)
    before = client.facts()
    assert server._connection.renegotiate()
    server.handshake()
    client.feed(server.outgoing())  # HelloRequest
    assert client.read() is None
    server.feed(client.outgoing())
    with pytest.raises(TlsError, match="no renegotiation"):
        server.read()
    assert client.facts() == before
