"""Bounces as the queue enqueues them: from the failures that a settlement recorded to a new message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from deliver.message import Envelope, MessageId, Recipient
from deliver.outcome import Failed
from deliver.queue.content import InlineContent
from deliver.queue.store import BounceWriter, NewMessage
from deliver.relay.bounce import Failure, bounce, boundary_from

BOUNDARY_OCTETS = 20


@dataclass(frozen=True, slots=True)
class Notifier:
    """`reporting_mta` is our own name, `new_id` makes queue ids, `rng` must be hard to predict."""

    reporting_mta: str
    new_id: Callable[[], MessageId]
    rng: Random

    def writer(self, envelope: Envelope, headers: bytes, now: float) -> BounceWriter:
        """The function that `store.settle` calls with the failures; `headers` as `bounce` takes them."""
        message_id = self.new_id()  # here, because the database's thread has no clock

        def write(failures: tuple[tuple[Recipient, Failed], ...]) -> NewMessage | None:
            text = bounce(
                envelope,
                tuple(Failure(recipient, outcome) for recipient, outcome in failures),
                reporting_mta=self.reporting_mta,
                message_id=message_id,
                boundary=boundary_from(self.rng.randbytes(BOUNDARY_OCTETS)),
                now=now,
                headers=headers,
            )
            if text is None or envelope.sender is None:
                return None
            notice = Envelope(
                id=message_id,
                sender=None,
                recipients=(Recipient(0, envelope.sender),),
                size=len(text),
                eight_bit=False,
                received_at=now,
            )
            return NewMessage(notice, InlineContent(text))

        return write
