"""Whole lookups: chains of zones from their anchors, and what breaks them (RFC 4035 5)."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from deliver.dnssec.algorithm import Policy
from deliver.dnssec.anchors import NegativeAnchor, TrustAnchors, parse
from deliver.dnssec.evidence import Part
from deliver.dnssec.keys import KeyCache
from deliver.dnssec.rule import Rule
from deliver.dnssec.verdict import Failure
from tests.unit.dnssec.lab import (
    BOGUS,
    GOOD,
    INDETERMINATE,
    INSECURE,
    MAIL,
    NOW,
    SECURE,
    Lab,
    ask,
    fails,
    lab,
    said,
    without_signatures,
)
from tests.zoo.keys import ED25519, KeyPlan, split
from tests.zoo.sabotage import corrupted, resigned
from tests.zoo.signer import DsPlan, Terms, ZonePlan, ds_records

DAY = 86400


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
    reply = here.message(ask(". DNSKEY"))
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


@pytest.mark.parametrize(
    "question", ["good.test. MX", "mx.good.test. A", "none.good.test. A", "good.test. TXT"]
)
def testwithout_signatures_signatures_are_bogus_not_insecure(question: str) -> None:
    judged = lab(GOOD, altered={question: without_signatures}).judge(question)
    assert judged.security is BOGUS
    assert judged.refusal is not None
    assert judged.refusal.rule in (Rule.SIGNATURE_MISSING, Rule.DENIAL_MISSING)


@pytest.mark.parametrize("question", ["good.test. DS", "good.test. DNSKEY", "test. DS", ". DNSKEY"])
def test_awithout_signatures_chain_is_bogus(question: str) -> None:
    assert lab(GOOD, altered={question: without_signatures}).judge("good.test. MX").security is BOGUS


def test_an_emptied_reply_is_bogus() -> None:
    def empty(message: dns.message.Message) -> dns.message.Message:
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

        def add(message: dns.message.Message, record: str = record) -> dns.message.Message:
            message.answer.append(dns.rrset.from_text("plain.test.", 300, "IN", "RRSIG", record))
            return message

        here = lab(ZonePlan("plain.test.", MAIL, keys=()), altered={"plain.test. MX": add})
        assert here.judge("plain.test. MX").security is INSECURE, signer


# Delegations


def test_denial_of_ds_by_the_child_is_not_believed() -> None:
    here = lab(GOOD)
    child = here.message(ask("none.good.test. A"))
    assert not isinstance(child, Failure)

    def from_child(message: dns.message.Message) -> dns.message.Message:
        message.answer = []
        message.authority = [r for r in child.authority if r.name == dns.name.from_text("good.test.")]
        return message

    here.altered[ask("good.test. DS")] = from_child
    here.altered[ask("good.test. MX")] = without_signatures
    assert said(here.judge("good.test. MX")) == (BOGUS, Rule.DENIAL_CHILD_SIDE)


def test_parent_side_nsec_denies_nothing_in_the_child() -> None:
    here = lab(GOOD, ZonePlan("plain.test.", MAIL, keys=()))
    parent = here.message(ask("plain.test. DS"))
    assert not isinstance(parent, Failure)
    for name in ("good.test. MX", "mx.good.test. A"):
        signed = here.message(ask("hood.test. A"))  # shows the NSEC of good.test. in test.
        assert not isinstance(signed, Failure)

        def denied(message: dns.message.Message, signed: dns.message.Message = signed) -> dns.message.Message:
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


def test_a_lab_is_honest() -> None:
    """The lab's replies have no AD bit and hold signatures: the validator has all to do itself."""
    here: Lab = lab(GOOD)
    reply = here.message(ask("good.test. MX"))
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
