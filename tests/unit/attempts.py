"""One attempt through the miniature Internet, as the relay makes it, and what came of it."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from deliver.agent import Agent
from deliver.assembly import build_agent
from deliver.attempt import Attempt
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.net.clock import WallClock
from deliver.outcome import AttemptResult
from deliver.queue.content import InlineContent
from deliver.settings import Delivery, Dns, Duration, Settings, Tls
from hints.memory import MemoryHints
from tests.internet import World

BODY = b"Subject: hello\r\n\r\n.a line with a dot\r\nlast\r\n"


def dns(world: World, tmp_path: Path, mode: Any = "validate") -> Dns:
    anchors = str(world.write_trust_anchor(tmp_path))
    return Dns(
        dnssec=mode,
        resolvers=(world.resolver.endpoint,),
        trust_anchors=anchors,
        timeout=Duration(2),
        attempts=1,
    )


def agent(world: World, tmp_path: Path, **sections: Any) -> Agent:
    settings = Settings(
        state_dir=str(tmp_path),
        **{
            "dns": dns(world, tmp_path),
            "tls": Tls(trust_store=str(world.write_trust_store(tmp_path))),
            "delivery": Delivery(port=world.port, helo="relay.example.org"),
            **sections,
        },
    )
    clock = WallClock()
    return build_agent(
        settings, hints=MemoryHints(clock=clock.now), clock=clock, rng=Random(1), learner="test"
    )


def attempt(
    agent: Agent, *boxes: str, body: bytes = BODY, requires_tls: bool = False, **changes: Any
) -> Attempt:
    recipients = tuple(Recipient(place, Mailbox.parse(box)) for place, box in enumerate(boxes))
    sender = Mailbox("me", "sender.test")
    eight_bit = not body.isascii()
    now = agent.clock.now()
    envelope = Envelope(
        MessageId("m1"), sender, recipients, len(body), eight_bit, now, requires_tls=requires_tls
    )
    return Attempt(agent, envelope, recipients, InlineContent(body), **changes)


async def deliver(agent: Agent, *boxes: str, **changes: Any) -> AttemptResult:
    """Run one attempt; `body` and `journal` may be given."""
    story = attempt(agent, *boxes, **changes)
    await story.run()
    return story.result()


def codes(result: AttemptResult) -> list[str]:
    return [finding.code for finding in result.trace.findings]


def events(result: AttemptResult) -> list[str]:
    return [event.name for event in result.trace.events]
