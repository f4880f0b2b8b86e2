"""A message with 8-bit text made into one of 7-bit text (RFC 6152 3, RFC 2045 6, RFC 1428). Pure, on octets.

    entity                              what happens to it where it has an octet above 127
    ----------------------------------  ------------------------------------------------------------------
    text/*                              quoted-printable or base64, whichever is shorter
    any other leaf, message/global*     base64
    message without MIME                text/plain in the character set unknown-8bit, as text (RFC 1428)
    multipart/*, message/rfc822         as its parts; its own Content-Transfer-Encoding becomes 7bit

Everything else stays octet by octet, and every part decodes to what it was: this is checked. `Unconvertible`
is raised for what cannot be had so: text outside ASCII in a header, a preamble or an epilogue; a signature
that would break (DKIM, ARC, multipart/signed, PGP in the text); an encoding that is none of RFC 2045's or is
not kept to; nesting or numbers that no mail program makes.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, encodebytes
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesHeaderParser

from deliver.errors import MessageError

MAX_DEPTH = 32  # of entities inside each other
MAX_PARTS = 10_000  # of one multipart
MAX_HEADER = 256 * 1024  # octets of a header that is looked into

_ASIS = frozenset({"", "7bit", "8bit", "binary"})
_SIGNED_BY = frozenset({b"dkim-signature", b"domainkey-signature", b"arc-seal", b"arc-message-signature"})
_PGP = re.compile(rb"^-----BEGIN PGP SIGNED MESSAGE-----", re.MULTILINE)
_FIELD = re.compile(rb"[^\r\n]*(?:\r\n[ \t][^\r\n]*)*\r\n")
_ENCODING = b"content-transfer-encoding"


class Unconvertible(MessageError):
    """The message cannot be had in 7-bit text."""

    def __init__(self, happened: str) -> None:
        super().__init__(
            "converting the message to 7-bit text", happened, "send it by a server with 8BITMIME"
        )


@dataclass(frozen=True, slots=True)
class _Entity:
    """`header` with the line end of its last field, `body` None without the empty line before one."""

    header: bytes
    body: bytes | None

    @classmethod
    def read(cls, octets: bytes) -> _Entity:
        if octets.startswith(b"\r\n"):
            return cls(b"", octets[2:])
        end = octets.find(b"\r\n\r\n")
        return cls(octets, None) if end < 0 else cls(octets[: end + 2], octets[end + 4 :])

    def __post_init__(self) -> None:
        if self.body is not None and len(self.header) > MAX_HEADER:
            raise Unconvertible("it has a header that is too long")

    @property
    def octets(self) -> bytes:
        return self.header if self.body is None else self.header + b"\r\n" + self.body

    @property
    def names(self) -> list[bytes]:
        """The field names in lower case, in order."""
        return [_name(field) for field in _FIELD.findall(self.header)]

    def parsed(self, default: str) -> Message:
        """The header alone, for its MIME fields."""
        found = BytesHeaderParser().parsebytes(self.header)
        found.set_default_type(default)
        return found

    def with_encoding(self, encoding: bytes) -> _Entity:
        """With another Content-Transfer-Encoding, in the place of the old one."""
        line = b"Content-Transfer-Encoding: " + encoding + b"\r\n"
        fields = _FIELD.findall(self.header)
        if not any(_name(field) == _ENCODING for field in fields):
            return _Entity(self.header + line, self.body)
        changed = (line if _name(field) == _ENCODING else field for field in fields)
        return _Entity(b"".join(changed), self.body)


def to_7bit(content: bytes) -> bytes:
    """The message in 7-bit text; one that is so already, as it is. Raises Unconvertible."""
    if content.isascii():
        return content
    ends = content.count(b"\r\n")
    if content.count(b"\n") != ends or content.count(b"\r") != ends:
        raise Unconvertible("it has a line end that is not CRLF")
    return _message(_Entity.read(content), 0).octets


def has_ascii_headers(content: bytes) -> bool:
    """Whether no header of the message and of its parts needs SMTPUTF8 (RFC 6532 3.1); False if unsure."""
    try:
        return all(entity.header.isascii() for entity in _entities(_Entity.read(content), "text/plain", 0))
    except Unconvertible:
        return False


def _entities(entity: _Entity, default: str, depth: int) -> Iterator[_Entity]:
    """The entity and all inside it, as far as they have text outside ASCII."""
    yield entity
    if entity.body is None or entity.body.isascii() or not entity.header.isascii():
        return
    fields = entity.parsed(default)
    kind = fields.get_content_type()
    if depth >= MAX_DEPTH:
        raise Unconvertible("its parts are nested too deeply")
    if kind == "message/rfc822":
        yield from _entities(_Entity.read(entity.body), "text/plain", depth + 1)
    elif kind.startswith("multipart/"):
        inner = "message/rfc822" if kind == "multipart/digest" else "text/plain"
        for at, piece in enumerate(_split(entity.body, _boundary(fields))):
            if at % 2:
                yield from _entities(_Entity.read(piece), inner, depth + 1)


def _message(entity: _Entity, depth: int) -> _Entity:
    """A whole message, which needs MIME-Version for its encoding to be believed."""
    names = entity.names
    if _SIGNED_BY.intersection(names):
        raise Unconvertible("it bears a signature that would break")
    if b"content-type" not in names and b"mime-version" not in names:
        added = b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=unknown-8bit\r\n"
        entity = _Entity(entity.header + added, entity.body)
    elif b"mime-version" not in names:
        entity = _Entity(entity.header + b"MIME-Version: 1.0\r\n", entity.body)
    return _converted(entity, "text/plain", depth)


def _converted(entity: _Entity, default: str, depth: int) -> _Entity:
    if not entity.header.isascii():
        raise Unconvertible("it has a header outside ASCII")
    if entity.body is None or entity.body.isascii():
        return entity
    names = entity.names
    if names.count(_ENCODING) > 1 or names.count(b"content-type") > 1:
        raise Unconvertible("it says twice what a part is")
    fields = entity.parsed(default)
    encoding = str(fields.get("Content-Transfer-Encoding", "")).strip().lower()
    if encoding not in _ASIS:
        raise Unconvertible(f"it has 8-bit text in the encoding {ascii(encoding)[:40]}")
    kind = fields.get_content_type()
    if depth >= MAX_DEPTH:
        raise Unconvertible("its parts are nested too deeply")
    if kind == "multipart/signed":
        raise Unconvertible("it bears a signature that would break")
    if kind.startswith("multipart/"):
        default = "message/rfc822" if kind == "multipart/digest" else "text/plain"
        return _composite(entity, encoding, _parts(entity.body, _boundary(fields), default, depth + 1))
    if kind == "message/rfc822":
        return _composite(entity, encoding, _message(_Entity.read(entity.body), depth + 1).octets)
    if kind.startswith("message/") and not kind.startswith("message/global"):
        raise Unconvertible(f"it has 8-bit text in a part of type {kind}")
    if _PGP.search(entity.body):
        raise Unconvertible("it bears a signature that would break")
    return _leaf(entity, entity.body, text=kind.startswith("text/"))


def _composite(entity: _Entity, encoding: str, body: bytes) -> _Entity:
    changed = _Entity(entity.header, body)
    return changed.with_encoding(b"7bit") if encoding not in ("", "7bit") else changed


def _parts(body: bytes, boundary: bytes, default: str, depth: int) -> bytes:
    pieces = _split(body, boundary)
    for at, piece in enumerate(pieces):
        if at % 2:
            pieces[at] = _converted(_Entity.read(piece), default, depth).octets
        elif not piece.isascii():
            raise Unconvertible("it has 8-bit text between its parts")
    return b"".join(pieces)


def _boundary(fields: Message) -> bytes:
    found = fields.get_boundary()
    if not found or not found.isascii() or len(found) > 200:
        raise Unconvertible("it has parts without a boundary")
    return found.encode()


def _split(body: bytes, boundary: bytes) -> list[bytes]:
    """What is between the parts and, at the odd places, the parts: joined they are the body again."""
    delimiter = re.compile(rb"(?:\A|(?<=\r\n))--" + re.escape(boundary) + rb"(--)?[ \t]*(?:\r\n|\Z)")
    pieces: list[bytes] = []
    at = 0
    for found in delimiter.finditer(body):
        before = body[at : found.start()]
        if pieces:  # the line end before a delimiter belongs to it (RFC 2046 5.1.1)
            part = before.removesuffix(b"\r\n")
            pieces += (part, before[len(part) :] + found[0])
        else:
            pieces.append(before + found[0])
        at = found.end()
        if found[1]:
            pieces[-1] += body[at:]  # the epilogue
            return pieces
        if len(pieces) > 2 * MAX_PARTS:
            raise Unconvertible("it has too many parts")
    if not pieces:
        raise Unconvertible("it has parts whose boundary never comes")
    return [*pieces, body[at:]]  # the last part was never closed


def _leaf(entity: _Entity, body: bytes, *, text: bool) -> _Entity:
    base64 = encodebytes(body).replace(b"\n", b"\r\n")
    encoded, encoding = (base64, b"base64")
    if text:
        printable = _quoted_printable(body)
        if len(printable) <= len(base64) and binascii.a2b_qp(printable) == body:
            encoded, encoding = printable, b"quoted-printable"
    if encoding == b"base64" and b64decode(base64) != body:
        raise Unconvertible("a part of it does not survive")
    return _Entity(entity.header, encoded).with_encoding(encoding)


def _quoted_printable(body: bytes) -> bytes:
    """RFC 2045 6.7; the library breaks lines as its first line ends, so there must be one."""
    if b"\r\n" in body:
        return binascii.b2a_qp(body, istext=True)
    return binascii.b2a_qp(body + b"\r\n", istext=True)[:-2]


def _name(field: bytes) -> bytes:
    return field.partition(b":")[0].strip().lower()
