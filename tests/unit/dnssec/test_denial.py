"""What NSEC records prove and what they do not (RFC 4035 5.4, RFC 6840 4)."""

from __future__ import annotations

import dns.name
import dns.rdatatype
import dns.rrset
import pytest

from deliver.dnssec.denial import Denied, Link, link, prove, prove_expansion
from deliver.dnssec.rule import Refusal, Rule
from deliver.dnssec.verdict import Absence

ZONE = dns.name.from_text("example.")
APEX = "example. a.example. NS SOA RRSIG NSEC"


def made(*texts: str) -> list[Link]:
    links = []
    for text in texts:
        owner, rest = text.split(" ", 1)
        here = link(
            dns.name.from_text(owner), dns.rrset.from_text(owner, 60, "IN", "NSEC", rest)[0].to_wire(), ZONE
        )
        assert here is not None
        links.append(here)
    return links


def proved(question: str, *texts: str) -> Denied | Rule:
    name, rdtype = question.split()
    result = prove(dns.name.from_text(name), dns.rdatatype.from_text(rdtype), ZONE, made(*texts))
    return result.rule if isinstance(result, Refusal) else result


NODATA, NXDOMAIN = Denied(Absence.NODATA), Denied(Absence.NXDOMAIN)
CUT = Denied(Absence.NODATA, delegation=True)


@pytest.mark.parametrize(
    ("question", "records", "result"),
    [
        # NODATA
        ("a.example. MX", ["a.example. c.example. A RRSIG NSEC"], NODATA),
        ("a.example. A", ["a.example. c.example. A RRSIG NSEC"], Rule.DENIAL_TYPE_EXISTS),
        ("a.example. MX", ["a.example. c.example. CNAME RRSIG NSEC"], Rule.DENIAL_CNAME_EXISTS),
        ("a.example. MX", ["a.example. c.example. NS DS RRSIG NSEC"], Rule.DENIAL_PARENT_SIDE),
        ("a.example. MX", ["a.example. c.example. NS RRSIG NSEC"], Rule.DENIAL_PARENT_SIDE),
        ("example. MX", [APEX], NODATA),
        # Empty non-terminal
        ("b.example. A", ["a.example. x.b.example. A RRSIG NSEC", APEX], NODATA),
        # NXDOMAIN
        ("b.example. A", ["a.example. c.example. A RRSIG NSEC", APEX], NXDOMAIN),
        ("b.example. A", ["a.example. c.example. A RRSIG NSEC"], Rule.DENIAL_WILDCARD),
        ("z.example. A", ["y.example. example. A RRSIG NSEC", APEX], NXDOMAIN),
        ("b.example. A", ["y.example. example. A RRSIG NSEC", APEX], Rule.DENIAL_NOT_COVERED),
        ("b.example. A", [], Rule.DENIAL_NOT_COVERED),
        ("x.y.b.example. A", ["a.example. c.example. A RRSIG NSEC", APEX], NXDOMAIN),
        ("b.a.example. A", ["a.example. c.example. A RRSIG NSEC"], NXDOMAIN),  # covers *.a.example too
        ("b.a.example. A", ["a.example. *.a.example. A RRSIG NSEC"], Rule.DENIAL_NOT_COVERED),
        ("b.example. A", ["example. example. NS SOA RRSIG NSEC"], NXDOMAIN),  # the only name
        # Below a cut or DNAME
        ("x.b.example. A", ["b.example. c.example. NS RRSIG NSEC", APEX], Rule.DENIAL_BELOW_CUT),
        ("x.b.example. A", ["b.example. c.example. DNAME RRSIG NSEC", APEX], Rule.DENIAL_BELOW_CUT),
        ("x.b.example. DS", ["b.example. c.example. NS RRSIG NSEC", APEX], Rule.DENIAL_BELOW_CUT),
        # Wildcards
        ("b.example. MX", ["a.example. c.example. A RRSIG NSEC", "*.example. a.example. A RRSIG NSEC"], NODATA),
        (
            "b.example. A",
            ["a.example. c.example. A RRSIG NSEC", "*.example. a.example. A RRSIG NSEC"],
            Rule.DENIAL_TYPE_EXISTS,
        ),
        (
            "b.example. A",
            ["a.example. c.example. A RRSIG NSEC", "*.example. a.example. CNAME RRSIG NSEC"],
            Rule.DENIAL_CNAME_EXISTS,
        ),
        (
            "b.example. A",
            ["a.example. c.example. A RRSIG NSEC", "*.example. a.example. NS RRSIG NSEC"],
            Rule.DENIAL_PARENT_SIDE,
        ),
        ("b.example. A", ["a.example. c.example. A RRSIG NSEC", "example. x.*.example. NS SOA RRSIG NSEC"], NODATA),
        # DS
        ("a.example. DS", ["a.example. c.example. NS RRSIG NSEC"], CUT),
        ("a.example. DS", ["a.example. c.example. A RRSIG NSEC"], NODATA),
        ("a.example. DS", ["a.example. c.example. NS DS RRSIG NSEC"], Rule.DENIAL_TYPE_EXISTS),
        ("a.example. DS", ["a.example. c.example. NS SOA RRSIG NSEC"], Rule.DENIAL_CHILD_SIDE),
        ("example. DS", [APEX], Rule.DENIAL_CHILD_SIDE),
        ("example. DS", ["example. a.example. NS RRSIG NSEC"], Rule.DENIAL_CHILD_SIDE),  # it hides its SOA
        # Other zones
        ("a.other. A", [APEX], Rule.SIGNER),
        # RFC 9824
        ("b.example. A", ["b.example. \\000.b.example. RRSIG NSEC TYPE128"], Denied(Absence.NXDOMAIN, compact=True)),
    ],
)  # fmt: skip
def test_proofs(question: str, records: list[str], result: Denied | Rule) -> None:
    assert proved(question, *records) == result


@pytest.mark.parametrize("text", ["c.example. a.example. A", "a.other. c.other. A", "a.example. c.other. A"])
def test_records_that_make_no_sense_are_dropped(text: str) -> None:
    owner, rest = text.split(" ", 1)
    rdata = dns.rrset.from_text(owner, 60, "IN", "NSEC", rest)[0]
    assert link(dns.name.from_text(owner), rdata.to_wire(), ZONE) is None


@pytest.mark.parametrize(
    ("name", "encloser", "record", "rule"),
    [
        ("b.example.", "example.", "a.example. c.example. A", None),
        ("x.b.example.", "example.", "a.example. c.example. A", None),
        ("x.b.example.", "example.", "a.example. y.b.example. A", Rule.WILDCARD_UNPROVEN),  # *.b is closer
        ("x.b.example.", "b.example.", "a.example. c.example. A", Rule.WILDCARD_UNPROVEN),
        ("b.example.", "example.", "a.example. x.b.example. A", Rule.WILDCARD_UNPROVEN),  # it exists
        ("b.example.", "example.", "b.example. c.example. A", Rule.WILDCARD_UNPROVEN),
        ("b.example.", "example.", "c.example. d.example. A", Rule.WILDCARD_UNPROVEN),
        ("x.b.example.", "example.", "b.example. c.example. NS", Rule.WILDCARD_UNPROVEN),
    ],
)
def test_expansions(name: str, encloser: str, record: str, rule: Rule | None) -> None:
    result = prove_expansion(dns.name.from_text(name), dns.name.from_text(encloser), ZONE, made(record))
    assert (result.rule if result is not None else None) is rule
