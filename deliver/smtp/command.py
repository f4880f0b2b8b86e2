"""SMTP commands as values, and their octets (RFC 5321 4.1) with the parameters of the extensions that we use:
RFC 1870, RFC 3030, RFC 3207, RFC 3461, RFC 4954, RFC 6152, RFC 6531.

A command that exists is safe to send: names and mailboxes are checked again here, so that neither a CR, LF
or NUL nor a second command or parameter can hide in them. What cannot be printed raises LocalMisuse (it
should have been refused at the door); what is longer than a command line may be raises CommandTooLong.
"""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Any, ClassVar

from msgspec import Struct
from msgspec.structs import force_setattr

from deliver.dsn import MAX_ENVID, MAX_ORCPT, Notify, OriginalRecipient, Ret, notify_text, orcpt_text, xtext
from deliver.errors import Blame, MessageError, OutriderError
from deliver.message import Mailbox
from deliver.outcome import Phase

MAX_COMMAND_LINE = 512  # octets with CRLF (RFC 5321 4.5.3.1.4)
SIZE_EXTENDS_LINE = 26  # octets more for MAIL (RFC 1870 3)
BODY_EXTENDS_LINE = 17  # octets more for MAIL (RFC 6152 3)
PRDR_EXTENDS_LINE = 5  # octets more for MAIL (draft-hall-prdr-00 3)
UTF8_EXTENDS_LINE = 10  # octets more for MAIL (RFC 6531 3.1)
REQUIRETLS_EXTENDS_LINE = 11  # octets more for MAIL (RFC 8689 2)
MAX_AUTH_LINE = 12288  # octets with CRLF of a response to a challenge (RFC 4954 4)

# A domain or an address literal (RFC 5321 4.1.1.1), without judging its labels.
_MECHANISM = re.compile(r"[A-Z0-9_-]{1,20}\Z")  # RFC 4422 3.1
_HELLO_NAME = re.compile(r"(?:[A-Za-z0-9._-]{1,255}|\[[A-Za-z0-9:.-]{1,64}\])\Z")

# What `Mailbox.parse` is sure to take as it is: a dot-atom at labels in lower case; most addresses are such.
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_PLAIN_PATH = re.compile(rf"(?=[^@]{{1,256}}@.{{1,253}}\Z){_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*\Z")


class LocalMisuse(AssertionError):
    """Our own code broke the protocol: a bug, never the peer's doing."""


class CommandTooLong(MessageError):
    """An address does not fit into a command line; no server has to understand it."""

    blame = Blame.RECIPIENT


class Command(Struct, frozen=True):
    """One command. `phase` is what its reply belongs to; after `ends_group` nothing may be pipelined.

    No abstract base class: what kind a command is, is asked several times for each of them.
    """

    phase: ClassVar[Phase]
    ends_group: ClassVar[bool] = False

    @property
    def octets(self) -> bytes:
        """The command line with its CRLF."""
        raise NotImplementedError


class _Hello(Command, frozen=True):
    phase = Phase.EHLO
    ends_group = True
    verb: ClassVar[str]
    name: str

    def __post_init__(self) -> None:
        _check_name(self.name)

    @property
    def octets(self) -> bytes:
        return _line(f"{self.verb} {self.name}")


class Ehlo(_Hello, frozen=True):
    """EHLO (RFC 5321 4.1.1.1); `name` is our domain or an address literal."""

    verb = "EHLO"


class Helo(_Hello, frozen=True):
    """HELO, for servers that do not know EHLO."""

    verb = "HELO"


class StartTls(Command, frozen=True):
    """STARTTLS (RFC 3207 4)."""

    phase = Phase.STARTTLS
    ends_group = True

    @property
    def octets(self) -> bytes:
        return b"STARTTLS\r\n"


class Auth(Command, frozen=True):
    """AUTH (RFC 4954 4); `initial` None sends no initial response, b"" an empty one. Never shown in a repr.

    Raises CommandTooLong when the initial response does not fit: the exchange begins without it then.
    """

    phase = Phase.AUTH
    ends_group = True
    mechanism: str
    initial: bytes | None = None

    def __post_init__(self) -> None:
        if not _MECHANISM.match(self.mechanism):
            raise LocalMisuse(f"{self.mechanism!r} is no SASL mechanism")
        if len(self.octets) > MAX_COMMAND_LINE:
            raise CommandTooLong(
                f"logging in by {self.mechanism}",
                f"a command line has at most {MAX_COMMAND_LINE} octets",
                "use a shorter name and password",
            )

    def __repr__(self) -> str:
        return f"Auth(mechanism={self.mechanism!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """No more than `repr`, for those who print structures."""
        return [("mechanism", self.mechanism)]

    @property
    def octets(self) -> bytes:
        if self.initial is None:
            return _line(f"AUTH {self.mechanism}")
        return _line(f"AUTH {self.mechanism} ")[:-2] + (b64encode(self.initial) or b"=") + b"\r\n"


class AuthResponse(Command, frozen=True):
    """What answers a challenge of AUTH; None gives up (RFC 4954 4). Never shown in a repr."""

    phase = Phase.AUTH
    ends_group = True
    response: bytes | None

    def __post_init__(self) -> None:
        if len(self.octets) > MAX_AUTH_LINE:
            raise CommandTooLong(
                "logging in", f"a response has at most {MAX_AUTH_LINE} octets", "use a shorter password"
            )

    def __repr__(self) -> str:
        return "AuthResponse()"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Nothing, as `repr`."""
        return []

    @property
    def octets(self) -> bytes:
        return b"*\r\n" if self.response is None else b64encode(self.response) + b"\r\n"


class Mail(Command, frozen=True):
    """MAIL FROM; `sender` None is the null reverse path.

    `size` (octets) only where the server announced SIZE, `body_8bit` only where it announced 8BITMIME, `prdr`
    only where it announced PRDR: its answer to the content then has one reply per accepted recipient.
    `smtputf8` only where it announced SMTPUTF8: the line is in UTF-8. `ret` and `envid` only where it
    announced DSN. `logged_in`: after AUTH only; says that we do not vouch for who submitted the message
    (RFC 4954 5). `requires_tls` only inside TLS, where it announced REQUIRETLS. Raises CommandTooLong when
    the line would be longer than the extended limit.
    """

    phase = Phase.MAIL
    sender: Mailbox | None
    size: int | None = None
    body_8bit: bool = False
    prdr: bool = False
    smtputf8: bool = False
    ret: Ret | None = None
    envid: str | None = None
    logged_in: bool = False
    requires_tls: bool = False
    octets: bytes = b""  # whatever is given: made here

    def __post_init__(self) -> None:
        if self.size is not None and not 0 <= self.size < 10**20:
            raise LocalMisuse(f"SIZE={self.size} is outside RFC 1870's 20 digits")
        limit = MAX_COMMAND_LINE
        text = f"MAIL FROM:<{_path(self.sender, self.smtputf8) if self.sender else ''}>"
        if self.size is not None:
            limit, text = limit + SIZE_EXTENDS_LINE, f"{text} SIZE={self.size}"
        if self.body_8bit:
            limit, text = limit + BODY_EXTENDS_LINE, f"{text} BODY=8BITMIME"
        if self.prdr:
            limit, text = limit + PRDR_EXTENDS_LINE, f"{text} PRDR"
        if self.smtputf8:
            limit, text = limit + UTF8_EXTENDS_LINE, f"{text} SMTPUTF8"
        if self.requires_tls:
            limit, text = limit + REQUIRETLS_EXTENDS_LINE, f"{text} REQUIRETLS"
        # The parameters of DSN and AUTH have limits of their own, and room for them is made by their RFCs.
        own = self._own_parameters() if self.ret or self.envid is not None or self.logged_in else ""
        force_setattr(self, "octets", _measured(text, own, limit, self.sender, self.smtputf8))

    def _own_parameters(self) -> str:
        text = f" RET={self.ret.value}" if self.ret else ""
        if self.envid is not None:
            envid = xtext(self.envid)
            if not 0 < len(envid) <= MAX_ENVID:
                raise LocalMisuse(f"ENVID has between 1 and {MAX_ENVID} octets")
            text += f" ENVID={envid}"
        return text + (" AUTH=<>" if self.logged_in else "")


class Rcpt(Command, frozen=True):
    """RCPT TO. Raises CommandTooLong when the line would be longer than RFC 5321 4.5.3.1.4 allows.

    `notify` and `original` only where the server announced DSN (RFC 3461 4.1, 4.2), `smtputf8` as in MAIL.
    """

    phase = Phase.RCPT
    mailbox: Mailbox
    smtputf8: bool = False
    notify: frozenset[Notify] | None = None
    original: OriginalRecipient | None = None
    octets: bytes = b""  # whatever is given: made here

    def __post_init__(self) -> None:
        text = f"RCPT TO:<{_path(self.mailbox, self.smtputf8)}>"
        own = self._own_parameters() if self.notify is not None or self.original is not None else ""
        octets = _measured(text, own, MAX_COMMAND_LINE, self.mailbox, self.smtputf8)
        force_setattr(self, "octets", octets)

    def _own_parameters(self) -> str:
        text = ""
        if self.notify is not None:
            if not self.notify:
                raise LocalMisuse("NOTIFY without a value")
            text = f" NOTIFY={notify_text(self.notify)}"
        if self.original is not None:
            original = orcpt_text(self.original)
            if len(original) > MAX_ORCPT:
                raise LocalMisuse(f"ORCPT has at most {MAX_ORCPT} octets")
            text += f" ORCPT={original}"
        return text


class Data(Command, frozen=True):
    """DATA (RFC 5321 4.1.1.4)."""

    phase = Phase.DATA
    ends_group = True

    @property
    def octets(self) -> bytes:
        return b"DATA\r\n"


class EndOfContent(Command, frozen=True):
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


class Bdat(Command, frozen=True):
    """BDAT without LAST (RFC 3030 2): `size` octets of content follow, and then another chunk."""

    phase = Phase.BODY
    size: int

    def __post_init__(self) -> None:
        _check_chunk_size(self.size)

    @property
    def octets(self) -> bytes:
        return b"BDAT %d\r\n" % self.size


class BdatLast(Command, frozen=True):
    """BDAT with LAST: the last `size` octets of content follow, perhaps none."""

    phase = Phase.DOT
    ends_group = True
    size: int

    def __post_init__(self) -> None:
        _check_chunk_size(self.size)

    @property
    def octets(self) -> bytes:
        return b"BDAT %d LAST\r\n" % self.size


class Rset(Command, frozen=True):
    """RSET: forget the transaction, keep the session."""

    phase = Phase.RSET

    @property
    def octets(self) -> bytes:
        return b"RSET\r\n"


class Noop(Command, frozen=True):
    """NOOP: is anybody there?"""

    phase = Phase.RSET
    ends_group = True

    @property
    def octets(self) -> bytes:
        return b"NOOP\r\n"


class Quit(Command, frozen=True):
    """QUIT."""

    phase = Phase.QUIT
    ends_group = True

    @property
    def octets(self) -> bytes:
        return b"QUIT\r\n"


def _check_name(name: str) -> None:
    if not _HELLO_NAME.match(name):
        raise LocalMisuse(f"{name!r} is neither a host name nor an address literal")


def _path(mailbox: Mailbox, utf8: bool) -> str:
    """The mailbox for `<…>`; a Mailbox that was not made by `parse` may hold anything, so look again."""
    text = str(mailbox)
    if _PLAIN_PATH.match(text):
        return text
    try:
        parsed = Mailbox.parse(text, utf8=utf8)
    except OutriderError as error:
        raise LocalMisuse(f"not a mailbox: {error}") from None
    if parsed != mailbox:
        raise LocalMisuse(f"the mailbox {text[:80]!r} was not normalised")
    return text


def _check_chunk_size(size: int) -> None:
    if not 0 <= size < 10**20:
        raise LocalMisuse(f"a chunk of {size} octets")


def _measured(text: str, own: str, limit: int, mailbox: Mailbox | None, utf8: bool) -> bytes:
    """The line of `text` and `own`; what counts against the limit is `text`. Raises CommandTooLong."""
    encoding = "utf-8" if utf8 else "ascii"
    octets = text.encode(encoding)
    if len(octets) + 2 > limit:
        raise CommandTooLong(
            f"naming {str(mailbox)[:80]!r} to a server",
            f"the command would have {len(octets) + 2} octets, a command line has at most {limit}",
            "use a shorter address",
        )
    return b"%b%b\r\n" % (octets, own.encode(encoding)) if own else octets + b"\r\n"


def _line(text: str) -> bytes:
    return text.encode("ascii") + b"\r\n"
