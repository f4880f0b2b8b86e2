"""What whole lookups cost: round trips and queries, cold and warm, and the bounds on hostile work."""

from __future__ import annotations

import time

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from deliver.dnssec.budget import Limits
from deliver.dnssec.keys import InsecureZone, KeyCache, SecureZone
from deliver.dnssec.rule import Rule
from deliver.dnssec.verdict import Reply
from tests.unit.dnssec.lab import BOGUS, GOOD, INDETERMINATE, INSECURE, MAIL, NOW, SECURE, ask, lab, said
from tests.zoo.denial import Nsec3
from tests.zoo.keys import P256, KeyPlan, colliding
from tests.zoo.sabotage import stripped, with_keys_like
from tests.zoo.signer import ZonePlan


def test_cold_lookup_takes_one_round_trip() -> None:
    here = lab(GOOD)
    judged = here.judge("good.test. MX")
    assert judged.security is SECURE
    assert judged.records is not None
    assert [len(asks) for asks in here.rounds] == [6]


def test_mail_domain_cold_takes_four_round_trips_at_most_and_warm_one_query_each() -> None:
    here = lab(GOOD, ZonePlan("hosts.test.", ("mx A 192.0.2.1", f"_25._tcp.mx TLSA 3 1 1 {'ab' * 32}")))
    cache = KeyCache()
    rounds = 0
    for question in ("good.test. MX", "mx.hosts.test. A", "_25._tcp.mx.hosts.test. TLSA"):
        assert here.judge(question, cache).security is SECURE
        rounds += len(here.rounds)
    assert rounds == 3
    for question in ("good.test. MX", "mx.hosts.test. A", "_25._tcp.mx.hosts.test. TLSA", "no.hosts.test. A"):
        assert here.judge(question, cache).security is SECURE
        assert here.rounds == [(ask(question),)]


def test_insecure_domain_warm_takes_one_query() -> None:
    here, cache = lab(ZonePlan("plain.test.", MAIL, keys=())), KeyCache()
    assert said(here.judge("plain.test. MX", cache)) == (INSECURE, Rule.DELEGATION_INSECURE)
    assert len(here.rounds) == 1
    assert said(here.judge("mx.plain.test. A", cache)) == (INSECURE, Rule.DELEGATION_INSECURE)
    assert here.rounds == [(ask("mx.plain.test. A"),)]


def test_deep_zone_that_was_not_guessed_is_found_by_its_signer() -> None:
    here = lab(ZonePlan("a.b.c.d.test.", MAIL))
    judged = here.judge("mx.a.b.c.d.test. A")
    assert judged.security is SECURE
    assert len(here.rounds) <= 2


def test_the_tail_of_an_alias_chain_is_not_asked_again() -> None:
    here = lab(ZonePlan("good.test.", ("one CNAME two", "two CNAME mx", "mx A 192.0.2.1", "gone CNAME none")))
    for question in ("one.good.test. A", "gone.good.test. A", "one.good.test. AAAA"):
        assert here.judge(question).security is SECURE
        assert not any(asked.name != ask(question).name and asked.rdtype == dns.rdatatype.A for asks in here.rounds for asked in asks)  # fmt: skip


def test_an_alias_without_its_tail_is_asked_for() -> None:
    def cut(message: dns.message.Message) -> Reply:
        message.answer = [r for r in message.answer if r.name == dns.name.from_text("one.good.test.")]
        return message

    here = lab(ZonePlan("good.test.", ("one CNAME mx", "mx A 192.0.2.1")), altered={"one.good.test. A": cut})
    judged = here.judge("one.good.test. A")
    assert judged.security is SECURE
    assert judged.records is not None
    assert here.rounds[-1] == (ask("mx.good.test. A"),)


def test_cached_keys_expire_with_their_records() -> None:
    here, cache = lab(GOOD), KeyCache()
    here.judge("good.test. MX", cache)
    here.judge("good.test. MX", cache, now=NOW + 299)
    assert len(here.rounds[0]) == 1
    here.judge("good.test. MX", cache, now=NOW + 301)
    assert len(here.rounds[0]) > 1


def test_keytrap_costs_a_bounded_time() -> None:
    """Keys of one tag times signatures of that tag (CVE-2023-50387)."""
    plan = KeyPlan(P256)
    here = lab(ZonePlan("trap.test.", MAIL, (plan,), sabotage=(with_keys_like(plan, 40),)))
    many = Limits(keys_per_zone=100)
    begun = time.perf_counter()
    judged = here.judge("trap.test. MX", limits=many)
    assert judged.security is not INSECURE
    assert time.perf_counter() - begun < 1

    numbers = colliding("twin.test.")
    twins = tuple(KeyPlan(number=number) for number in numbers)
    assert lab(ZonePlan("twin.test.", MAIL, twins)).judge("twin.test. MX").security is SECURE


def test_long_names_do_not_cost_hashes_without_end() -> None:
    """CVE-2023-50868."""
    here = lab(ZonePlan("good.test.", MAIL, denial=Nsec3(iterations=100)))
    deep = ".".join("x" for _ in range(110)) + ".good.test. A"
    judged = here.judge(deep, limits=Limits(hashes=20))
    assert said(judged) == (BOGUS, Rule.TOO_MANY_HASHES)
    assert here.judge("x.x.x.x.x.x.good.test. A").security is SECURE


def test_queries_and_zones_are_bounded() -> None:
    here = lab(GOOD)
    assert said(here.judge("good.test. MX", limits=Limits(queries=3))) == (
        INDETERMINATE,
        Rule.TOO_MANY_QUERIES,
    )
    assert said(here.judge("good.test. MX", limits=Limits(zones=2))) == (INDETERMINATE, Rule.TOO_MANY_ZONES)


def test_a_signer_name_of_many_labels_is_followed_only_so_far() -> None:
    def deep(message: dns.message.Message) -> Reply:
        rrsig = message.answer[1][0].replace(signer=name)
        message.answer[1] = dns.rrset.from_rdata(name, 300, rrsig)
        message.answer[0] = dns.rrset.from_text(name, 300, "IN", "A", "192.0.2.6")
        message.authority = []
        return message

    text = ".".join("x" for _ in range(100)) + ".good.test."
    name = dns.name.from_text(text)
    here = lab(ZonePlan("good.test.", ("*.good.test. A 192.0.2.1",)), altered={f"{text} A": deep})
    judged = here.judge(f"{text} A")
    assert judged.security in (BOGUS, INDETERMINATE)
    assert sum(len(asks) for asks in here.rounds) <= Limits().queries


def test_states_of_the_cache() -> None:
    here, cache = lab(GOOD, ZonePlan("plain.test.", MAIL, keys=())), KeyCache()
    here.judge("good.test. MX", cache)
    here.judge("plain.test. MX", cache)
    assert isinstance(cache.get(dns.name.from_text("good.test."), NOW), SecureZone)
    assert isinstance(cache.get(dns.name.from_text("plain.test."), NOW), InsecureZone)


def test_a_bogus_zone_is_not_cached() -> None:
    here, cache = lab(ZonePlan("bad.test.", MAIL, sabotage=(stripped(),))), KeyCache()
    assert here.judge("bad.test. MX", cache).security is BOGUS
    assert cache.get(dns.name.from_text("bad.test."), NOW) is None


def test_denial_records_of_one_answer_are_bounded() -> None:
    def many(message: dns.message.Message) -> Reply:
        nsec = next(rrset for rrset in message.authority if rrset.rdtype == dns.rdatatype.NSEC)
        rrsig = next(r for r in message.authority if r.covers == dns.rdatatype.NSEC)
        for n in range(20):
            name = dns.name.from_text(f"n{n}.good.test.")
            message.authority += [dns.rrset.from_rdata_list(name, 60, list(made)) for made in (nsec, rrsig)]
        return message

    here = lab(ZonePlan("good.test.", (*MAIL, "*.w A 192.0.2.3")))
    for question in ("none.good.test. A", "x.w.good.test. A"):
        here.altered[ask(question)] = many
        assert said(here.judge(question)) == (INDETERMINATE, Rule.TOO_MANY_RECORDS)
