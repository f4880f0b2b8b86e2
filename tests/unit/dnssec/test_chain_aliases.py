"""CNAME and DNAME within whole lookups: each step has its own security (RFC 6672 5.3)."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from deliver.dnssec.rule import Rule
from deliver.dnssec.verdict import AliasKind, Failure
from tests.unit.dnssec.lab import BOGUS, GOOD, INDETERMINATE, INSECURE, MAIL, SECURE, ask, lab, said
from tests.zoo.sabotage import corrupted
from tests.zoo.signer import ZonePlan


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
    def forge(message: dns.message.Message) -> dns.message.Message:
        message.answer = [rrset for rrset in message.answer if rrset.rdtype != dns.rdatatype.CNAME]
        message.answer.append(dns.rrset.from_text("mx.away.good.test.", 300, "IN", "CNAME", "evil.test."))
        return message

    assert said(lab(DNAME, OTHER, altered={question: forge}).judge(question)) == (BOGUS, Rule.DNAME_SYNTHESIS)


def test_a_dname_expanded_from_a_wildcard_is_refused() -> None:
    def forge(message: dns.message.Message) -> dns.message.Message:
        made = ((dns.name.from_text("x.good.test."), rrset) for rrset in wild.answer)
        message.answer = [dns.rrset.from_rdata_list(name, rrset.ttl, list(rrset)) for name, rrset in made]
        return message

    here = lab(ZonePlan("good.test.", ("*.good.test. DNAME other.test.",)), OTHER)
    found = here.message(ask("*.good.test. DNAME"))
    assert not isinstance(found, Failure)
    wild = found
    here.altered[ask("mx.x.good.test. A")] = forge
    assert said(here.judge("mx.x.good.test. A")) == (BOGUS, Rule.EXPANDED)


def test_an_unsigned_cname_in_a_signed_zone_is_bogus() -> None:
    def forge(message: dns.message.Message) -> dns.message.Message:
        message.set_rcode(dns.rcode.NOERROR)
        message.authority = []
        message.answer = [dns.rrset.from_text("mx.good.test.", 300, "IN", "CNAME", "evil.test.")]
        return message

    here = lab(GOOD, altered={"mx.good.test. A": forge})
    assert said(here.judge("mx.good.test. A")) == (BOGUS, Rule.SIGNATURE_MISSING)


def test_loops_and_long_chains_end() -> None:
    def loop(message: dns.message.Message) -> dns.message.Message:
        message.set_rcode(dns.rcode.NOERROR)
        return message

    here = lab(ZonePlan("good.test.", ("a CNAME b", "b CNAME a")), altered={"a.good.test. A": loop})
    assert said(here.judge("a.good.test. A")) == (INDETERMINATE, Rule.ALIAS_LOOP)
    records = tuple(f"a{n} CNAME a{n + 1}" for n in range(30))
    here = lab(ZonePlan("good.test.", records), altered={f"a{n}.good.test. A": loop for n in range(30)})
    assert said(here.judge("a0.good.test. A")) == (INDETERMINATE, Rule.TOO_MANY_ALIASES)


def test_the_wildcard_proof_of_an_alias_is_no_denial_of_its_target() -> None:
    def cut(message: dns.message.Message) -> dns.message.Message:
        alias = dns.name.from_text("x.w.good.test.")
        message.answer = [rrset for rrset in message.answer if rrset.name == alias]
        return message

    here = lab(ZonePlan("good.test.", (*MAIL, "*.w CNAME mx")), altered={"x.w.good.test. A": cut})
    judged = here.judge("x.w.good.test. A")
    assert judged.security is SECURE
    assert judged.records is not None
