"""The envelope: who sends what to whom (RFC 5321 2.3.1), as frozen values.

Addresses are checked here once, so that no CR, LF, NUL or space in them can ever reach the wire (see
`deliver.smtp.command`): a `Mailbox` that exists is safe to print between angle brackets.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from functools import lru_cache
from typing import NewType, Protocol

import idna
from msgspec import Struct

from deliver.dsn import Notify, OriginalRecipient, Ret
from deliver.errors import UsageError

MessageId = NewType("MessageId", str)

MAX_LOCAL_PART = 256  # octets; RFC 5321 4.5.3.1.1 asks for at least 64
MAX_DOMAIN = 253  # octets; RFC 5321 4.5.3.1.2 allows 255 with the root dot

# UTF8-non-ascii of RFC 6531 3.3 is in both; `parse` decides whether it may be there.
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]+"
_DOT_ATOM = re.compile(rf"{_ATOM}(?:\.{_ATOM})*\Z")
_QUOTED = re.compile(r'"(?:[\x20\x21\x23-\x5b\x5d-\x7e\x80-\U0010ffff]|\\[\x20-\x7e])*"\Z')
# Control, surrogate, unassigned; line, paragraph and space separators outside ASCII.
_UNPRINTABLE = frozenset({"Cc", "Cs", "Cn", "Zl", "Zp", "Zs"})
# Marks that make a text read otherwise than it is (UAX 9): no address needs them.
_REORDERING = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?\Z")


class Mailbox(Struct, frozen=True):
    """One address: `local_part` as given, `domain` in lower-case A-labels or an address literal `[…]`.

    Only `parse(…, utf8=True)` makes a local part outside ASCII (RFC 6531); it is never normalised: only the
    final server knows which spellings mean the same mailbox (RFC 5321 2.3.11).
    """

    local_part: str
    domain: str

    def __str__(self) -> str:
        return f"{self.local_part}@{self.domain}"

    @property
    def literal(self) -> str | None:
        """The IP address inside an address literal (RFC 5321 4.1.3), else None."""
        return literal_address(self.domain)

    @property
    def internationalised(self) -> bool:
        """Whether no server without SMTPUTF8 can be told this address (RFC 6531 3.2)."""
        return not self.local_part.isascii()

    @classmethod
    def parse(cls, text: str, *, utf8: bool = False) -> Mailbox:
        """Read `local@domain` (RFC 5321 4.1.2), with `utf8` as RFC 6531 3.3 extends it. Raises UsageError."""
        local_part, at, domain = text.rpartition("@")
        if not at or not local_part:
            raise _bad_address(text, "it has no local part and domain with '@' between them")
        if len(local_part.encode("utf-8", "replace")) > MAX_LOCAL_PART:
            raise _bad_address(text[:80], f"its local part is longer than {MAX_LOCAL_PART} octets")
        if not (_DOT_ATOM.match(local_part) or _QUOTED.match(local_part)) or (
            not utf8 and not local_part.isascii()
        ):
            where = "" if utf8 else " in ASCII"
            raise _bad_address(text, f"its local part is neither a dot-atom nor a quoted string{where}")
        if not local_part.isascii():
            _check_printable(text, local_part)
        return cls(local_part, domain_name(domain))


@lru_cache(maxsize=4096)  # a relay reads the same domains again and again
def domain_name(text: str) -> str:
    """Normalise a domain to lower-case A-labels without a final dot; an address literal stays one.

    Raises UsageError when it is neither (RFC 1035 2.3.4, RFC 5321 4.1.3, RFC 5891).
    """
    if text.startswith("["):
        address = literal_address(text)
        if address is None:
            raise _bad_address(text, "the address literal holds no IP address")
        return f"[IPv6:{address}]" if ":" in address else f"[{address}]"
    name = text.removesuffix(".").lower()
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError) as error:
            raise _bad_address(text, f"not an internationalised domain name: {error}") from None
    if not name or len(name) > MAX_DOMAIN:
        raise _bad_address(text[:80], f"a domain has between 1 and {MAX_DOMAIN} octets")
    for label in name.split("."):
        if not _LABEL.match(label) or len(label) > 63:
            raise _bad_address(text, f"the label {label!r} is not a host name label")
    return name


def literal_address(domain: str) -> str | None:
    """The IP address in `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 4.1.3), or None."""
    if not (domain.startswith("[") and domain.endswith("]")):
        return None
    inner = domain[1:-1]
    try:
        if inner[:5].lower() == "ipv6:":
            return str(ipaddress.IPv6Address(inner[5:]))
        return str(ipaddress.IPv4Address(inner))
    except ValueError:
        return None


class Recipient(Struct, frozen=True):
    """One recipient of a message; `ordinal` is its place in the envelope, from 0.

    `notify` and `original` as the sender asked (RFC 3461 4.1, 4.2); None: nothing was asked.
    """

    ordinal: int
    mailbox: Mailbox
    notify: frozenset[Notify] | None = None
    original: OriginalRecipient | None = None


class Envelope(Struct, frozen=True):
    """What was accepted, without its content. `sender` is None for the null reverse path.

    `size` counts the octets of the content as it will be sent, CRLF line ends included; `received_at`
    is in seconds since the epoch. `smtputf8`: MAIL asked for it (RFC 6531 3.4). `ret` and `envid` (decoded)
    as the sender asked (RFC 3461 4.3, 4.4). `authenticated`: as whom the client had logged in.
    `requires_tls`: MAIL had REQUIRETLS, so that only servers that are certain to be the right ones may get it
    (RFC 8689 2).
    """

    id: MessageId
    sender: Mailbox | None
    recipients: tuple[Recipient, ...]
    size: int
    eight_bit: bool
    received_at: float
    smtputf8: bool = False
    ret: Ret | None = None
    envid: str | None = None
    authenticated: str | None = None
    requires_tls: bool = False

    @property
    def internationalised(self) -> bool:
        """Whether MAIL asked for SMTPUTF8, or an address needs it."""
        boxes = (self.sender, *(recipient.mailbox for recipient in self.recipients))
        return self.smtputf8 or any(box is not None and box.internationalised for box in boxes)

    @property
    def reverse_path(self) -> str:
        """The sender as text, empty for the null reverse path."""
        return str(self.sender) if self.sender else ""


class Content(Protocol):
    """The content of a message as it goes on the wire before dot-stuffing: CRLF line ends, `size` octets."""

    @property
    def size(self) -> int:
        """Octets altogether."""
        ...

    async def read(self, offset: int, length: int) -> bytes:
        """At most `length` octets from `offset`, fewer only at the end. Raises StorageError."""
        ...


def _check_printable(text: str, local_part: str) -> None:
    for char in local_part:
        if not char.isascii() and (char in _REORDERING or unicodedata.category(char) in _UNPRINTABLE):
            raise _bad_address(ascii(text), f"its local part has U+{ord(char):04X}, which is not printable")


def _bad_address(text: str, why: str) -> UsageError:
    return UsageError(f"reading the address {text!r}", why, "give it as local-part@domain")
