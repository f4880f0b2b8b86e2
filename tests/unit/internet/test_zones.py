"""The zones are what they claim: linked by DS, signed or not, bogus where declared, readable as zone files."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import dns.dnssec
import dns.exception
import dns.name
import dns.node
import dns.rdataset
import dns.rdatatype
import dns.rrset
import dns.zone
import pytest

from tests.internet.zones import Internet, MailDomain, Security, Status, Zone, build

MX = dns.rdatatype.MX
DNSKEY = dns.rdatatype.DNSKEY
RRSIG = dns.rdatatype.RRSIG


def one(security: Security = Security.SECURE, **more: object) -> Internet:
    domain = MailDomain(
        "a.test",
        mx=((10, "mx.a.test"),),
        hosts={"mx.a.test": ("127.0.0.9",)},
        tlsa=(("_25._tcp.mx.a.test", "3 1 1 " + "ab" * 32),),
        security=security,
        **more,  # type: ignore[arg-type]
    )
    return build([domain], name_server="127.0.0.1")


def rrset(zone: Zone, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> dns.rrset.RRset:
    rdataset = zone.rdataset(name, rdtype)
    assert rdataset is not None
    return dns.rrset.from_rdata_list(name, rdataset.ttl, list(rdataset))


def verify(zone: Zone, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> None:
    """ValidationFailure unless the zone's own keys signed that RRset."""
    signatures = zone.rdataset(name, RRSIG, rdtype)
    assert signatures is not None
    keys: dict[dns.name.Name, dns.node.Node | dns.rdataset.Rdataset] = {
        zone.origin: rrset(zone, zone.origin, DNSKEY)
    }
    signed = (name, signatures)
    dns.dnssec.validate(rrset(zone, name, rdtype), signed, keys)


def signed_rrsets(zone: Zone) -> list[tuple[dns.name.Name, dns.rdatatype.RdataType]]:
    return [(name, data.covers) for name, data in zone.contents.iterate_rdatasets() if data.rdtype == RRSIG]


def test_every_signature_of_a_secure_internet_verifies() -> None:
    internet = one()
    counted = 0
    for zone in internet.zones.values():
        for name, rdtype in signed_rrsets(zone):
            verify(zone, name, rdtype)
            counted += 1
    assert counted > 20


def test_the_chain_runs_from_the_anchor_to_the_domain() -> None:
    internet = one()
    anchor = internet.trust_anchor
    for origin in (dns.name.root, dns.name.from_text("test"), dns.name.from_text("a.test")):
        [key] = internet.zones[origin].rdataset(origin, DNSKEY) or []
        assert dns.dnssec.make_ds(origin, key, "SHA256") == anchor
        child = dns.name.from_text("test") if origin == dns.name.root else dns.name.from_text("a.test")
        [anchor] = internet.zone_for(child, dns.rdatatype.DS).rdataset(child, dns.rdatatype.DS) or []


def test_the_anchor_text_holds_the_roots_ds_and_key() -> None:
    internet = one()
    zone = dns.zone.from_text(internet.trust_anchor_text, ".", relativize=False, check_origin=False)
    assert list(zone.find_rdataset(".", dns.rdatatype.DS)) == [internet.trust_anchor]
    assert zone.find_rdataset(".", DNSKEY) == internet.zone(".").rdataset(dns.name.root, DNSKEY)


def test_an_insecure_zone_has_no_ds_and_no_signature() -> None:
    internet = one(Security.INSECURE)
    child = dns.name.from_text("a.test")
    assert internet.zone("test").rdataset(child, dns.rdatatype.DS) is None
    assert signed_rrsets(internet.zone("a.test")) == []
    assert internet.zone("a.test").status is Status.INSECURE


def test_an_island_is_signed_without_a_ds() -> None:
    internet = one(Security.ISLAND)
    child = dns.name.from_text("a.test")
    assert internet.zone("test").rdataset(child, dns.rdatatype.DS) is None
    verify(internet.zone("a.test"), child, MX)
    assert internet.zone("a.test").status is Status.INSECURE


@pytest.mark.parametrize("security", [Security.BOGUS, Security.EXPIRED])
def test_nothing_but_the_keys_of_a_bogus_zone_verifies(security: Security) -> None:
    zone = one(security).zone("a.test")
    for name, rdtype in signed_rrsets(zone):
        if rdtype == DNSKEY and security is Security.BOGUS:
            verify(zone, name, rdtype)
        else:
            with pytest.raises(dns.exception.ValidationFailure):
                verify(zone, name, rdtype)


def test_a_wrong_ds_matches_no_key() -> None:
    internet = one(Security.WRONG_DS)
    child = dns.name.from_text("a.test")
    [ds] = internet.zone("test").rdataset(child, dns.rdatatype.DS) or []
    [key] = internet.zone("a.test").rdataset(child, DNSKEY) or []
    assert dns.dnssec.make_ds(child, key, "SHA256") != ds
    assert internet.zone("a.test").status is Status.BOGUS


def test_a_forged_rrset_alone_does_not_verify() -> None:
    zone = one(forged=("mx.a.test. A 127.0.0.66",)).zone("a.test")
    host = dns.name.from_text("mx.a.test")
    assert [record.address for record in zone.rdataset(host, dns.rdatatype.A) or []] == ["127.0.0.66"]
    with pytest.raises(dns.exception.ValidationFailure):
        verify(zone, host, dns.rdatatype.A)
    verify(zone, dns.name.from_text("a.test"), MX)


def test_signatures_are_valid_for_thirty_days_around_the_given_time() -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    zone = build([MailDomain("a.test")], name_server="127.0.0.1", now=now).zone("a.test")
    [signature] = zone.rdataset(zone.origin, RRSIG, dns.rdatatype.SOA) or []
    assert signature.inception == (now - timedelta(hours=1)).timestamp()
    assert signature.expiration - signature.inception == timedelta(days=30).total_seconds()


def test_what_lies_below_an_insecure_or_bogus_zone_is_so_too() -> None:
    for above, status in (
        (Security.INSECURE, Status.INSECURE),
        (Security.BOGUS, Status.BOGUS),
        (Security.SECURE, Status.SECURE),
    ):
        internet = build(
            [MailDomain("a.test", security=above), MailDomain("b.a.test")], name_server="127.0.0.1"
        )
        assert internet.zone("b.a.test").status is status


def test_zone_text_reads_back() -> None:
    zone = one().zone("a.test")
    again = dns.zone.from_text(zone.text, zone.origin, relativize=False)
    assert again == zone.contents


def test_keys_stay_the_same_within_a_process() -> None:
    assert one().trust_anchor_text == one().trust_anchor_text


def test_a_name_outside_its_domain_is_refused() -> None:
    with pytest.raises(ValueError, match="not inside"):
        build([MailDomain("a.test", hosts={"mx.b.test": ("127.0.0.9",)})], name_server="127.0.0.1")
