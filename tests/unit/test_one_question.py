"""One delivery asks each question of the DNS once: what was looked up ahead of it, and failed, is not asked again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from deliver.assembly import build_agent
from deliver.attempt import Attempt
from deliver.lookahead import Ahead, look_ahead
from deliver.lookup import caching_resolver
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.net.clock import WallClock
from deliver.outcome import Deferred, Outcome
from deliver.queue.content import InlineContent
from deliver.settings import Delivery, Dns, Duration, Settings, Tls
from hints.memory import MemoryHints
from tests.internet import World
from tests.internet.resolver import Fault

BODY = b"Subject: hello\r\n\r\nhello\r\n"


def settings_for(world: World, tmp_path: Path, mode: Any) -> Settings:
    return Settings(
        state_dir=str(tmp_path),
        dns=Dns(
            dnssec=mode,
            resolvers=(world.resolver.endpoint,),
            trust_anchors=str(world.write_trust_anchor(tmp_path)),
            timeout=Duration(2),
            attempts=1,
        ),
        tls=Tls(trust_store=str(world.write_trust_store(tmp_path))),
        delivery=Delivery(port=world.port, helo="relay.example.org"),
    )


async def send(settings: Settings, domain: str) -> Outcome:
    """The outcome of one message as `outrider send` delivers it: the attempt begins when all is looked up."""
    clock, rng = WallClock(), Random(1)
    resolver = caching_resolver(settings, clock, single=True)
    await look_ahead(Ahead(settings, resolver, rng), "me@sender.test", [domain])
    agent = build_agent(
        settings, hints=MemoryHints(clock=clock.now), clock=clock, rng=rng, learner="test", resolver=resolver
    )
    recipients = (Recipient(0, Mailbox("a", domain)),)
    envelope = Envelope(
        MessageId("m1"), Mailbox("me", "sender.test"), recipients, len(BODY), False, clock.now()
    )
    attempt = Attempt(agent, envelope, recipients, InlineContent(BODY))
    await attempt.run()
    ((_, outcome),) = attempt.result().outcomes
    return outcome


def asked_again(world: World) -> dict[tuple[str, str], int]:
    counted = Counter((question.name, question.type) for question in world.resolver.questions)
    return {question: times for question, times in counted.items() if times > 1}


@pytest.mark.parametrize("mode", ["validate", "trust-ad"])
@pytest.mark.parametrize(
    "domain", ["dane-ee.test", "alias.test", "busy.test", "implicit.test", "insecure.test", "absent.test"]
)
async def test_what_is_there_is_asked_for_once(world: World, tmp_path: Path, domain: str, mode: str) -> None:
    await send(settings_for(world, tmp_path, mode), domain)
    assert world.resolver.asked(domain, "MX")
    assert asked_again(world) == {}


@pytest.mark.parametrize("mode", ["validate", "trust-ad"])
@pytest.mark.parametrize("domain", ["bogus.test", "expired.test", "tlsa-bogus.test", "tlsa-servfail.test"])
async def test_what_fails_is_asked_for_once(world: World, tmp_path: Path, domain: str, mode: str) -> None:
    outcome = await send(settings_for(world, tmp_path, mode), domain)
    assert isinstance(outcome, Deferred)
    assert asked_again(world) == {}


async def test_a_failure_that_was_met_ahead_is_the_attempts_failure(world: World, tmp_path: Path) -> None:
    world.resolver.trouble("dane-ee.test", "MX", fault=Fault.SERVFAIL, times=1)
    outcome = await send(settings_for(world, tmp_path, "trust-ad"), "dane-ee.test")
    assert isinstance(outcome, Deferred)
    assert "MX records could not be looked up" in outcome.why
    assert world.messages == ()


async def test_the_next_delivery_asks_again(world: World, tmp_path: Path) -> None:
    world.resolver.trouble("dane-ee.test", "MX", fault=Fault.SERVFAIL, times=1)
    settings = settings_for(world, tmp_path, "trust-ad")
    await send(settings, "dane-ee.test")
    await send(settings, "dane-ee.test")
    assert len(world.messages) == 1
