"""The bounce: a delivery status notification to the sender about recipients that failed for good.

RFC 3464 (the report), RFC 6522 (multipart/report), RFC 3834 (Auto-Submitted), RFC 5321 6.1 (null reverse
path). Three parts: words for a person, fields for a program, and the header of the message. The body of the
message is not returned: it may be large, and the sender has it. Everything is 7-bit ASCII with CRLF line
ends, so that every server takes it.

A message with the null reverse path, itself a bounce, never causes one: `bounce` returns None.
Texts from servers are untrusted: control and non-ASCII characters are replaced, lengths are capped.
"""

from __future__ import annotations

import base64
import textwrap
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final

from deliver.message import MAX_DOMAIN, Envelope, MessageId, Recipient
from deliver.outcome import Contact, Failed
from deliver.smtp.reply import Reply

MAX_HEADERS: Final = 32 * 1024  # octets of the original header that are returned
MAX_DIAGNOSTIC: Final = 950  # characters; the field must stay within one line of 998 octets (RFC 5322 2.1.1)
MAX_DESCRIBED: Final = 50  # recipients in the words for a person; the report has all of them
WIDTH: Final = 76
_SAFE_LINE: Final = 998


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed recipient and why."""

    recipient: Recipient
    outcome: Failed


def bounce(
    envelope: Envelope,
    failures: tuple[Failure, ...],
    *,
    reporting_mta: str,
    message_id: MessageId,
    boundary: str,
    now: float,
    headers: bytes,
) -> bytes | None:
    """The notification about `failures` of the message in `envelope`; None for the null reverse path.

    `headers` starts with the original header section; whatever follows it is ignored. `boundary` must be
    unpredictable for the author of the original message, so that its header cannot end a part. `now` and
    `envelope.received_at` are in seconds since the epoch.
    """
    if envelope.sender is None or not failures:
        return None
    returned = header_section(headers)
    parts = (
        ("text/plain; charset=us-ascii", _words(failures, reporting_mta)),
        ("message/delivery-status", _report(envelope, failures, reporting_mta, now)),
        ("text/rfc822-headers", returned),
    )
    head = [
        f"From: Mail Delivery System <MAILER-DAEMON@{reporting_mta}>",
        f"To: <{envelope.sender}>",
        f"Date: {_date(now)}",
        "Subject: Undelivered mail returned to sender",
        f"Message-ID: <{message_id}@{reporting_mta}>",
        *_references(returned),
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        "Content-Type: multipart/report; report-type=delivery-status;",
        f'\tboundary="{boundary}"',
        "",
        "This is a multi-part message in MIME format.",
    ]
    body = "\r\n".join(head)
    for kind, text in parts:
        body += f"\r\n--{boundary}\r\nContent-Type: {kind}\r\n\r\n{text}"
    return f"{body}\r\n--{boundary}--\r\n".encode("ascii", "replace")


def header_section(content: bytes) -> str:
    """The header section as 7-bit text with CRLF, at most MAX_HEADERS octets of whole lines.

    Octets outside ASCII and control characters become `?`; lines beyond 998 octets are cut.
    """
    section, _, _ = content[: MAX_HEADERS + _SAFE_LINE].partition(b"\r\n\r\n")
    lines: list[str] = []
    room = MAX_HEADERS
    for line in section.split(b"\r\n"):
        text = _ascii(line.decode("ascii", "replace"), keep_tab=True)[:_SAFE_LINE]
        room -= len(text) + 2
        if room < 0:
            break
        lines.append(text)
    return "\r\n".join(lines) + "\r\n"


def boundary_from(octets: bytes) -> str:
    """A MIME boundary (RFC 2046 5.1.1) from at least 16 random octets."""
    return f"=_{base64.b32encode(octets).decode('ascii').rstrip('=').lower()}"


def _words(failures: tuple[Failure, ...], reporting_mta: str) -> str:
    several = len(failures) > 1
    paragraphs = [
        f"This is the mail system at {reporting_mta}.",
        "Your message could not be delivered to "
        + ("the following recipients" if several else "the following recipient")
        + ". No further attempts will be made. The technical details are in the attached report.",
    ]
    for failure in failures[:MAX_DESCRIBED]:
        paragraphs += [f"<{failure.recipient.mailbox}>", *_explained(failure.outcome)]
    if len(failures) > MAX_DESCRIBED:
        paragraphs.append(f"and {len(failures) - MAX_DESCRIBED} more, all in the attached report.")
    return "\r\n\r\n".join(_wrapped(paragraph) for paragraph in paragraphs) + "\r\n"


def _explained(outcome: Failed) -> list[str]:
    why = _ascii(outcome.why)
    host = f"{_host(outcome.contact)} [{_ascii(outcome.contact.address)}]" if outcome.contact else ""
    told = [f"{why[:1].upper()}{why[1:]}."] if why else []
    if outcome.reply is not None:
        told.append(f"The mail server {host} said: {_said(outcome.reply)}".replace("  ", " "))
    told.append(_advice(outcome))
    return told


def _advice(outcome: Failed) -> str:
    """What the sender can do, by the status code (RFC 3463)."""
    subject, detail = outcome.enhanced.subject, outcome.enhanced.detail
    if subject == 4 and detail == 7:
        return "You may send the message again later, or ask the recipient's administrators for help."
    if subject == 1:
        return "Please check the address for typing errors, and send the message again."
    if subject == 2 and detail == 2:
        return "The mailbox is full. Please tell the recipient in another way."
    if (subject, detail) in {(3, 4), (2, 3)}:
        return "Please make the message smaller, for example without its attachments."
    if subject == 7:
        return "A security or policy rule refused the message. Please ask your administrator."
    return "If you need help, please forward this message to your administrator."


def _report(envelope: Envelope, failures: tuple[Failure, ...], reporting_mta: str, now: float) -> str:
    """The message/delivery-status part: RFC 3464 2.2 per message, 2.3 per recipient."""
    groups = [
        [
            f"Reporting-MTA: dns; {reporting_mta}",
            f"X-Outrider-Queue-ID: {envelope.id}",
            f"X-Outrider-Sender: rfc822; {envelope.sender}",
            f"Arrival-Date: {_date(envelope.received_at)}",
        ]
    ]
    groups += [_recipient_fields(failure, now) for failure in failures]
    return "".join("\r\n".join(group) + "\r\n\r\n" for group in groups)


def _recipient_fields(failure: Failure, now: float) -> list[str]:
    outcome = failure.outcome
    fields = [
        f"Final-Recipient: rfc822; {failure.recipient.mailbox}",
        "Action: failed",
        f"Status: {outcome.enhanced}",
    ]
    if outcome.contact is not None and outcome.contact.host:
        fields.append(f"Remote-MTA: dns; {_host(outcome.contact)}")
    if outcome.reply is not None:
        fields.append(f"Diagnostic-Code: smtp; {_said(outcome.reply)}")
    else:
        fields.append(f"Diagnostic-Code: x-outrider; {_ascii(outcome.why)[:MAX_DIAGNOSTIC]}")
    return [*fields, f"Last-Attempt-Date: {_date(now)}"]


def _references(headers: str) -> list[str]:
    """In-Reply-To and References to the original's Message-ID, if it has a sane one (RFC 5322 3.6.4)."""
    for line in headers.split("\r\n"):
        name, _, value = line.partition(":")
        value = value.strip()
        if (
            name.lower() == "message-id"
            and value.startswith("<")
            and value.endswith(">")
            and len(value) < 250
        ):
            return [f"In-Reply-To: {value}", f"References: {value}"]
    return []


def _host(contact: Contact) -> str:
    """The server's name; it comes from the DNS of a stranger."""
    return _ascii(contact.host)[:MAX_DOMAIN]


def _said(reply: Reply) -> str:
    """A reply in one line, capped."""
    said = _ascii(str(reply))
    return said if len(said) <= MAX_DIAGNOSTIC else f"{said[:MAX_DIAGNOSTIC]} [truncated]"


def _ascii(text: str, *, keep_tab: bool = False) -> str:
    return "".join(c if " " <= c <= "~" or (keep_tab and c == "\t") else "?" for c in text)


def _wrapped(paragraph: str) -> str:
    return "\r\n".join(textwrap.wrap(paragraph, WIDTH, break_on_hyphens=False)) or ""


def _date(epoch: float) -> str:
    return format_datetime(datetime.fromtimestamp(int(epoch), UTC))
