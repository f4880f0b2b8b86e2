"""Responses read from octets: what dnspython reads of them, and nothing but errors of one kind for the rest."""

from __future__ import annotations

from datetime import timedelta

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
from dns.rdtypes.ANY.RRSIG import RRSIG
from hypothesis import given, settings, strategies as some

from deliver.dnssec.names import KnownName, known, named
from deliver.dnssec.records import RecordSet
from deliver.dnssec.response import MalformedResponse, Response, Section, name_in, read_response
from deliver.resolve.transport import record_of
from tests.unit.dnssec.lab import GOOD, ask, lab
from tests.zoo.signer import Nsec3, ZonePlan

LAB = lab(GOOD, ZonePlan("hashed.test.", ("@ MX 10 mx", "*.w CNAME mx.good.test."), denial=Nsec3()))
QUESTIONS = (
    "good.test. MX",
    "mx.good.test. A",
    "mx.good.test. AAAA",
    "_25._tcp.mx.good.test. TLSA",
    "good.test. DNSKEY",
    "good.test. DS",
    "none.good.test. A",
    "none.hashed.test. A",
    "x.w.hashed.test. A",
    ". DNSKEY",
)
labels = some.binary(min_size=1, max_size=63)


def octets_of(question: str) -> bytes:
    """An honest response."""
    message = LAB.message(ask(question))
    assert isinstance(message, dns.message.Message)
    return message.to_wire(max_size=65535)


def in_short(section: Section) -> dict[tuple[dns.name.Name, int, int], tuple[int, frozenset[bytes]]]:
    """TTL and canonical records by name, type and covered type; signatures without a TTL."""
    found = {
        (rrset.name, int(rrset.rdtype), 0): (rrset.ttl, frozenset(rrset.canonical))
        for rrset in section.rrsets.values()
    }
    for (name, covered), signatures in section.signatures.items():
        canonical = frozenset(each.signed_fields() + each.signature for each in signatures)
        found[name, 46, int(covered)] = (0, canonical)
    return found


def by_dnspython(
    rrsets: list[dns.rrset.RRset],
) -> dict[tuple[dns.name.Name, int, int], tuple[int, frozenset[bytes]]]:
    """The same of dnspython's RRsets."""
    return {
        (rrset.name, int(rrset.rdtype), int(rrset.covers)): (
            0 if rrset.rdtype == dns.rdatatype.RRSIG else rrset.ttl,
            frozenset(rdata.to_digestable(dns.name.root) for rdata in rrset),
        )
        for rrset in rrsets
        if rrset.rdclass == dns.rdataclass.IN
    }


def same(response: Response, message: dns.message.Message) -> bool:
    """Whether both say the same."""
    return (
        (response.id, response.flags, response.rcode) == (message.id, message.flags, message.rcode())
        and in_short(response.answer) == by_dnspython(message.answer)
        and in_short(response.authority) == by_dnspython(message.authority)
        and [name for name, _, _ in response.questions] == [each.name for each in message.question]
    )


@pytest.mark.parametrize("question", QUESTIONS)
def test_it_says_what_dnspython_says(question: str) -> None:
    octets = octets_of(question)
    response = read_response(octets)
    assert same(response, dns.message.from_wire(octets))
    assert response.answer.rrsets or response.authority.rrsets
    for section in (response.answer, response.authority):
        for rrset in section.rrsets.values():
            assert section.over(rrset)


@settings(max_examples=400, deadline=timedelta(seconds=5))
@given(
    some.sampled_from(QUESTIONS),
    some.lists(some.tuples(some.integers(0, 2000), some.integers(0, 255)), min_size=1, max_size=4),
    some.integers(0, 60),
)
def test_spoilt_octets_are_read_alike_or_refused(
    question: str, changes: list[tuple[int, int]], cut: int
) -> None:
    octets = bytearray(octets_of(question))
    for place, octet in changes:
        octets[place % len(octets)] = octet
    spoilt = bytes(octets[: len(octets) - cut])
    try:
        response = read_response(spoilt)
    except MalformedResponse:
        return
    if response.flags & dns.flags.TC:
        return
    try:
        message = dns.message.from_wire(spoilt)
    except Exception:  # dnspython looks into all RDATA at once: then somebody who asks for it must be told
        return
    if not isinstance(message, dns.message.QueryMessage):
        return
    assert same(response, message)


@settings(max_examples=300, deadline=timedelta(seconds=5))
@given(some.binary(max_size=300), some.integers(0, 3), some.integers(0, 3))
def test_any_octets_are_read_or_refused(octets: bytes, questions: int, records: int) -> None:
    header = bytes(
        (0, 1, 0x80, 0, 0, questions, 0, records, 0, records, 0, 1),
    )
    for wire in (octets, header + octets):
        try:
            response = read_response(wire)
        except MalformedResponse:
            continue
        for section in (response.answer, response.authority):
            for rrset in section.rrsets.values():
                try:
                    assert len(list(rrset)) == len(rrset)
                except (dns.exception.DNSException, ValueError):
                    continue


@settings(max_examples=300, deadline=timedelta(seconds=5))
@given(some.sampled_from(["A", "AAAA", "MX", "CNAME", "TLSA", "TXT"]), some.binary(max_size=60))
def test_records_are_read_as_by_dnspython(kind: str, octets: bytes) -> None:
    rdtype = dns.rdatatype.RdataType[kind]
    try:
        rdata = dns.rdata.from_wire(dns.rdataclass.IN, rdtype, octets, 0, len(octets))
    except Exception:
        with pytest.raises(ValueError):
            record_of(rdtype, octets)
        return
    if any(octet > 0xBF for octet in octets) and kind in ("MX", "CNAME"):
        return  # dnspython follows pointers here; canonical octets have none
    record = record_of(rdtype, octets)
    match kind:
        case "A" | "AAAA":
            assert record.address == rdata.address
        case "MX":
            assert record.preference == rdata.preference
            assert record.exchange == rdata.exchange.to_text()[:-1].lower()
        case "CNAME":
            assert record.target == rdata.target.to_text()[:-1].lower()
        case "TLSA":
            assert (record.usage, record.selector) == (rdata.usage, rdata.selector)
            assert (record.matching_type, record.data) == (rdata.mtype, rdata.cert)
        case "TXT":
            assert record.text == b"".join(rdata.strings)


def test_a_truncated_response_is_read_up_to_its_question() -> None:
    octets = bytearray(octets_of("good.test. MX"))
    octets[2] |= 0x02
    response = read_response(bytes(octets[:-30]))
    assert response.flags & dns.flags.TC
    assert response.questions == ((named("good.test."), 15, 1),)
    assert (response.answer, response.authority) == (Section(), Section())


def test_extended_codes_and_errors_are_in_the_opt_record() -> None:
    message = dns.message.make_response(dns.message.make_query("example.", "MX", want_dnssec=True))
    message.use_edns(0, options=[dns.edns.EDEOption(dns.edns.EDECode.DNSSEC_BOGUS, "expired")])
    message.set_rcode(dns.rcode.BADVERS)
    response = read_response(message.to_wire())
    assert response.rcode == dns.rcode.BADVERS
    assert [(error.code, error.text) for error in response.errors] == [(6, "expired")]


def test_a_long_time_is_none_and_the_shortest_counts() -> None:
    message = dns.message.make_response(dns.message.make_query("example.", "A"))
    message.answer = [dns.rrset.from_text("example.", 300, "IN", "A", "192.0.2.1", "192.0.2.2")]
    octets = message.to_wire()
    times = (300).to_bytes(4)
    (rrset,) = read_response(octets.replace(times, (100).to_bytes(4), 1)).answer.rrsets.values()
    assert (rrset.ttl, len(rrset)) == (100, 2)
    (rrset,) = read_response(octets.replace(times, (2**31).to_bytes(4), 1)).answer.rrsets.values()
    assert rrset.ttl == 0


def test_equal_records_count_once() -> None:
    message = dns.message.make_response(dns.message.make_query("example.", "A"))
    message.answer = [dns.rrset.from_text("example.", 300, "IN", "A", "192.0.2.1", "192.0.2.2")]
    octets = message.to_wire().replace(b"\xc0\x00\x02\x02", b"\xc0\x00\x02\x01")
    (rrset,) = read_response(octets).answer.rrsets.values()
    assert len(rrset) == 1


def test_an_rrsig_is_what_it_was() -> None:
    message = LAB.message(ask("good.test. MX"))
    assert isinstance(message, dns.message.Message)
    (theirs,) = (rdata for rrset in message.answer for rdata in rrset if isinstance(rdata, RRSIG))
    ((ours,),) = read_response(message.to_wire()).answer.signatures.values()
    assert (ours.key_tag, ours.algorithm, ours.signer) == (theirs.key_tag, theirs.algorithm, theirs.signer)
    assert (ours.inception, ours.expiration) == (theirs.inception, theirs.expiration)
    assert ours.signature == theirs.signature


@pytest.mark.parametrize(
    "octets",
    [
        b"\xc0\x00",  # to itself
        b"\x01a\xc0\x00",  # to itself, by a label
        b"\x40a\x00",
        b"\x05ab\x00",
        b"\x01a",
        b"",
        b"\x01a\x00b",
        b"\x01a" * 128 + b"\x00",
    ],
)
def test_names_that_are_none_are_refused(octets: bytes) -> None:
    with pytest.raises(MalformedResponse):
        name_in(octets)


@settings(max_examples=200, deadline=timedelta(seconds=5))
@given(some.lists(labels, max_size=5), some.lists(labels, max_size=5))
def test_known_names_are_names(one: list[bytes], other: list[bytes]) -> None:
    for mine, theirs in (
        (one, other),
        (one, one),
        ([*one, *other], other),
        ([x.swapcase() for x in one], one),
    ):
        try:
            ours, known_too = known((*mine, b"")), known((*theirs, b""))
        except dns.name.NameTooLong:
            return
        plain, plain_too = dns.name.Name((*mine, b"")), dns.name.Name((*theirs, b""))
        assert hash(ours) == hash(plain)
        assert ours == plain
        assert plain == ours
        assert (ours != plain) is False
        for left, right in ((ours, known_too), (ours, plain_too), (plain, known_too)):
            assert (left == right) is (plain == plain_too)
            assert (left != right) is (plain != plain_too)
            assert left.is_subdomain(right) is plain.is_subdomain(plain_too)
            assert (left < right) is (plain < plain_too)
        assert (str(ours), ours.to_digestable()) == (str(plain), plain.to_digestable())
        if mine:
            assert ours.parent() == plain.parent()
            assert isinstance(ours.parent(), KnownName)
        else:
            with pytest.raises(dns.name.NoParent):
                ours.parent()


def test_a_set_reads_its_records_when_asked() -> None:
    rrset = RecordSet(named("example."), dns.rdatatype.A, 300, (b"\xc0\x00\x02\x01", b"short"))
    assert len(rrset) == 2
    with pytest.raises(dns.exception.DNSException):
        list(rrset)
