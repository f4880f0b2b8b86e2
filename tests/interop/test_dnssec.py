"""The NSD and the unbound that other tests ask: signed, unsigned and forged zones as a validating resolver sees them."""

from __future__ import annotations

from dataclasses import dataclass

import dns.dnssec
import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.zone
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.interop.peers.factory import Factory
from tests.interop.peers.nsd import Nsd, NsdConfig
from tests.interop.peers.unbound import Unbound, UnboundConfig

MONTH = 30 * 86400
RECORDS = """\
$TTL 300
@ SOA ns hostmaster 1 3600 600 86400 300
@ NS ns
ns A 127.0.0.1
@ MX 10 mx
mx A 127.0.0.9
"""


@dataclass(frozen=True, slots=True)
class Zone:
    """A zone as text, and the trust anchor that vouches for it."""

    name: str
    text: str
    anchor: str


def _signed(name: str) -> Zone:
    zone = dns.zone.from_text(RECORDS, origin=name, relativize=False)
    key = ec.generate_private_key(ec.SECP256R1())
    dnskey = dns.dnssec.make_dnskey(key.public_key(), dns.dnssec.Algorithm.ECDSAP256SHA256, flags=257)
    with zone.writer() as transaction:
        dns.dnssec.sign_zone(
            zone,
            txn=transaction,
            keys=[(key, dnskey)],
            lifetime=MONTH,
            add_dnskey=True,
            dnskey_ttl=300,
            deterministic=False,
        )
    delegation = dns.dnssec.make_ds(dns.name.from_text(name), dnskey, "SHA256")
    return Zone(name, zone.to_text(relativize=False), f"{name} DS {delegation.to_text()}")


@pytest.fixture(scope="module")
def resolver(nsd: Factory[NsdConfig, Nsd], unbound: Factory[UnboundConfig, Unbound]) -> Unbound:
    """unbound over NSD with a signed zone, one forged after it was signed, and one that nobody signed."""
    good, forged = _signed("good.test."), _signed("forged.test.")
    authoritative = nsd(
        zones=(
            (good.name, good.text),
            (forged.name, forged.text.replace("127.0.0.9", "127.0.0.66")),
            ("plain.test.", "$ORIGIN plain.test.\n" + RECORDS),
        )
    )
    zones = ("good.test.", "forged.test.", "plain.test.")
    return unbound(
        stubs=tuple((zone, authoritative.address, authoritative.port) for zone in zones),
        anchors=(good.anchor, forged.anchor),
        insecure=("plain.test.",),
    )


def _ask(server: Unbound, name: str, rdtype: str, *, tcp: bool = False) -> dns.message.Message:
    query = dns.message.make_query(name, rdtype, want_dnssec=True)
    query.flags |= dns.flags.AD
    exchange = dns.query.tcp if tcp else dns.query.udp
    return exchange(query, server.address, port=server.port, timeout=5)


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_signed_zone_is_answered_with_ad(resolver: Unbound, tcp: bool) -> None:
    answer = _ask(resolver, "good.test.", "MX", tcp=tcp)
    assert answer.rcode() == dns.rcode.NOERROR
    assert answer.flags & dns.flags.AD
    assert "10 mx.good.test." in answer.answer[0].to_text()


def test_absence_in_a_signed_zone_is_proved(resolver: Unbound) -> None:
    answer = _ask(resolver, "_25._tcp.mx.good.test.", "TLSA")
    assert answer.rcode() == dns.rcode.NXDOMAIN
    assert answer.flags & dns.flags.AD


def test_forged_zone_is_a_server_failure_that_says_bogus(resolver: Unbound) -> None:
    answer = _ask(resolver, "mx.forged.test.", "A")
    assert answer.rcode() == dns.rcode.SERVFAIL
    assert not answer.answer
    assert dns.edns.EDECode.DNSSEC_BOGUS in {error.code for error in answer.extended_errors()}


def test_unsigned_zone_is_answered_without_ad(resolver: Unbound) -> None:
    answer = _ask(resolver, "mx.plain.test.", "A")
    assert answer.rcode() == dns.rcode.NOERROR
    assert not answer.flags & dns.flags.AD
