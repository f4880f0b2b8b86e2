"""The published vocabulary of events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Scalar = str | int | float | None


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened; `at` in seconds since the epoch, `fields` primitives only."""

    name: str
    at: float
    fields: Mapping[str, Scalar] = field(default_factory=dict)
