"""Walks driven from a dict of answers, with a failure at every step."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from random import Random
from typing import TypeVar

import pytest

from deliver.resolve.answer import (
    AddressRecord,
    AliasRecord,
    Answer,
    Bogus,
    Found,
    MxRecord,
    NoData,
    NxDomain,
    Query,
    RecordType,
    TlsaRecord,
    Unreachable,
)
from deliver.resolve.mx import HostPlan, MxPlan, MxTarget, NoHost
from deliver.resolve.tlsa import TlsaAbsent, TlsaFailed, TlsaNotAsked, TlsaRecords
from deliver.resolve.walk import MAX_TARGETS, Walked, find_host, find_mx

T = TypeVar("T")
World = Mapping[tuple[str, RecordType], Answer]

EE = TlsaRecord(3, 1, 1, b"\x01" * 32)
MX, A, AAAA, CNAME, TLSA = (
    RecordType.MX,
    RecordType.A,
    RecordType.AAAA,
    RecordType.CNAME,
    RecordType.TLSA,
)


def run(walk: Generator[tuple[Query, ...], tuple[Answer, ...], T], world: World) -> tuple[T, list[Query]]:
    asked: list[Query] = []
    try:
        queries = next(walk)
        while True:
            asked.extend(queries)
            queries = walk.send(tuple(world[(query.name, query.type)] for query in queries))
    except StopIteration as finished:
        return finished.value, asked


def mx(domain: str, world: World) -> Walked[MxPlan]:
    return run(find_mx(domain, Random(1)), world)[0]


def found(*addresses: str, secure: bool = True, aliases: tuple[str, ...] = ()) -> Found:
    return Found(tuple(AddressRecord(address) for address in addresses), secure, 300, aliases)


def host(
    world: World, *, name: str = "mx.example", mx_secure: bool = True, unwanted: str | None = None
) -> tuple[HostPlan | NoHost, list[Query]]:
    walk = find_host(name, port=25, families=("ipv6", "ipv4"), mx_secure=mx_secure, tlsa_unwanted=unwanted)
    walked, asked = run(walk, world)
    return walked.plan, asked


def test_mx_records_are_ordered_by_preference() -> None:
    records = (MxRecord(20, "b.example"), MxRecord(10, "A.Example."), MxRecord(30, "c.example"))
    plan = mx("example", {("example", MX): Found(records, True, 60)}).plan
    assert isinstance(plan, MxPlan)
    assert [target.host for target in plan.targets] == ["a.example", "b.example", "c.example"]
    assert plan.secure
    assert not plan.implicit
    assert plan.next_hop_names == ("example",)


def test_equal_preferences_are_shuffled() -> None:
    records = tuple(MxRecord(10, f"mx{number}.example") for number in range(6))
    world = {("example", MX): Found(records, False, 60)}
    orders = {
        tuple(target.host for target in plan.targets)
        for seed in range(10)
        if isinstance(plan := run(find_mx("example", Random(seed)), world)[0].plan, MxPlan)
    }
    assert len(orders) > 1


def test_the_secure_cname_expansion_of_the_domain_is_a_next_hop_name() -> None:
    answer = Found((MxRecord(10, "mx.example"),), True, 60, ("real.example",))
    plan = mx("example", {("example", MX): answer}).plan
    assert isinstance(plan, MxPlan)
    assert plan.next_hop_names == ("example", "real.example")


def test_no_mx_record_means_the_domain_itself() -> None:
    plan = mx("example", {("example", MX): NoData(True)}).plan
    assert isinstance(plan, MxPlan)
    assert plan.targets == (MxTarget("example"),)
    assert plan.implicit


@pytest.mark.parametrize(
    ("answer", "permanent", "enhanced", "code"),
    [
        (NxDomain(True), True, (5, 1, 2), "domain-nonexistent"),
        (NxDomain(False), True, (5, 1, 2), "domain-nonexistent"),
        (Found((MxRecord(0, ""),), True, 60), True, (5, 1, 10), "mx-null"),
        (Bogus("signature expired"), False, (4, 4, 3), "mx-lookup-failed"),
        (Unreachable("timeout"), False, (4, 4, 3), "mx-lookup-failed"),
        (Found((MxRecord(10, "192.0.2.1"),), True, 60), False, (4, 4, 3), "mx-unusable"),
        (Found((MxRecord(10, "bad\\032name.example"),), True, 60), False, (4, 4, 3), "mx-unusable"),
    ],
)
def test_no_candidate(answer: Answer, permanent: bool, enhanced: tuple[int, int, int], code: str) -> None:
    walked = mx("example", {("example", MX): answer})
    assert isinstance(walked.plan, NoHost)
    assert (walked.plan.permanent, walked.plan.enhanced, walked.plan.code) == (permanent, enhanced, code)
    assert walked.findings[-1].code == code


def test_a_dot_beside_other_mx_records_is_ignored() -> None:
    answer = Found((MxRecord(0, ""), MxRecord(10, "mx.example")), True, 60)
    plan = mx("example", {("example", MX): answer}).plan
    assert isinstance(plan, MxPlan)
    assert [target.host for target in plan.targets] == ["mx.example"]


def test_a_hostile_number_of_mx_records_is_bounded() -> None:
    records = tuple(MxRecord(10, f"mx{number}.example") for number in range(5000))
    plan = mx("example", {("example", MX): Found(records, True, 60)}).plan
    assert isinstance(plan, MxPlan)
    assert len(plan.targets) == MAX_TARGETS


def test_an_address_literal_needs_no_lookup() -> None:
    walked, asked = run(find_mx("[192.0.2.7]", Random(1)), {})
    assert isinstance(walked.plan, MxPlan)
    assert walked.plan.targets == (MxTarget("192.0.2.7"),)
    assert asked == []
    plan, asked = host({}, name="192.0.2.7")
    assert isinstance(plan, HostPlan)
    assert plan.addresses == ("192.0.2.7",)
    assert isinstance(plan.tlsa, TlsaNotAsked)
    assert asked == []


def test_secure_addresses_lead_to_tlsa() -> None:
    world: World = {
        ("mx.example", AAAA): found("2001:db8::1"),
        ("mx.example", A): found("192.0.2.1"),
        ("_25._tcp.mx.example", TLSA): Found((EE,), True, 60),
    }
    plan, _ = host(world)
    assert isinstance(plan, HostPlan)
    assert plan.addresses == ("2001:db8::1", "192.0.2.1")
    assert plan.tlsa == TlsaRecords("mx.example", (EE,), ())


def test_one_secure_family_is_enough() -> None:
    world: World = {
        ("mx.example", AAAA): NoData(False),
        ("mx.example", A): found("192.0.2.1"),
        ("_25._tcp.mx.example", TLSA): Found((EE,), True, 60),
    }
    plan, _ = host(world)
    assert isinstance(plan, HostPlan)
    assert isinstance(plan.tlsa, TlsaRecords)


def test_insecure_addresses_never_ask_for_tlsa() -> None:
    world: World = {("mx.example", AAAA): NoData(True), ("mx.example", A): found("192.0.2.1", secure=False)}
    plan, asked = host(world)
    assert isinstance(plan, HostPlan)
    assert isinstance(plan.tlsa, TlsaNotAsked)
    assert [query.type for query in asked] == [AAAA, A]


def test_tlsa_is_not_asked_where_it_is_unwanted() -> None:
    world: World = {("mx.example", AAAA): NoData(True), ("mx.example", A): found("192.0.2.1")}
    plan, _ = host(world, unwanted="the MX answer is insecure")
    assert isinstance(plan, HostPlan)
    assert plan.tlsa == TlsaNotAsked("the MX answer is insecure")


def test_the_expanded_name_comes_first_and_the_original_after_absence() -> None:
    aliased = found("192.0.2.1", aliases=("real.example",))
    world: dict[tuple[str, RecordType], Answer] = {
        ("mx.example", AAAA): NoData(True, aliases=("real.example",)),
        ("mx.example", A): aliased,
        ("_25._tcp.real.example", TLSA): NxDomain(True),
        ("_25._tcp.mx.example", TLSA): Found((EE,), True, 60),
    }
    plan, asked = host(world)
    assert isinstance(plan, HostPlan)
    assert isinstance(plan.tlsa, TlsaRecords)
    assert plan.tlsa.base_domain == "mx.example"
    assert [query.name for query in asked[2:]] == ["_25._tcp.real.example", "_25._tcp.mx.example"]

    world["_25._tcp.real.example", TLSA] = Found((EE,), True, 60)
    plan, asked = host(world)
    assert isinstance(plan, HostPlan)
    assert isinstance(plan.tlsa, TlsaRecords)
    assert plan.tlsa.base_domain == "real.example"


@pytest.mark.parametrize("failure", [Bogus("forged"), Unreachable("SERVFAIL")])
def test_a_failed_tlsa_lookup_is_never_an_absence(failure: Answer) -> None:
    world: World = {
        ("mx.example", AAAA): NoData(True),
        ("mx.example", A): found("192.0.2.1", aliases=("real.example",)),
        ("_25._tcp.real.example", TLSA): failure,
    }
    plan, asked = host(world)
    assert isinstance(plan, HostPlan)
    assert isinstance(plan.tlsa, TlsaFailed)
    assert asked[-1].name == "_25._tcp.real.example"


def test_insecure_tlsa_counts_as_absent() -> None:
    world: World = {
        ("mx.example", AAAA): NoData(True),
        ("mx.example", A): found("192.0.2.1"),
        ("_25._tcp.mx.example", TLSA): Found((EE,), False, 60),
    }
    plan, _ = host(world)
    assert isinstance(plan, HostPlan)
    assert plan.tlsa == TlsaAbsent(secure=False)


@pytest.mark.parametrize(
    ("alias", "expected"),
    [
        (Found((AliasRecord("real.example"),), True, 60), TlsaRecords("mx.example", (EE,), ())),
        (
            Found((AliasRecord("real.example"),), False, 60),
            TlsaNotAsked("its address answer is not validated by DNSSEC"),
        ),
    ],
)
def test_a_secure_alias_into_an_insecure_zone_asks_for_the_original_name(
    alias: Answer, expected: object
) -> None:
    world: World = {
        ("mx.example", AAAA): NoData(False, aliases=("real.example",)),
        ("mx.example", A): found("192.0.2.1", secure=False, aliases=("real.example",)),
        ("mx.example", CNAME): alias,
        ("_25._tcp.mx.example", TLSA): Found((EE,), True, 60),
    }
    plan, _ = host(world)
    assert isinstance(plan, HostPlan)
    assert plan.tlsa == expected


@pytest.mark.parametrize("failure", [Bogus("forged"), Unreachable("timeout")])
def test_a_failed_alias_lookup_makes_the_host_unusable(failure: Answer) -> None:
    world: World = {
        ("mx.example", AAAA): NoData(False, aliases=("real.example",)),
        ("mx.example", A): found("192.0.2.1", secure=False, aliases=("real.example",)),
        ("mx.example", CNAME): failure,
    }
    plan, _ = host(world)
    assert isinstance(plan, NoHost)
    assert not plan.permanent


@pytest.mark.parametrize("failure", [Bogus("forged"), Unreachable("timeout")])
@pytest.mark.parametrize("family", [A, AAAA])
def test_one_failing_family_under_a_secure_mx_makes_the_host_unusable(
    failure: Answer, family: RecordType
) -> None:
    world: dict[tuple[str, RecordType], Answer] = {
        ("mx.example", AAAA): found("2001:db8::1"),
        ("mx.example", A): found("192.0.2.1"),
    }
    world["mx.example", family] = failure
    plan, _ = host(world, mx_secure=True)
    assert isinstance(plan, NoHost)
    assert not plan.permanent
    plan, _ = host(world, mx_secure=False, unwanted="the MX answer is insecure")
    assert isinstance(plan, HostPlan)
    assert len(plan.addresses) == 1


def test_no_address_at_all_is_permanent_but_a_failure_beside_it_is_not() -> None:
    plan, _ = host({("mx.example", AAAA): NoData(True), ("mx.example", A): NxDomain(True)})
    assert isinstance(plan, NoHost)
    assert plan.permanent
    plan, _ = host({("mx.example", AAAA): NoData(True), ("mx.example", A): Unreachable("x")}, mx_secure=False)
    assert isinstance(plan, NoHost)
    assert not plan.permanent
