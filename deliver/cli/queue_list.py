"""`outrider queue list` and `outrider queue summary`: what waits."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from deliver.cli.output import age, duration, json_lines, note, size, table
from deliver.cli.queue_filters import filters, places_of, selection_of

if TYPE_CHECKING:
    from deliver.cli.frame import Application
    from deliver.queue.browse import Waiting
    from deliver.queue.reading import Place
    from deliver.queue.selection import Selection

SORTS = ("next", "age", "size", "tries", "domain")

LIST_EPILOG = """Times are relative to now; --json has seconds since the epoch.

\b
Examples:
  outrider queue list --domain example.org --state held
  outrider queue list --text "450 4.7.1" --older-than 4h --sort age
  outrider queue list --sender newsletter@example.com --limit 20 --json
"""
SUMMARY_EPILOG = """Columns are ages in minutes: 5 is less than five minutes, 5+ up to the next column's name.

\b
Examples:
  outrider queue summary
  outrider queue summary --by sender --state queued
"""


@click.command("list", epilog=LIST_EPILOG)
@filters
@click.option("--sort", type=click.Choice(SORTS), default="next", show_default=True, help="What comes first.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per recipient and line.")
@click.pass_obj
def list_(application: Application, /, sort: str, limit: int, as_json: bool, **options: Any) -> None:
    """List the recipients that are not done, the one due first at the top."""
    selection = selection_of(options)
    now = _now()
    rows = _waiting(places_of(application), selection, limit + 1, sort, now)
    more, rows = len(rows) > limit, rows[:limit]
    if as_json:
        json_lines(asdict(row) for row in rows)
        return
    table(
        ("id", "age", "size", "from", "to", "tries", "next", "why"),
        [
            (
                row.id,
                duration(max(0.0, now - row.received_at)),
                size(row.size),
                row.sender or "<>",
                row.recipient,
                row.attempts,
                next_text(row.state, row.next_attempt, row.held_until, now),
                why_text(row.state, row.held_reason, row.why),
            )
            for row in rows
        ],
        empty="The queue is empty." if selection.everything else "Nothing in the queue matches.",
    )
    if more:
        note(f"there is more: only the first {limit} are shown (--limit)")


@click.command("summary", epilog=SUMMARY_EPILOG)
@filters
@click.option("--by", type=click.Choice(["domain", "sender", "state"]), default="domain", show_default=True)
@click.option("--limit", type=click.IntRange(1, 10_000), default=30, show_default=True, help="Rows at most.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per row.")
@click.pass_obj
def summary(application: Application, /, by: Any, limit: int, as_json: bool, **options: Any) -> None:
    """Count what waits by age and recipient domain, sender domain or state."""
    from deliver.queue.reading import looking
    from deliver.queue.summary import AGES, Row, ordered, summary as summary_of

    selection = selection_of(options)
    now = _now()
    found: list[Row] = []
    for place in places_of(application):
        with looking(place) as reader:
            found += summary_of(reader, selection, by, now)
    rows = ordered(found)
    if as_json:
        json_lines({**asdict(row), "limits": AGES} for row in rows[:limit])
        return
    total = ordered(Row("TOTAL", row.total, row.ages) for row in rows)
    columns = [f"{limit // 60}" for limit in AGES] + [f"{AGES[-1] // 60}+"]
    table(
        (by, "total", *columns),
        [(row.name, row.total, *row.ages) for row in (*total, *rows[:limit])],
        empty="The queue is empty." if selection.everything else "Nothing in the queue matches.",
    )
    if len(rows) > limit:
        note(f"there is more: only the first {limit} are shown (--limit)")


def next_text(state: str, next_attempt: float, held_until: float | None, now: float) -> str:
    """When something happens to a recipient next."""
    if state == "leased":
        return "being tried"
    if state == "held":
        return "held" if held_until is None else f"held, ends {age(now - held_until)}"
    return "due now" if next_attempt <= now else age(now - next_attempt)


def why_text(state: str, held_reason: str | None, last: str | None) -> str:
    """Why a recipient waits."""
    if state == "held":
        return f"held: {held_reason or 'no reason was given'}"
    return last or "not tried yet"


def _waiting(
    places: tuple[Place, ...], selection: Selection, limit: int, sort: str, now: float
) -> list[Waiting]:
    from deliver.queue import browse
    from deliver.queue.reading import looking

    rows: list[Waiting] = []
    for place in places:
        with looking(place) as reader:
            rows += browse.waiting(reader, selection, now=now, limit=limit, sort=sort)
    return browse.merged(rows, sort)[:limit]


def _now() -> float:
    from datetime import UTC, datetime

    return datetime.now(UTC).timestamp()
