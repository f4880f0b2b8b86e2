"""What a sender asks of delivery status notifications (RFC 3461): NOTIFY, ORCPT, RET, ENVID, and xtext.

The values here are decoded text. Their encoding is made where they go on a wire or into a report, so that no
CR, LF, space or `+` of a client ever reaches another server as more than one parameter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from deliver.errors import UsageError

MAX_ENVID = 100  # octets as xtext (RFC 3461 4.4)
MAX_ORCPT = 500  # octets as xtext (RFC 3461 4.2)

_PLAIN = re.compile(r"[\x21-\x2a\x2c-\x3c\x3e-\x7e]")
_XTEXT = re.compile(r"(?:[\x21-\x2a\x2c-\x3c\x3e-\x7e]|\+[0-9A-F]{2})*\Z")
_HEX = re.compile(r"\+([0-9A-F]{2})")
# RFC 6533 3: QCHAR and EmbeddedUnicodeChar.
_QCHAR = re.compile(r"[\x21-\x2a\x2c-\x3c\x3e-\x5b\x5d-\x7e]")
_EMBEDDED = re.compile(r"\\x\{([0-9A-F]{2,6})\}")
_ADDRESS_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,30}\Z")
# Controls, surrogates, private use, separators beside the space, and marks that reorder or join text. Not
# `str.isprintable`: what it says of a character depends on Python's version, and a queue outlives versions.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\xa0\xad\u061c\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ud800-\uf8ff"
    "\ufeff\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e007f\U000f0000-\U0010ffff]"
)


class Notify(StrEnum):
    """When a recipient's sender wants to hear (RFC 3461 4.1); NEVER stands alone."""

    NEVER = "NEVER"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    DELAY = "DELAY"


class Ret(StrEnum):
    """How much of the message a failure report returns (RFC 3461 4.3)."""

    FULL = "FULL"
    HDRS = "HDRS"


@dataclass(frozen=True, slots=True)
class OriginalRecipient:
    """ORCPT (RFC 3461 4.2): an address type such as "rfc822" or "utf-8", and the decoded address."""

    kind: str
    address: str

    def __post_init__(self) -> None:
        if not _ADDRESS_TYPE.match(self.kind) or not _is_printable(self.address):
            raise UsageError("reading ORCPT", "it is no address type, ';' and printable text", "correct it")

    def __str__(self) -> str:
        return f"{self.kind};{self.address}"


def _is_printable(text: str) -> bool:
    return bool(text) and _UNPRINTABLE.search(text) is None


def xtext(text: str) -> str:
    """Encode as xtext (RFC 3461 4). Octets above 127 are those of UTF-8."""
    return "".join(
        char if _PLAIN.match(char) else "".join(f"+{octet:02X}" for octet in char.encode("utf-8", "replace"))
        for char in text
    )


def from_xtext(encoded: str) -> str:
    """Decode xtext to printable text. Raises UsageError for what is not xtext or hides control characters."""
    if not _XTEXT.match(encoded):
        raise UsageError("reading xtext", f"{encoded[:80]!r} is not xtext (RFC 3461 4)", "correct it")
    octets = _HEX.sub(lambda found: chr(int(found[1], 16)), encoded).encode("latin-1")
    text = octets.decode("utf-8", "replace")
    if text and not _is_printable(text):
        raise UsageError("reading xtext", "it hides control characters", "correct it")
    return text


def orcpt_text(original: OriginalRecipient) -> str:
    """The value of ORCPT (RFC 3461 4.2); an address of type utf-8 in ASCII, as RFC 6533 3 writes it."""
    if original.kind.lower() != "utf-8":
        return f"{original.kind};{xtext(original.address)}"
    return f"{original.kind};" + "".join(
        char if _QCHAR.match(char) else f"\\x{{{ord(char):02X}}}" for char in original.address
    )


def parse_orcpt(text: str) -> OriginalRecipient:
    """Read the value of ORCPT, in ASCII or (type utf-8) in UTF-8. Raises UsageError."""
    kind, separator, encoded = text.partition(";")
    if not separator or len(text) > MAX_ORCPT:
        raise UsageError("reading ORCPT", f"{text[:80]!r} is no address type, ';' and address", "correct it")
    if kind.lower() != "utf-8":
        return OriginalRecipient(kind, from_xtext(encoded))
    # Old xtext is taken too: RFC 6533 3 lets a server meet either.
    decoded = _EMBEDDED.sub(_embedded, from_xtext(encoded) if encoded.isascii() else encoded)
    return OriginalRecipient(kind, decoded)


def _embedded(found: re.Match[str]) -> str:
    point = int(found[1], 16)
    if point > 0x10FFFF or 0xD800 <= point <= 0xDFFF:
        raise UsageError("reading ORCPT", f"{found[0]} is no character", "correct it")
    return chr(point)


def notify_text(notify: frozenset[Notify]) -> str:
    """The value of NOTIFY, in a stable order."""
    return ",".join(word.value for word in Notify if word in notify)


def parse_notify(text: str) -> frozenset[Notify]:
    """Read the value of NOTIFY in any case. Raises UsageError; NEVER stands alone (RFC 3461 4.1)."""
    try:
        found = frozenset(Notify(word.upper()) for word in text.split(","))
    except ValueError:
        raise UsageError(
            "reading NOTIFY", f"unknown: {text[:80]!r}", "use NEVER or SUCCESS,FAILURE,DELAY"
        ) from None
    if Notify.NEVER in found and len(found) > 1:
        raise UsageError("reading NOTIFY", "NEVER does not go with others", "use one of them")
    return found
