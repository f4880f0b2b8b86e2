from __future__ import annotations

import pytest

from deliver.dnssec.anchors import parse
from deliver.net.clock import WallClock
from deliver.resolve.doctor import ABSENT, Examination, State, examine
from deliver.resolve.transport import Recursor, ResolverAddress
from deliver.resolve.validating import ValidatingResolver
from deliver.settings import Dns, Duration
from tests.internet import Fault, World


async def examined(
    world: World, address: ResolverAddress | None = None, **probes: tuple[str, ...]
) -> Examination:
    address = address or ResolverAddress(world.resolver.address, world.resolver.port)
    recursor = Recursor(Dns(timeout=Duration(0.3), attempts=1), (address,))
    anchors = parse(world.internet.trust_anchor_text)
    validator = ValidatingResolver(recursor, anchors, now=WallClock().now)
    return await examine(address, recursor, validator, **probes)


async def test_a_validating_resolver(world: World) -> None:
    found = await examined(world, secure=("dane-ee.test",), bogus=("bogus.test",))
    assert found.state is State.VALIDATING
    assert found.fit_for("validate")
    assert found.fit_for("trust-ad")
    assert any("bogus.test (dns.probe_bogus) is bogus" in note for note in found.notes)


async def test_a_resolver_that_passes_on_and_does_not_validate(world: World) -> None:
    world.resolver.trouble(".", fault=Fault.NO_AD)
    found = await examined(world)
    assert found.state is State.PASSING
    assert found.fit_for("validate")
    assert not found.fit_for("trust-ad")


async def test_an_ad_bit_on_a_bogus_name_is_worth_nothing(world: World) -> None:
    world.resolver.trouble("bogus.test", "A", fault=Fault.CREDULOUS)
    found = await examined(world, bogus=("bogus.test",))
    assert found.state is State.PASSING
    assert "worth nothing" in found.notes[-1]


@pytest.mark.parametrize("name", [".", ABSENT.to_text()])
async def test_a_resolver_that_drops_signatures_or_denials(world: World, name: str) -> None:
    world.resolver.trouble(name, fault=Fault.UNSIGNED)
    found = await examined(world)
    assert found.state is State.BREAKING
    assert not found.fit_for("validate")
    assert found.fit_for("off")
    assert any("instead of secure" in note for note in found.notes)


async def test_a_dead_resolver(world: World) -> None:
    found = await examined(world, ResolverAddress("127.0.0.1", 9))
    assert found.state is State.DEAD
    assert not found.fit_for("off")
