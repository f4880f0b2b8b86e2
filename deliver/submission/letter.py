"""The text of a message as a program hands it over, made fit to be sent. Pure.

line ends            CRLF
`From ` line         of a mailbox file, first: left out
Date, Message-ID,    added if they are missing; Resent- ones instead if the message is resent
From
Bcc, Resent-Bcc      left out with -t
the empty line       added where the text begins without one
"""

from __future__ import annotations

import base64
import re
from typing import NamedTuple

from deliver.submission.addresses import BadAddress, addresses

MAX_LINE = 998  # octets without CRLF (RFC 5321 4.5.3.1.6)
ENCODED = 42  # octets of a name in one encoded word (RFC 2047 2: 75 characters at most)

_FIELD = re.compile(rb"([\x21-\x39\x3b-\x7e]+)[ \t]*:")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]*\Z")


class BadMessage(Exception):
    """A text that nobody can send; the text says why."""


class Maker(NamedTuple):
    """What is put in: `date` as in RFC 5322 3.3, `message_id` in angle brackets."""

    sender: str
    full_name: str
    date: str
    message_id: str


class Letter(NamedTuple):
    """What is sent; `recipients` are those of its header, as they stand."""

    content: bytes
    recipients: tuple[str, ...]

    @property
    def eight_bit(self) -> bool:
        """Whether the text needs 8BITMIME."""
        return not self.content.isascii()


def until_dot(lines: list[bytes]) -> list[bytes]:
    """What comes before a line with a single dot."""
    for at, line in enumerate(lines):
        if line in (b".\n", b".\r\n", b"."):
            return lines[:at]
    return lines


def compose(text: bytes, maker: Maker, *, from_header: bool) -> Letter:
    """Make the letter. Raises BadMessage."""
    text = text.replace(b"\r\n", b"\n")
    if b"\0" in text or b"\r" in text:
        raise BadMessage("the text has a NUL, or a CR without LF")
    fields, body = split(text)
    names = {_name(field) for field in fields}
    prefix = b"resent-" if any(name.startswith(b"resent-") for name in names) else b""
    found: tuple[str, ...] = ()
    if from_header:
        found = _recipients(fields, prefix)
        fields = [field for field in fields if _name(field) not in (b"bcc", b"resent-bcc")]
    ours = [
        b"%s: %s\n" % (shown, value.encode())
        for name, shown, value in _additions(maker, resent=bool(prefix))
        if name not in names
    ]
    header = [*ours, *fields] if prefix else [*fields, *ours]
    content = b"".join([*header, b"\n", body])
    if not content.endswith(b"\n"):
        content += b"\n"
    _check(content)
    return Letter(content.replace(b"\n", b"\r\n"), found)


def split(text: bytes) -> tuple[list[bytes], bytes]:
    """Fields with their line ends, and the body; LF line ends."""
    fields: list[bytes] = []
    at = 0
    if text.startswith(b"From ") and b"\n" in text:
        at = text.index(b"\n") + 1
    while at < len(text):
        end = text.find(b"\n", at) + 1 or len(text)
        line = text[at:end]
        if line == b"\n":
            return fields, text[end:]
        if line[:1] in b" \t" and fields:
            fields[-1] += line
        elif _FIELD.match(line):
            fields.append(line)
        else:
            return fields, text[at:]
        at = end
    if fields and not fields[-1].endswith(b"\n"):
        fields[-1] += b"\n"
    return fields, b""


def phrase(name: str) -> str:
    """A person's name as it may stand before an address (RFC 5322 3.2.5, RFC 2047 5)."""
    if not name.isascii():
        return "\n ".join(_encoded_words(name.encode()))
    if _ATOMS.match(name):
        return name
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _encoded_words(octets: bytes) -> list[str]:
    words = []
    while octets:
        end = min(ENCODED, len(octets))
        while end < len(octets) and octets[end] & 0xC0 == 0x80:  # not within a character
            end -= 1
        words.append(f"=?utf-8?B?{base64.b64encode(octets[:end]).decode()}?=")
        octets = octets[end:]
    return words


def _additions(maker: Maker, *, resent: bool) -> list[tuple[bytes, bytes, str]]:
    prefix = b"Resent-" if resent else b""
    who = f"{phrase(maker.full_name)} <{maker.sender}>" if maker.full_name else maker.sender
    values = ((b"Date", maker.date), (b"Message-ID", maker.message_id), (b"From", who))
    return [((prefix + name).lower(), prefix + name, value) for name, value in values if value]


def _recipients(fields: list[bytes], prefix: bytes) -> tuple[str, ...]:
    wanted = {prefix + name for name in (b"to", b"cc", b"bcc")}
    found: list[str] = []
    for field in fields:
        if _name(field) in wanted:
            value = field.partition(b":")[2]
            try:
                found += addresses(value.decode("utf-8"))
            except (BadAddress, UnicodeDecodeError) as error:
                raise BadMessage(f"the field {_name(field).decode()} cannot be read: {error}") from None
    return tuple(dict.fromkeys(found))


def _name(field: bytes) -> bytes:
    found = _FIELD.match(field)
    return found[1].lower() if found else b""


def _check(content: bytes) -> None:
    longest = max(map(len, content.split(b"\n")))
    if longest > MAX_LINE:
        raise BadMessage(f"a line has {longest} octets; {MAX_LINE} are allowed: encode it with MIME")
