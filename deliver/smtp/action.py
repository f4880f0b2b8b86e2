"""What the server machine asks of its driver: questions to answer, content to keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, get_args

from deliver.dsn import Notify, OriginalRecipient, Ret
from deliver.message import Mailbox


@dataclass(frozen=True, slots=True)
class MailRequest:
    """MAIL: `sender` is None for the null reverse path, `size` in octets as declared or None.

    `smtputf8` (RFC 6531 3.4), `ret` and the decoded `envid` (RFC 3461 4.3, 4.4), `prdr` (draft-hall-prdr-00).
    """

    sender: Mailbox | None
    size: int | None = None
    smtputf8: bool = False
    ret: Ret | None = None
    envid: str | None = None
    prdr: bool = False


@dataclass(frozen=True, slots=True)
class RcptRequest:
    """RCPT, with NOTIFY and ORCPT (RFC 3461 4.1, 4.2) as far as they were given."""

    mailbox: Mailbox
    notify: frozenset[Notify] | None = None
    original: OriginalRecipient | None = None


@dataclass(frozen=True, slots=True)
class StartTls:
    """Question: is TLS possible now? After `accept` comes Handshake."""


@dataclass(frozen=True, slots=True)
class Handshake:
    """Flush, do the TLS handshake as a server, then call `tls_started`; or close where it fails."""


@dataclass(frozen=True, slots=True)
class AuthExchange:
    """Question: what does the mechanism (upper case, one of those offered) say to this `response`, decoded?

    `first`: the exchange begins; then `response` is None without an initial response (RFC 4954 4). Answered
    by `challenge`, `authenticate` or `refuse`.
    """

    mechanism: str
    response: bytes | None
    first: bool


@dataclass(frozen=True, slots=True)
class AbandonExchange:
    """The client gave the exchange up, or broke it: forget it."""


@dataclass(frozen=True, slots=True)
class ConsiderSender:
    """Question: may a message from `sender` (None: null reverse path) of about `size` octets come in?"""

    mail: MailRequest

    @property
    def sender(self) -> Mailbox | None:
        """The reverse path."""
        return self.mail.sender

    @property
    def size(self) -> int | None:
        """Octets, as declared."""
        return self.mail.size


@dataclass(frozen=True, slots=True)
class ConsiderRecipient:
    """Question: is mail for `mailbox` taken from this client?"""

    rcpt: RcptRequest
    mail: MailRequest

    @property
    def mailbox(self) -> Mailbox:
        """The forward path."""
        return self.rcpt.mailbox


@dataclass(frozen=True, slots=True)
class _Announced:
    """From whom and to whom a message goes, as it was said and accepted."""

    mail: MailRequest
    rcpts: tuple[RcptRequest, ...]

    @property
    def sender(self) -> Mailbox | None:
        """The reverse path."""
        return self.mail.sender

    @property
    def recipients(self) -> tuple[Mailbox, ...]:
        """The forward paths, in the order in which they were named first."""
        return tuple(rcpt.mailbox for rcpt in self.rcpts)


@dataclass(frozen=True, slots=True)
class BeginContent(_Announced):
    """Question: is there a place to put the content?"""


@dataclass(frozen=True, slots=True)
class ContentChunk:
    """More of the content, dots unstuffed; to be kept only if EndContent follows."""

    data: bytes


@dataclass(frozen=True, slots=True)
class EndContent(_Announced):
    """Question: has the message been put where it survives a crash? `size` in octets as received.

    `individually`: `accept_some` may answer for each recipient.
    """

    size: int
    eight_bit: bool
    individually: bool = False


@dataclass(frozen=True, slots=True)
class AbandonContent:
    """The content that was begun will not be completed: forget it."""

    why: str


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connection; `why` is for the log."""

    why: str


Question = StartTls | AuthExchange | ConsiderSender | ConsiderRecipient | BeginContent | EndContent
QUESTIONS: Final = frozenset(get_args(Question))  # their types
Action = Question | Handshake | AbandonExchange | ContentChunk | AbandonContent | Close
