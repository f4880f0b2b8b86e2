"""What became of the demonstration's messages, as values, and whether that is what had to become of them.

`shortcomings` is strict: an outcome that fits is not enough, the rows in SQL, the octets at the server and the
commands on the wire must tell the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_TRACE_FIELD = re.compile(r"Received: [^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*")  # RFC 5321 4.4: a relay adds one
_CLEAR_COMMANDS = ("EHLO", "STARTTLS", "QUIT")  # nothing about the mail itself


@dataclass(frozen=True, slots=True)
class Case:
    """One message and what must become of it. `verified_by`: what must authenticate its server, if anything."""

    recipient: str
    situation: str
    outcome: str
    verified_by: str | None = None

    @property
    def exchanger(self) -> str:
        """The server of the recipient's domain."""
        return f"mx.{self.recipient.rpartition('@')[2]}"


@dataclass(frozen=True, slots=True)
class Story:
    """One message as the relay tells it. Texts that were octets hold one character per octet.

    `decisions` are the findings of its attempts as `outrider queue show --json` prints them, `events` its rows as
    `outrider events tail --json` does. `next_attempt_in` is in seconds after the last attempt.
    """

    case: Case
    id: str
    submitted: str
    outcome: str
    why: str
    status: str | None
    server: str | None
    tls: dict[str, Any] | None
    next_attempt_in: float | None
    decisions: tuple[dict[str, Any], ...]
    events: tuple[dict[str, Any], ...]

    @property
    def recipient(self) -> str:
        """Whom it is for."""
        return self.case.recipient

    @property
    def verified_by(self) -> str | None:
        """What authenticated the server that took it."""
        return self.tls["verified_by"] if self.tls else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON: flat, what had to happen beside what happened."""
        return {
            "id": self.id,
            "recipient": self.recipient,
            "situation": self.case.situation,
            "expected": {"outcome": self.case.outcome, "verified_by": self.case.verified_by},
            "outcome": self.outcome,
            "verified_by": self.verified_by,
            "why": self.why,
            "status": self.status,
            "server": self.server,
            "tls": self.tls,
            "next_attempt_in": self.next_attempt_in,
            "decisions": self.decisions,
            "events": self.events,
            "submitted": self.submitted,
        }


@dataclass(frozen=True, slots=True)
class Received:
    """A message at the server that took it; `content` holds one character per octet."""

    server: str
    sender: str
    recipients: tuple[str, ...]
    tls_version: str | None
    content: str
    reply: str | None


@dataclass(frozen=True, slots=True)
class Seen:
    """One connection as its server saw it: the commands in clear text, those inside TLS, and how it ended."""

    server: str
    clear: tuple[str, ...]
    inside_tls: tuple[str, ...]
    ended: str | None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that the demonstration shows. `violations` are rules that a mail server saw broken."""

    messages: tuple[Story, ...]
    hints: tuple[dict[str, Any], ...]
    received: tuple[Received, ...]
    connections: tuple[Seen, ...]
    ledger: tuple[dict[str, Any], ...]
    violations: tuple[str, ...] = ()


def shortcomings(report: Report) -> tuple[str, ...]:
    """Where the report differs from what had to happen, in sentences; none when all is well."""
    found = [f"a mail server saw a rule broken: {violation}" for violation in report.violations]
    for story in report.messages:
        told = (
            *_in_outcome(story),
            *_in_events(story),
            *_in_ledger(story, report),
            *_at_server(story, report),
        )
        found += [f"{story.recipient}: {text}" for text in told]
    found += [
        f"{one.server} was sent {command} in clear text"
        for one in report.connections
        for command in one.clear
        if command not in _CLEAR_COMMANDS
    ]
    return tuple(found)


def _in_outcome(story: Story) -> Iterator[str]:
    case = story.case
    if story.outcome != case.outcome:
        yield f"the message is {story.outcome}, must be {case.outcome}: {story.why}"
    elif story.verified_by != case.verified_by:
        yield f"the server was authenticated by {story.verified_by}, must be by {case.verified_by}"


def _in_events(story: Story) -> Iterator[str]:
    name = _event_of(story.case)
    rows = [event for event in story.events if event["name"] == name]
    if len(rows) != 1:
        yield f"{len(rows)} event rows {name}, must be 1"
        return
    verified_by = rows[0]["fields"].get("tls_verified_by")
    if story.case.verified_by not in (None, verified_by):
        yield f"the event row {name} says that {verified_by} authenticated the server"


def _in_ledger(story: Story, report: Report) -> Iterator[str]:
    domain = story.recipient.rpartition("@")[2]
    events = [row["event"] for row in report.ledger if row["domain"] == domain]
    if events != [_event_of(story.case)]:
        yield f"the SQL action in the settings wrote {', '.join(events) or 'nothing'}"


def _event_of(case: Case) -> str:
    return "msg:delivery" if case.outcome == "delivered" else "msg:defer"


def _at_server(story: Story, report: Report) -> Iterator[str]:
    taken = [one for one in report.received if one.server == story.case.exchanger]
    expected = 1 if story.case.outcome == "delivered" else 0
    if len(taken) != expected:
        yield f"{story.case.exchanger} received {len(taken)} messages, must be {expected}"
    for one in taken:
        trace = _TRACE_FIELD.match(one.content)
        if trace is None:
            yield "the message arrived without a Received field at its top"
        elif one.content[trace.end() :] != story.submitted:
            yield "the message that arrived is not the one that was handed over"
