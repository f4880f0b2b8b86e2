"""The part of a report that people read: who was not reached, why, and what they can do. Pure."""

from __future__ import annotations

import textwrap
from typing import Final

from deliver.outcome import Delivered, Outcome
from deliver.relay.returned import safe_text
from deliver.relay.statusfields import Entry, date, host_name, said

MAX_DESCRIBED: Final = 50  # recipients; the fields for programs have all of them
WIDTH: Final = 76

_SUBJECTS: Final = {
    "failed": "Undelivered mail returned to sender",
    "delayed": "Warning: your mail is delayed",
    "relayed": "Your mail was handed on",
}
_LEADS: Final = {
    "failed": "Your message could not be delivered to {whom}. No further attempts will be made.",
    "delayed": "Your message has not yet been delivered to {whom}. You need not send it again: "
    "further attempts will be made until {until}.",
    "relayed": "Your message was handed on for {whom} to a mail server that cannot confirm deliveries. "
    "You will hear no more unless the delivery fails.",
}


def gravest(entries: tuple[Entry, ...]) -> str:
    """The action that matters most: failed, then delayed, then relayed."""
    actions = {entry.action for entry in entries}
    return next(action for action in _SUBJECTS if action in actions)


def subject(entries: tuple[Entry, ...]) -> str:
    """The Subject of the report."""
    return _SUBJECTS[gravest(entries)]


def words(entries: tuple[Entry, ...], reporting_mta: str, *, utf8: bool = False) -> str:
    """The text with CRLF line ends, in ASCII unless `utf8`."""
    paragraphs = [f"This is the mail system at {reporting_mta}."]
    for action in _SUBJECTS:
        told = [entry for entry in entries if entry.action == action]
        if told:
            paragraphs += _about(action, told, utf8)
    paragraphs.append("The technical details are in the attached report.")
    return "\r\n\r\n".join(_wrapped(paragraph) for paragraph in paragraphs) + "\r\n"


def _about(action: str, entries: list[Entry], utf8: bool) -> list[str]:
    whom = "the following recipients" if len(entries) > 1 else "the following recipient"
    until = date(max(entry.retry_until or 0.0 for entry in entries))
    paragraphs = [_LEADS[action].format(whom=whom, until=until)]
    for entry in entries[:MAX_DESCRIBED]:
        paragraphs += [f"<{safe_text(str(entry.recipient.mailbox), utf8=utf8)}>"]
        paragraphs += _explained(entry, utf8)
    if len(entries) > MAX_DESCRIBED:
        paragraphs.append(f"and {len(entries) - MAX_DESCRIBED} more, all in the attached report.")
    return paragraphs


def _explained(entry: Entry, utf8: bool) -> list[str]:
    outcome = entry.outcome
    host = ""
    if outcome.contact is not None and outcome.contact.host:
        host = f"{host_name(outcome.contact)} [{safe_text(outcome.contact.address)}] "
    told = []
    if not isinstance(outcome, Delivered) and outcome.why:
        why = safe_text(outcome.why, utf8=utf8)
        told.append(f"{why[:1].upper()}{why[1:]}.")
    if outcome.reply is not None:
        told.append(f"The mail server {host}said: {said(outcome.reply, utf8=utf8)}")
    if entry.action == "failed":
        told.append(_advice(outcome))
    return told


def _advice(outcome: Outcome) -> str:
    """What the sender can do, by the status code (RFC 3463)."""
    enhanced = None if isinstance(outcome, Delivered) else outcome.enhanced
    subject, detail = (enhanced.subject, enhanced.detail) if enhanced else (0, 0)
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


def _wrapped(paragraph: str) -> str:
    return "\r\n".join(textwrap.wrap(paragraph, WIDTH, break_on_hyphens=False)) or ""
