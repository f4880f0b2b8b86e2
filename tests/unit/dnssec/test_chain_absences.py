"""Absences within whole lookups: what NSEC and NSEC3 prove, and what excuses nothing (RFC 4035 5.4, RFC 5155 8)."""

from __future__ import annotations

from functools import partial

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from deliver.dnssec.keys import KeyCache
from deliver.dnssec.rule import Rule
from deliver.dnssec.verdict import Absence, Failure
from tests.unit.dnssec.lab import BOGUS, INSECURE, MAIL, SECURE, ask, lab, said, without_signatures
from tests.zoo.denial import Nsec3
from tests.zoo.sabotage import corrupted, lying_nsec, on_nsec3, removed, unsigned
from tests.zoo.signer import ZonePlan


def _without(owner: dns.name.Name, message: dns.message.Message) -> dns.message.Message:
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
    def alter(message: dns.message.Message) -> dns.message.Message:
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
    here.altered[ask("mx.good.test. A")] = without_signatures
    assert here.judge("mx.good.test. A", cache).security is INSECURE
    here.altered.clear()
    assert here.judge("mx.good.test. A", cache).security is SECURE
    assert here.judge("sub.good.test. MX", cache).security is SECURE


def test_opt_out_is_insecure_and_never_corrects_an_nxdomain() -> None:
    opt_out = ZonePlan("good.test.", MAIL, denial=Nsec3(opt_out=True))
    here = lab(opt_out)
    assert said(here.judge("none.good.test. A")) == (INSECURE, Rule.OPT_OUT)

    reply = here.message(ask("none.good.test. A"))
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

        def unproved(message: dns.message.Message) -> dns.message.Message:
            message.authority = []
            return message

        here.altered[ask("x.w.good.test. A")] = unproved
        assert said(here.judge("x.w.good.test. A")) == (BOGUS, Rule.WILDCARD_UNPROVEN)


def test_a_wildcard_answer_replayed_for_an_existing_name_is_bogus() -> None:
    here = lab(ZonePlan("good.test.", ("*.w A 192.0.2.3", "there.w A 192.0.2.4")))
    expanded = here.message(ask("x.w.good.test. A"))
    assert not isinstance(expanded, Failure)

    def replay(message: dns.message.Message) -> dns.message.Message:
        there = dns.name.from_text("there.w.good.test.")
        message.answer = [dns.rrset.from_rdata_list(there, r.ttl, list(r)) for r in expanded.answer]
        message.authority = list(expanded.authority)
        return message

    here.altered[ask("there.w.good.test. A")] = replay
    assert said(here.judge("there.w.good.test. A")) == (BOGUS, Rule.WILDCARD_UNPROVEN)


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
