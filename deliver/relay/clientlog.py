"""What the log says of a client and its messages."""

from __future__ import annotations

import logging

from deliver.message import Envelope, MessageId
from deliver.relay.security import Client
from deliver.report.log import say

log = logging.getLogger("outrider.relay")


def say_closed(who: Client, helo: str, *, accepted: int, seconds: float, why: str) -> None:
    """The connection is over, after so many messages."""
    secured = who.secured
    say(
        log, logging.INFO, "connection closed",
        client=who.address, proxy=who.proxy, helo=helo, user=who.authenticated,
        tls=secured and secured.version, accepted=accepted, seconds=round(seconds, 3), why=why,
    )  # fmt: skip


def say_accepted(who: Client, helo: str, envelope: Envelope) -> None:
    """The message is ours."""
    secured = who.secured
    say(
        log, logging.INFO, "message accepted",
        id=envelope.id, sender=f"<{envelope.reverse_path}>", recipients=len(envelope.recipients),
        size=envelope.size, client=who.address, proxy=who.proxy, helo=helo,
        user=who.authenticated, tls=secured and secured.version,
    )  # fmt: skip


def say_not_accepted(who: Client, message_id: MessageId, why: str) -> None:
    """The message stays the client's."""
    say(log, logging.WARNING, "message not accepted", id=message_id, client=who.address, why=why)


def say_detail(who: Client, helo: str, what: str) -> None:
    """Something unusual that is no error."""
    say(log, logging.INFO, "protocol detail", client=who.address, helo=helo, what=what)
