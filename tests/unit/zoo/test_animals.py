"""The zoo holds what it promises, and our validator judges it rightly without any server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime

import dns.message
import pytest
import trio

from deliver.dnssec.verdict import Judged
from tests.internet.resolver import Resolver
from tests.internet.zones import Internet
from tests.zoo import ours
from tests.zoo.animal import Animal, Kind, Security
from tests.zoo.animals import ANIMALS, ZONES
from tests.zoo.differences import OURS, UNBOUND, find
from tests.zoo.recursion import Recursion
from tests.zoo.rules import CODES
from tests.zoo.tree import Zoo, build

NOW = int(datetime.now(UTC).timestamp())


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    return build(NOW)


@pytest.fixture(scope="module")
def recursion(zoo: Zoo) -> Recursion:
    return Recursion(zoo)


@pytest.fixture(scope="module")
def judged(zoo: Zoo, recursion: Recursion) -> Mapping[Animal, Judged]:
    """Every animal judged over the in-process recursor, from one cache."""
    return trio.run(ours.judge_all, ours.validator(zoo, ours.InProcess(recursion), NOW), ANIMALS)


def test_population_is_broad() -> None:
    securities = Counter(animal.security for animal in ANIMALS)
    assert securities[Security.SECURE] >= 150
    assert securities[Security.INSECURE] >= 150
    assert securities[Security.BOGUS] >= 150
    assert {key.algorithm for zone in ZONES for key in zone.keys} >= {5, 7, 8, 10, 13, 14, 15, 16}


def test_no_question_is_asked_with_two_expectations() -> None:
    assert [question for question, count in Counter(map(str, ANIMALS)).items() if count > 1] == []


def test_every_bogus_animal_names_a_rule_that_has_codes() -> None:
    assert {animal.rule for animal in ANIMALS if animal.security is Security.BOGUS} == set(CODES)


def test_every_difference_concerns_an_animal() -> None:
    idle = [row for row in (*UNBOUND, *OURS) if not any(row.concerns(animal) for animal in ANIMALS)]
    assert idle == []


@pytest.mark.parametrize("animal", ANIMALS, ids=str)
def test_in_process_verdict(animal: Animal, judged: Mapping[Animal, Judged]) -> None:
    verdict = ours.read(judged[animal])
    row = find(OURS, animal)
    if row is not None:
        assert row.agrees(animal, verdict.security, verdict.kind), f"{row.why}: {verdict}"
        return
    assert verdict.agrees(animal.security, animal.kind), f"{animal.rule}: {verdict}"
    if animal.security is Security.BOGUS:
        assert ours.code(judged[animal]) in CODES[animal.rule], f"{animal.rule}: {verdict}"


async def test_order_of_questions_changes_no_verdict(
    zoo: Zoo, recursion: Recursion, judged: Mapping[Animal, Judged]
) -> None:
    """What the cache of keys learned from one question never turns the verdict on another."""
    backwards = await ours.judge_all(
        ours.validator(zoo, ours.InProcess(recursion), NOW), ANIMALS[::-1], at_a_time=1
    )
    changed = [
        str(animal)
        for animal in ANIMALS
        if ours.read(backwards[animal]).security is not ours.read(judged[animal]).security
    ]
    assert changed == []


async def test_signatures_run_out(zoo: Zoo, recursion: Recursion) -> None:
    """A clock that is a year ahead makes every signed zone bogus."""
    [animal] = [animal for animal in ANIMALS if str(animal) == "hosted.test. MX"]
    late = ours.validator(zoo, ours.InProcess(recursion), NOW + 365 * 86400)
    verdict = await late.judge_ask(ours.ask_for(animal))
    assert ours.code(verdict) == "signature-expired"


async def test_python_resolver_serves_the_zoo(recursion: Recursion, nursery: trio.Nursery) -> None:
    """Over sockets: the front of the miniature Internet's resolver before the zoo's zones."""
    resolver = Resolver(Internet({}), lookup=recursion.resolve)
    await nursery.start(resolver.serve, "127.0.0.1")
    query = dns.message.make_query("hosted.test.", "MX", want_dnssec=True)
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as client:
        await client.sendto(query.to_wire(), (resolver.address, resolver.port))
        with trio.fail_after(5):
            response = dns.message.from_wire(await client.recv(65535))
    assert {rrset.rdtype.name for rrset in response.answer} == {"MX", "RRSIG"}
    assert response.flags & dns.flags.AD


def test_a_sabotage_that_hits_nothing_is_an_error() -> None:
    from tests.zoo.sabotage import corrupted
    from tests.zoo.signer import ZonePlan

    plans = (ZonePlan("."), ZonePlan("x.", sabotage=(corrupted("nobody", "A"),)))
    with pytest.raises(KeyError):
        build(NOW, plans)


def test_a_zone_planned_twice_is_an_error() -> None:
    with pytest.raises(ValueError, match="planned twice"):
        build(NOW, (*ZONES, ZONES[-1]))


def test_kinds_of_failures_are_nothing() -> None:
    silent = (Security.BOGUS, Security.FAILED)
    assert all((a.kind is Kind.NOTHING) == (a.security in silent) for a in ANIMALS)
