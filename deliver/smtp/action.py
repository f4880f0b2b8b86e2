"""What the server machine asks of its driver: octets to write, questions to answer, content to keep."""

from __future__ import annotations

from dataclasses import dataclass

from deliver.message import Mailbox


@dataclass(frozen=True, slots=True)
class Send:
    """Write these octets."""

    data: bytes


@dataclass(frozen=True, slots=True)
class ConsiderSender:
    """Question: may a message from `sender` (None: null reverse path) of about `size` octets come in?"""

    sender: Mailbox | None
    size: int | None


@dataclass(frozen=True, slots=True)
class ConsiderRecipient:
    """Question: is mail for `mailbox` taken from this client?"""

    mailbox: Mailbox


@dataclass(frozen=True, slots=True)
class BeginContent:
    """Question: is there a place to put the content?"""

    sender: Mailbox | None
    recipients: tuple[Mailbox, ...]


@dataclass(frozen=True, slots=True)
class ContentChunk:
    """More of the content, dots unstuffed; to be kept only if EndContent follows."""

    data: bytes


@dataclass(frozen=True, slots=True)
class EndContent:
    """Question: has the message been put where it survives a crash? `size` in octets as received."""

    sender: Mailbox | None
    recipients: tuple[Mailbox, ...]
    size: int
    eight_bit: bool


@dataclass(frozen=True, slots=True)
class AbandonContent:
    """The content that was begun will not be completed: forget it."""

    why: str


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connection; `why` is for the log."""

    why: str


Question = ConsiderSender | ConsiderRecipient | BeginContent | EndContent
Action = Send | Question | ContentChunk | AbandonContent | Close
