"""What the server machine asks of its driver: questions to answer, content to keep."""

from __future__ import annotations

from typing import Final, get_args

from msgspec import Struct

from deliver.dsn import Notify, OriginalRecipient, Ret
from deliver.message import Mailbox


class MailRequest(Struct, frozen=True):
    """MAIL: `sender` is None for the null reverse path, `size` in octets as declared or None.

    `smtputf8` (RFC 6531 3.4), `ret` and the decoded `envid` (RFC 3461 4.3, 4.4), `prdr` (draft-hall-prdr-00),
    `requires_tls` (REQUIRETLS, RFC 8689 2).
    """

    sender: Mailbox | None
    size: int | None = None
    smtputf8: bool = False
    ret: Ret | None = None
    envid: str | None = None
    prdr: bool = False
    requires_tls: bool = False


class RcptRequest(Struct, frozen=True):
    """RCPT, with NOTIFY and ORCPT (RFC 3461 4.1, 4.2) as far as they were given."""

    mailbox: Mailbox
    notify: frozenset[Notify] | None = None
    original: OriginalRecipient | None = None


class StartTls(Struct, frozen=True):
    """Question: is TLS possible now? After `accept` comes Handshake."""


class Handshake(Struct, frozen=True):
    """Flush, do the TLS handshake as a server, then call `tls_started`; or close where it fails."""


class AuthExchange(Struct, frozen=True):
    """Question: what does the mechanism (upper case, one of those offered) say to this `response`, decoded?

    `first`: the exchange begins; then `response` is None without an initial response (RFC 4954 4). Answered
    by `challenge`, `authenticate` or `refuse`.
    """

    mechanism: str
    response: bytes | None
    first: bool


class AbandonExchange(Struct, frozen=True):
    """The client gave the exchange up, or broke it: forget it."""


class ConsiderSender(Struct, frozen=True):
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


class ConsiderRecipient(Struct, frozen=True):
    """Question: is mail for `mailbox` taken from this client?"""

    rcpt: RcptRequest
    mail: MailRequest

    @property
    def mailbox(self) -> Mailbox:
        """The forward path."""
        return self.rcpt.mailbox


class _Announced(Struct, frozen=True):
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


class BeginContent(_Announced, frozen=True):
    """Question: is there a place to put the content?"""


class ContentChunk(Struct, frozen=True):
    """More of the content, dots unstuffed; to be kept only if EndContent follows."""

    data: bytes


class EndContent(_Announced, frozen=True):
    """Question: has the message been put where it survives a crash? `size` in octets as received.

    `individually`: `accept_some` may answer for each recipient.
    """

    size: int
    eight_bit: bool
    individually: bool = False


class AbandonContent(Struct, frozen=True):
    """The content that was begun will not be completed: forget it."""

    why: str


class Close(Struct, frozen=True):
    """Close the connection; `why` is for the log."""

    why: str


Question = StartTls | AuthExchange | ConsiderSender | ConsiderRecipient | BeginContent | EndContent
QUESTIONS: Final = frozenset(get_args(Question))  # their types
Action = Question | Handshake | AbandonExchange | ContentChunk | AbandonContent | Close
