"""Which destinations an action is for: the `domains` and `hosts` of a rule, compared with an event's fields.

    pattern         matches
    example.org     that name only
    *.example.org   every name below it, not itself
    *               every name

Patterns are lower-case A-labels, as the names in events are. A list that is empty asks for nothing; an event
without the field that a list asks for is not meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from events.fields import Scalar


@dataclass(frozen=True, slots=True)
class Towards:
    """Patterns of recipient domains and of hosts; with both, both have to match."""

    domains: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that an event has to carry."""
        return (*(("domain",) if self.domains else ()), *(("host",) if self.hosts else ()))

    def holds(self, fields: Mapping[str, Scalar]) -> bool:
        """Whether an event with these fields is about such a destination."""
        return _meant(self.domains, fields.get("domain")) and _meant(self.hosts, fields.get("host"))


ANYWHERE: Final = Towards()


def _meant(patterns: tuple[str, ...], name: Scalar) -> bool:
    if not patterns:
        return True
    if not isinstance(name, str) or not name:
        return False
    name = name.removesuffix(".").lower()
    return any(
        pattern == "*" or (name.endswith(pattern[1:]) if pattern.startswith("*.") else name == pattern)
        for pattern in patterns
    )
