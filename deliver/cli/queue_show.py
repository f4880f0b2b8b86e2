"""`outrider queue show`: one message, everything that was tried, and why it waits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from deliver.cli.output import age, duration, fields, json_document, moment, size, table
from deliver.cli.queue_filters import places_of
from deliver.cli.queue_list import next_text, why_text
from deliver.errors import UsageError

if TYPE_CHECKING:
    from deliver.cli.frame import Application
    from deliver.queue.browse import Shown, ShownRecipient, TriedAttempt
    from deliver.queue.reading import Place

EPILOG = """The id is the one that `queue list`, the log and the 250 reply give.

\b
Examples:
  outrider queue show 1ABC2DEF
  outrider queue show 1ABC2DEF --json
"""


@click.command("show", epilog=EPILOG)
@click.argument("message_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="One JSON document with everything that is known.")
@click.pass_obj
def show(application: Application, message_id: str, as_json: bool) -> None:
    """Show one message: envelope, recipients, why each waits, every attempt with its findings."""
    found = _find(places_of(application), message_id)
    if found is None:
        raise UsageError(
            f"looking for message {message_id}",
            "no shard knows it; completed messages are forgotten after a while",
            "see `outrider queue list` for what waits, or the events for what is over",
        )
    if as_json:
        json_document(asdict(found))
        return
    _print(found, datetime.now(UTC).timestamp())


def _find(places: tuple[Place, ...], message_id: str) -> Shown | None:
    from deliver.queue import browse
    from deliver.queue.reading import looking

    for place in places:
        with looking(place) as reader:
            found = browse.show(reader, message_id)
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
            ("asked for", "REQUIRETLS" if shown.requires_tls else None),
            ("completed", None if shown.completed_at is None else moment(shown.completed_at)),
        ]
    )
    for report in shown.reports:
        click.echo(f"reported to {report.address} by {report.id}, {moment(report.at)}")
    if shown.report_due is not None:
        click.echo(f"a report to {shown.sender} is due {age(now - shown.report_due)}")
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
    return next_text(recipient.state, recipient.next_attempt, recipient.held_until, now)


def _why(recipient: ShownRecipient) -> str:
    last = None if recipient.last_outcome is None else str(recipient.last_outcome.get("text"))
    said = why_text(recipient.state, recipient.held_reason, last)
    if recipient.freeze_id is not None:
        said = f"{said} (freeze rule {recipient.freeze_id})"
    doubts = recipient.in_doubt
    return f"{said} (in doubt {doubts} times: copies are possible)" if doubts else said
