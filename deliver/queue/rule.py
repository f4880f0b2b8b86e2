"""What a freeze rule is; what the rules do: `deliver.queue.freeze`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from deliver.queue.reading import Reader


class Kind(StrEnum):
    """What a rule is about."""

    DOMAIN = "domain"
    SENDER = "sender"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; `until` in seconds since the epoch, None: until it is taken back."""

    id: int
    kind: Kind
    pattern: str
    reason: str
    created_at: float
    until: float | None

    @classmethod
    def of(cls, row: Any) -> Rule:
        """The rule in a row of `freeze`."""
        return cls(row.id, Kind(row.kind), row.pattern, row.reason, row.created_at, row.until)


def listed(reader: Reader) -> tuple[Rule, ...]:
    """All of them, the oldest first."""
    return tuple(Rule.of(row) for row in reader.rows('SELECT * FROM "freeze" ORDER BY id'))
