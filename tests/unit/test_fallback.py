"""Hosts of last resort: for whom, why and when, and that no policy is weakened on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from deliver.assembly import build_agent
from deliver.attempt import Attempt
from deliver.errors import Blame
from deliver.fallback import applies, reason
from deliver.level import Level
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.net.clock import WallClock
from deliver.outcome import Contact, Deferred, Delivered, Failed, Outcome, Phase
from deliver.queue.content import InlineContent
from deliver.relay.route import Fallback, ViaSmarthost
from deliver.settings import Delivery, Dns, Route, Rule, Settings, Tls
from deliver.smtp.reply import Reply
from hints.memory import MemoryHints
from tests.internet import World
from tests.internet.behaviour import Drop, Point

HOST = "mx.signed.test"
LATER = Reply(451, ("4.3.0 later",))
BODY = b"Subject: x\r\n\r\nhi\r\n"


@pytest.mark.parametrize(
    ("outcome", "why"),
    [
        (Deferred("no connection", Blame.HOST, Phase.CONNECT), "unreachable"),
        (Deferred("no greeting", Blame.HOST, Phase.BANNER), "unreachable"),
        (Deferred("no answer of DNS", Blame.DESTINATION), "unreachable"),
        (Deferred("lost", Blame.HOST, Phase.RCPT), "unreachable"),
        (Deferred("handshake", Blame.HOST, Phase.TLS), "tls"),
        (Deferred("454", Blame.HOST, Phase.STARTTLS, reply=Reply(454, ("no",))), "tls"),
        (Deferred("unproven", Blame.POLICY, Phase.TLS), "tls"),
        (Deferred("no STARTTLS", Blame.POLICY), "tls"),
        (Deferred("421", Blame.HOST, Phase.BANNER, reply=Reply(421, ("no",))), "deferred"),
        (Deferred("450", Blame.RECIPIENT, Phase.RCPT, reply=LATER), "deferred"),
        (Deferred("451", Blame.MESSAGE, Phase.DOT, reply=LATER), "deferred"),
        (Deferred("in doubt", Blame.HOST, Phase.DOT, in_doubt=True), None),
        (Deferred("our disk", Blame.LOCAL, Phase.BODY), None),
        (Failed("550", Blame.RECIPIENT, Phase.RCPT, reply=Reply(550, ("no",))), None),
        (Delivered(Reply(250, ("ok",)), Contact("h", "a", 25)), None),
        (None, None),
    ],
)
def test_what_counts_as_what(outcome: Outcome | None, why: str | None) -> None:
    assert reason(outcome) == why


def test_only_for_its_reasons_and_after_its_attempts() -> None:
    fallback = Fallback(ViaSmarthost((("h", None),)), ("tls", "deferred"), after=2)
    tls, lost = Deferred("x", Blame.POLICY), Deferred("x", Blame.HOST, Phase.CONNECT)
    assert [applies(fallback, number, tls) for number in (1, 2, 3, 4)] == [False, False, True, True]
    assert not applies(fallback, 9, lost)
    assert not applies(replace(fallback, on=()), 9, tls)


async def deliver(
    world: World,
    tmp_path: Path,
    route: Mapping[str, object],
    *boxes: str,
    number: int = 1,
    sender: str = "me@sender.test",
    rule: tuple[Rule, ...] = (),
) -> list[Outcome]:
    settings = Settings(
        state_dir=str(tmp_path),
        dns=Dns(
            resolvers=(world.resolver.endpoint,), trust_anchors=str(world.write_trust_anchor(tmp_path)),
            timeout=2, attempts=1,
        ),
        tls=Tls(trust_store=str(world.write_trust_store(tmp_path))),
        delivery=Delivery(port=world.port, helo="relay.example.org"),
        route=(Route(**{"domains": ("*",), "via": "mx", **route}),),  # type: ignore[arg-type]
        rule=rule,
    )  # fmt: skip
    clock = WallClock()
    ours = build_agent(
        settings, hints=MemoryHints(clock=clock.now), clock=clock, rng=Random(1), learner="test"
    )
    recipients = tuple(Recipient(place, Mailbox.parse(box)) for place, box in enumerate(boxes))
    envelope = Envelope(
        MessageId("m1"), Mailbox.parse(sender) if sender else None, recipients, len(BODY), False, clock.now()
    )
    attempt = Attempt(ours, envelope, recipients, InlineContent(BODY), number=number)
    await attempt.run()
    return [outcome for _, outcome in attempt.result().outcomes]


def hosts(outcomes: list[Outcome]) -> list[str | None]:
    return [outcome.contact.host if outcome.contact else None for outcome in outcomes]


async def test_an_unreachable_destination_goes_to_the_fallback(world: World, tmp_path: Path) -> None:
    world.server("mx.plain.test").behaviour = replace(
        world.server("mx.plain.test").behaviour, replies={Point.CONNECT: Drop()}
    )
    found = await deliver(world, tmp_path, {"fallback": (HOST,)}, "a@plain.test")
    assert isinstance(found[0], Delivered)
    assert hosts(found) == [HOST]


async def test_a_bogus_answer_of_dns_too_but_never_what_does_not_exist(world: World, tmp_path: Path) -> None:
    assert hosts(await deliver(world, tmp_path, {"fallback": (HOST,)}, "a@bogus.test")) == [HOST]
    (outcome,) = await deliver(world, tmp_path, {"fallback": (HOST,)}, "a@absent.test")
    assert isinstance(outcome, Failed)
    assert str(outcome.enhanced) == "5.1.2"


@pytest.mark.parametrize(("on", "host"), [("tls", HOST), ("unreachable", "mx.dane-mismatch.test")])
async def test_a_server_that_proves_nothing(world: World, tmp_path: Path, on: str, host: str) -> None:
    found = await deliver(
        world, tmp_path, {"fallback": (HOST,), "fallback_on": (on,)}, "a@dane-mismatch.test"
    )
    assert hosts(found) == [host]
    assert isinstance(found[0], Delivered) == (host == HOST)
    assert world.server("mx.dane-mismatch.test").messages == ()


async def test_the_fallback_is_held_to_the_same_policy(world: World, tmp_path: Path) -> None:
    found = await deliver(
        world,
        tmp_path,
        {"fallback": ("mx.plain.test",), "fallback_on": ("tls",), "level": Level.ENCRYPT},
        "a@dane-stripped.test",
    )
    assert isinstance(found[0], Deferred)
    assert found[0].blame is Blame.POLICY
    assert world.messages == ()


async def test_only_those_whom_the_first_hosts_deferred(world: World, tmp_path: Path) -> None:
    server = world.server("mx.plain.test")

    def verdict(argument: str) -> str | None:
        if "later" in argument:
            return "450 4.2.1 later"
        return "550 5.1.1 nobody" if "never" in argument else None

    server.behaviour = replace(server.behaviour, replies={Point.RCPT: verdict})
    route = {"fallback": (HOST,), "fallback_on": ("deferred",)}
    found = await deliver(world, tmp_path, route, "good@plain.test", "later@plain.test", "never@plain.test")
    assert [type(outcome) for outcome in found] == [Delivered, Delivered, Failed]
    assert hosts(found) == ["mx.plain.test", HOST, "mx.plain.test"]
    (second,) = world.server(HOST).messages
    assert second.recipients == ("later@plain.test",)


async def test_nothing_in_doubt_goes_anywhere_else(world: World, tmp_path: Path) -> None:
    server = world.server("mx.plain.test")
    server.behaviour = replace(server.behaviour, replies={Point.DOT: Drop()})
    route = {"fallback": (HOST,), "fallback_on": ("unreachable", "tls", "deferred")}
    (outcome,) = await deliver(world, tmp_path, route, "a@plain.test")
    assert isinstance(outcome, Deferred)
    assert outcome.in_doubt
    assert world.server(HOST).messages == ()


async def test_a_smarthosts_login_never_goes_to_its_fallback(world: World, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret")
    (tmp_path / "password").chmod(0o600)
    server = world.server("mx.dane-ee.test")
    server.behaviour = replace(server.behaviour, replies={Point.CONNECT: Drop()})
    route = {
        "via": "smarthost", "hosts": ("mx.dane-ee.test",), "fallback": (HOST,),
        "username": "me", "password_file": str(tmp_path / "password"),
    }  # fmt: skip
    found = await deliver(world, tmp_path, route, "a@one.invalid")
    assert isinstance(found[0], Delivered)
    assert hosts(found) == [HOST]


async def test_the_first_attempts_go_without(world: World, tmp_path: Path) -> None:
    route = {"fallback": (HOST,), "fallback_after": 1}
    assert hosts(await deliver(world, tmp_path, route, "a@bogus.test", number=1)) == [None]
    assert hosts(await deliver(world, tmp_path, route, "a@bogus.test", number=2)) == [HOST]


async def test_a_level_of_the_route_and_routes_by_sender(world: World, tmp_path: Path) -> None:
    strict = {"level": Level.VERIFY, "senders": ("*@Sender.test",)}
    (outcome,) = await deliver(
        world, tmp_path, strict, "a@plain.test", rule=(Rule(domains=("*",), tls={"level": "none"}),)
    )
    assert isinstance(outcome, Deferred)
    assert outcome.blame is Blame.POLICY
    for sender in ("me@other.test", ""):
        (outcome,) = await deliver(world, tmp_path, strict, "a@plain.test", sender=sender)
        assert isinstance(outcome, Delivered)
