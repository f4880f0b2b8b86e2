"""DNS answers to TLS policy, one test per row of the table (RFC 7672 2.2, RFC 7505, RFC 5321 5.1).

The walks of `deliver.resolve.walk` are driven from a dict, their plans go to `deliver.tls.policy`; what the
attempt does between the two (is TLSA wanted for this MX answer?) is repeated here in one line.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
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
from deliver.resolve.mx import NoHost
from deliver.resolve.tlsa import owner_name
from deliver.resolve.walk import find_host, find_mx
from deliver.tls.policy import Authentication, Level, Refuse, TlsPolicy, decide

T = TypeVar("T")
World = Mapping[tuple[str, RecordType], Answer]

DOMAIN, HOST, EXPANDED = "example.org", "mx.example.net", "real.example.com"
A, AAAA, CNAME, MX, TLSA = (
    RecordType.A,
    RecordType.AAAA,
    RecordType.CNAME,
    RecordType.MX,
    RecordType.TLSA,
)
FAILURES = (Bogus("signature expired"), Unreachable("SERVFAIL"))

EE = TlsaRecord(3, 1, 1, b"\1" * 32)
UNUSABLE = TlsaRecord(1, 1, 1, b"\2" * 32)


def mx(secure: bool) -> Found:
    return Found((MxRecord(10, HOST),), secure, 300)


def address(secure: bool, *aliases: str) -> Found:
    return Found((AddressRecord("192.0.2.1"),), secure, 300, aliases)


def tlsa(secure: bool, *records: TlsaRecord) -> Found:
    return Found(records, secure, 300)


def world(
    mx_answer: Answer,
    a_answer: Answer | None = None,
    tlsa_answer: Answer | None = None,
    *,
    host: str = HOST,
    aaaa: Answer | None = None,
) -> dict[tuple[str, RecordType], Answer]:
    """Only what the row names; a query for anything else is an error of the row."""
    answers: dict[tuple[str, RecordType], Answer] = {(DOMAIN, MX): mx_answer}
    if a_answer is not None:
        answers[host, A] = a_answer
        answers[host, AAAA] = aaaa if aaaa is not None else NoData(getattr(a_answer, "secure", False))
    if tlsa_answer is not None:
        answers[owner_name(host, 25), TLSA] = tlsa_answer
    return answers


@dataclass(frozen=True)
class Refused:
    """No connection to this host; `enhanced` is set where the DNS decided."""

    permanent: bool
    enhanced: tuple[int, int, int] | None = None


def run(walk: Generator[tuple[Query, ...], tuple[Answer, ...], T], answers: World) -> T:
    try:
        queries = next(walk)
        while True:
            queries = walk.send(tuple(answers[query.name, query.type] for query in queries))
    except StopIteration as finished:
        return finished.value  # type: ignore[no-any-return]


def policy_for(answers: World, level: Level = Level.DANE) -> TlsPolicy | Refused:
    plan = run(find_mx(DOMAIN, Random(1)), answers).plan
    if isinstance(plan, NoHost):
        return Refused(plan.permanent, plan.enhanced)
    unwanted = None if plan.secure or plan.implicit else "the MX answer is not validated"
    walk = find_host(
        plan.targets[0].host,
        port=25,
        families=("ipv6", "ipv4"),
        mx_secure=plan.secure,
        tlsa_unwanted=unwanted if level.wants_tlsa else "the level does not want it",
    )
    host = run(walk, answers).plan
    if isinstance(host, NoHost):
        return Refused(host.permanent, host.enhanced)
    policy = decide(level, plan, host)
    return Refused(permanent=False) if isinstance(policy, Refuse) else policy


def assert_opportunistic(answers: World) -> None:
    """Opportunistic TLS at level dane; at level dane-only the host is not used, for now."""
    policy = policy_for(answers)
    assert isinstance(policy, TlsPolicy)
    assert (policy.use_tls, policy.required, policy.authentication) == (True, False, Authentication.NONE)
    assert policy_for(answers, Level.DANE_ONLY) == Refused(permanent=False)


def assert_dane(answers: World, base_domain: str = HOST) -> None:
    for level in (Level.DANE, Level.DANE_ONLY):
        policy = policy_for(answers, level)
        assert isinstance(policy, TlsPolicy)
        assert policy.required
        assert policy.authentication is Authentication.DANE
        assert policy.records == (EE,)
        assert policy.sni == base_domain
        assert policy.names[0] == base_domain


def assert_deferred(answers: World) -> None:
    for level in (Level.DANE, Level.DANE_ONLY):
        refused = policy_for(answers, level)
        assert isinstance(refused, Refused)
        assert not refused.permanent


# --- the MX answer


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("level", list(Level))
def test_a_failed_mx_lookup_defers_at_every_level(failure: Answer, level: Level) -> None:
    assert policy_for(world(failure), level) == Refused(False, (4, 4, 3))


@pytest.mark.parametrize("secure", [True, False])
def test_a_domain_that_does_not_exist_fails(secure: bool) -> None:
    assert policy_for(world(NxDomain(secure))) == Refused(True, (5, 1, 2))


def test_null_mx_fails() -> None:
    assert policy_for(world(Found((MxRecord(0, ""),), True, 300))) == Refused(True, (5, 1, 10))


def test_a_dot_beside_other_mx_records_is_ignored() -> None:
    records = (MxRecord(0, ""), MxRecord(10, HOST))
    assert_dane(world(Found(records, True, 300), address(True), tlsa(True, EE)))


def test_without_mx_the_domain_itself_is_the_host() -> None:
    assert_dane(world(NoData(True), address(True), tlsa(True, EE), host=DOMAIN), DOMAIN)
    assert_opportunistic(world(NoData(True), address(False), host=DOMAIN))
    assert_opportunistic(world(NoData(True), address(True), NoData(True), host=DOMAIN))


def test_an_insecure_mx_asks_for_no_tlsa() -> None:
    for secure in (True, False):
        assert_opportunistic(world(mx(False), address(secure)))


# --- the address answer


@pytest.mark.parametrize("mx_secure", [True, False])
@pytest.mark.parametrize("absence", [NoData(True), NxDomain(True), NoData(False), NxDomain(False)])
def test_a_host_without_address_is_not_contacted(mx_secure: bool, absence: Answer) -> None:
    refused = policy_for(world(mx(mx_secure), absence, aaaa=absence))
    assert refused == Refused(True, (5, 4, 4))


@pytest.mark.parametrize("mx_secure", [True, False])
@pytest.mark.parametrize("failure", FAILURES)
def test_a_failed_address_lookup_makes_the_host_unusable(mx_secure: bool, failure: Answer) -> None:
    assert_deferred(world(mx(mx_secure), failure, aaaa=failure))


@pytest.mark.parametrize("failure", FAILURES)
def test_one_failed_family_counts_under_a_secure_mx_only(failure: Answer) -> None:
    assert_deferred(world(mx(True), address(True), tlsa(True, EE), aaaa=failure))
    assert_opportunistic(world(mx(False), address(True), aaaa=failure))


def test_an_insecure_address_asks_for_no_tlsa() -> None:
    assert_opportunistic(world(mx(True), address(False)))


def test_one_secure_family_binds_the_host() -> None:
    assert_dane(world(mx(True), address(True), tlsa(True, EE), aaaa=address(False)))


# --- the TLSA answer


@pytest.mark.parametrize("answer", [NoData(True), NxDomain(True), NoData(False), NxDomain(False)])
def test_tlsa_absent(answer: Answer) -> None:
    assert_opportunistic(world(mx(True), address(True), answer))


def test_tlsa_insecure() -> None:
    assert_opportunistic(world(mx(True), address(True), tlsa(False, EE)))


def test_tlsa_usable() -> None:
    assert_dane(world(mx(True), address(True), tlsa(True, EE)))
    assert_dane(world(mx(True), address(True), tlsa(True, UNUSABLE, EE)))


def test_tlsa_without_a_usable_record_still_requires_tls() -> None:
    answers = world(mx(True), address(True), tlsa(True, UNUSABLE))
    policy = policy_for(answers)
    assert isinstance(policy, TlsPolicy)
    assert policy.required
    assert policy.authentication is Authentication.NONE
    assert policy_for(answers, Level.DANE_ONLY) == Refused(permanent=False)


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failed_tlsa_lookup_never_downgrades(failure: Answer) -> None:
    assert_deferred(world(mx(True), address(True), failure))


# --- aliases (RFC 7672 2.2.2 and 2.2.3)


def aliased(secure: bool, expanded: Answer, original: Answer | None = None) -> World:
    answers = world(mx(True), address(secure, EXPANDED), aaaa=Found((), secure, 300, (EXPANDED,)))
    answers[owner_name(EXPANDED, 25), TLSA] = expanded
    if original is not None:
        answers[owner_name(HOST, 25), TLSA] = original
    return answers


def test_the_expanded_name_comes_first() -> None:
    assert_dane(aliased(True, tlsa(True, EE)), EXPANDED)


@pytest.mark.parametrize("answer", [NoData(True), NxDomain(False), tlsa(False, UNUSABLE)])
def test_the_original_name_comes_after_absence_or_an_insecure_answer(answer: Answer) -> None:
    assert_dane(aliased(True, answer, tlsa(True, EE)), HOST)
    assert_opportunistic(aliased(True, answer, NoData(True)))


@pytest.mark.parametrize("failure", FAILURES)
def test_the_original_name_never_rescues_a_failed_lookup(failure: Answer) -> None:
    assert_deferred(aliased(True, failure, tlsa(True, EE)))


def test_a_secure_alias_into_an_insecure_zone_binds_the_original_name() -> None:
    answers = world(mx(True), address(False, EXPANDED), tlsa(True, EE))
    answers[HOST, CNAME] = Found((AliasRecord(EXPANDED),), True, 300)
    assert_dane(answers, HOST)
    answers[HOST, CNAME] = Found((AliasRecord(EXPANDED),), False, 300)
    assert_opportunistic(answers)
    for failure in FAILURES:
        answers[HOST, CNAME] = failure
        assert_deferred(answers)


# --- the level raises the floor, never lowers it


@pytest.mark.parametrize(
    ("level", "wanted"),
    [
        (Level.NONE, (False, False, Authentication.NONE)),
        (Level.MAY, (True, False, Authentication.NONE)),
        (Level.ENCRYPT, (True, True, Authentication.NONE)),
        (Level.VERIFY, (True, True, Authentication.PKIX)),
    ],
)
def test_levels_without_dane_ask_for_no_tlsa(level: Level, wanted: tuple[bool, bool, Authentication]) -> None:
    policy = policy_for(world(mx(True), address(True)), level)
    assert isinstance(policy, TlsPolicy)
    assert (policy.use_tls, policy.required, policy.authentication) == wanted
