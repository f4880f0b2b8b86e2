"""What the zoo signs honestly holds before dnspython's validator and NSEC3 arithmetic; what it breaks does not."""

from __future__ import annotations

from datetime import UTC, datetime

import dns.dnssec
import dns.exception
import dns.name
import dns.node
import dns.rdataset
import dns.rrset
import pytest

from tests.zoo import keys
from tests.zoo.denial import Nsec3
from tests.zoo.keys import CSK, KeyPlan
from tests.zoo.sabotage import corrupted, with_keys_like
from tests.zoo.signer import DsPlan, Sabotage, Zone, ZonePlan, ds_records, finish

NOW = int(datetime.now(UTC).timestamp())
RECORDS = ("@ MX 10 mx", "mx A 127.0.9.1", "*.w TXT w", "a.ent A 127.0.9.2")


def _zone(
    *plans: KeyPlan, denial: Nsec3 | None = None, sabotage: tuple[Sabotage, ...] = (), child: bool = False
) -> Zone:
    plan = ZonePlan("z.test.", RECORDS, plans or (CSK,), sabotage=sabotage)
    if denial is not None:
        plan = ZonePlan("z.test.", RECORDS, plans or (CSK,), denial=denial, sabotage=sabotage)
    children = (ZonePlan("plain.z.test.", keys=()),) if child else ()
    return finish(plan, children, "127.0.0.1", NOW)


def _validate(zone: Zone, owner: str, rdtype: str) -> None:
    name = dns.name.from_text(owner, zone.origin)

    def rrset(rdtype: str, covers: str = "NONE") -> dns.rrset.RRset:
        rdataset = zone.contents.find_rdataset(name, rdtype, covers)
        return dns.rrset.from_rdata_list(name, rdataset.ttl, list(rdataset))

    dnskeys = zone.contents.find_rdataset(zone.origin, "DNSKEY")
    known: dict[dns.name.Name, dns.node.Node | dns.rdataset.Rdataset] = {
        zone.origin: dns.rrset.from_rdata_list(zone.origin, dnskeys.ttl, list(dnskeys))
    }
    dns.dnssec.validate(
        rrset(rdtype), rrset("RRSIG", rdtype), known, now=NOW, policy=dns.dnssec.allow_all_policy
    )


@pytest.mark.parametrize("algorithm", [5, 7, 8, 10, 13, 14, 15, 16])
def test_signatures_of_every_algorithm_verify(algorithm: int) -> None:
    zone = _zone(*keys.split(algorithm))
    for owner, rdtype in (("@", "MX"), ("@", "DNSKEY"), ("mx", "A"), ("*.w", "TXT"), ("mx", "NSEC")):
        _validate(zone, owner if owner != "@" else "z.test.", rdtype)


def test_corrupted_signature_does_not_verify() -> None:
    zone = _zone(sabotage=(corrupted("mx", "A"),))
    _validate(zone, "z.test.", "MX")
    with pytest.raises(dns.exception.ValidationFailure):
        _validate(zone, "mx", "A")


def test_ds_is_that_of_dnspython() -> None:
    plan = ZonePlan("z.test.", ds=(DsPlan(2), DsPlan(4)))
    key = keys.make(dns.name.from_text("z.test."), CSK)
    expected = [dns.dnssec.make_ds("z.test.", key.dnskey, digest) for digest in ("SHA256", "SHA384")]
    assert ds_records(plan) == expected


def test_nsec3_chain_is_a_circle_over_all_names_and_empty_non_terminals() -> None:
    denial = Nsec3(iterations=3, salt="beef")
    zone = _zone(denial=denial)
    names = (
        "z.test.",
        "mx.z.test.",
        "ns.z.test.",
        "*.w.z.test.",
        "w.z.test.",
        "a.ent.z.test.",
        "ent.z.test.",
    )
    hashes = sorted(denial.digest(dns.name.from_text(name)).lower() for name in names)
    owners = sorted(name for name, _ in zone.contents.iterate_rdatasets("NSEC3"))
    assert [owner.labels[0].decode() for owner in owners] == hashes
    followers = [zone.contents.find_rdataset(owner, "NSEC3")[0].to_text().split()[4] for owner in owners]
    assert [text.lower() for text in followers] == [*hashes[1:], hashes[0]]


def test_opt_out_leaves_insecure_delegations_out() -> None:
    def labels(zone: Zone) -> set[str]:
        return {name.labels[0].decode() for name, _ in zone.contents.iterate_rdatasets("NSEC3")}

    plain = Nsec3().digest(dns.name.from_text("plain.z.test."))
    assert plain in labels(_zone(denial=Nsec3(), child=True))
    assert plain not in labels(_zone(denial=Nsec3(opt_out=True), child=True))


def test_colliding_keys_have_one_tag() -> None:
    first, second = (KeyPlan(number=number) for number in keys.colliding("z.test."))
    origin = dns.name.from_text("z.test.")
    one, other = keys.make(origin, first), keys.make(origin, second)
    assert one.dnskey != other.dnskey
    assert dns.dnssec.key_id(one.dnskey) == dns.dnssec.key_id(other.dnskey)


def test_disguised_keys_have_the_same_tag_too() -> None:
    zone = _zone(sabotage=(with_keys_like(CSK, 5),))
    published = zone.contents.find_rdataset(zone.origin, "DNSKEY")
    assert len(published) == 6
    assert len({dns.dnssec.key_id(key) for key in published}) == 1


def test_elliptic_keys_are_the_same_in_every_run() -> None:
    origin = dns.name.from_text("z.test.")
    assert keys.make(origin, KeyPlan(15)).tag == 30816
