"""How old the waiting mail is and where it wants to go: age by domain, as qshape of Postfix shows it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from deliver.queue.reading import Reader
from deliver.queue.selection import Selection, conditions

AGES: Final = tuple(minutes * 60 for minutes in (5, 10, 20, 40, 80, 160, 320, 640, 1280))  # seconds

By = Literal["domain", "sender", "state"]
_GROUPS: Final[dict[By, str]] = {
    "domain": "recipient.domain",
    "sender": "coalesce(message.sender_domain, '<>')",
    "state": "recipient.state",
}


@dataclass(frozen=True, slots=True)
class Row:
    """Recipients of one group, all and by age: `ages[n]` are younger than `AGES[n]`, the last ones older."""

    name: str
    total: int
    ages: tuple[int, ...]


def summary(reader: Reader, selection: Selection, by: By, now: float) -> tuple[Row, ...]:
    """One row per group, the largest first. `selection.text` is not looked at."""
    met = conditions(selection, now)
    limits = {f"age_{place}": now - limit for place, limit in enumerate(AGES)}
    whens = " ".join(f"WHEN message.received_at > :age_{place} THEN {place}" for place in range(len(AGES)))
    rows = reader.rows(
        f"SELECT {_GROUPS[by]} AS name, CASE {whens} ELSE {len(AGES)} END AS place, count(*) AS many "  # noqa: S608 (names of ours)
        "FROM recipient JOIN message ON message.id = recipient.message_id "
        f"WHERE {met.sql} GROUP BY 1, 2",
        {**met.values, **limits},
    )
    groups: dict[str, list[int]] = {}
    for row in rows:
        groups.setdefault(str(row.name), [0] * (len(AGES) + 1))[row.place] += row.many
    return ordered(Row(group, sum(ages), tuple(ages)) for group, ages in groups.items())


def ordered(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Rows of the same name added up, the largest first."""
    merged: dict[str, Row] = {}
    for row in rows:
        before = merged.get(row.name, Row(row.name, 0, (0,) * len(row.ages)))
        ages = tuple(one + other for one, other in zip(before.ages, row.ages, strict=True))
        merged[row.name] = Row(row.name, before.total + row.total, ages)
    return tuple(sorted(merged.values(), key=lambda row: (-row.total, row.name)))
