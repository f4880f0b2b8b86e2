"""Whole lookups: chains of zones, aliases, absences, anchors, bounds and the queries they cost (RFC 4035 5)."""

from __future__ import annotations

import time
from functools import partial

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from deliver.dnssec.algorithm import Policy
from deliver.dnssec.anchors import NegativeAnchor, TrustAnchors, parse
from deliver.dnssec.budget import Limits
from deliver.dnssec.evidence import Part, Security
from deliver.dnssec.keys import InsecureZone, KeyCache, SecureZone
from deliver.dnssec.rule import Rule
from deliver.dnssec.verdict import Absence, AliasKind, Failure, Judged, Reply
from tests.unit.dnssec.lab import NOW, Lab, ask, fails, lab
from tests.zoo.denial import Nsec3
from tests.zoo.keys import ED25519, P256, KeyPlan, colliding, split
from tests.zoo.sabotage import (
    corrupted,
    lying_nsec,
    on_nsec3,
    removed,
    resigned,
    stripped,
    unsigned,
    with_keys_like,
)
from tests.zoo.signer import DsPlan, Terms, ZonePlan, ds_records

SECURE, INSECURE = Security.SECURE, Security.INSECURE
BOGUS, INDETERMINATE = Security.BOGUS, Security.INDETERMINATE
MAIL = ("@ MX 10 mx", "mx A 192.0.2.1", "mx AAAA 2001:db8::1", f"_25._tcp.mx TLSA 3 1 1 {'ab' * 32}")
GOOD = ZonePlan("good.test.", MAIL)
DAY = 86400


def said(judged: Judged) -> tuple[Security, Rule | None]:
    return judged.security, judged.refusal.rule if judged.refusal is not None else None


# Costs


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


# Time


@pytest.mark.parametrize(("shift", "rule"), [(60 * DAY, Rule.EXPIRED), (-60 * DAY, Rule.NOT_YET_VALID)])
def test_a_wrong_clock_makes_everything_bogus(shift: int, rule: Rule) -> None:
    judged = lab(GOOD).judge("good.test. MX", now=NOW + shift)
    assert said(judged) == (BOGUS, rule)
    assert judged.evidence[-1].part is Part.ANCHOR


def test_ttl_is_capped_by_the_expiration_of_the_signature() -> None:
    here = lab(ZonePlan("good.test.", MAIL, sabotage=(resigned("@", "MX", Terms(expiration=40)),)))
    assert here.judge("good.test. MX").ttl == 40


def test_ttl_of_a_denial_is_that_of_the_soa_minimum() -> None:
    assert lab(GOOD).judge("none.good.test. A").ttl == 60


# Anchors


def test_without_an_anchor_everything_is_insecure() -> None:
    assert said(lab(GOOD).judge("good.test. MX", anchors=TrustAnchors())) == (INSECURE, Rule.NO_ANCHOR)


def test_an_anchor_that_matches_no_key_is_bogus() -> None:
    other = parse(". DS 1 13 2 " + "ab" * 32)
    assert said(lab(GOOD).judge("good.test. MX", anchors=other)) == (BOGUS, Rule.ANCHOR_MISMATCH)


def test_an_anchor_of_unknown_algorithm_makes_insecure() -> None:
    other = parse(". DS 1 200 2 " + "ab" * 32)
    assert said(lab(GOOD).judge("good.test. MX", anchors=other)) == (INSECURE, Rule.UNSUPPORTED)


def test_a_private_island_has_its_own_anchor() -> None:
    island = ZonePlan("island.test.", MAIL, ds=())
    here = lab(ZonePlan("test.", keys=()), island)
    assert said(here.judge("island.test. MX")) == (INSECURE, Rule.DELEGATION_INSECURE)
    (ds,) = ds_records(ZonePlan("island.test.", MAIL))
    anchors = parse(f"island.test. DS {ds.to_text()}")
    both = TrustAnchors({**here.anchors.anchors, **anchors.anchors})
    assert here.judge("island.test. MX", anchors=both).security is SECURE
    assert here.judge("test. MX", anchors=both).security is INSECURE


def test_a_zone_above_a_nested_anchor_cannot_sign_for_it() -> None:
    lying = ZonePlan("test.", sabotage=())
    island = ZonePlan(
        "island.test.",
        MAIL,
        sabotage=(resigned("mx", "A", Terms(signer="test."), by=KeyPlan(), origin="test."),),
    )
    here = lab(lying, island)
    (ds,) = ds_records(island)
    anchors = parse(f"island.test. DS {ds.to_text()}")
    both = TrustAnchors({**here.anchors.anchors, **anchors.anchors})
    assert said(here.judge("mx.island.test. A", anchors=both)) == (BOGUS, Rule.SIGNER)


def test_a_key_as_anchor() -> None:
    here = lab(GOOD)
    reply = here.reply(ask(". DNSKEY"))
    assert not isinstance(reply, Failure)
    key = reply.answer[0][0].to_text()
    assert here.judge("good.test. MX", anchors=parse(f". DNSKEY {key}")).security is SECURE


def test_a_negative_anchor_suspends_until_its_end() -> None:
    here = lab(ZonePlan("broken.test.", MAIL, ds=(DsPlan(broken=True),)))
    anchors = here.anchors.but_not([NegativeAnchor(dns.name.from_text("broken.test."), "their DS", NOW + 10)])
    cache = KeyCache()
    assert said(here.judge("broken.test. MX", cache, anchors=anchors)) == (INSECURE, Rule.NEGATIVE_ANCHOR)
    assert said(here.judge("broken.test. MX", cache, anchors=anchors, now=NOW + 10)) == (
        BOGUS,
        Rule.DS_MISMATCH,
    )


# Failures are no absences


@pytest.mark.parametrize(
    "question", ["good.test. MX", "good.test. DS", "good.test. DNSKEY", "test. DS", ". DNSKEY"]
)
def test_any_reply_that_fails_leaves_the_question_open(question: str) -> None:
    judged = lab(GOOD, altered={question: fails}).judge("good.test. MX")
    assert said(judged) == (INDETERMINATE, Rule.NO_REPLY)
    assert judged.records is None


@pytest.mark.parametrize("question", ["sub.good.test. DS", "sub.good.test. DNSKEY"])
def test_a_wrong_guess_that_fails_does_no_harm(question: str) -> None:
    here = lab(ZonePlan("good.test.", ("sub MX 10 mx", "mx A 192.0.2.1")), altered={question: fails})
    assert here.judge("sub.good.test. MX").security is SECURE
    assert any(ask(question) in asks for asks in here.rounds)


def test_without_ds_reply_an_unsigned_answer_is_not_insecure() -> None:
    here = lab(ZonePlan("plain.test.", MAIL, keys=()), altered={"plain.test. DS": fails})
    assert said(here.judge("plain.test. MX")) == (INDETERMINATE, Rule.NO_REPLY)


def _stripped(message: dns.message.Message) -> Reply:
    """As by a resolver that knows no DNSSEC."""
    hidden = (dns.rdatatype.RRSIG, dns.rdatatype.NSEC, dns.rdatatype.NSEC3)
    message.answer = [rrset for rrset in message.answer if rrset.rdtype not in hidden]
    message.authority = [rrset for rrset in message.authority if rrset.rdtype not in hidden]
    return message


@pytest.mark.parametrize(
    "question", ["good.test. MX", "mx.good.test. A", "none.good.test. A", "good.test. TXT"]
)
def test_stripped_signatures_are_bogus_not_insecure(question: str) -> None:
    judged = lab(GOOD, altered={question: _stripped}).judge(question)
    assert judged.security is BOGUS
    assert judged.refusal is not None
    assert judged.refusal.rule in (Rule.SIGNATURE_MISSING, Rule.DENIAL_MISSING)


@pytest.mark.parametrize("question", ["good.test. DS", "good.test. DNSKEY", "test. DS", ". DNSKEY"])
def test_a_stripped_chain_is_bogus(question: str) -> None:
    assert lab(GOOD, altered={question: _stripped}).judge("good.test. MX").security is BOGUS


def test_an_emptied_reply_is_bogus() -> None:
    def empty(message: dns.message.Message) -> Reply:
        message.answer, message.authority = [], []
        return message

    assert said(lab(GOOD, altered={"good.test. MX": empty}).judge("good.test. MX")) == (
        BOGUS,
        Rule.DENIAL_MISSING,
    )


def test_signatures_of_an_unsigned_zone_do_not_make_it_bogus() -> None:
    """Junk RRSIGs by the parent or by nobody, in a zone that is proved to be insecure."""
    for signer in ("test.", "plain.test.", "x.plain.test.", "."):
        record = f"MX 13 2 300 20500101000000 20200101000000 1 {signer} {'A' * 86}=="

        def add(message: dns.message.Message, record: str = record) -> Reply:
            message.answer.append(dns.rrset.from_text("plain.test.", 300, "IN", "RRSIG", record))
            return message

        here = lab(ZonePlan("plain.test.", MAIL, keys=()), altered={"plain.test. MX": add})
        assert here.judge("plain.test. MX").security is INSECURE, signer


# Delegations


def test_denial_of_ds_by_the_child_is_not_believed() -> None:
    here = lab(GOOD)
    child = here.reply(ask("none.good.test. A"))
    assert not isinstance(child, Failure)

    def from_child(message: dns.message.Message) -> Reply:
        message.answer = []
        message.authority = [r for r in child.authority if r.name == dns.name.from_text("good.test.")]
        return message

    here.altered[ask("good.test. DS")] = from_child
    here.altered[ask("good.test. MX")] = _stripped
    assert said(here.judge("good.test. MX")) == (BOGUS, Rule.DENIAL_CHILD_SIDE)


def test_parent_side_nsec_denies_nothing_in_the_child() -> None:
    here = lab(GOOD, ZonePlan("plain.test.", MAIL, keys=()))
    parent = here.reply(ask("plain.test. DS"))
    assert not isinstance(parent, Failure)
    for name in ("good.test. MX", "mx.good.test. A"):
        signed = here.reply(ask("hood.test. A"))  # shows the NSEC of good.test. in test.
        assert not isinstance(signed, Failure)

        def denied(message: dns.message.Message, signed: dns.message.Message = signed) -> Reply:
            message.answer, message.authority = [], list(signed.authority)
            message.set_rcode(dns.rcode.NOERROR)
            return message

        judged = lab(GOOD, ZonePlan("plain.test.", MAIL, keys=()), altered={name: denied}).judge(name)
        assert judged.security is BOGUS


def test_unsupported_ds_makes_insecure_only_if_none_is_supported() -> None:
    exotic = lab(ZonePlan("exotic.test.", MAIL, (KeyPlan(200),)))
    assert said(exotic.judge("exotic.test. MX")) == (INSECURE, Rule.UNSUPPORTED)
    digest = lab(ZonePlan("exotic.test.", MAIL, ds=(DsPlan(99),)))
    assert said(digest.judge("exotic.test. MX")) == (INSECURE, Rule.UNSUPPORTED)
    both = lab(ZonePlan("both.test.", MAIL, (KeyPlan(200), KeyPlan(ED25519))))
    assert both.judge("both.test. MX").security is SECURE


def test_sha1_zones_by_policy() -> None:
    here = lab(ZonePlan("old.test.", MAIL, split(5)))
    assert said(here.judge("old.test. MX")) == (INSECURE, Rule.UNSUPPORTED)
    assert here.judge("old.test. MX", policy=Policy(sha1=True)).security is SECURE


def test_a_signature_by_the_parent_is_refused_where_the_cut_is_known() -> None:
    spoil = resigned("mx", "A", Terms(signer="test."), by=KeyPlan(), origin="test.")
    here, cache = lab(ZonePlan("good.test.", MAIL, sabotage=(spoil,))), KeyCache()
    assert said(here.judge("mx.good.test. A", cache)) == (BOGUS, Rule.SIGNER)
    assert said(here.judge("mx.good.test. A", cache)) == (BOGUS, Rule.SIGNER)


# Denials


def _without(owner: dns.name.Name, message: dns.message.Message) -> Reply:
    message.authority = [rrset for rrset in message.authority if rrset.name != owner]
    return message


def test_kinds_of_absence() -> None:
    for denial in ({}, {"denial": Nsec3()}, {"denial": Nsec3(iterations=5, salt="abcd")}):
        here = lab(ZonePlan("good.test.", (*MAIL, "*.w A 192.0.2.3"), **denial))
        absent = {
            "good.test. TXT": Absence.NODATA,
            "_tcp.mx.good.test. TLSA": Absence.NODATA,
            "x.w.good.test. TXT": Absence.NODATA,
            "none.good.test. A": Absence.NXDOMAIN,
            "x.y.mx.good.test. A": Absence.NXDOMAIN,
        }
        for question, absence in absent.items():
            judged = here.judge(question)
            assert (judged.security, judged.absence, judged.records) == (SECURE, absence, None), question
        assert here.judge("x.w.good.test. A").security is SECURE


def _with_rcode(rcode: dns.rcode.Rcode):
    def alter(message: dns.message.Message) -> Reply:
        message.set_rcode(rcode)
        return message

    return alter


@pytest.mark.parametrize("denial", [{}, {"denial": Nsec3()}])
def test_the_response_code_is_not_believed(denial: dict[str, Nsec3]) -> None:
    plan = ZonePlan("good.test.", MAIL, **denial)
    here = lab(plan, altered={"good.test. TXT": _with_rcode(dns.rcode.NXDOMAIN)})
    judged = here.judge("good.test. TXT")
    assert (judged.security, judged.absence) == (SECURE, Absence.NODATA)
    here = lab(plan, altered={"none.good.test. A": _with_rcode(dns.rcode.NOERROR)})
    assert said(here.judge("none.good.test. A")) == (BOGUS, Rule.DENIAL_RCODE)


def test_iterations_excuse_only_after_the_signature_verified() -> None:
    many = Nsec3(iterations=101)
    here = lab(ZonePlan("good.test.", MAIL, denial=many))
    for question, absence in (("none.good.test. A", Absence.NXDOMAIN), ("good.test. TXT", Absence.NODATA)):
        judged = here.judge(question)
        assert (said(judged), judged.absence) == ((INSECURE, Rule.ITERATIONS), absence)
    assert here.judge("good.test. MX").security is SECURE
    here = lab(ZonePlan("good.test.", MAIL, denial=many, sabotage=(on_nsec3("@", corrupted),)))
    assert said(here.judge("good.test. TXT")) == (BOGUS, Rule.WRONG)


def test_too_many_iterations_in_one_answer_do_not_weaken_later_ones() -> None:
    here = lab(ZonePlan("good.test.", ("sub MX 10 mx", "mx A 192.0.2.1"), denial=Nsec3(iterations=101)))
    cache = KeyCache()
    here.altered[ask("mx.good.test. A")] = _stripped
    assert here.judge("mx.good.test. A", cache).security is INSECURE
    here.altered.clear()
    assert here.judge("mx.good.test. A", cache).security is SECURE
    assert here.judge("sub.good.test. MX", cache).security is SECURE


def test_opt_out_is_insecure_and_never_corrects_an_nxdomain() -> None:
    opt_out = ZonePlan("good.test.", MAIL, denial=Nsec3(opt_out=True))
    here = lab(opt_out)
    assert said(here.judge("none.good.test. A")) == (INSECURE, Rule.OPT_OUT)

    reply = here.reply(ask("none.good.test. A"))
    assert not isinstance(reply, Failure)
    nsec3 = [rrset.name for rrset in reply.authority if rrset.rdtype == dns.rdatatype.NSEC3]
    verdicts = set()
    for owner in nsec3:
        here.altered[ask("none.good.test. A")] = partial(_without, owner)
        verdicts.add(here.judge("none.good.test. A").security)
    assert verdicts == {BOGUS}


def test_a_wildcard_answer_needs_the_absence_of_the_name() -> None:
    for denial in ({}, {"denial": Nsec3()}):
        here = lab(ZonePlan("good.test.", ("*.w A 192.0.2.3",), **denial))

        def unproved(message: dns.message.Message) -> Reply:
            message.authority = []
            return message

        here.altered[ask("x.w.good.test. A")] = unproved
        assert said(here.judge("x.w.good.test. A")) == (BOGUS, Rule.WILDCARD_UNPROVEN)


def test_a_wildcard_answer_replayed_for_an_existing_name_is_bogus() -> None:
    here = lab(ZonePlan("good.test.", ("*.w A 192.0.2.3", "there.w A 192.0.2.4")))
    expanded = here.reply(ask("x.w.good.test. A"))
    assert not isinstance(expanded, Failure)

    def replay(message: dns.message.Message) -> Reply:
        there = dns.name.from_text("there.w.good.test.")
        message.answer = [dns.rrset.from_rdata_list(there, r.ttl, list(r)) for r in expanded.answer]
        message.authority = list(expanded.authority)
        return message

    here.altered[ask("there.w.good.test. A")] = replay
    assert said(here.judge("there.w.good.test. A")) == (BOGUS, Rule.WILDCARD_UNPROVEN)


# Aliases


def test_each_alias_has_its_own_security() -> None:
    here = lab(
        ZonePlan("good.test.", ("www CNAME host.plain.test.",)),
        ZonePlan("plain.test.", ("host A 192.0.2.1", "back CNAME mx.other.test."), keys=()),
        ZonePlan("other.test.", ("mx A 192.0.2.2",)),
    )
    out = here.judge("www.good.test. A")
    assert said(out) == (INSECURE, Rule.DELEGATION_INSECURE)
    assert [(str(alias.target), alias.security) for alias in out.aliases] == [("host.plain.test.", SECURE)]
    back = here.judge("back.plain.test. A")
    assert back.security is INSECURE
    assert [alias.security for alias in back.aliases] == [INSECURE]
    assert here.judge("www.good.test. CNAME").security is SECURE


def test_a_bogus_end_makes_an_insecure_alias_bogus() -> None:
    here = lab(
        ZonePlan("plain.test.", ("back CNAME mx.bad.test.",), keys=()),
        ZonePlan("bad.test.", ("mx A 192.0.2.2",), sabotage=(corrupted("mx", "A"),)),
    )
    judged = here.judge("back.plain.test. A")
    assert said(judged) == (BOGUS, Rule.WRONG)
    assert judged.aliases == ()


DNAME = ZonePlan("good.test.", ("away DNAME other.test.",))
OTHER = ZonePlan("other.test.", ("mx A 192.0.2.2",))


def test_dname_is_judged_in_place_of_the_cname_it_makes() -> None:
    here = lab(DNAME, OTHER)
    judged = here.judge("mx.away.good.test. A")
    assert judged.security is SECURE
    assert [(alias.kind, str(alias.target)) for alias in judged.aliases] == [
        (AliasKind.DNAME, "mx.other.test.")
    ]
    cname = here.judge("mx.away.good.test. CNAME")
    assert cname.security is SECURE
    assert cname.records is not None
    assert str(cname.records[0].target) == "mx.other.test."


@pytest.mark.parametrize("question", ["mx.away.good.test. A", "mx.away.good.test. CNAME"])
def test_a_cname_that_does_not_follow_from_the_dname_is_bogus(question: str) -> None:
    def forge(message: dns.message.Message) -> Reply:
        message.answer = [rrset for rrset in message.answer if rrset.rdtype != dns.rdatatype.CNAME]
        message.answer.append(dns.rrset.from_text("mx.away.good.test.", 300, "IN", "CNAME", "evil.test."))
        return message

    assert said(lab(DNAME, OTHER, altered={question: forge}).judge(question)) == (BOGUS, Rule.DNAME_SYNTHESIS)


def test_a_dname_expanded_from_a_wildcard_is_refused() -> None:
    def forge(message: dns.message.Message) -> Reply:
        made = ((dns.name.from_text("x.good.test."), rrset) for rrset in wild.answer)
        message.answer = [dns.rrset.from_rdata_list(name, rrset.ttl, list(rrset)) for name, rrset in made]
        return message

    here = lab(ZonePlan("good.test.", ("*.good.test. DNAME other.test.",)), OTHER)
    found = here.reply(ask("*.good.test. DNAME"))
    assert not isinstance(found, Failure)
    wild = found
    here.altered[ask("mx.x.good.test. A")] = forge
    assert said(here.judge("mx.x.good.test. A")) == (BOGUS, Rule.EXPANDED)


def test_an_unsigned_cname_in_a_signed_zone_is_bogus() -> None:
    def forge(message: dns.message.Message) -> Reply:
        message.set_rcode(dns.rcode.NOERROR)
        message.authority = []
        message.answer = [dns.rrset.from_text("mx.good.test.", 300, "IN", "CNAME", "evil.test.")]
        return message

    here = lab(GOOD, altered={"mx.good.test. A": forge})
    assert said(here.judge("mx.good.test. A")) == (BOGUS, Rule.SIGNATURE_MISSING)


def test_loops_and_long_chains_end() -> None:
    def loop(message: dns.message.Message) -> Reply:
        message.set_rcode(dns.rcode.NOERROR)
        return message

    here = lab(ZonePlan("good.test.", ("a CNAME b", "b CNAME a")), altered={"a.good.test. A": loop})
    assert said(here.judge("a.good.test. A")) == (INDETERMINATE, Rule.ALIAS_LOOP)
    records = tuple(f"a{n} CNAME a{n + 1}" for n in range(30))
    here = lab(ZonePlan("good.test.", records), altered={f"a{n}.good.test. A": loop for n in range(30)})
    assert said(here.judge("a0.good.test. A")) == (INDETERMINATE, Rule.TOO_MANY_ALIASES)


# Bounds


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


# Evidence


def test_evidence_is_the_chain_from_the_anchor_to_the_answer_warm_as_cold() -> None:
    here, cache = lab(GOOD), KeyCache()
    cold, warm = here.judge("good.test. MX", cache), here.judge("good.test. MX", cache)
    assert [(step.part, step.owner) for step in cold.evidence] == [
        (Part.ANCHOR, "."),
        (Part.DS, "test."),
        (Part.DNSKEY, "test."),
        (Part.DS, "good.test."),
        (Part.DNSKEY, "good.test."),
        (Part.ANSWER, "good.test."),
    ]
    assert cold.evidence == warm.evidence
    assert all(step.marks for step in cold.evidence)


def test_evidence_of_a_failure_names_the_step() -> None:
    judged = lab(ZonePlan("bad.test.", MAIL, ds=(DsPlan(broken=True),))).judge("bad.test. MX")
    assert (judged.evidence[-1].part, judged.evidence[-1].owner) == (Part.DNSKEY, "bad.test.")
    judged = lab(ZonePlan("plain.test.", MAIL, keys=())).judge("plain.test. MX")
    assert [step.part for step in judged.evidence][-2:] == [Part.NO_DS, Part.ANSWER]


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


@pytest.mark.parametrize(
    ("spoil", "question", "rule"),
    [
        (unsigned("mx", "A"), "mx.good.test. A", Rule.SIGNATURE_MISSING),
        (corrupted("@", "SOA"), "good.test. TXT", Rule.WRONG),
        (removed("@", "NSEC"), "none.good.test. A", Rule.DENIAL_WILDCARD),
        (lying_nsec("mx", types="NS RRSIG NSEC"), "mx.good.test. TXT", Rule.DENIAL_PARENT_SIDE),
        (lying_nsec("mx", types="CNAME RRSIG NSEC"), "mx.good.test. TXT", Rule.DENIAL_CNAME_EXISTS),
    ],
)
def test_rules_by_name(spoil, question: str, rule: Rule) -> None:
    judged = lab(ZonePlan("good.test.", MAIL, sabotage=(spoil,))).judge(question)
    if rule is Rule.DENIAL_PARENT_SIDE:  # the record proves an insecure delegation, so the answer is insecure
        assert said(judged) == (INSECURE, Rule.DELEGATION_INSECURE)
    else:
        assert said(judged) == (BOGUS, rule)


def test_a_lab_is_honest() -> None:
    """The lab's replies have no AD bit and hold signatures: the validator has all to do itself."""
    here: Lab = lab(GOOD)
    reply = here.reply(ask("good.test. MX"))
    assert not isinstance(reply, Failure)
    assert not reply.flags & dns.flags.AD
    assert {rrset.rdtype for rrset in reply.answer} == {dns.rdatatype.MX, dns.rdatatype.RRSIG}


def test_evidence_of_a_failure_shows_the_chain_down_to_it() -> None:
    here = lab(ZonePlan("good.test.", MAIL, sabotage=(corrupted("mx", "A"),)))
    judged = here.judge("mx.good.test. A")
    assert [step.part for step in judged.evidence] == [
        Part.ANCHOR, Part.DS, Part.DNSKEY, Part.DS, Part.DNSKEY, Part.ANSWER,
    ]  # fmt: skip
    assert judged.evidence[-1].security is BOGUS


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


def test_the_wildcard_proof_of_an_alias_is_no_denial_of_its_target() -> None:
    def cut(message: dns.message.Message) -> Reply:
        alias = dns.name.from_text("x.w.good.test.")
        message.answer = [rrset for rrset in message.answer if rrset.name == alias]
        return message

    here = lab(ZonePlan("good.test.", (*MAIL, "*.w CNAME mx")), altered={"x.w.good.test. A": cut})
    judged = here.judge("x.w.good.test. A")
    assert judged.security is SECURE
    assert judged.records is not None
