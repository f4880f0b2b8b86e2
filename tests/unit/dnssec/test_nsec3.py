"""What NSEC3 records prove and what they do not (RFC 5155 8, RFC 9276)."""

from __future__ import annotations

import base64

import dns.name
import dns.rdatatype
import dns.rdtypes.ANY.NSEC3
import dns.rrset
import pytest

from deliver.dnssec import nsec3
from deliver.dnssec.budget import Budget, Exhausted, Limits
from deliver.dnssec.denial import Denied
from deliver.dnssec.nsec3 import HashedLinks, gather, hashed
from deliver.dnssec.rule import Refusal, Rule
from deliver.dnssec.verdict import Absence

ZONE = dns.name.from_text("example.")
NODATA, NXDOMAIN = Denied(Absence.NODATA), Denied(Absence.NXDOMAIN)
OPT_OUT_CUT = Denied(Absence.NODATA, delegation=True, insecure=Rule.OPT_OUT)


def text_of(digest: bytes) -> str:
    return base64.b32hexencode(digest).decode()


def records(
    names: dict[str, str], shown: str, *, opt_out: bool = False, iterations: int = 0, salt: str = "-"
):
    """The chain of a zone with these names and types; of it, the records at or before the names `shown`."""
    octets = b"" if salt == "-" else bytes.fromhex(salt)
    digests = {name: hashed(dns.name.from_text(name), octets, iterations) for name in names}
    ring = sorted(digests.values())
    found = {}
    for name in shown.split():
        digest = hashed(dns.name.from_text(name), octets, iterations)
        here = max((place for place in ring if place <= digest), default=ring[-1])
        following = ring[(ring.index(here) + 1) % len(ring)]
        types = next(names[name] for name in names if digests[name] == here)
        owner = dns.name.from_text(text_of(here), ZONE)
        text = f"1 {int(opt_out)} {iterations} {salt} {text_of(following)} {types}"
        found[owner] = dns.rrset.from_text(owner, 60, "IN", "NSEC3", text)[0]
    return list(found.items())


NAMES = {
    "example.": "NS SOA RRSIG DNSKEY NSEC3PARAM",
    "a.example.": "A RRSIG",
    "cut.example.": "NS",
    "alias.example.": "CNAME RRSIG",
    "away.example.": "DNAME RRSIG",
    "ent.example.": "",
    "x.ent.example.": "A RRSIG",
}
WILD = {**NAMES, "*.example.": "A RRSIG"}


def proved(question: str, found, budget: Budget | None = None) -> Denied | Rule:
    name, rdtype = question.split()
    links = gather(found, ZONE, budget or Budget())
    if isinstance(links, Refusal):
        return links.rule
    result = nsec3.prove(dns.name.from_text(name), dns.rdatatype.from_text(rdtype), links)
    return result.rule if isinstance(result, Refusal) else result


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("example.", "0p9mhaveqvm6t7vbl5lop2u3t2rp3tom"),
        ("a.example.", "35mthgpgcu1qg68fab165klnsnk3dpvl"),
        ("*.w.example.", "r53bq7cc2uvmubfu5ocmm6pers9tk9en"),
    ],
)
def test_hashes_of_rfc_5155_appendix_a(name: str, digest: str) -> None:
    assert text_of(hashed(dns.name.from_text(name), bytes.fromhex("aabbccdd"), 12)).lower() == digest


@pytest.mark.parametrize(
    ("question", "shown", "result"),
    [
        ("a.example. MX", "a.example.", NODATA),
        ("a.example. A", "a.example.", Rule.DENIAL_TYPE_EXISTS),
        ("alias.example. A", "alias.example.", Rule.DENIAL_CNAME_EXISTS),
        ("cut.example. A", "cut.example.", Rule.DENIAL_PARENT_SIDE),
        ("ent.example. A", "ent.example.", NODATA),
        ("no.example. A", "example. no.example. *.example.", NXDOMAIN),
        ("x.y.no.example. A", "example. no.example. *.example.", NXDOMAIN),
        ("no.a.example. A", "a.example. no.a.example. *.a.example.", NXDOMAIN),
        ("x.cut.example. A", "cut.example. x.cut.example. *.cut.example.", Rule.DENIAL_BELOW_CUT),
        ("x.away.example. A", "away.example. x.away.example. *.away.example.", Rule.DENIAL_BELOW_CUT),
        ("cut.example. DS", "cut.example.", Denied(Absence.NODATA, delegation=True)),
        ("a.example. DS", "a.example.", NODATA),
        ("example. DS", "example.", Rule.DENIAL_CHILD_SIDE),
        ("a.other. A", "example.", Rule.SIGNER),
    ],
)
def test_proofs(question: str, shown: str, result: Denied | Rule) -> None:
    assert proved(question, records(NAMES, shown)) == result


def test_wildcard_nodata_and_type() -> None:
    shown = "example. no.example. *.example."
    assert proved("no.example. MX", records(WILD, shown)) == NODATA
    assert proved("no.example. A", records(WILD, shown)) is Rule.DENIAL_TYPE_EXISTS


def test_opt_out_spans_prove_only_insecurity() -> None:
    names = {"example.": "NS SOA RRSIG", "a.example.": "A RRSIG"}
    whole = records(names, "example. no.example. *.example.", opt_out=True)
    assert proved("no.example. A", whole) == Denied(Absence.NXDOMAIN, insecure=Rule.OPT_OUT)
    ds = proved("no.example. DS", whole)
    assert isinstance(ds, Denied)
    assert (ds.delegation, ds.insecure) == (True, Rule.OPT_OUT)
    assert proved("a.example. MX", whole) == NODATA


def test_ds_absence_without_opt_out_is_no_delegation() -> None:
    assert proved("no.example. DS", records(NAMES, "example. no.example. *.example.")) == NXDOMAIN


def _single(owner: str, following: str, *, flags: int = 0, types: str = "A RRSIG"):
    digest = hashed(dns.name.from_text(owner), b"", 0)
    name = dns.name.from_text(text_of(digest), ZONE)
    return name, dns.rrset.from_text(name, 60, "IN", "NSEC3", f"1 {flags} 0 - {following} {types}")[0]


def test_missing_parts_are_named() -> None:
    a_step = text_of((int.from_bytes(hashed(ZONE, b"", 0)) + 1).to_bytes(20))
    apex_only = [_single("example.", a_step, types="NS SOA RRSIG")]
    assert proved("no.example. A", apex_only) is Rule.NSEC3_NEXT_CLOSER
    far = [_single("q.example.", text_of(b"\xff" * 20))]
    assert proved("no.example. A", far) is Rule.NSEC3_ENCLOSER


def test_different_parameters_are_refused() -> None:
    one = records(NAMES, "example. no.example.")
    other = records(NAMES, "*.example.", salt="ab")
    assert proved("no.example. A", one + other) is Rule.NSEC3_MIXED
    assert proved("no.example. A", one + records(NAMES, "*.example.", iterations=1)) is Rule.NSEC3_MIXED


def test_unknown_hashes_and_flags_are_ignored() -> None:
    owner, rdata = records(NAMES, "a.example.")[0]
    assert proved("a.example. MX", [(owner, rdata.replace(algorithm=2))]) is Rule.NSEC3_UNKNOWN
    assert proved("a.example. MX", [(owner, rdata.replace(flags=2))]) is Rule.NSEC3_UNKNOWN
    assert proved("a.example. MX", [(owner, rdata), (owner, rdata.replace(algorithm=2))]) == NODATA


def test_iterations_up_to_the_limit() -> None:
    assert proved("a.example. MX", records(NAMES, "a.example.", iterations=100)) == NODATA
    assert proved("a.example. MX", records(NAMES, "a.example.", iterations=101)) is Rule.ITERATIONS


@pytest.mark.parametrize(
    "owner", ["short.example.", "a.b.example.", "!" * 32 + ".example.", "0" * 32 + ".other."]
)
def test_owners_that_are_no_hashes_prove_nothing(owner: str) -> None:
    _, rdata = records(NAMES, "a.example.")[0]
    assert proved("a.example. MX", [(dns.name.from_text(owner), rdata)]) is Rule.DENIAL_MALFORMED


def test_hashes_are_bounded_for_names_of_many_labels() -> None:
    budget = Budget(Limits(hashes=20))
    deep = ".".join("x" * 1 for _ in range(100)) + ".example. A"
    with pytest.raises(Exhausted) as caught:
        proved(deep, records(NAMES, "example."), budget)
    assert caught.value.rule is Rule.TOO_MANY_HASHES
    assert budget.hashes == 21


def test_expansion_needs_the_next_closer_name() -> None:
    def expansion(found) -> Rule | Refusal | None:
        links = gather(found, ZONE, Budget())
        assert isinstance(links, HashedLinks)
        return nsec3.prove_expansion(dns.name.from_text("x.no.example."), ZONE, links)

    assert expansion(records(WILD, "no.example.")) is None
    assert expansion(records(WILD, "no.example.", opt_out=True)) is Rule.OPT_OUT
    exists = expansion(records({**WILD, "no.example.": "A"}, "no.example."))
    assert isinstance(exists, Refusal)
    assert exists.rule is Rule.WILDCARD_UNPROVEN
