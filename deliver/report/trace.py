"""The trace of an attempt: every decision with its evidence, in order, and the events it raised.

The log, `--json`, `outrider queue show` and the event rows are views of this one record; nothing else
explains a delivery. Findings are frozen values that decisions return; only the story (`deliver.attempt`,
`deliver.session`) appends them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import msgspec

from events.catalogue import Event, Scalar

MAX_TEXT = 1000  # characters of a text or an evidence value; peers control some of them
MAX_FINDINGS = 500  # of one trace as JSON

_ENCODER: Final = msgspec.json.Encoder()
_ESCAPING: Final = json.JSONEncoder(separators=(",", ":"))


class Stage(StrEnum):
    """Where on the way of a message a decision was taken."""

    ROUTE = "route"
    DNS = "dns"
    POLICY = "policy"
    CONNECT = "connect"
    SMTP = "smtp"
    TLS = "tls"
    TRANSACTION = "transaction"
    OUTCOME = "outcome"


class Verdict(StrEnum):
    """What a finding means for the delivery."""

    OK = "ok"
    NOTE = "note"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Finding:
    """One decision. `code` is a stable word for programs, `text` a sentence for people.

    `rfc` names the rule as `RFC 7672 2.2.2`; `evidence` holds what the decision rests on.
    """

    stage: Stage
    code: str
    text: str
    verdict: Verdict = Verdict.NOTE
    rfc: str | None = None
    evidence: tuple[tuple[str, str], ...] = ()
    _json: str | None = field(default=None, init=False, repr=False, compare=False)

    def as_json(self) -> str:
        """`as_dict` as text, made once: the same finding may be in the traces of many messages."""
        if self._json is None:
            object.__setattr__(self, "_json", _encode(self.as_dict()))
        assert self._json is not None
        return self._json

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-able form, every text capped at MAX_TEXT characters."""
        return {
            "stage": self.stage,
            "code": self.code,
            "text": self.text[:MAX_TEXT],
            "verdict": self.verdict,
            "rfc": self.rfc,
            "evidence": {key: value[:MAX_TEXT] for key, value in self.evidence} if self.evidence else {},
        }


@dataclass(slots=True)
class Trace:
    """Append-only record of one attempt."""

    findings: list[Finding] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    _json: tuple[int, str] = field(default=(0, "[]"), init=False, repr=False, compare=False)

    def add(self, *findings: Finding) -> None:
        """Append decisions in the order in which they were taken."""
        self.findings.extend(findings)

    def extend(self, findings: Iterable[Finding]) -> None:
        """Append what a decision function returned."""
        self.findings.extend(findings)

    def raise_event(self, name: str, at: float, **fields: Scalar) -> Event:
        """Note an event of the catalogue and return it; `at` is in seconds since the epoch."""
        event = Event(name=name, at=at, fields=fields)
        self.events.append(event)
        return event

    def as_json(self) -> str:
        """The findings so far as a JSON array."""
        count = len(self.findings)
        if self._json[0] != count:
            self._json = count, f"[{','.join([found.as_json() for found in self.findings[:MAX_FINDINGS]])}]"
        return self._json[1]

    def reasons(self) -> list[dict[str, Any]]:
        """The `reasons[]` of `--json`: {code, text, rfc} per finding."""
        return [{"code": f.code, "text": f.text[:MAX_TEXT], "rfc": f.rfc} for f in self.findings]


def _encode(plain: object) -> str:
    try:
        return _ENCODER.encode(plain).decode()
    except UnicodeEncodeError:  # half a surrogate pair, which UTF-8 cannot have
        return _ESCAPING.encode(plain)
