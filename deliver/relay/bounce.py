"""The report to a sender about recipients of a message: failed for good, delayed, or handed on.

RFC 3464 (the report), RFC 6522 (multipart/report), RFC 3834 (Auto-Submitted), RFC 5321 6.1 (null reverse
path), RFC 6533 (addresses in UTF-8), RFC 8689 5 (REQUIRETLS, for the report as for the message). Three parts:
words for a person, fields for a program, and the header of the message, or all of it where that was asked.
With ASCII addresses everything but a returned 8-bit body is 7-bit, so that every server takes it.

A message with the null reverse path, itself a report, never causes one: `report` returns None.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Final

from deliver.dsn import Ret
from deliver.message import Envelope, MessageId
from deliver.relay.returned import header_section, reference
from deliver.relay.statusfields import Entry, date, report_fields
from deliver.relay.wording import gravest, subject, words

_FROM: Final = "From: Mail Delivery System <MAILER-DAEMON@"
_CODING: Final = b"Content-Transfer-Encoding: 8bit\r\n"
_BOUNDARY = re.compile(rb'\tboundary="(=_[a-z2-7]+)"\Z')
_RETURNED: Final = b"Content-Type: message/rfc822\r\n"  # message/global may be in base64 (RFC 6532 3.5)
MAX_NAMED: Final = 50  # recipients in X-Failed-Recipients


@dataclass(frozen=True, slots=True)
class Original:
    """The message that is reported on, as far as it was read; `content` starts with its header section.

    `whole`: it is all of the message, and may go back as it is.
    """

    content: bytes
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """A composed report: its text, and what a server must be able to take."""

    text: bytes
    eight_bit: bool
    smtputf8: bool
    requires_tls: bool


def wants_body(envelope: Envelope, *, otherwise: str, limit: int) -> bool:
    """Whether a failure returns the whole message: RET, else the setting; never above `limit` octets.

    Never with REQUIRETLS, whatever was asked (RFC 8689 5).
    """
    if envelope.requires_tls:
        return False
    asked = envelope.ret is Ret.FULL if envelope.ret is not None else otherwise == "full"
    return asked and envelope.size <= limit


def report(
    envelope: Envelope,
    entries: tuple[Entry, ...],
    *,
    reporting_mta: str,
    message_id: MessageId,
    boundary: str,
    now: float,
    original: Original,
) -> Report | None:
    """The report about `entries` of the message in `envelope`; None for the null reverse path.

    `boundary` must be unpredictable for the author of the original message, so that nothing in it can end a
    part. `now` is in seconds since the epoch.
    """
    if envelope.sender is None or not entries:
        return None
    utf8 = _needs_utf8(envelope, entries, original.content)
    returned = header_section(original.content, utf8=utf8)
    entire = original.whole and gravest(entries) == "failed"  # RFC 3461 4.3: RET is about failures
    head = _head(envelope, entries, reporting_mta, message_id, now, reference(returned))
    charset = "utf-8" if utf8 else "us-ascii"
    parts = [
        _part(f"text/plain; charset={charset}", words(entries, reporting_mta, utf8=utf8)),
        _part(
            f"message/{'global-' if utf8 else ''}delivery-status",
            report_fields(envelope, entries, reporting_mta, utf8=utf8),
        ),
        _whole(original.content, utf8) if entire else _headers_only(returned, utf8),
    ]
    if not all(part.isascii() for part in parts):
        head.append("Content-Transfer-Encoding: 8bit")  # RFC 2045 6.4
    head += [
        "Content-Type: multipart/report; report-type=delivery-status;",
        f'\tboundary="{boundary}"',
        "",
        "This is a multi-part message in MIME format.",
    ]
    separator = f"\r\n--{boundary}\r\n".encode("ascii")
    text = separator.join([_octets("\r\n".join(head)), *parts]) + f"\r\n--{boundary}--\r\n".encode("ascii")
    return Report(
        text,
        eight_bit=not text.isascii(),
        smtputf8=not str(envelope.sender).isascii(),
        requires_tls=envelope.requires_tls,
    )


def abridged(text: bytes) -> bytes | None:
    """A report of ours with the header in the place of the whole message; None if it is not such a report.

    What came from others begins with other fields, at the latest with our Received.
    """
    head, _, rest = text.partition(b"\r\n\r\n")
    found = _BOUNDARY.search(head)
    if found is None or not text.startswith(_FROM.encode("ascii")):
        return None
    separator = b"\r\n--" + found[1]
    parts = rest.split(separator)
    if len(parts) != 5 or not parts[3].startswith(b"\r\n" + _RETURNED):
        return None
    _, _, original = parts[3].partition(b"\r\n\r\n")
    parts[3] = b"\r\n" + _headers_only(header_section(original), utf8=False)
    rest = separator.join(parts)
    return (head.replace(_CODING, b"") if rest.isascii() else head) + b"\r\n\r\n" + rest


def boundary_from(octets: bytes) -> str:
    """A MIME boundary (RFC 2046 5.1.1) from at least 16 random octets."""
    return f"=_{base64.b32encode(octets).decode('ascii').rstrip('=').lower()}"


def _needs_utf8(envelope: Envelope, entries: tuple[Entry, ...], content: bytes) -> bool:
    """RFC 6533 4: the sender asked for SMTPUTF8, so its mail system can read a report in UTF-8."""
    if not envelope.smtputf8:
        return False
    header, _, _ = content.partition(b"\r\n\r\n")
    addresses = [envelope.reverse_path, *(str(entry.recipient.mailbox) for entry in entries)]
    return not (header.isascii() and all(address.isascii() for address in addresses))


def _head(
    envelope: Envelope,
    entries: tuple[Entry, ...],
    reporting_mta: str,
    message_id: MessageId,
    now: float,
    about: str | None,
) -> list[str]:
    lines = [
        f"{_FROM}{reporting_mta}>",
        f"To: <{envelope.sender}>",
        f"Date: {date(now)}",
        f"Subject: {subject(entries)}",
        f"Message-ID: <{message_id}@{reporting_mta}>",
    ]
    if about is not None:
        lines += [f"In-Reply-To: {about}", f"References: {about}"]
    failed = [str(entry.recipient.mailbox) for entry in entries if entry.action == "failed"]
    named = [address for address in failed[:MAX_NAMED] if address.isascii()]
    if named:
        lines.append("X-Failed-Recipients: " + ",\r\n\t".join(named))
    return [*lines, "Auto-Submitted: auto-replied", "MIME-Version: 1.0"]


def _part(kind: str, text: str) -> bytes:
    octets = _octets(text)
    coding = "" if octets.isascii() else "Content-Transfer-Encoding: 8bit\r\n"
    return _octets(f"Content-Type: {kind}\r\n{coding}\r\n") + octets


def _headers_only(returned: str, utf8: bool) -> bytes:
    return _part("message/global-headers" if utf8 else "text/rfc822-headers", returned)


def _whole(content: bytes, utf8: bool) -> bytes:
    coding = "" if content.isascii() else "Content-Transfer-Encoding: 8bit\r\n"
    kind = "message/global" if utf8 else "message/rfc822"
    return _octets(f"Content-Type: {kind}\r\n{coding}\r\n") + content


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "replace")
