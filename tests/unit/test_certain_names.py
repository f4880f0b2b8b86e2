"""Which names count in a certificate where an attacker may have chosen the server: he has one for his own."""

from __future__ import annotations

from pathlib import Path

import pytest

from deliver.agent import Agent
from deliver.level import Level
from deliver.outcome import Delivered
from deliver.resolve.mx import HostPlan, MxPlan, MxTarget
from deliver.resolve.tlsa import TlsaNotAsked
from deliver.settings import Delivery, Route, Rule, Tls
from deliver.tls.policy import Demands, TlsPolicy, decide, verified
from tests.internet import MailDomain, Security, World
from tests.unit.attempts import agent, codes, deliver
from tests.unit.test_login import PASSWORD, opens

HIS = "mx.signed.test"  # with a valid certificate for this name


def host(name: str) -> HostPlan:
    return HostPlan(name, ("192.0.2.1",), False, TlsaNotAsked("no DNSSEC"))


def plan(name: str, *, secure: bool) -> MxPlan:
    return MxPlan("partner.test", (MxTarget(name),), secure)


@pytest.mark.parametrize(
    ("name", "secure", "pinned", "secret", "expected"),
    [
        ("mx.test", True, (), False, ("mx.test",)),
        ("mx.test", True, ("pin.test",), False, ("mx.test", "pin.test")),
        ("mx.test", False, (), False, ("mx.test",)),
        ("mx.test", False, ("pin.test",), False, ("pin.test",)),
        ("partner.test", False, ("pin.test",), False, ("partner.test", "pin.test")),
        ("mx.test", True, (), True, ("mx.test",)),
        ("mx.test", False, (), True, ("partner.test", "rule.test")),
        ("mx.test", False, ("pin.test",), True, ("partner.test", "rule.test")),
        ("partner.test", False, (), True, ("partner.test",)),
    ],
)
def test_the_names_that_count(
    name: str, secure: bool, pinned: tuple[str, ...], secret: bool, expected: tuple[str, ...]
) -> None:
    where, demands = plan(name, secure=secure), Demands(names=pinned)
    certain = ("rule.test",) if secret else None
    assert verified(where, host(name), demands, pinned=certain).names == expected
    if not secret:
        decided = decide(Level.VERIFY, where, host(name), demands)
        assert isinstance(decided, TlsPolicy)
        assert decided.names == expected


async def test_verify_names_pin_a_domain_without_dnssec(world: World, tmp_path: Path) -> None:
    world.publish(MailDomain("partner.test", mx=((10, HIS),), security=Security.INSECURE))
    store = str(world.write_trust_store(tmp_path))
    for names, arrives in ((("mail.partner.test",), False), ((HIS,), True)):
        tls = Tls(trust_store=store, level=Level.VERIFY, verify_names=names)
        result = await deliver(agent(world, tmp_path, tls=tls), "a@partner.test")
        ((_, outcome),) = result.outcomes
        assert isinstance(outcome, Delivered) is arrives
        assert ("name-mismatch" in codes(result)) is not arrives


def logs_in(
    world: World, tmp_path: Path, *, names: tuple[str, ...] = (), rules: tuple[Rule, ...] = ()
) -> Agent:
    """At whatever host DNS names for provider.test."""
    opens(world, "AUTH PLAIN LOGIN")
    secret = tmp_path / "password"
    secret.write_text(PASSWORD + "\n")
    secret.chmod(0o600)
    route = Route(
        domains=("*",),
        via="smarthost",
        mx="provider.test",
        username="ann@client.test",
        password_file=str(secret),
    )
    store = str(world.write_trust_store(tmp_path))
    return agent(
        world,
        tmp_path,
        route=(route,),
        rule=rules,
        tls=Tls(trust_store=store, level=Level.VERIFY, verify_names=names),
        delivery=Delivery(port=world.port, helo="relay.example.org"),
    )


def heard_auth(world: World) -> bool:
    said = [command.verb for connection in world.server(HIS).connections for command in connection.commands]
    return "AUTH" in said


@pytest.mark.parametrize("security", [Security.INSECURE, Security.SECURE])
async def test_no_password_for_a_host_that_a_forged_answer_chose(
    world: World, tmp_path: Path, security: Security
) -> None:
    world.publish(MailDomain("provider.test", mx=((10, HIS),), security=security))
    await deliver(logs_in(world, tmp_path), "bob@anywhere.test")
    assert heard_auth(world) is (security is Security.SECURE)


@pytest.mark.parametrize(
    ("names", "rules", "told"),
    [
        ((HIS,), (), True),
        ((), (Rule(domains=("anywhere.test",), tls={"verify_names": (HIS,)}),), True),
        ((), (Rule(hosts=(HIS,), tls={"verify_names": (HIS,)}),), False),
    ],
)
async def test_names_of_the_settings_let_a_password_go_unless_they_are_those_of_a_host(
    world: World, tmp_path: Path, names: tuple[str, ...], rules: tuple[Rule, ...], told: bool
) -> None:
    """A forged answer would choose a host that a rule names."""
    world.publish(MailDomain("provider.test", mx=((10, HIS),), security=Security.INSECURE))
    await deliver(logs_in(world, tmp_path, names=names, rules=rules), "bob@anywhere.test")
    assert heard_auth(world) is told
