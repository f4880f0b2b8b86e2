"""The resolver's verdicts agree with real validation, and its answers carry the proofs a validator needs."""

from __future__ import annotations

import dns.dnssec
import dns.edns
import dns.exception
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from tests.internet.recursion import Resolution, resolve
from tests.internet.zones import Internet, MailDomain, Security, Status, build

INTERNET = build(
    [
        MailDomain(
            "good.test",
            mx=((10, "mx.good.test"),),
            hosts={"mx.good.test": ("127.0.0.9", "::9")},
            aliases={
                "inside.good.test": "mx.good.test",
                "insecure.good.test": "mx.plain.test",
                "bogus.good.test": "mx.bogus.test",
                "dangling.good.test": "nowhere.good.test",
                "loop.good.test": "loop.good.test",
                "*.wild.good.test": "mx.good.test",
            },
            tlsa=(("_25._tcp.mx.good.test", "3 1 1 " + "ab" * 32),),
            records=("old.good.test. DNAME good.test.", "*.text.good.test. TXT hello"),
        ),
        MailDomain("plain.test", hosts={"mx.plain.test": ("127.0.0.8",)}, security=Security.INSECURE),
        MailDomain("island.test", hosts={"mx.island.test": ("127.0.0.8",)}, security=Security.ISLAND),
        MailDomain("bogus.test", hosts={"mx.bogus.test": ("127.0.0.7",)}, security=Security.BOGUS),
        MailDomain("expired.test", hosts={"mx.expired.test": ("127.0.0.7",)}, security=Security.EXPIRED),
        MailDomain("wrongds.test", hosts={"mx.wrongds.test": ("127.0.0.7",)}, security=Security.WRONG_DS),
        MailDomain("forged.test", mx=((0, "."),), forged=("forged.test. MX 0 evil.test.",)),
    ],
    name_server="127.0.0.1",
)


class Unsigned(dns.exception.ValidationFailure):
    """What should be signed is not."""


def ask(name: str, rdtype: str) -> Resolution:
    return resolve(INTERNET, dns.name.from_text(name), dns.rdatatype.from_text(rdtype))


def keys_of(internet: Internet, origin: dns.name.Name) -> dns.rrset.RRset | None:
    """The validated keys of a zone, from the root's anchor down; None if insecure, ValidationFailure if bogus."""
    if origin == dns.name.root:
        trusted = [internet.trust_anchor]
    else:
        delegation = resolve(internet, origin, dns.rdatatype.DS)
        parent = keys_of(internet, internet.zone_for(origin, dns.rdatatype.DS).origin)
        if parent is None:
            return None
        check(delegation.answer + delegation.authority, parent)
        trusted = [ds for rrset in delegation.answer if rrset.rdtype == dns.rdatatype.DS for ds in rrset]
        if not trusted:
            return None
    answer = resolve(internet, origin, dns.rdatatype.DNSKEY).answer
    keys = next(rrset for rrset in answer if rrset.rdtype == dns.rdatatype.DNSKEY)
    if not any(dns.dnssec.make_ds(origin, key, "SHA256") in trusted for key in keys):
        raise Unsigned
    check(answer, keys)
    return keys


def check(rrsets: tuple[dns.rrset.RRset, ...], keys: dns.rrset.RRset) -> None:
    """Every RRset in the zone of `keys` is signed by them."""
    for rrset in rrsets:
        if rrset.rdtype == dns.rdatatype.RRSIG:
            continue
        signatures = [r for r in rrsets if r.name == rrset.name and r.covers == rrset.rdtype]
        if not signatures:
            raise Unsigned
        dns.dnssec.validate(rrset, signatures[0], {keys.name: keys})


def judged(resolution: Resolution) -> Status:
    """What a validator finds, with real cryptography."""
    rrsets = resolution.answer + resolution.authority
    statuses = set()
    for rrset in rrsets:
        synthesised = any(
            r.rdtype == dns.rdatatype.DNAME and rrset.name.is_subdomain(r.name) and r.name != rrset.name
            for r in rrsets
        )
        if rrset.rdtype == dns.rdatatype.RRSIG or synthesised:
            continue
        together = tuple(r for r in rrsets if r.name == rrset.name and rrset.rdtype in (r.rdtype, r.covers))
        signers = [r[0].signer for r in together if r.rdtype == dns.rdatatype.RRSIG]
        origin = signers[0] if signers else INTERNET.zone_for(rrset.name, rrset.rdtype).origin
        try:
            keys = keys_of(INTERNET, origin)
            if keys is None:
                statuses.add(Status.INSECURE)
            else:
                check(together, keys)
                statuses.add(Status.SECURE)
        except dns.exception.ValidationFailure:
            statuses.add(Status.BOGUS)
    return next(s for s in (Status.BOGUS, Status.INSECURE, Status.SECURE) if s in statuses)


@pytest.mark.parametrize(
    ("name", "rdtype", "rcode", "status"),
    [
        ("good.test", "MX", "NOERROR", "secure"),
        ("good.test", "DNSKEY", "NOERROR", "secure"),
        ("good.test", "DS", "NOERROR", "secure"),
        (".", "DNSKEY", "NOERROR", "secure"),
        ("mx.good.test", "AAAA", "NOERROR", "secure"),
        ("mx.good.test", "TXT", "NOERROR", "secure"),
        ("_tcp.mx.good.test", "A", "NOERROR", "secure"),  # an empty non-terminal
        ("_25._tcp.mx.good.test", "TLSA", "NOERROR", "secure"),
        ("_26._tcp.mx.good.test", "TLSA", "NXDOMAIN", "secure"),
        ("nowhere.good.test", "A", "NXDOMAIN", "secure"),
        ("nowhere.test", "MX", "NXDOMAIN", "secure"),
        ("nowhere", "MX", "NXDOMAIN", "secure"),
        ("inside.good.test", "A", "NOERROR", "secure"),
        ("inside.good.test", "CNAME", "NOERROR", "secure"),
        ("inside.good.test", "TXT", "NOERROR", "secure"),
        ("insecure.good.test", "A", "NOERROR", "insecure"),
        ("bogus.good.test", "A", "NOERROR", "bogus"),
        ("dangling.good.test", "A", "NXDOMAIN", "secure"),
        ("any.wild.good.test", "A", "NOERROR", "secure"),
        ("any.text.good.test", "TXT", "NOERROR", "secure"),
        ("any.text.good.test", "A", "NOERROR", "secure"),
        ("mx.old.good.test", "A", "NOERROR", "secure"),
        ("plain.test", "DS", "NOERROR", "secure"),  # the proof of insecurity
        ("mx.plain.test", "A", "NOERROR", "insecure"),
        ("nowhere.plain.test", "A", "NXDOMAIN", "insecure"),
        ("mx.island.test", "A", "NOERROR", "insecure"),
        ("bogus.test", "DS", "NOERROR", "secure"),
        ("bogus.test", "DNSKEY", "NOERROR", "secure"),
        ("mx.bogus.test", "A", "NOERROR", "bogus"),
        ("nowhere.bogus.test", "A", "NXDOMAIN", "bogus"),
        ("mx.bogus.test", "AAAA", "NOERROR", "bogus"),
        ("mx.expired.test", "A", "NOERROR", "bogus"),
        ("expired.test", "DNSKEY", "NOERROR", "bogus"),
        ("mx.wrongds.test", "A", "NOERROR", "bogus"),
        ("forged.test", "MX", "NOERROR", "bogus"),
        ("forged.test", "SOA", "NOERROR", "secure"),
    ],
)
def test_the_verdict_agrees_with_real_validation(name: str, rdtype: str, rcode: str, status: str) -> None:
    resolution = ask(name, rdtype)
    assert (dns.rcode.to_text(resolution.rcode), resolution.status) == (rcode, status)
    assert judged(resolution) is resolution.status


def nsec_pairs(resolution: Resolution) -> list[tuple[dns.name.Name, dns.name.Name]]:
    return [(r.name, r[0].next) for r in resolution.authority if r.rdtype == dns.rdatatype.NSEC]


def covers(pair: tuple[dns.name.Name, dns.name.Name], name: str) -> bool:
    owner, following = pair
    target = dns.name.from_text(name)
    return bool(owner < target < following or following <= owner < target)


def test_nxdomain_covers_the_name_and_the_wildcard() -> None:
    pairs = nsec_pairs(ask("nowhere.good.test", "A"))
    assert any(covers(pair, "nowhere.good.test") for pair in pairs)
    assert any(covers(pair, "*.good.test") for pair in pairs)


def test_a_wildcard_answer_proves_that_the_name_itself_does_not_exist() -> None:
    assert any(covers(pair, "any.text.good.test") for pair in nsec_pairs(ask("any.text.good.test", "TXT")))


def test_no_data_shows_the_types_at_the_name() -> None:
    resolution = ask("mx.good.test", "TXT")
    [nsec] = [r for r in resolution.authority if r.rdtype == dns.rdatatype.NSEC]
    assert nsec.name == dns.name.from_text("mx.good.test")
    assert "TXT" not in nsec[0].to_text().split()


def test_a_denial_carries_the_negative_ttl() -> None:
    [soa] = [r for r in ask("nowhere.good.test", "A").authority if r.rdtype == dns.rdatatype.SOA]
    assert soa.ttl == 60


def test_an_alias_chain_is_in_order_with_the_data_last() -> None:
    kinds = [r.rdtype.name for r in ask("inside.good.test", "A").answer if r.covers == 0]
    assert kinds == ["CNAME", "A"]


def test_a_dname_brings_an_unsigned_cname() -> None:
    answer = ask("mx.old.good.test", "A").answer
    assert [r.rdtype.name for r in answer] == ["DNAME", "RRSIG", "CNAME", "A", "RRSIG"]


def test_an_alias_loop_is_servfail() -> None:
    assert ask("loop.good.test", "A").rcode == dns.rcode.SERVFAIL


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("mx.bogus.test", dns.edns.EDECode.DNSSEC_BOGUS),
        ("mx.expired.test", dns.edns.EDECode.SIGNATURE_EXPIRED),
        ("mx.wrongds.test", dns.edns.EDECode.DNSKEY_MISSING),
        ("mx.good.test", None),
    ],
)
def test_a_bogus_answer_says_why(name: str, code: dns.edns.EDECode | None) -> None:
    assert ask(name, "A").why == code
