"""SMTP commands as values, and their octets (RFC 5321 4.1, RFC 1870, RFC 3030, RFC 6152, RFC 3207).

A command that exists is safe to send: names and mailboxes are checked again here, so that neither a CR, LF
or NUL nor a second command or parameter can hide in them. What cannot be printed raises LocalMisuse (it
should have been refused at the door); what is longer than a command line may be raises CommandTooLong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from deliver.errors import Blame, MessageError, OutriderError
from deliver.message import Mailbox
from deliver.outcome import Phase

MAX_COMMAND_LINE = 512  # octets with CRLF (RFC 5321 4.5.3.1.4)
SIZE_EXTENDS_LINE = 26  # octets more for MAIL (RFC 1870 3)
BODY_EXTENDS_LINE = 17  # octets more for MAIL (RFC 6152 3)
PRDR_EXTENDS_LINE = 5  # octets more for MAIL (draft-hall-prdr-00 3)

# A domain or an address literal (RFC 5321 4.1.1.1), without judging its labels.
_HELLO_NAME = re.compile(r"(?:[A-Za-z0-9._-]{1,255}|\[[A-Za-z0-9:.-]{1,64}\])\Z")


class LocalMisuse(AssertionError):
    """Our own code broke the protocol: a bug, never the peer's doing."""


class CommandTooLong(MessageError):
    """An address does not fit into a command line; no server has to understand it."""

    blame = Blame.RECIPIENT


@dataclass(frozen=True, slots=True)
class Command:
    """One command. `phase` is what its reply belongs to; after `ends_group` nothing may be pipelined."""

    phase: ClassVar[Phase]
    ends_group: ClassVar[bool] = False

    @property
    def octets(self) -> bytes:
        """The command line with its CRLF."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Ehlo(Command):
    """EHLO (RFC 5321 4.1.1.1); `name` is our domain or an address literal."""

    phase = Phase.EHLO
    ends_group = True
    name: str

    def __post_init__(self) -> None:
        _check_name(self.name)

    @property
    def octets(self) -> bytes:
        return _line(f"EHLO {self.name}")


@dataclass(frozen=True, slots=True)
class Helo(Command):
    """HELO, for servers that do not know EHLO."""

    phase = Phase.EHLO
    ends_group = True
    name: str

    def __post_init__(self) -> None:
        _check_name(self.name)

    @property
    def octets(self) -> bytes:
        return _line(f"HELO {self.name}")


@dataclass(frozen=True, slots=True)
class StartTls(Command):
    """STARTTLS (RFC 3207 4)."""

    phase = Phase.STARTTLS
    ends_group = True

    @property
    def octets(self) -> bytes:
        return b"STARTTLS\r\n"


@dataclass(frozen=True, slots=True)
class Mail(Command):
    """MAIL FROM; `sender` None is the null reverse path.

    `size` (octets) only where the server announced SIZE, `body_8bit` only where it announced 8BITMIME, `prdr`
    only where it announced PRDR: its answer to the content then has one reply per accepted recipient.
    Raises CommandTooLong when the line would be longer than the extended limit.
    """

    phase = Phase.MAIL
    sender: Mailbox | None
    size: int | None = None
    body_8bit: bool = False
    prdr: bool = False

    def __post_init__(self) -> None:
        if self.size is not None and not 0 <= self.size < 10**20:
            raise LocalMisuse(f"SIZE={self.size} is outside RFC 1870's 20 digits")
        limit = MAX_COMMAND_LINE
        limit += SIZE_EXTENDS_LINE if self.size is not None else 0
        limit += BODY_EXTENDS_LINE if self.body_8bit else 0
        limit += PRDR_EXTENDS_LINE if self.prdr else 0
        _check_length(self.octets, limit, self.sender)

    @property
    def octets(self) -> bytes:
        size = "" if self.size is None else f" SIZE={self.size}"
        body = " BODY=8BITMIME" if self.body_8bit else ""
        prdr = " PRDR" if self.prdr else ""
        return _line(f"MAIL FROM:<{_path(self.sender) if self.sender else ''}>{size}{body}{prdr}")


@dataclass(frozen=True, slots=True)
class Rcpt(Command):
    """RCPT TO. Raises CommandTooLong when the line would be longer than RFC 5321 4.5.3.1.4 allows."""

    phase = Phase.RCPT
    mailbox: Mailbox

    def __post_init__(self) -> None:
        _check_length(self.octets, MAX_COMMAND_LINE, self.mailbox)

    @property
    def octets(self) -> bytes:
        return _line(f"RCPT TO:<{_path(self.mailbox)}>")


@dataclass(frozen=True, slots=True)
class Data(Command):
    """DATA (RFC 5321 4.1.1.4)."""

    phase = Phase.DATA
    ends_group = True

    @property
    def octets(self) -> bytes:
        return b"DATA\r\n"


@dataclass(frozen=True, slots=True)
class EndOfContent(Command):
    """The end of mail data indication; `tail` is what `deliver.smtp.dot.DotStuffer.finish` returned."""

    phase = Phase.DOT
    ends_group = True
    tail: bytes

    def __post_init__(self) -> None:
        if self.tail not in (b".\r\n", b"\r\n.\r\n"):
            raise LocalMisuse(f"{self.tail!r} does not end mail data")

    @property
    def octets(self) -> bytes:
        return self.tail


@dataclass(frozen=True, slots=True)
class Bdat(Command):
    """BDAT without LAST (RFC 3030 2): `size` octets of content follow, and then another chunk."""

    phase = Phase.BODY
    size: int

    def __post_init__(self) -> None:
        _check_chunk_size(self.size)

    @property
    def octets(self) -> bytes:
        return b"BDAT %d\r\n" % self.size


@dataclass(frozen=True, slots=True)
class BdatLast(Command):
    """BDAT with LAST: the last `size` octets of content follow, perhaps none."""

    phase = Phase.DOT
    ends_group = True
    size: int

    def __post_init__(self) -> None:
        _check_chunk_size(self.size)

    @property
    def octets(self) -> bytes:
        return b"BDAT %d LAST\r\n" % self.size


@dataclass(frozen=True, slots=True)
class Rset(Command):
    """RSET: forget the transaction, keep the session."""

    phase = Phase.RSET

    @property
    def octets(self) -> bytes:
        return b"RSET\r\n"


@dataclass(frozen=True, slots=True)
class Noop(Command):
    """NOOP: is anybody there?"""

    phase = Phase.RSET
    ends_group = True

    @property
    def octets(self) -> bytes:
        return b"NOOP\r\n"


@dataclass(frozen=True, slots=True)
class Quit(Command):
    """QUIT."""

    phase = Phase.QUIT
    ends_group = True

    @property
    def octets(self) -> bytes:
        return b"QUIT\r\n"


def _check_name(name: str) -> None:
    if not _HELLO_NAME.match(name):
        raise LocalMisuse(f"{name!r} is neither a host name nor an address literal")


def _path(mailbox: Mailbox) -> str:
    """The mailbox for `<…>`; a Mailbox that was not made by `parse` may hold anything, so parse again."""
    text = str(mailbox)
    try:
        parsed = Mailbox.parse(text)
    except OutriderError as error:
        raise LocalMisuse(f"not a mailbox: {error}") from None
    if parsed != mailbox:
        raise LocalMisuse(f"the mailbox {text[:80]!r} was not normalised")
    return text


def _check_chunk_size(size: int) -> None:
    if not 0 <= size < 10**20:
        raise LocalMisuse(f"a chunk of {size} octets")


def _check_length(octets: bytes, limit: int, mailbox: Mailbox | None) -> None:
    if len(octets) > limit:
        raise CommandTooLong(
            f"naming {str(mailbox)[:80]!r} to a server",
            f"the command would have {len(octets)} octets, a command line has at most {limit}",
            "use a shorter address",
        )


def _line(text: str) -> bytes:
    return text.encode("ascii") + b"\r\n"
