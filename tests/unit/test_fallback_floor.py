"""What a destination is owed, its fallback is owed too: no attacker turns DANE off by dropping packets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deliver.level import Level
from deliver.outcome import Deferred, Delivered, Outcome
from deliver.resolve.mx import HostPlan, MxPlan, MxTarget
from deliver.resolve.tlsa import TlsaNotAsked
from deliver.settings import Route, Tls
from deliver.tls.policy import (
    Authentication,
    Demands,
    Floor,
    Refuse,
    TlsPolicy,
    at_least,
    decide,
    floor_of,
    floor_unknown,
)
from hints.port import Unreadable
from hints.records import StsSeen
from tests.internet import Fault, MailDomain, Security, World
from tests.unit.attempts import agent, deliver

CLEAR, SOUND = "mx.plain.test", "mx.signed.test"
PLAN = MxPlan("d.test", (MxTarget("mx.d.test"),), secure=True)
HOST = HostPlan("mx.d.test", ("192.0.2.1",), False, TlsaNotAsked("no DNSSEC"))


def policy(level: Level) -> TlsPolicy | Refuse:
    return decide(level, PLAN, HOST, Demands())


@pytest.mark.parametrize(
    ("level", "floor"),
    [
        (Level.NONE, Floor.ANY),
        (Level.MAY, Floor.ANY),
        (Level.TRY_VERIFY, Floor.ANY),
        (Level.DANE, Floor.ANY),
        (Level.ENCRYPT, Floor.ENCRYPTED),
        (Level.VERIFY, Floor.AUTHENTICATED),
        (Level.DANE_ONLY, Floor.AUTHENTICATED),
    ],
)
def test_what_a_host_is_owed(level: Level, floor: Floor) -> None:
    assert floor_of(policy(level)) is floor


@pytest.mark.parametrize("floor", Floor)
@pytest.mark.parametrize("level", Level)
def test_a_policy_is_only_ever_raised(level: Level, floor: Floor) -> None:
    before = policy(level)
    after = at_least(floor, before, PLAN, HOST)
    assert floor_of(after) == max(floor, floor_of(before))
    if floor_of(before) >= floor:
        assert after is before
    if isinstance(after, TlsPolicy) and floor is Floor.AUTHENTICATED:
        assert after.required
        assert after.authentication is Authentication.PKIX


def test_what_is_not_known_counts_as_the_most_that_it_can_be() -> None:
    assert floor_unknown(Level.DANE, tlsa_possible=True) is Floor.AUTHENTICATED
    assert floor_unknown(Level.DANE, tlsa_possible=False) is Floor.ANY
    assert floor_unknown(Level.DANE_ONLY, tlsa_possible=False) is Floor.AUTHENTICATED
    assert floor_unknown(Level.VERIFY, tlsa_possible=False) is Floor.AUTHENTICATED
    assert floor_unknown(Level.ENCRYPT, tlsa_possible=True) is Floor.ENCRYPTED
    assert floor_unknown(Level.MAY, tlsa_possible=True) is Floor.ANY


async def delivered(world: World, tmp_path: Path, box: str, fallback: str, **keys: Any) -> Outcome:
    route = Route(domains=("*",), **{"via": "mx", "fallback": (fallback,), **keys})
    tls = Tls(trust_store=str(world.write_trust_store(tmp_path)))
    ((_, outcome),) = (await deliver(agent(world, tmp_path, route=(route,), tls=tls), box)).outcomes
    return outcome


def unreachable_with_dane(world: World) -> None:
    tlsa = (f"_{world.port}._tcp.mx.down.test", "3 1 1 " + "ab" * 32)
    hosts = {"mx.down.test": ("127.0.0.1",)}
    world.publish(MailDomain("down.test", mx=((10, "mx.down.test"),), hosts=hosts, tlsa=(tlsa,)))


async def test_a_domain_with_dane_whose_host_is_silent(world: World, tmp_path: Path) -> None:
    unreachable_with_dane(world)
    outcome = await delivered(world, tmp_path, "a@down.test", CLEAR)
    assert isinstance(outcome, Deferred)
    outcome = await delivered(world, tmp_path, "a@down.test", SOUND)
    assert isinstance(outcome, Delivered)
    assert outcome.contact.tls is not None
    assert outcome.contact.tls.verified_by == "pkix"


@pytest.mark.parametrize("box", ["a@dane-mismatch.test", "a@bogus.test"])
async def test_a_domain_that_proves_nothing(world: World, tmp_path: Path, box: str) -> None:
    outcome = await delivered(world, tmp_path, box, CLEAR, fallback_on=("tls", "unreachable"))
    assert isinstance(outcome, Deferred)
    assert world.messages == ()


async def test_a_domain_without_dane_goes_as_before(world: World, tmp_path: Path) -> None:
    world.publish(
        MailDomain(
            "quiet.test",
            mx=((10, "mx.quiet.test"),),
            hosts={"mx.quiet.test": ("127.0.0.1",)},
            security=Security.INSECURE,
        )
    )
    outcome = await delivered(world, tmp_path, "a@quiet.test", CLEAR)
    assert isinstance(outcome, Delivered)
    assert outcome.contact.tls is None


@pytest.mark.parametrize("mode", ["enforce", "testing"])
@pytest.mark.parametrize("answer", ["silent", "host", "domain"])
@pytest.mark.parametrize("level", [Level.DANE, Level.MAY])
async def test_a_domain_with_a_known_policy(
    world: World, tmp_path: Path, mode: str, answer: str, level: Level
) -> None:
    """Whoever keeps its hosts from us does not get its mail sent to a fallback in clear text."""
    hosts = {"mx.quiet.test": ("127.0.0.1",)}
    zone = MailDomain("quiet.test", mx=((10, "mx.quiet.test"),), hosts=hosts, security=Security.INSECURE)
    world.publish(zone)
    if answer != "silent":
        name, rdtype = ("mx.quiet.test", "A") if answer == "host" else ("quiet.test", "MX")
        world.resolver.trouble(name, rdtype, fault=Fault.SERVFAIL)
    route = Route(domains=("*",), via="mx", fallback=(CLEAR,))
    tls = Tls(trust_store=str(world.write_trust_store(tmp_path)), level=level)
    sender = agent(world, tmp_path, route=(route,), tls=tls)
    now = sender.clock.now()
    policy = StsSeen("quiet.test", "1", mode, ("mx.quiet.test",), 86400, now)
    sender.hints.note(policy, source="test", reason="fetched", now=now)
    ((_, outcome),) = (await deliver(sender, "a@quiet.test")).outcomes
    unsigned_mx = (answer, level) == ("domain", Level.DANE)  # nobody can say that it would have been unsigned
    assert isinstance(outcome, Deferred if mode == "enforce" or unsigned_mx else Delivered)


@pytest.mark.parametrize("announced", [False, True])
async def test_hints_that_cannot_be_read_stop_only_mail_that_may_have_a_policy(
    world: World, tmp_path: Path, announced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(domain: str) -> StsSeen | None:
        raise Unreadable("the disk is full")

    text = {"_mta-sts.quiet.test": "v=STSv1; id=1;"} if announced else {}
    hosts = {"mx.quiet.test": ("127.0.0.1",)}
    zone = MailDomain(
        "quiet.test", mx=((10, "mx.quiet.test"),), hosts=hosts, texts=text, security=Security.INSECURE
    )
    world.publish(zone)
    keys = {"fallback": (CLEAR,), "fallback_on": ("tls", "unreachable")}
    route = Route(domains=("*",), via="mx", **keys)
    sender = agent(world, tmp_path, route=(route,))
    monkeypatch.setattr(sender.hints, "sts_policy", broken)
    ((_, outcome),) = (result := await deliver(sender, "a@quiet.test")).outcomes
    assert isinstance(outcome, Deferred if announced else Delivered)
    assert ("sts-unknown" in [found.code for found in result.trace.findings]) is announced


async def test_a_route_with_a_login(world: World, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("x\n")
    secret.chmod(0o600)
    keys = {
        "via": "smarthost",
        "hosts": (f"{SOUND}:1",),
        "username": "ann",
        "password_file": str(secret),
    }
    assert isinstance(await delivered(world, tmp_path, "a@anywhere.test", CLEAR, **keys), Deferred)
    outcome = await delivered(world, tmp_path, "a@anywhere.test", "mx.dane-ee.test", **keys)
    assert isinstance(outcome, Delivered)
