"""One message delivered in this process, without a queue: the pipeline behind `outrider send`.

The first question leaves before the whole of the delivery is loaded: `deliver.dispatch` is loaded in a thread
while names are looked up. Until then nothing has been sent, and a signal simply ends the process.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from random import Random, SystemRandom
from typing import TYPE_CHECKING, BinaryIO

import trio

from deliver.errors import MessageError, OutriderError
from deliver.lookahead import Ahead, look_ahead
from deliver.lookup import caching_resolver
from deliver.message import Envelope, Mailbox, Recipient
from deliver.net.clock import WallClock
from deliver.queue.content import InlineContent
from deliver.relay.identity import MessageIds
from deliver.relay.received import hop_count
from deliver.resolve.resolver import Resolver
from deliver.settings import Settings
from deliver.smtp.dot import MessageText
from deliver.smtp.utf8header import header_in_utf8

if TYPE_CHECKING:
    from deliver.direct import Result

CHUNK = 64 * 1024


def deliver_now(
    settings: Settings,
    sender: Mailbox | None,
    boxes: tuple[Mailbox, ...],
    source: BinaryIO,
    queue_id: str = "",
    *,
    detect_utf8: bool = False,
    requires_tls: bool = False,
) -> tuple[Result, ...]:
    """Deliver the text from `source` and return one result per recipient, in the order given.

    `detect_utf8`: a header in UTF-8 needs SMTPUTF8. `requires_tls`: as with REQUIRETLS in MAIL (RFC 8689 2).
    Raises MessageError for a message that nobody could send, ConfigurationError for unusable settings,
    StorageError, with nothing sent, while too many events wait, and when `queue_id` is given and what was
    settled before cannot be read.
    """
    text = read_message(source, settings.relay.max_message_size)
    if hop_count(bytes(text.content.data)) > settings.relay.max_hops:
        raise MessageError(
            "taking the message",
            f"it has more than {settings.relay.max_hops} Received headers: mail is looping (5.4.6)",
            "find the loop; relay.max_hops is the limit",
        )
    utf8 = detect_utf8 and header_in_utf8(text.content.data)
    return trio.run(_deliver, settings, sender, boxes, text, queue_id, utf8, requires_tls)


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
    settings: Settings,
    sender: Mailbox | None,
    boxes: tuple[Mailbox, ...],
    text: Text,
    queue_id: str,
    utf8: bool,
    requires_tls: bool,
) -> tuple[Result, ...]:
    clock, rng = WallClock(), SystemRandom()
    recipients = tuple(Recipient(ordinal, box) for ordinal, box in enumerate(boxes))
    name, size = MessageIds(clock.now, rng)(), text.content.size
    envelope = Envelope(
        name, sender, recipients, size, text.eight_bit, clock.now(), utf8, requires_tls=requires_tls
    )
    resolver = caching_resolver(settings, clock, single=True)
    async with trio.open_nursery() as ahead:
        domains = [box.domain for box in boxes]
        ahead.start_soon(look_ahead, Ahead(settings, resolver, rng), envelope.reverse_path, domains)
        outcome = await _dispatched(settings, envelope, text.content, queue_id, resolver, clock, rng)
        ahead.cancel_scope.cancel()
    if isinstance(outcome, OutriderError):
        raise outcome
    return outcome


async def _dispatched(
    settings: Settings,
    envelope: Envelope,
    content: InlineContent,
    queue_id: str,
    resolver: Resolver,
    clock: WallClock,
    rng: Random,
) -> tuple[Result, ...] | OutriderError:
    """The results, or the error to raise outside of the caller's nursery."""
    await trio.to_thread.run_sync(_load)
    from deliver.dispatch import dispatch

    try:
        return await dispatch(settings, envelope, content, queue_id, resolver, clock, rng)
    except OutriderError as error:
        return error


def _load() -> None:
    """The rest of the program: more than half of what there is to load."""
    gc.disable()  # what is loaded stays: there is nothing to collect
    try:
        import deliver.dispatch  # noqa: F401 (for those who come next)
    finally:
        gc.freeze()
        gc.enable()
