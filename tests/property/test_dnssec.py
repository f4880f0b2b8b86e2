"""No alteration of signed replies yields Secure with other data, and nothing that arrives raises."""

from __future__ import annotations

import functools

import dns.message
import dns.name
import dns.rdatatype
import hypothesis.strategies as st
from hypothesis import given, settings

from deliver.dnssec.anchors import parse
from deliver.dnssec.chain import judge
from deliver.dnssec.evidence import Security
from deliver.dnssec.keys import KeyCache
from deliver.dnssec.response import MalformedResponse, read_response
from deliver.dnssec.verdict import Ask, Failure, Judged, Reply
from tests.unit.dnssec.lab import NOW, Lab, ask, lab
from tests.zoo.denial import Nsec3
from tests.zoo.signer import ZonePlan

RECORDS = (
    "@ MX 10 mx",
    "mx A 192.0.2.1",
    f"_25._tcp.mx TLSA 3 1 1 {'ab' * 32}",
    "alias CNAME mx",
    "away DNAME other.test.",
    "*.w A 192.0.2.3",
)
QUESTIONS = tuple(
    f"{name} {rdtype}"
    for zone in ("nsec.test.", "nsec3.test.")
    for name, rdtype in (
        (zone, "MX"),
        (f"_25._tcp.mx.{zone}", "TLSA"),
        (f"alias.{zone}", "A"),
        (f"mx.away.{zone}", "A"),
        (f"x.w.{zone}", "A"),
        (f"x.w.{zone}", "TLSA"),
        (f"_25._tcp.none.{zone}", "TLSA"),
        (f"mx.{zone}", "AAAA"),
    )
)
RUNS = settings(max_examples=100, deadline=None, derandomize=True, database=None)


@functools.cache
def world() -> Lab:
    return lab(
        ZonePlan("nsec.test.", RECORDS),
        ZonePlan("nsec3.test.", RECORDS, denial=Nsec3()),
        ZonePlan("other.test.", ("mx A 192.0.2.2",)),
        ZonePlan("plain.test.", ("@ MX 10 mx",), keys=()),
    )


def said(judged: Judged) -> tuple[object, ...]:
    """What a caller would act on."""
    records = judged.records
    data = None if records is None else (records.name, records.rdtype, frozenset(records.canonical))
    aliases = tuple((alias.owner, alias.target) for alias in judged.aliases)
    return judged.absence, aliases, data


@functools.cache
def truth(text: str) -> tuple[object, ...]:
    judged = world().judge(text)
    assert judged.security is Security.SECURE
    return said(judged)


@functools.cache
def wire(question: Ask) -> bytes:
    reply = world().message(question)
    assert not isinstance(reply, Failure)
    return reply.to_wire(max_size=65535)


def parsed(octets: bytes) -> Reply:
    """As a transport would: what cannot be parsed is no reply."""
    try:
        return read_response(octets)
    except MalformedResponse as error:
        return Failure(str(error))


def run(text: str, altered: dict[int, bytes], cache: KeyCache | None = None) -> Judged:
    """Judge, the nth reply of the lookup replaced."""
    lookup = judge(ask(text), world().anchors, KeyCache() if cache is None else cache, now=NOW)
    replies: tuple[Reply, ...] | None = None
    place = 0
    while True:
        try:
            asks = next(lookup) if replies is None else lookup.send(replies)
        except StopIteration as finished:
            verdict: Judged = finished.value
            return verdict
        made = []
        for question in asks:
            made.append(parsed(altered.get(place, wire(question))))
            place += 1
        replies = tuple(made)


@functools.cache
def asked(text: str) -> tuple[Ask, ...]:
    world().judge(text)
    return tuple(question for asks in world().rounds for question in asks)


@RUNS
@given(st.data())
def test_no_altered_octets_yield_secure_with_other_data(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(QUESTIONS))
    place = data.draw(st.integers(0, len(asked(text)) - 1))
    octets = bytearray(wire(asked(text)[place]))
    for _ in range(data.draw(st.integers(1, 3))):
        octets[data.draw(st.integers(0, len(octets) - 1))] ^= data.draw(st.integers(1, 255))
    judged = run(text, {place: bytes(octets)})
    if judged.security is Security.SECURE:
        assert said(judged) == truth(text)
    else:
        assert judged.security is not Security.INSECURE


def test_flipping_every_octet_of_an_answer() -> None:
    """Each octet of one positive and one negative answer, with the keys in the cache."""
    for text in ("_25._tcp.mx.nsec.test. TLSA", "_25._tcp.none.nsec3.test. TLSA"):
        cache = KeyCache()
        run(text, {}, cache)
        whole = wire(ask(text))
        for place in range(len(whole)):
            octets = bytearray(whole)
            octets[place] ^= 0x55
            judged = run(text, {0: bytes(octets)}, cache)
            assert judged.security is not Security.INSECURE, place
            assert judged.security is not Security.SECURE or said(judged) == truth(text), place


@RUNS
@given(st.data())
def test_sections_of_different_replies_put_together_never_lie(data: st.DataObject) -> None:
    """Replayed RRsets, all of them properly signed, in any section of any reply."""
    text = data.draw(st.sampled_from(QUESTIONS))
    pool = [
        rrset
        for question in (*map(ask, QUESTIONS), *asked(text))
        for message in (dns.message.from_wire(wire(question)),)
        for rrset in (*message.answer, *message.authority)
    ]
    reply = dns.message.from_wire(wire(ask(text)))
    reply.answer = data.draw(st.lists(st.sampled_from(pool), max_size=6)) + (
        list(reply.answer) if data.draw(st.booleans()) else []
    )
    reply.authority = data.draw(st.lists(st.sampled_from(pool), max_size=8))
    reply.set_rcode(data.draw(st.sampled_from([0, 3])))
    judged = run(text, {0: reply.to_wire(max_size=65535)})
    if judged.security is Security.SECURE:
        assert said(judged) == truth(text)


@RUNS
@given(st.binary(max_size=300), st.sampled_from(QUESTIONS), st.integers(0, 6))
def test_garbage_never_raises(garbage: bytes, text: str, place: int) -> None:
    assert run(text, {place: garbage}).security is not Security.INSECURE
    head = wire(ask(text))[:12]
    assert run(text, {0: head + garbage}).security in (Security.BOGUS, Security.INDETERMINATE)


@RUNS
@given(st.text(alphabet="abc. \n;()DSNKEY0123456789AB", max_size=200))
def test_trust_anchor_files_parse_or_raise_value_error(text: str) -> None:
    try:
        anchors = parse(text)
    except ValueError:
        return
    assert anchors.anchors
