"""A host that may take the mail and was not asked yet keeps it from failing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from deliver.attempt import Attempt
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.outcome import Deferred, Delivered, Failed, Outcome
from deliver.queue.content import InlineContent
from deliver.settings import Delivery, Route
from tests.internet import MailDomain, Security, World
from tests.internet.behaviour import KEYWORDS, Behaviour, Point, Silence
from tests.internet.resolver import Fault
from tests.unit.attempts import agent, attempt, deliver

ABLE = (*KEYWORDS, "SMTPUTF8")
LACKING, GOOD = "mx.signed.test", "mx.dane-ee.test"


def publish(world: World, *hosts: str, silent: bool = False) -> None:
    """mixed.test with these of its hosts: `one` lacks SMTPUTF8, `two` has it, `gone` does not exist."""
    domain = MailDomain(
        "mixed.test",
        mx=tuple((place, f"{host}.mixed.test") for place, host in enumerate(hosts)),
        hosts={"one.mixed.test": world.addresses[LACKING], "two.mixed.test": world.addresses[GOOD]},
        security=Security.INSECURE,
    )
    world.publish(domain)
    replies = {Point.CONNECT: Silence()} if silent else {}
    world.server(GOOD).behaviour = Behaviour(keywords=ABLE, keywords_tls=ABLE, replies=replies)


def international(world: World, tmp_path: Path, **delivery: Any) -> Attempt:
    """An attempt to deliver what only `two` can take."""
    made = agent(world, tmp_path, delivery=Delivery(port=world.port, helo="relay.example.org", **delivery))
    recipients = (Recipient(0, Mailbox.parse("jürgen@mixed.test", utf8=True)),)
    sender = Mailbox("me", "sender.test")
    envelope = Envelope(MessageId("m1"), sender, recipients, 20, False, made.clock.now(), smtputf8=True)
    return Attempt(made, envelope, recipients, InlineContent(b"Subject: hello\r\n\r\nx\r\n"))


async def outcome_of(story: Attempt, *, seconds: float = 60) -> Outcome:
    with trio.move_on_after(seconds):
        await story.run()
    ((_, outcome),) = story.result().outcomes
    return outcome


async def test_it_fails_when_every_host_was_asked(world: World, tmp_path: Path) -> None:
    publish(world, "one")
    assert isinstance(await outcome_of(international(world, tmp_path)), Failed)


async def test_it_arrives_at_the_one_that_can(world: World, tmp_path: Path) -> None:
    publish(world, "one", "two")
    assert isinstance(await outcome_of(international(world, tmp_path)), Delivered)


@pytest.mark.parametrize("order", [("one", "two"), ("two", "one")])
async def test_it_waits_for_a_host_that_could_not_be_looked_up(
    world: World, tmp_path: Path, order: tuple[str, ...]
) -> None:
    publish(world, *order)
    world.resolver.trouble("two.mixed.test", fault=Fault.SERVFAIL)
    outcome = await outcome_of(international(world, tmp_path))
    assert isinstance(outcome, Deferred)
    assert "SMTPUTF8" in outcome.why
    assert "two.mixed.test" in outcome.why
    assert outcome.enhanced.klass == 4


async def test_it_waits_for_those_beyond_the_limit_of_hosts(world: World, tmp_path: Path) -> None:
    publish(world, "one", "two")
    outcome = await outcome_of(international(world, tmp_path, max_hosts=1))
    assert isinstance(outcome, Deferred)
    assert "delivery.max_hosts" in outcome.why


async def test_the_limit_of_hosts_is_no_reason_when_none_is_left(world: World, tmp_path: Path) -> None:
    publish(world, "one")
    assert isinstance(await outcome_of(international(world, tmp_path, max_hosts=1)), Failed)


async def test_it_waits_when_the_time_of_the_attempt_was_over(world: World, tmp_path: Path) -> None:
    publish(world, "one", "two", silent=True)
    outcome = await outcome_of(international(world, tmp_path, deadline=1))
    assert isinstance(outcome, Deferred)
    assert "delivery.deadline" in outcome.why


async def test_it_waits_when_the_relay_stopped(world: World, tmp_path: Path) -> None:
    publish(world, "one", "two", silent=True)
    outcome = await outcome_of(international(world, tmp_path), seconds=1)
    assert isinstance(outcome, Deferred)
    assert "interrupted" in outcome.why


async def test_a_host_that_does_not_exist_says_nothing_about_one_under_way(
    world: World, tmp_path: Path
) -> None:
    publish(world, "gone", "two", silent=True)
    assert isinstance(await outcome_of(attempt(agent(world, tmp_path), "a@mixed.test"), seconds=1), Deferred)


@pytest.mark.parametrize(
    "keys",
    [{"hosts": ("gone.signed.test",)}, {"mx": "gone.test"}, {"mx": "null.test"}],
    ids=["host", "domain", "null-mx"],
)
async def test_a_smarthost_that_does_not_exist_bounces_nothing(
    world: World, tmp_path: Path, keys: dict[str, Any]
) -> None:
    world.publish(MailDomain("null.test", mx=((0, "."),)))
    without = Route(domains=("*",), via="smarthost", **keys)
    ((_, outcome),) = (await deliver(agent(world, tmp_path, route=(without,)), "a@anywhere.test")).outcomes
    assert isinstance(outcome, Deferred)
    assert "the settings name this server" in outcome.why
    spare = Route(domains=("*",), via="smarthost", fallback=(LACKING,), **keys)
    ((_, outcome),) = (await deliver(agent(world, tmp_path, route=(spare,)), "a@anywhere.test")).outcomes
    assert isinstance(outcome, Delivered)
