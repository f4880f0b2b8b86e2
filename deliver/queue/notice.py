"""Reports as the queue enqueues them: from what a sender is owed about a message to a new message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.pattern import any_matches
from deliver.queue.content import InlineContent
from deliver.relay.bounce import Original, Report, boundary_from, report, wants_body
from deliver.relay.returned import MAX_HEADERS, MAX_LINE, header_section, wants_warnings
from deliver.relay.statusfields import Entry
from deliver.relay.wording import gravest

BOUNDARY_OCTETS: Final = 20


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message of our own to enqueue."""

    envelope: Envelope
    content: InlineContent


Compose = Callable[[Envelope, tuple[Entry, ...]], NewMessage | None]


@dataclass(frozen=True, slots=True)
class Terms:
    """What the settings say about reports, see `deliver.settings.Bounce`; `expire` in seconds."""

    to: tuple[str, ...] = ("*",)
    per_sender: int = 0  # reports an hour
    return_content: Literal["headers", "full"] = "headers"
    return_limit: int = 100 * 1024
    expire: float = 0.0

    def may_tell(self, envelope: Envelope) -> bool:
        """Whether the sender is told at all: forged senders elsewhere must not get our reports."""
        if envelope.sender is None:
            return False
        return envelope.authenticated is not None or any_matches(self.to, envelope.sender.domain)

    def octets_to_read(self, envelope: Envelope) -> int:
        """How much of the content a report needs."""
        if self.wants_body(envelope):
            return max(envelope.size, MAX_HEADERS)
        return MAX_HEADERS + MAX_LINE

    def wants_body(self, envelope: Envelope) -> bool:
        """Whether a failure returns the whole message."""
        return wants_body(envelope, otherwise=self.return_content, limit=self.return_limit)


@dataclass(frozen=True, slots=True)
class Notifier:
    """`reporting_mta` is our own name, `new_id` makes queue ids, `rng` must be hard to predict."""

    reporting_mta: str
    new_id: Callable[[], MessageId]
    rng: Random
    terms: Terms = Terms()

    def composer(self, content: bytes, now: float) -> Compose:
        """The function that writes the report; `content`: `Terms.octets_to_read` of the message's."""
        message_id = self.new_id()  # here, because the database's thread has no clock

        def compose(envelope: Envelope, entries: tuple[Entry, ...]) -> NewMessage | None:
            """None where nobody is told, or nobody waits for the news."""
            if envelope.sender is None or not self.terms.may_tell(envelope):
                return None
            if gravest(entries) == "delayed" and not wants_warnings(header_section(content)):
                return None
            whole = self.terms.wants_body(envelope) and len(content) == envelope.size
            made = report(
                envelope,
                entries,
                reporting_mta=self.reporting_mta,
                message_id=message_id,
                boundary=boundary_from(self.rng.randbytes(BOUNDARY_OCTETS)),
                now=now,
                original=Original(content, whole),
            )
            return None if made is None else _new_message(message_id, envelope.sender, made, now)

        return compose


def _new_message(message_id: MessageId, to: Mailbox, made: Report, now: float) -> NewMessage:
    notice = Envelope(
        id=message_id,
        sender=None,
        recipients=(Recipient(0, to),),
        size=len(made.text),
        eight_bit=made.eight_bit,
        received_at=now,
        smtputf8=made.smtputf8,
        requires_tls=made.requires_tls,
    )
    return NewMessage(notice, InlineContent(made.text))
