"""`outrider queue`: what waits, and why. Reads every shard, also while the relay runs; changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deliver.cli.output import age, duration, fields, json_document, json_lines, moment, note, size, table
from deliver.errors import UsageError
from deliver.message import domain_name

if TYPE_CHECKING:
    from deliver.cli.frame import Application
    from deliver.queue.browse import Shown, ShownRecipient, TriedAttempt, Waiting

EPILOG = """\b
Examples:
  outrider queue list --domain example.org
  outrider queue list --sender newsletter@example.com --limit 20 --json
  outrider queue show 1ABC2DEF
"""


@click.group(epilog=EPILOG)
def queue() -> None:
    """See what waits in the queue, and why."""


@queue.command("list", epilog="Times are relative to now; --json has seconds since the epoch.")
@click.option("--domain", metavar="NAME", help="Only recipients of this domain.")
@click.option("--sender", metavar="ADDRESS", help="Only mail from this address or domain; <> for bounces.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per recipient and line.")
@click.pass_obj
def list_(
    application: Application, domain: str | None, sender: str | None, limit: int, as_json: bool
) -> None:
    """List the recipients that are not done, the one due first at the top."""
    directory = _directory(application)
    name = domain_name(domain) if domain else None
    rows = _waiting(directory, name, sender, limit + 1)
    more, rows = len(rows) > limit, rows[:limit]
    if as_json:
        json_lines(asdict(row) for row in rows)
        return
    now = _now()
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
                _next(row.state, row.next_attempt, now),
                row.why or "not tried yet",
            )
            for row in rows
        ],
        empty="The queue is empty." if domain is None and sender is None else "Nothing in the queue matches.",
    )
    if more:
        note(f"there is more: only the first {limit} are shown (--limit)")


@queue.command("show", epilog="The id is the one that `queue list`, the log and the 250 reply give.")
@click.argument("message_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="One JSON document with everything that is known.")
@click.pass_obj
def show_(application: Application, message_id: str, as_json: bool) -> None:
    """Show one message: envelope, recipients, every attempt with its findings."""
    found = _find(_directory(application), message_id)
    if found is None:
        raise UsageError(
            f"looking for message {message_id}",
            "no shard knows it; completed messages are forgotten after a day",
            "see `outrider queue list` for what waits, or the events for what is over",
        )
    if as_json:
        json_document(asdict(found))
        return
    _print(found, _now())


def _directory(application: Application) -> Path:
    settings = application.settings
    return settings.path(settings.queue.directory)


def _waiting(directory: Path, domain: str | None, sender: str | None, limit: int) -> list[Waiting]:
    from deliver.queue import browse  # loads SQLAlchemy

    rows: list[Waiting] = []
    for path in browse.shard_files(directory):
        with browse.reading(path) as connection:
            rows += browse.waiting(connection, domain=domain, sender=sender, limit=limit)
    return sorted(rows, key=lambda row: (row.next_attempt, row.id, row.recipient))[:limit]


def _find(directory: Path, message_id: str) -> Shown | None:
    from deliver.queue import browse  # loads SQLAlchemy

    for path in browse.shard_files(directory):
        with browse.reading(path) as connection:
            found = browse.show(connection, message_id)
        if found is not None:
            return found
    return None


def _print(shown: Shown, now: float) -> None:
    fields(
        [
            ("message", shown.id),
            ("from", shown.sender or "<> (null reverse path)"),
            ("received", f"{moment(shown.received_at)} ({age(now - shown.received_at)})"),
            ("size", f"{size(shown.size)}, {'8-bit' if shown.eight_bit else '7-bit'}, {shown.stored}"),
            ("completed", None if shown.completed_at is None else moment(shown.completed_at)),
        ]
    )
    click.echo()
    table(
        ("to", "state", "tries", "next", "why"),
        [(each.address, each.state, each.attempts, _due(each, now), _why(each)) for each in shown.recipients],
    )
    for attempt in shown.attempts:
        _print_attempt(attempt, shown, now)


def _print_attempt(attempt: TriedAttempt, shown: Shown, now: float) -> None:
    addresses = {each.ordinal: each.address for each in shown.recipients}
    ended = (
        f"under way, leased for {duration(max(0.0, attempt.lease_until - now))} more"
        if attempt.ended_at is None
        else f"{attempt.result} after {duration(max(0.0, attempt.ended_at - attempt.started_at))}"
    )
    click.echo()
    click.echo(f"attempt {attempt.number} to {attempt.domain}, {moment(attempt.started_at)}: {ended}")
    rows: list[tuple[object, ...]] = [
        ("finding", finding.get("stage"), finding.get("verdict"), _finding_text(finding))
        for finding in _dicts(attempt.findings)
    ]
    rows += [
        ("outcome", addresses.get(ordinal, ordinal), outcome.get("kind"), outcome.get("text"))
        for ordinal, outcome in _outcomes(attempt.outcomes)
    ]
    table(("", "about", "verdict", "text"), rows)


def _finding_text(finding: dict[str, Any]) -> str:
    text = str(finding.get("text", ""))
    return f"{text} [{finding['rfc']}]" if finding.get("rfc") else text


def _dicts(values: list[Any]) -> Iterator[dict[str, Any]]:
    return (value for value in values if isinstance(value, dict))


def _outcomes(values: list[Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    for value in values:
        if isinstance(value, list) and len(value) == 2 and isinstance(value[1], dict):
            yield value[0], value[1]


def _due(recipient: ShownRecipient, now: float) -> str | None:
    if recipient.next_attempt is None:
        return None
    return _next(recipient.state, recipient.next_attempt, now)


def _why(recipient: ShownRecipient) -> str:
    said = "not tried yet" if recipient.last_outcome is None else str(recipient.last_outcome.get("text"))
    doubts = recipient.in_doubt
    return f"{said} (in doubt {doubts} times: copies are possible)" if doubts else said


def _next(state: str, next_attempt: float, now: float) -> str:
    if state == "leased":
        return "being tried"
    return "due now" if next_attempt <= now else age(now - next_attempt)


def _now() -> float:
    return datetime.now(UTC).timestamp()
