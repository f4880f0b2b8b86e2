"""How old the waiting mail is and where it wants to go: age by domain, as qshape of Postfix shows it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import ColumnElement, Connection, case, func, select

from deliver.queue.schema import message, recipient
from deliver.queue.selection import Selection, conditions

AGES: Final = tuple(minutes * 60 for minutes in (5, 10, 20, 40, 80, 160, 320, 640, 1280))  # seconds

By = Literal["domain", "sender", "state"]


@dataclass(frozen=True, slots=True)
class Row:
    """Recipients of one group, all and by age: `ages[n]` are younger than `AGES[n]`, the last ones older."""

    name: str
    total: int
    ages: tuple[int, ...]


def summary(conn: Connection, selection: Selection, by: By, now: float) -> tuple[Row, ...]:
    """One row per group, the largest first. `selection.text` is not looked at."""
    columns: dict[str, ColumnElement[str]] = {
        "domain": recipient.c.domain,
        "sender": func.coalesce(message.c.sender_domain, "<>"),
        "state": recipient.c.state,
    }
    name = columns[by]
    age = now - message.c.received_at
    whens = [(age < limit, place) for place, limit in enumerate(AGES)]
    place = case(*whens, else_=len(AGES))
    query = (
        select(name, place, func.count())
        .join(message, message.c.id == recipient.c.message_id)
        .where(*conditions(selection, now))
        .group_by(name, place)
    )
    groups: dict[str, list[int]] = {}
    for group, index, count in conn.execute(query):
        groups.setdefault(str(group), [0] * (len(AGES) + 1))[index] += count
    return ordered(Row(group, sum(ages), tuple(ages)) for group, ages in groups.items())


def ordered(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Rows of the same name added up, the largest first."""
    merged: dict[str, Row] = {}
    for row in rows:
        before = merged.get(row.name, Row(row.name, 0, (0,) * len(row.ages)))
        ages = tuple(one + other for one, other in zip(before.ages, row.ages, strict=True))
        merged[row.name] = Row(row.name, before.total + row.total, ages)
    return tuple(sorted(merged.values(), key=lambda row: (-row.total, row.name)))
