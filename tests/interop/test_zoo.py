"""The DNSSEC zoo served by real NSD: real unbound and our own validator must conclude what each animal expects.

Our validator asks a second unbound, which only recurses, as any resolver does that honours CD. Disagreements stand in
tests/zoo/differences.py, each with its RFC section.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import dns.asyncquery
import dns.flags
import dns.message
import pytest
import trio

from deliver.dnssec.verdict import Judged
from deliver.resolve.transport import Recursor, ResolverAddress
from deliver.settings import Dns
from tests.interop.peers.factory import Factory
from tests.interop.peers.nsd import Nsd, NsdConfig
from tests.interop.peers.unbound import Unbound, UnboundConfig
from tests.zoo import oracle, ours
from tests.zoo.animal import Animal, Security
from tests.zoo.animals import ANIMALS
from tests.zoo.differences import OURS, UNBOUND, find
from tests.zoo.oracle import Verdict
from tests.zoo.rules import CODES
from tests.zoo.tree import Zoo, build

_NOW = int(datetime.now(UTC).timestamp())
_AT_A_TIME = 16
_TIMEOUT = 20.0  # seconds
_PURE = """\
qname-minimisation: no
aggressive-nsec: no
prefetch: no
harden-below-nxdomain: no
harden-algo-downgrade: no
val-nsec3-keysize-iterations: "1024 150 2048 150 4096 150"
edns-buffer-size: 1232
num-queries-per-thread: 4096
"""


@dataclass(frozen=True, slots=True)
class Served:
    """The zoo, the unbound that validates and the one that only recurses."""

    zoo: Zoo
    validating: Unbound
    recursing: Unbound


@pytest.fixture(scope="module")
def served(nsd: Factory[NsdConfig, Nsd], unbound: Factory[UnboundConfig, Unbound]) -> Served:
    """All zones on one NSD; both unbounds find every zone there by a stub."""
    zoo = build(_NOW)
    authority = nsd(zones=zoo.files)
    stubs = tuple((name, authority.address, authority.port) for name, _ in zoo.files)
    return Served(
        zoo,
        unbound(stubs=stubs, anchors=zoo.anchor_texts, server=_PURE),
        unbound(stubs=stubs, server=_PURE + 'module-config: "iterator"\n'),
    )


@pytest.fixture(scope="module")
def theirs(served: Served) -> Mapping[Animal, Verdict]:
    """What unbound concludes about every animal."""
    return trio.run(_ask_all, served.validating)


@pytest.fixture(scope="module")
def judged(served: Served) -> Mapping[Animal, Judged]:
    """What our validator concludes about every animal, from one cache."""
    address = ResolverAddress(served.recursing.address, served.recursing.port)
    resolver = ours.validator(served.zoo, Recursor(Dns(), (address,)), _NOW)
    return trio.run(ours.judge_all, resolver, ANIMALS)


async def _ask_all(server: Unbound) -> Mapping[Animal, Verdict]:
    verdicts: dict[Animal, Verdict] = {}
    limit = trio.CapacityLimiter(_AT_A_TIME)

    async def ask(animal: Animal) -> None:
        query = dns.message.make_query(animal.name, animal.type, want_dnssec=True)
        query.flags |= dns.flags.AD
        async with limit:
            response, _ = await dns.asyncquery.udp_with_fallback(
                query, server.address, port=server.port, timeout=_TIMEOUT
            )
        verdicts[animal] = oracle.read(response)

    async with trio.open_nursery() as nursery:
        for animal in ANIMALS:
            nursery.start_soon(ask, animal)
    return verdicts


@pytest.mark.parametrize("animal", ANIMALS, ids=str)
def test_unbound_concludes_what_is_expected(animal: Animal, theirs: Mapping[Animal, Verdict]) -> None:
    verdict = theirs[animal]
    if not verdict.agrees(animal.security, animal.kind):
        row = find(UNBOUND, animal)
        assert row is not None, f"expected {animal.security} {animal.kind} ({animal.rule}): {verdict}"
        assert row.agrees(animal, verdict.security, verdict.kind), f"{row.why}: {verdict}"


@pytest.mark.parametrize("animal", ANIMALS, ids=str)
def test_our_validator_concludes_what_is_expected(animal: Animal, judged: Mapping[Animal, Judged]) -> None:
    verdict = ours.read(judged[animal])
    row = find(OURS, animal)
    if row is None:
        assert verdict.agrees(animal.security, animal.kind), f"{animal.rule}: {verdict}"
        if animal.security is Security.BOGUS:
            assert ours.code(judged[animal]) in CODES[animal.rule], f"{animal.rule}: {verdict}"
    else:
        assert row.agrees(animal, verdict.security, verdict.kind), f"{row.why}: {verdict}"


def test_we_trust_nothing_that_unbound_finds_bogus(
    theirs: Mapping[Animal, Verdict], judged: Mapping[Animal, Judged]
) -> None:
    """Independent of what the zoo expects: no forgery that unbound sees passes our validator."""
    bogus = [animal for animal, verdict in theirs.items() if verdict.security is Security.BOGUS]
    assert len(bogus) > 200
    assert [
        animal
        for animal in bogus
        if ours.read(judged[animal]).security not in (Security.BOGUS, Security.FAILED)
    ] == []
