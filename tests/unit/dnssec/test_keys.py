"""The cache of zone states, and from DS records to keys (RFC 4035 5.2)."""

from __future__ import annotations

import dns.name
import dns.rrset
import pytest

from deliver.dnssec.algorithm import Policy
from deliver.dnssec.budget import Budget, Limits
from deliver.dnssec.keys import KeyCache, NoCut, Vouched, vouched_keys
from deliver.dnssec.names import KEPT_LABELS
from deliver.dnssec.rule import Refusal, Rule
from tests.unit.dnssec.lab import record_set, signature_of
from tests.zoo.keys import KeyPlan, Signs
from tests.zoo.signer import DsPlan, ZonePlan, ds_records, finish

NOW = 1_800_000_000
ZONE = "example."


def state(text: str, expires: int) -> NoCut:
    return NoCut(dns.name.from_text(text), expires)


def test_states_are_kept_until_they_expire() -> None:
    cache = KeyCache(max_ttl=100)
    cache.put(state("a.", NOW + 10), NOW)
    cache.put(state("b.", NOW + 1000), NOW)
    cache.put(state("c.", NOW), NOW)
    assert cache.get(dns.name.from_text("A."), NOW + 9) is not None
    assert cache.get(dns.name.from_text("a."), NOW + 10) is None
    assert cache.get(dns.name.from_text("b."), NOW + 99) is not None
    assert cache.get(dns.name.from_text("b."), NOW + 100) is None
    assert cache.get(dns.name.from_text("c."), NOW) is None
    assert len(cache) == 0


def test_the_least_recently_used_goes_first() -> None:
    cache = KeyCache(entries=2)
    cache.put(state("a.", NOW + 10), NOW)
    cache.put(state("b.", NOW + 10), NOW)
    cache.get(dns.name.from_text("a."), NOW)
    cache.put(state("c.", NOW + 10), NOW)
    kept = [text for text in "abc" if cache.get(dns.name.from_text(f"{text}."), NOW) is not None]
    assert kept == ["a", "c"]
    cache.clear()
    assert len(cache) == 0


def test_names_of_very_many_labels_are_not_kept() -> None:
    cache = KeyCache()
    for labels in (KEPT_LABELS - 2, 100):
        cache.put(state("a." * labels + "example.", NOW + 10), NOW)
    assert len(cache) == 1


def vouched(
    *plans: KeyPlan,
    ds: tuple[DsPlan, ...] | None = None,
    policy: Policy | None = None,
    limits: Limits | None = None,
) -> Vouched | Rule:
    plan = ZonePlan(ZONE, keys=plans, ds=ds)
    contents = finish(plan, (), "127.0.0.1", NOW).contents
    origin = dns.name.from_text(ZONE)
    keys = contents.get_rdataset(origin, "DNSKEY")
    signatures = contents.get_rdataset(origin, "RRSIG", "DNSKEY") or ()
    result = vouched_keys(
        record_set(dns.rrset.from_rdata_list(origin, 300, list(keys))),
        [signature_of(each) for each in signatures],
        ds=tuple(ds_records(plan)),
        now=NOW,
        policy=policy or Policy(),
        budget=Budget(limits or Limits()),
    )
    return result.rule if isinstance(result, Refusal) else result


KSK, ZSK = KeyPlan(signs=Signs.KEYS), KeyPlan(number=1, signs=Signs.DATA, delegated=False)


@pytest.mark.parametrize("digest", [2, 4])
def test_a_matching_digest_vouches_for_all_keys(digest: int) -> None:
    result = vouched(KSK, ZSK, ds=(DsPlan(digest),))
    assert isinstance(result, Vouched)
    assert len(result.keys) == 2
    assert len(result.entry) == 1


def test_one_matching_ds_among_wrong_ones_suffices() -> None:
    ds = (DsPlan(broken=True), DsPlan(99), DsPlan(algorithm=200), DsPlan(tag_offset=1), DsPlan())
    assert isinstance(vouched(KSK, ZSK, ds=ds), Vouched)


@pytest.mark.parametrize(
    ("plans", "ds", "rule"),
    [
        ((KSK,), (DsPlan(broken=True),), Rule.DS_MISMATCH),
        ((KSK,), (DsPlan(tag_offset=1),), Rule.DS_MISMATCH),
        ((KSK,), (DsPlan(algorithm=8),), Rule.DS_MISMATCH),
        ((KSK, ZSK), (DsPlan(key=1),), Rule.DNSKEY_UNSIGNED),
        ((KeyPlan(flags=1),), (DsPlan(),), Rule.KEY_NOT_ZONE),
        ((KeyPlan(flags=0x181),), (DsPlan(),), Rule.KEY_REVOKED),
        ((KeyPlan(protocol=2),), (DsPlan(),), Rule.KEY_PROTOCOL),
    ],
)
def test_what_vouches_for_nothing(plans: tuple[KeyPlan, ...], ds: tuple[DsPlan, ...], rule: Rule) -> None:
    assert vouched(*plans, ds=ds) is rule


def test_sha1_digests_count_but_never_beside_better_ones() -> None:
    (weak,) = ds_records(ZonePlan(ZONE, keys=(KSK,), ds=(DsPlan(1),)))
    (strong,) = ds_records(ZonePlan(ZONE, keys=(KSK,), ds=(DsPlan(2),)))
    assert Policy().usable((weak,)) == (weak,)
    assert Policy().usable((weak, strong)) == (strong,)
    assert isinstance(vouched(KSK, ds=(DsPlan(1),)), Vouched)
    assert vouched(KSK, ds=(DsPlan(1), DsPlan(2, broken=True))) is Rule.DS_MISMATCH


def test_too_many_keys() -> None:
    assert vouched(KSK, ZSK, limits=Limits(keys_per_zone=1)) is Rule.TOO_MANY_KEYS
