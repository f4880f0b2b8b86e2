"""Attempts along routes and by rules: who is asked, who is contacted, and how well it must be proven."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from deliver.outcome import Deferred, Delivered, Failed
from deliver.settings import Dns, Relay, Route, Rule
from tests.internet import World
from tests.internet.behaviour import Behaviour
from tests.internet.resolver import Fault
from tests.unit.attempts import agent, deliver


@pytest.mark.parametrize(
    ("level", "domain", "kind", "verified_by"),
    [
        ("verify", "signed.test", Delivered, "pkix"),
        ("verify", "dane-ee.test", Deferred, None),
        ("verify", "plain.test", Deferred, None),
        ("encrypt", "insecure.test", Delivered, "none"),
        ("encrypt", "plain.test", Deferred, None),
        ("none", "dane-ee.test", Delivered, None),
        ("may", "dane-mismatch.test", Delivered, "none"),
        ("dane-only", "dane-ee.test", Delivered, "dane-ee"),
        ("dane-only", "signed.test", Deferred, None),
        ("dane-only", "tlsa-unusable.test", Deferred, None),
    ],
)
async def test_levels_by_rule(
    world: World, tmp_path: Path, level: str, domain: str, kind: type, verified_by: str | None
) -> None:
    rule = Rule(domains=(domain,), tls={"level": level})
    result = await deliver(agent(world, tmp_path, rule=(rule,)), f"a@{domain}")
    ((_, outcome),) = result.outcomes
    assert type(outcome) is kind
    if isinstance(outcome, Delivered):
        assert (outcome.contact.tls.verified_by if outcome.contact.tls else None) == verified_by
    else:
        assert world.messages == ()


async def test_routes(world: World, tmp_path: Path) -> None:
    routes = (
        Route(domains=("one.invalid",), via="smarthost", hosts=(f"mx.dane-ee.test:{world.port}",)),
        Route(domains=("two.invalid",), via="smarthost", mx="dane-ta.test"),
        Route(domains=("*.three.invalid",), via="reject", reason="not from here"),
    )
    ours = agent(world, tmp_path, route=routes)
    ((_, one),) = (await deliver(ours, "a@one.invalid")).outcomes
    ((_, two),) = (await deliver(ours, "a@two.invalid")).outcomes
    ((_, three),) = (await deliver(ours, "a@x.three.invalid")).outcomes
    assert isinstance(one, Delivered)
    assert isinstance(two, Delivered)
    assert one.contact.tls is not None
    assert two.contact.tls is not None
    assert (one.contact.tls.verified_by, two.contact.tls.verified_by) == ("dane-ee", "dane-ta")
    assert isinstance(three, Failed)
    assert (str(three.enhanced), three.why) == ("5.7.1", "not from here")


async def test_an_address_literal(world: World, tmp_path: Path) -> None:
    (address,) = world.addresses["mx.plain.test"]
    ((_, outcome),) = (await deliver(agent(world, tmp_path), f"a@[{address}]")).outcomes
    assert isinstance(outcome, Delivered)
    assert outcome.contact.host == address


async def test_mail_never_goes_back_to_ourselves(world: World, tmp_path: Path) -> None:
    ours = agent(world, tmp_path, relay=Relay(local_names=("mx2.busy.test",)))
    ((_, outcome),) = (await deliver(ours, "a@busy.test")).outcomes
    assert isinstance(outcome, Deferred)  # mx1 answers 421, mx2 and everything behind it is us
    ours = agent(world, tmp_path, relay=Relay(local_names=("mx1.busy.test",)))
    ((_, outcome),) = (await deliver(ours, "a@busy.test")).outcomes
    assert isinstance(outcome, Failed)
    assert str(outcome.enhanced) == "5.4.6"


async def test_hosts_are_looked_up_side_by_side(world: World, tmp_path: Path) -> None:
    world.server("mx1.busy.test").behaviour = Behaviour()
    world.resolver.trouble("mx2.busy.test", fault=Fault.SILENCE)
    with trio.fail_after(1.5):  # dns.timeout is 2 s
        ((_, outcome),) = (await deliver(agent(world, tmp_path), "a@busy.test")).outcomes
    assert isinstance(outcome, Delivered)
    assert outcome.contact.host == "mx1.busy.test"
    assert world.resolver.asked("mx2.busy.test", "A")


async def test_dns_off_means_no_dane(world: World, tmp_path: Path) -> None:
    off = Dns(resolvers=(world.resolver.endpoint,), dnssec="off")
    ((_, outcome),) = (await deliver(agent(world, tmp_path, dns=off), "a@dane-mismatch.test")).outcomes
    assert isinstance(outcome, Delivered)
    assert outcome.contact.tls is not None
    assert outcome.contact.tls.verified_by == "none"
