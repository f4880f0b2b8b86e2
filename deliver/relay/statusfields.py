"""The fields of a delivery report for programs: RFC 3464 2.2 and 2.3, in UTF-8 by RFC 6533. Pure.

Order and the fields beyond the RFC follow what administrators of Exim know from its DSN information:

    X-Remote-MTA-address         X-ip; [192.0.2.1]:25
    X-Remote-MTA-smtp-greeting   X-str; the server's first reply
    X-Remote-MTA-helo-response   X-str; the first line of its answer to EHLO
    X-Outrider-Diagnostic        X-str; what went wrong, in our words

Texts of servers are untrusted: one line each, no control characters, capped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final

from deliver.message import MAX_DOMAIN, Envelope, Recipient
from deliver.outcome import Contact, Delivered, Outcome
from deliver.relay.returned import cut, safe_text
from deliver.smtp.reply import EnhancedCode, Reply

MAX_DIAGNOSTIC: Final = 900  # octets of a value; a line of the report stays within 998 (RFC 5322 2.1.1)
_QCHAR = re.compile(r"[\x21-\x2a\x2c-\x3c\x3e-\x5b\x5d-\x7e]")  # RFC 6533 3


@dataclass(frozen=True, slots=True)
class Entry:
    """What is told about one recipient. `action`: failed, delayed or relayed (RFC 3464 2.3.3).

    `last_attempt` and, while it is still tried, `retry_until` in seconds since the epoch.
    """

    recipient: Recipient
    action: str
    outcome: Outcome
    last_attempt: float
    retry_until: float | None = None


def report_fields(envelope: Envelope, entries: tuple[Entry, ...], reporting_mta: str, *, utf8: bool) -> str:
    """The delivery-status part: the fields about the message, then a group for each recipient.

    With `utf8` addresses and texts stay as they are; else they are ASCII, addresses in the form that RFC 6533
    section 3 has for that.
    """
    groups = [_message_fields(envelope, reporting_mta, utf8)]
    groups += [_recipient_fields(entry, envelope, utf8) for entry in entries]
    return "".join("\r\n".join(group) + "\r\n\r\n" for group in groups)


def status(entry: Entry) -> EnhancedCode:
    """The Status of an entry; its class agrees with the action (RFC 3464 2.3.4)."""
    outcome = entry.outcome
    if isinstance(outcome, Delivered):
        return outcome.reply.enhanced or EnhancedCode(2, 0, 0)
    klass = 5 if entry.action == "failed" else 4
    return EnhancedCode(klass, outcome.enhanced.subject, outcome.enhanced.detail)


def typed_address(address: str, *, utf8: bool, kind: str | None = None) -> str:
    """`rfc822; a@b` or `utf-8; …`: RFC 3464 2.3.2, RFC 6533 3. `kind`: as ORCPT named it."""
    text = safe_text(address, utf8=True)
    if text.isascii():
        return f"{safe_text(kind or 'rfc822')}; {cut(text, MAX_DIAGNOSTIC)}"
    if utf8:
        return f"{safe_text(kind or 'utf-8')}; {cut(text, MAX_DIAGNOSTIC)}"
    coded = "".join(c if _QCHAR.match(c) else f"\\x{{{ord(c):02X}}}" for c in text)
    return f"utf-8; {coded[:MAX_DIAGNOSTIC]}"


def said(reply: Reply, *, utf8: bool = False) -> str:
    """A reply in one line, capped."""
    text = safe_text(str(reply), utf8=utf8)
    return text if len(text.encode()) <= MAX_DIAGNOSTIC else f"{cut(text, MAX_DIAGNOSTIC)} [truncated]"


def host_name(contact: Contact) -> str:
    """The server's name; it comes from the DNS of a stranger."""
    return safe_text(contact.host)[:MAX_DOMAIN]


def date(epoch: float) -> str:
    """RFC 5322 3.3, in UTC."""
    return format_datetime(datetime.fromtimestamp(int(epoch), UTC))


def _message_fields(envelope: Envelope, reporting_mta: str, utf8: bool) -> list[str]:
    lines = []
    if envelope.envid is not None:  # decoded, RFC 3464 2.2.1
        lines.append(f"Original-Envelope-Id: {cut(safe_text(envelope.envid), MAX_DIAGNOSTIC)}")
    lines += [
        f"Reporting-MTA: dns; {reporting_mta}",
        f"X-Outrider-Queue-ID: {envelope.id}",
        f"X-Outrider-Sender: {typed_address(envelope.reverse_path, utf8=utf8)}",
        f"Arrival-Date: {date(envelope.received_at)}",
    ]
    return lines


def _recipient_fields(entry: Entry, envelope: Envelope, utf8: bool) -> list[str]:
    outcome, original = entry.outcome, entry.recipient.original
    lines = []
    if original is not None:
        address = typed_address(original.address, utf8=utf8, kind=original.kind)
        lines.append(f"Original-Recipient: {address}")
    lines += [
        f"Final-Recipient: {typed_address(str(entry.recipient.mailbox), utf8=utf8)}",
        f"Action: {entry.action}",
        f"Status: {status(entry)}",
    ]
    if outcome.contact is not None and outcome.contact.host:
        lines += _server_fields(outcome.contact, utf8)
    if not isinstance(outcome, Delivered) and outcome.why:
        why = cut(safe_text(outcome.why, utf8=utf8), MAX_DIAGNOSTIC)
        lines.append(f"X-Outrider-Diagnostic: X-str; {why}")
    if outcome.reply is not None:
        lines.append(f"Diagnostic-Code: smtp; {said(outcome.reply, utf8=utf8)}")
    elif not isinstance(outcome, Delivered):
        why = cut(safe_text(outcome.why, utf8=utf8), MAX_DIAGNOSTIC)
        lines.append(f"Diagnostic-Code: x-outrider; {why}")
    lines += [f"Last-Attempt-Date: {date(entry.last_attempt)}", f"Final-Log-ID: {envelope.id}"]
    if entry.retry_until is not None:
        lines.append(f"Will-Retry-Until: {date(entry.retry_until)}")
    return lines


def _server_fields(contact: Contact, utf8: bool) -> list[str]:
    lines = [f"Remote-MTA: dns; {host_name(contact)}"]
    if contact.address:
        port = f":{contact.port}" if contact.port else ""
        lines.append(f"X-Remote-MTA-address: X-ip; [{safe_text(contact.address)[:80]}]{port}")
    for name, text in (("smtp-greeting", contact.greeting), ("helo-response", contact.ehlo)):
        if text:
            value = cut(safe_text(text, utf8=utf8), MAX_DIAGNOSTIC)
            lines.append(f"X-Remote-MTA-{name}: X-str; {value}")
    return lines
