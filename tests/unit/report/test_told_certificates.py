"""What events tell of certificates, which a peer chose."""

from __future__ import annotations

from hashlib import sha256

import pytest
from cryptography import x509
from hypothesis import given, strategies as st

from deliver.message import Envelope, MessageId
from deliver.outcome import Resumption
from deliver.report import testimony
from deliver.report.trace import Trace
from deliver.tls.verdict import Handshake
from events.catalogue import Event, vocabulary_problems
from tests.unit.tls.certificates import Wish, issue
from tests.unit.tls.peers import MAY

LEAF = issue(Wish("leaf", dns_names=("mx.example.org",)))
VERSION = bytes.fromhex("a003020102")
ODD = LEAF.der.replace(VERSION, bytes.fromhex("a003020107"))


def told(*chain: bytes, known: Resumption = Resumption.OFF) -> tuple[Event, ...]:
    envelope = Envelope(MessageId("m1"), None, (), 0, False, 0.0)
    story = testimony.Testimony(Trace(), lambda: 1.0, envelope, "example.org", 1)
    connection = story.connection("mx.example.org", "192.0.2.1", 25, MAY, False)
    return connection.shook_hands(Handshake("TLSv1.3", "x", None, chain), known)


def test_the_servers_own_comes_last() -> None:
    events = told(LEAF.der, b"not a certificate")
    assert [event.fields["tls_depth"] for event in events] == [1, 0]
    assert events[1].fields["tls_out_peerdn"] == "CN=leaf"
    assert events[1].fields["tls_cert_issuer"] == "CN=leaf"
    assert events[1].fields["tls_out_peercert_sha256"] == sha256(LEAF.der).hexdigest()
    assert events[0].fields["tls_out_peerdn"] is None


def test_a_certificate_of_an_unknown_version_costs_no_delivery() -> None:
    with pytest.raises(x509.InvalidVersion):  # no ValueError
        x509.load_der_x509_certificate(ODD)
    (event,) = told(ODD)
    assert event.fields["tls_out_peerdn"] is None
    assert event.fields["tls_out_peercert_sha256"] == sha256(ODD).hexdigest()


@given(st.integers(0, len(LEAF.der) - 1), st.binary(min_size=1, max_size=8))
def test_damage_costs_no_delivery(at: int, octets: bytes) -> None:
    (event,) = told(LEAF.der[:at] + octets + LEAF.der[at + len(octets) :])
    assert vocabulary_problems(event.name, event.fields) == ()


@pytest.mark.parametrize(
    ("known", "word"),
    [
        (Resumption.OFF, "off"),
        (Resumption(1 | 2), "full"),
        (Resumption(1 | 2 | 8), "full"),
        (Resumption(1 | 2 | 4 | 8), "offered"),
        (Resumption(1 | 2 | 4 | 16), "resumed"),
    ],
)
def test_resumption_has_exims_bits_and_a_word(known: Resumption, word: str) -> None:
    (event,) = told(LEAF.der, known=known)
    assert (event.fields["tls_out_resumption"], event.fields["tls_resumption"]) == (int(known), word)
