"""One RRset and its signatures, rule by rule (RFC 4034 3 and 6, RFC 4035 5.3)."""

from __future__ import annotations

import struct

import dns.name
import dns.rdatatype
import dns.rrset
import pytest
from dns.rdtypes.ANY.RRSIG import RRSIG

from deliver.dnssec.algorithm import Policy, load
from deliver.dnssec.budget import Budget, Exhausted, Limits
from deliver.dnssec.rule import Refusal, Rule
from deliver.dnssec.signature import Verified, serial_before, verify_rrset, zone_key
from tests.unit.dnssec.lab import record_set, signature_of
from tests.zoo import keys
from tests.zoo.keys import REVOKE, SEP, ZONE, KeyPlan, disguised

ZONE_NAME = dns.name.from_text("example.")
NOW = 1_800_000_000
DAY = 86400
PLAN = KeyPlan()


def rrset_of(owner: str = "mx.example.", rdtype: str = "A", *texts: str, ttl: int = 300) -> dns.rrset.RRset:
    return dns.rrset.from_text(owner, ttl, "IN", rdtype, *(texts or ("192.0.2.1", "192.0.2.2")))


def sign(rrset: dns.rrset.RRset, plan: KeyPlan = PLAN, **claims: object) -> RRSIG:
    """A signature that is right for what it claims, put together from the text of RFC 4034 3.1.8.1."""
    key = keys.make(ZONE_NAME, plan)
    own = [label for label in rrset.name.labels if label not in (b"", b"*")]
    fields: dict[str, object] = {
        "covered": rrset.rdtype,
        "algorithm": plan.algorithm,
        "labels": len(own),
        "original_ttl": 300,
        "expiration": NOW + DAY,
        "inception": NOW - DAY,
        "key_tag": key.tag,
        "signer": ZONE_NAME,
    }
    fields.update(claims)
    unsigned = RRSIG(dns.rdataclass.IN, dns.rdatatype.RRSIG, *fields.values(), b"")
    owner = rrset.name
    if unsigned.labels < len(own):
        owner = dns.name.Name((b"*", *rrset.name.labels[len(rrset.name) - 1 - unsigned.labels :]))
    octets = unsigned.to_wire()[:18] + unsigned.signer.canonicalize().to_wire()
    for data in sorted(rdata.to_digestable() for rdata in rrset):
        octets += owner.canonicalize().to_wire() + struct.pack(
            "!HHIH", rrset.rdtype, rrset.rdclass, unsigned.original_ttl, len(data)
        )
        octets += data
    return unsigned.replace(signature=key.sign(octets))


def check(
    rrset: dns.rrset.RRset,
    *signatures: RRSIG,
    plans: tuple[KeyPlan, ...] = (PLAN,),
    policy: Policy = Policy(),  # noqa: B008 - frozen
    limits: Limits = Limits(),  # noqa: B008 - frozen
    now: int = NOW,
    budget: Budget | None = None,
) -> Verified | Refusal:
    zone_keys = tuple(zone_key(keys.make(ZONE_NAME, plan).dnskey.to_wire()) for plan in plans)
    budget = budget or Budget(limits)
    return verify_rrset(
        record_set(rrset),
        [signature_of(each) for each in signatures],
        ZONE_NAME,
        zone_keys,
        now=now,
        policy=policy,
        budget=budget,
    )


def rule_of(result: Verified | Refusal) -> Rule | None:
    return result.rule if isinstance(result, Refusal) else None


@pytest.mark.parametrize("algorithm", [8, 10, 13, 14, 15, 16])
def test_every_supported_algorithm_verifies_and_refuses_one_wrong_bit(algorithm: int) -> None:
    plan = KeyPlan(algorithm)
    good = sign(rrset_of(), plan)
    assert isinstance(check(rrset_of(), good, plans=(plan,)), Verified)
    for place in (0, len(good.signature) // 2, len(good.signature) - 1):
        octets = bytearray(good.signature)
        octets[place] ^= 1
        bad = good.replace(signature=bytes(octets))
        assert rule_of(check(rrset_of(), bad, plans=(plan,))) is Rule.WRONG
    assert rule_of(check(rrset_of(), good.replace(signature=b""), plans=(plan,))) is Rule.WRONG
    assert rule_of(check(rrset_of("mx.example.", "A", "192.0.2.9"), good, plans=(plan,))) is Rule.WRONG


@pytest.mark.parametrize("algorithm", [5, 7])
def test_sha1_counts_only_by_policy(algorithm: int) -> None:
    plan = KeyPlan(algorithm)
    signature = sign(rrset_of(), plan)
    assert rule_of(check(rrset_of(), signature, plans=(plan,))) is Rule.ALGORITHM
    assert isinstance(check(rrset_of(), signature, plans=(plan,), policy=Policy(sha1=True)), Verified)


@pytest.mark.parametrize(
    ("claims", "rule"),
    [
        ({"signer": dns.name.from_text("test.")}, Rule.SIGNER),
        ({"signer": dns.name.root}, Rule.SIGNER),
        ({"signer": dns.name.from_text("mx.example.")}, Rule.SIGNER),
        ({"covered": dns.rdatatype.AAAA}, Rule.TYPE_COVERED),
        ({"labels": 3}, Rule.LABELS),
        ({"labels": 0}, Rule.LABELS),
        ({"algorithm": 200}, Rule.ALGORITHM),
        ({"algorithm": 14}, Rule.NO_KEY),
        ({"key_tag": 1}, Rule.NO_KEY),
        ({"inception": NOW + 1}, Rule.NOT_YET_VALID),
        ({"expiration": NOW - 1}, Rule.EXPIRED),
        ({"inception": NOW + DAY, "expiration": NOW - DAY}, Rule.NOT_YET_VALID),
    ],
)
def test_each_claim_is_checked(claims: dict[str, object], rule: Rule) -> None:
    assert rule_of(check(rrset_of(), sign(rrset_of(), **claims))) is rule


def test_no_signature_at_all() -> None:
    assert rule_of(check(rrset_of())) is Rule.SIGNATURE_MISSING


def test_the_first_and_the_last_second_are_valid() -> None:
    signature = sign(rrset_of(), inception=NOW, expiration=NOW)
    assert isinstance(check(rrset_of(), signature), Verified)


@pytest.mark.parametrize(
    ("plan", "rule"),
    [
        (KeyPlan(flags=SEP), Rule.KEY_NOT_ZONE),
        (KeyPlan(flags=ZONE | REVOKE), Rule.KEY_REVOKED),
        (KeyPlan(protocol=4), Rule.KEY_PROTOCOL),
    ],
)
def test_keys_that_must_not_sign(plan: KeyPlan, rule: Rule) -> None:
    assert rule_of(check(rrset_of(), sign(rrset_of(), plan), plans=(plan,))) is rule


def test_the_owner_outside_the_zone_is_refused() -> None:
    assert rule_of(check(rrset_of("mx.other."), sign(rrset_of("mx.other.")))) is Rule.SIGNER


def test_one_valid_signature_beside_bad_ones_suffices() -> None:
    good = sign(rrset_of())
    others = (
        sign(rrset_of(), expiration=NOW - 1),
        good.replace(signature=b"x" * 64),
        sign(rrset_of(), key_tag=1),
    )
    assert isinstance(check(rrset_of(), *others, good), Verified)


def test_the_rule_that_came_furthest_is_reported() -> None:
    wrong = sign(rrset_of()).replace(signature=b"x" * 64)
    assert rule_of(check(rrset_of(), wrong, sign(rrset_of(), key_tag=1))) is Rule.WRONG
    assert rule_of(check(rrset_of(), sign(rrset_of(), key_tag=1), sign(rrset_of(), labels=9))) is Rule.NO_KEY


def test_canonical_form_ignores_case_and_order() -> None:
    signed = rrset_of("MX.Example.", "MX", "10 HOST.Example.", "5 other.example.")
    received = rrset_of("mx.exaMPLE.", "MX", "5 OTHER.example.", "10 host.example.")
    assert isinstance(check(received, sign(signed)), Verified)


def test_nsec_next_name_keeps_its_case() -> None:
    signature = sign(rrset_of("a.example.", "NSEC", "B.example. A RRSIG NSEC"))
    assert isinstance(check(rrset_of("a.example.", "NSEC", "B.example. A RRSIG NSEC"), signature), Verified)
    assert rule_of(check(rrset_of("a.example.", "NSEC", "b.example. A RRSIG NSEC"), signature)) is Rule.WRONG


def test_ttl_is_capped_by_rrset_original_ttl_and_expiration() -> None:
    def ttl(rrset: dns.rrset.RRset, **claims: object) -> int:
        result = check(rrset, sign(rrset, **claims))
        assert isinstance(result, Verified)
        return result.ttl

    assert ttl(rrset_of(ttl=100)) == 100
    assert ttl(rrset_of(ttl=9000), original_ttl=700) == 700
    assert ttl(rrset_of(), expiration=NOW + 20) == 20


def test_wildcard_expansion_names_the_encloser() -> None:
    result = check(rrset_of("a.b.example."), sign(rrset_of("a.b.example."), labels=1))
    assert isinstance(result, Verified)
    assert result.encloser == ZONE_NAME


def test_the_wildcard_itself_is_no_expansion() -> None:
    result = check(rrset_of("*.example."), sign(rrset_of("*.example.")))
    assert isinstance(result, Verified)
    assert result.encloser is None


@pytest.mark.parametrize(
    ("rdtype", "text"),
    [
        ("DNAME", "other.test."),
        ("NSEC", "z.example. A RRSIG NSEC"),
        ("NSEC3", "1 0 0 - 0p9mhaveqvm6t7vbl5lop2u3t2rp3tom A"),
        ("DS", "1 13 2 " + "ab" * 32),
        ("NS", "ns.example."),
    ],
)
def test_a_wildcard_never_stands_for_structure(rdtype: str, text: str) -> None:
    rrset = rrset_of("a.b.example.", rdtype, text)
    assert rule_of(check(rrset, sign(rrset, labels=2 - 1))) is Rule.EXPANDED


def test_a_revoked_or_malformed_key_of_the_same_tag_does_not_hide_the_good_one() -> None:
    good = keys.make(ZONE_NAME, PLAN)
    others = tuple(zone_key(disguised(good, turn).to_wire()) for turn in range(1, 3))
    result = verify_rrset(
        record_set(rrset_of()), [signature_of(sign(rrset_of()))], ZONE_NAME, (*others, zone_key(good.dnskey.to_wire())), now=NOW, policy=Policy(), budget=Budget()
    )  # fmt: skip
    assert isinstance(result, Verified)


def test_keys_of_one_tag_are_tried_only_up_to_the_limit() -> None:
    good = keys.make(ZONE_NAME, PLAN)
    others = tuple(zone_key(disguised(good, turn).to_wire()) for turn in range(1, 20))
    budget = Budget()
    result = verify_rrset(
        record_set(rrset_of()), [signature_of(sign(rrset_of()))], ZONE_NAME, (*others, zone_key(good.dnskey.to_wire())), now=NOW, policy=Policy(), budget=budget
    )  # fmt: skip
    assert rule_of(result) in (Rule.TOO_MANY_KEYS, Rule.WRONG)
    assert budget.signatures <= Limits().keys_per_tag


def test_failures_of_one_rrset_and_of_a_lookup_are_bounded() -> None:
    bad = [sign(rrset_of()).replace(signature=bytes([n]) * 64) for n in range(1, 16)]
    assert rule_of(check(rrset_of(), *bad)) is Rule.TOO_MANY_FAILURES
    spent = Budget(Limits(failures=3))
    with pytest.raises(Exhausted) as caught:
        check(rrset_of(), *bad, budget=spent)
    assert caught.value.rule is Rule.TOO_MANY_FAILURES


def test_signatures_looked_at_are_bounded() -> None:
    many = [sign(rrset_of(), key_tag=n) for n in range(20)]
    assert rule_of(check(rrset_of(), *many)) is Rule.TOO_MANY_SIGNATURES


def test_all_verifications_of_a_lookup_are_bounded() -> None:
    budget = Budget(Limits(signatures=1))
    assert isinstance(check(rrset_of(), sign(rrset_of()), budget=budget), Verified)
    with pytest.raises(Exhausted):
        check(rrset_of(), sign(rrset_of()), budget=budget)


@pytest.mark.parametrize(
    ("a", "b", "before"),
    [(1, 2, True), (2, 1, False), (5, 5, False), (0xFFFFFFFF, 0, True), (0, 0xFFFFFFFF, False)],
)
def test_serial_arithmetic_wraps(a: int, b: int, before: bool) -> None:
    assert serial_before(a, b) is before


def test_times_beyond_2106_are_serials() -> None:
    late = 2**32 + 1000
    signature = sign(rrset_of(), inception=2**32 - 100, expiration=2000)
    assert isinstance(check(rrset_of(), signature, now=late), Verified)


@pytest.mark.parametrize(
    ("algorithm", "octets"),
    [
        (8, b""),
        (8, b"\x00"),
        (8, b"\x03\x01\x00\x01"),
        (8, b"\x00\xff\xff"),
        (8, b"\xff" + b"\xff" * 500),
        (8, b"\x03\x01\x00\x01" + b"\xff" * 1000),
        (13, b"\x00" * 64),
        (13, b"\x01" * 63),
        (14, b"\xff" * 96),
        (15, b"\x01" * 31),
        (16, b"\x01" * 56),
        (99, b"\x01" * 64),
    ],
)
def test_malformed_public_keys_are_none(algorithm: int, octets: bytes) -> None:
    assert load(algorithm, octets) is None
