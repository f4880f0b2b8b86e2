"""The server's side of TLS: which certificate and which staple a client gets, and whom a client's certificate names."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtensionOID
from hypothesis import given, strategies as st
from OpenSSL import SSL

from deliver.errors import ConfigurationError
from deliver.tls.context import ClientCertificate, context_for
from deliver.tls.engine import TlsEngine, TlsError
from deliver.tls.pkix import TrustStore
from deliver.tls.serving import (
    Identity,
    Offer,
    client_names,
    read_chain,
    read_responses,
    server_context,
    staple,
)
from deliver.tls.verdict import Handshake
from tests.unit.tls.certificates import CLIENT_ONLY, NOW, SERVER, House, Issued, Wish, issue, new_key, rsa_key
from tests.unit.tls.peers import MAY
from tests.unit.tls.responder import HOUR, Answer, respond


def identity(house: House, name: str = "mx.example.org", *, rsa: bool = False) -> tuple[Identity, Issued]:
    key = rsa_key(2048) if rsa else None
    issued = issue(Wish(name, dns_names=(name,), key=key), house.intermediate)
    return Identity((issued.der, house.intermediate.der), issued.key_pem), issued


def served(
    identities: Sequence[Identity], responses: Sequence[bytes] = (), offer: Offer | None = None
) -> SSL.Context:
    return server_context(identities, responses, offer or Offer(), lambda: NOW)


def meet(server: SSL.Context, client: TlsEngine) -> tuple[Handshake, TlsEngine]:
    """Both sides' handshake to its end; what the client saw, and the server's engine."""
    engine = TlsEngine(server, server_side=True)
    done = [False, False]
    for _ in range(10):
        for place, (one, other) in enumerate(((client, engine), (engine, client))):
            done[place] = done[place] or one.handshake()
            if octets := one.outgoing():
                other.feed(octets)
    assert all(done)
    return client.facts(), engine


def client(name: str = "mx.example.org", *, context: SSL.Context | None = None, **more: object) -> TlsEngine:
    return TlsEngine(context or context_for(MAY), name, request_staple=True, **more)  # type: ignore[arg-type]


# --- certificates by name


def test_the_certificate_with_the_name_is_presented(house: House) -> None:
    first, _ = identity(house)
    second, issued = identity(house, "smtp.example.net")
    facts, _ = meet(served([first, second]), client("SMTP.example.net"))
    assert facts.chain == (issued.der, house.intermediate.der)


@pytest.mark.parametrize("name", ["", "192.0.2.1", "other.example.com", "example.org"])
def test_any_other_name_gets_the_first(house: House, name: str) -> None:
    first, issued = identity(house)
    second, _ = identity(house, "smtp.example.net")
    facts, _ = meet(served([first, second]), client(name))
    assert facts.chain[0] == issued.der


def test_of_one_name_there_is_one_certificate_per_kind_of_key_each_with_its_own_chain(house: House) -> None:
    elliptic, _ = identity(house)
    other = issue(Wish("Other Intermediate", authority=True), house.root)
    key = rsa_key(2048)
    issued = issue(Wish("mx", dns_names=("mx.example.org",), key=key), other)
    rsa = Identity((issued.der, other.der), issued.key_pem)
    context = context_for(MAY, ciphers="ECDHE-RSA-AES128-GCM-SHA256")
    limited = SSL.Context(SSL.TLS_CLIENT_METHOD)
    limited.set_cipher_list(b"ECDHE-RSA-AES128-GCM-SHA256")
    limited.set_max_proto_version(SSL.TLS1_2_VERSION)
    server = served([elliptic, rsa])
    facts, _ = meet(server, client(context=limited))
    assert facts.chain == (issued.der, other.der)
    facts, _ = meet(server, client(context=context))  # TLS 1.3: our order of signatures does not matter
    assert facts.chain in ((issued.der, other.der), elliptic.chain)


def test_of_two_with_the_same_name_and_kind_the_first_counts(house: House) -> None:
    first, issued = identity(house)
    second, _ = identity(house)
    facts, _ = meet(served([first, second]), client())
    assert facts.chain[0] == issued.der


def test_a_wildcard_serves_the_names_below_it(house: House) -> None:
    first, _ = identity(house)
    second, issued = identity(house, "*.example.net")
    facts, _ = meet(served([first, second]), client("a.example.net"))
    assert facts.chain[0] == issued.der


def test_a_key_that_does_not_belong_is_refused(house: House) -> None:
    ours, _ = identity(house)
    _, other = identity(house)
    with pytest.raises(ConfigurationError, match=r"mx\.example\.org: .*mismatch"):
        served([ours, Identity(ours.chain, other.key_pem)])


def test_what_is_no_key_is_refused_without_asking_for_a_passphrase(house: House) -> None:
    ours, _ = identity(house)
    with pytest.raises(ConfigurationError, match="without a passphrase"):
        served([Identity(ours.chain, b"-----BEGIN NONSENSE-----")])


def test_old_tls_is_refused(house: House) -> None:
    ours, _ = identity(house)
    old = SSL.Context(SSL.TLS_CLIENT_METHOD)
    old.set_max_proto_version(SSL.TLS1_1_VERSION)
    old.set_cipher_list(b"ALL:@SECLEVEL=0")
    with pytest.raises(TlsError):
        meet(served([ours]), client(context=old))


def test_tls_1_3_only_where_the_settings_say_so(house: House) -> None:
    ours, _ = identity(house)
    old = SSL.Context(SSL.TLS_CLIENT_METHOD)
    old.set_max_proto_version(SSL.TLS1_2_VERSION)
    assert meet(served([ours]), client(context=old))[0].version == "TLSv1.2"
    with pytest.raises(TlsError):
        meet(served([ours], offer=Offer(min_version="1.3")), client(context=old))


def test_a_chain_is_read_from_pem(house: House) -> None:
    assert read_chain(house.server.pem + house.intermediate.pem, "file") == house.chain
    with pytest.raises(ConfigurationError, match="reading the certificate file"):
        read_chain(b"nothing", "file")


def test_a_certificate_whose_names_cannot_be_read_is_refused(house: House) -> None:
    key = new_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(house.server.certificate.subject)
        .issuer_name(house.server.certificate.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(house.server.certificate.not_valid_before_utc)
        .not_valid_after(house.server.certificate.not_valid_after_utc)
        .add_extension(x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"garbage"), False)
    )
    certificate = builder.sign(key, hashes.SHA256())
    with pytest.raises(ConfigurationError, match="reading the certificate file"):
        read_chain(certificate.public_bytes(Encoding.PEM), "file")


# --- staples


def test_the_staple_of_the_certificate_goes_with_it(house: House) -> None:
    first, one = identity(house)
    second, two = identity(house, "smtp.example.net")
    answers = [respond(Answer(two)), respond(Answer(one))]
    server = served([first, second], answers)
    assert meet(server, client())[0].staple == answers[1]
    assert meet(server, client("smtp.example.net"))[0].staple == answers[0]


def test_no_staple_to_a_client_that_did_not_ask(house: House) -> None:
    ours, issued = identity(house)
    server = served([ours], [respond(Answer(issued))])
    assert meet(server, TlsEngine(context_for(MAY), "mx.example.org"))[0].staple is None


@pytest.mark.parametrize(
    "changes",
    [
        {"next_update": NOW - 1},
        {"this_update": NOW + 60, "next_update": NOW + HOUR},
        {"status": ocsp.OCSPCertStatus.REVOKED},
        {"status": ocsp.OCSPCertStatus.UNKNOWN},
        {"name_hash": bytes(20)},
        {"next_update": None, "this_update": NOW - 25 * HOUR},
    ],
    ids=["expired", "not yet", "revoked", "unknown", "other issuer", "endless and old"],
)
def test_a_staple_that_helps_nobody_is_not_sent(house: House, changes: dict[str, object]) -> None:
    ours, issued = identity(house)
    bad = respond(Answer(issued, **changes))  # type: ignore[arg-type]
    assert staple(ours, [bad], NOW) is None
    assert meet(served([ours], [bad]), client())[0].staple is None
    good = respond(Answer(issued))
    assert meet(served([ours], [bad, good]), client())[0].staple == good


def test_a_forged_staple_is_not_sent(house: House) -> None:
    ours, issued = identity(house)
    assert (
        staple(ours, [respond(Answer(issued, signer=house.stranger, issuer=house.intermediate))], NOW) is None
    )


def test_a_staple_is_not_sent_where_the_issuer_is_unknown(house: House) -> None:
    ours, issued = identity(house)
    assert staple(Identity((issued.der,), ours.key), [respond(Answer(issued))], NOW) is None


def test_the_staple_is_judged_at_each_handshake(house: House) -> None:
    ours, issued = identity(house)
    moment = [NOW]
    server = server_context([ours], [respond(Answer(issued))], Offer(), lambda: moment[0])
    assert meet(server, client())[0].staple is not None
    moment[0] = NOW + HOUR
    assert meet(server, client())[0].staple is None


def test_the_staple_that_holds_longest_is_sent(house: House) -> None:
    ours, issued = identity(house)
    short, long = respond(Answer(issued)), respond(Answer(issued, next_update=NOW + 5 * HOUR))
    assert staple(ours, [long, short], NOW) == staple(ours, [short, long], NOW) == long


def test_responses_are_read_from_der_and_from_pem(house: House) -> None:
    _, issued = identity(house)
    one, two = respond(Answer(issued)), respond(Answer(issued, next_update=NOW + 5 * HOUR))
    assert read_responses(one) == (one,)
    assert read_responses(pem(one) + b"a comment\n" + pem(two)) == (one, two)
    assert read_responses(b"") == ()


@given(st.binary(max_size=200))
def test_any_file_of_responses_can_be_read_and_used(content: bytes) -> None:
    for each in read_responses(content):
        assert staple(Identity((b"no certificate",), b""), [each], NOW) is None


def pem(response: bytes) -> bytes:
    import base64

    return b"-----BEGIN OCSP RESPONSE-----\n%s-----END OCSP RESPONSE-----\n" % base64.encodebytes(response)


# --- tickets


def ticket(server: SSL.Context) -> bytes:
    one = client()
    _, engine = meet(server, one)
    engine.write(b"x")
    one.feed(engine.outgoing())
    assert one.read() == b"x"
    session = one.session()
    assert session is not None
    return session


def test_a_ticket_is_good_with_the_context_that_made_it_only(house: House) -> None:
    ours, _ = identity(house)
    server = served([ours])
    session = ticket(server)
    assert meet(server, client(resume=session))[0].resumed
    assert not meet(served([ours]), client(resume=session))[0].resumed


def test_a_ticket_is_good_under_a_name_with_a_certificate_of_its_own(house: House) -> None:
    first, _ = identity(house, "smtp.example.net")
    second, _ = identity(house)
    server = served([first, second])
    assert meet(server, client(resume=ticket(server)))[0].resumed


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_without_tickets_nothing_is_resumed(house: House, version: int) -> None:
    ours, _ = identity(house)
    server = served([ours], offer=Offer(tickets=False))
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(version)
    one = client(context=context)
    _, engine = meet(server, one)
    engine.write(b"x")
    one.feed(engine.outgoing())
    one.read()
    session = one.session()
    if session is not None:
        assert not meet(server, client(context=context, resume=session))[0].resumed


# --- clients' certificates


def presenting(issued: Issued, tmp_path: object) -> SSL.Context:
    from pathlib import Path

    directory = Path(str(tmp_path))
    (directory / "client.pem").write_bytes(issued.pem)
    (directory / "client.key").write_bytes(issued.key_pem)
    return context_for(
        MAY, client=ClientCertificate(str(directory / "client.pem"), str(directory / "client.key"))
    )


def store(*issued: Issued) -> TrustStore:
    return TrustStore.from_pem(b"".join(each.pem for each in issued), "the test")


def test_a_client_shows_its_certificate_and_is_named(house: House, tmp_path: object) -> None:
    ours, _ = identity(house)
    visitor = issue(
        Wish("visitor", dns_names=("App1.example.org", "app2.example.org"), purpose=CLIENT_ONLY), house.root
    )
    offer = Offer(clients=store(house.root))
    _, engine = meet(served([ours], offer=offer), client(context=presenting(visitor, tmp_path)))
    leaf = engine.leaf()
    assert leaf == visitor.der
    assert client_names((leaf,), store(house.root), NOW) == (("app1.example.org", "app2.example.org"), "")


def test_a_client_without_a_certificate_is_served_too(house: House) -> None:
    ours, _ = identity(house)
    _, engine = meet(served([ours], offer=Offer(clients=store(house.root))), client())
    assert engine.leaf() is None
    assert client_names((), store(house.root), NOW) == ((), "the client presented no certificate")


def test_a_strangers_certificate_does_not_end_the_handshake_and_names_nobody(
    house: House, tmp_path: object
) -> None:
    ours, _ = identity(house)
    visitor = issue(Wish("visitor", dns_names=("app1.example.org",)), house.stranger)
    offer = Offer(clients=store(house.root))
    _, engine = meet(served([ours], offer=offer), client(context=presenting(visitor, tmp_path)))
    leaf = engine.leaf()
    assert leaf == visitor.der
    found, why = client_names((leaf, house.stranger.der), store(house.root), NOW)
    assert found == ()
    assert "certificate" in why


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        (Wish("a", dns_names=("a.example.org",), not_after=NOW - 1), "expired"),
        (Wish("a", dns_names=("a.example.org",), purpose=SERVER), "purpose"),
        (Wish("a", dns_names=("*.example.org",)), "no name"),
        (Wish("a b"), "no name"),
    ],
)
def test_a_certificate_that_may_not_relay(house: House, wish: Wish, why: str) -> None:
    found, said = client_names((issue(wish, house.root).der,), store(house.root), NOW)
    assert found == ()
    assert why in said


def test_nothing_is_resumed_where_clients_show_certificates(house: House, tmp_path: object) -> None:
    ours, _ = identity(house)
    visitor = issue(Wish("visitor", dns_names=("app1.example.org",)), house.root)
    server = served([ours], offer=Offer(clients=store(house.root)))
    context = presenting(visitor, tmp_path)
    one = client(context=context)
    _, engine = meet(server, one)
    engine.write(b"x")
    one.feed(engine.outgoing())
    one.read()
    session = one.session()
    if session is not None:
        facts, again = meet(server, client(context=context, resume=session))
        assert not facts.resumed
        assert again.leaf() == visitor.der


@given(st.binary(max_size=300))
def test_any_octets_as_a_certificate_name_nobody(house: House, octets: bytes) -> None:
    assert client_names((octets,), store(house.root), NOW)[0] == ()


def test_der_of_a_chain_is_as_cryptography_says(house: House) -> None:
    der = read_chain(house.server.pem, "file")[0]
    assert x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) == house.server.pem
