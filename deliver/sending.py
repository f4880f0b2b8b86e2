"""One message delivered in this process, without a queue: the pipeline behind `outrider send`.

Recipients are grouped by domain, the domains are delivered side by side. Events go through an outbox in the
state directory (`outbox.db`), so that a database that is down loses none: the next run ships them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from random import SystemRandom
from typing import BinaryIO

import trio

from deliver.attempt import Attempt
from deliver.errors import MessageError
from deliver.message import Envelope, Mailbox, Recipient
from deliver.net.clock import WallClock
from deliver.outbox import demand_room, event_gate, ship_now
from deliver.outcome import Outcome
from deliver.queue.content import InlineContent
from deliver.relay.identity import MessageIds
from deliver.relay.received import hop_count
from deliver.report.result import log_outcome
from deliver.report.trace import Trace
from deliver.service import build_agent, open_hints
from deliver.settings import Settings
from deliver.smtp.dot import MessageText

CHUNK = 64 * 1024
DOMAINS_AT_A_TIME = 20

_log = logging.getLogger("outrider.delivery")

Result = tuple[Recipient, Outcome, Trace]


def deliver_now(
    settings: Settings, sender: Mailbox | None, boxes: tuple[Mailbox, ...], source: BinaryIO
) -> tuple[Result, ...]:
    """Deliver the text from `source` and return one result per recipient, in the order given.

    Raises MessageError for a message that nobody could send, ConfigurationError for unusable settings,
    StorageError, with nothing sent, while too many events wait.
    """
    text = read_message(source, settings.relay.max_message_size)
    if hop_count(bytes(text.content.data)) > settings.relay.max_hops:
        raise MessageError(
            "taking the message",
            f"it has more than {settings.relay.max_hops} Received headers: mail is looping (5.4.6)",
            "find the loop; relay.max_hops is the limit",
        )
    return trio.run(_deliver, settings, sender, boxes, text)


@dataclass(frozen=True, slots=True)
class Text:
    """A message as read: its content, and whether it needs 8BITMIME."""

    content: InlineContent
    eight_bit: bool


def read_message(source: BinaryIO, max_size: int) -> Text:
    """Read text with LF or CRLF line ends up to `max_size` octets. Raises MessageError."""
    text = MessageText()
    pieces: list[bytes] = []
    while chunk := source.read(CHUNK):
        pieces.append(text.feed(chunk))
        if text.size > max_size:
            raise MessageError(
                "reading the message",
                f"it has more than {max_size} octets",
                "relay.max_message_size is the limit",
            )
    pieces.append(text.finish())
    return Text(InlineContent(b"".join(pieces)), text.eight_bit)


async def _deliver(
    settings: Settings, sender: Mailbox | None, boxes: tuple[Mailbox, ...], text: Text
) -> tuple[Result, ...]:
    clock, rng = WallClock(), SystemRandom()
    recipients = tuple(Recipient(ordinal, box) for ordinal, box in enumerate(boxes))
    envelope = Envelope(
        MessageIds(clock.now, rng)(), sender, recipients, text.content.size, text.eight_bit, clock.now()
    )
    await demand_room(settings, clock)
    hints = open_hints(settings, clock)
    gate = event_gate(settings)
    agent = build_agent(settings, hints=hints, clock=clock, rng=rng, learner="send", gate=gate)
    by_domain: dict[str, list[Recipient]] = {}
    for recipient in recipients:
        by_domain.setdefault(recipient.mailbox.domain, []).append(recipient)
    attempts = [Attempt(agent, envelope, tuple(group), text.content) for group in by_domain.values()]
    limit = trio.CapacityLimiter(DOMAINS_AT_A_TIME)

    async def run(attempt: Attempt) -> None:
        async with limit:
            try:
                await attempt.run()
            except Exception:  # a bug must cost this domain a deferral, not the others their outcome
                _log.exception("an attempt failed unexpectedly")

    async with trio.open_nursery() as nursery:
        for attempt in attempts:
            nursery.start_soon(run, attempt)
    ended = [attempt.result() for attempt in attempts]
    await ship_now(
        settings, clock, envelope.id, tuple(event for result in ended for event in result.trace.events)
    )
    await gate.aclose()
    await hints.aclose()
    by_ordinal = {
        recipient.ordinal: (recipient, outcome, result.trace)
        for result in ended
        for recipient, outcome in result.outcomes
    }
    results = tuple(by_ordinal[recipient.ordinal] for recipient in recipients)
    for recipient, outcome, _ in results:
        log_outcome(envelope, recipient, outcome, attempt=1)
    return results
