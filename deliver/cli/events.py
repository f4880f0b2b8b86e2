"""`outrider events`: what happened, as the ready-made table `event_log` records it, and the vocabulary."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import click

from deliver.cli import output
from deliver.errors import ConfigurationError, StorageError, UsageError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from deliver.cli.frame import Application
    from events.show import Line

POLL = 0.5  # seconds between looks of --follow


@click.group()
def events() -> None:
    """See what happened, and which events and SQL parameters there are."""


@events.command()
@click.option("-n", "count", default=20, show_default=True, type=click.IntRange(0, 10_000), help="How many.")
@click.option("-f", "--follow", is_flag=True, help="Go on with events as they arrive.")
@click.option("--name", metavar="PATTERN", help="Only these events; * is a wildcard, as in msg:*.")
@click.option("--message", metavar="ID", help="Only events of this message.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def tail(
    app: Application, count: int, follow: bool, name: str | None, message: str | None, as_json: bool
) -> None:
    """Show the last events."""
    from sqlalchemy.exc import SQLAlchemyError

    from events.catalogue import match
    from events.show import Filter, NoLog, after, last

    try:
        if name is not None:
            match(name)
    except ValueError as error:
        raise UsageError("reading --name", str(error)) from None
    wanted = Filter(name, message)
    try:
        with _log_of(app) as conn:
            lines = last(conn, count, wanted)
            _print(lines, as_json)
            if not lines and not follow:
                output.note("no such event was recorded")
            newest = max((line.seq for line in last(conn, 1)), default=0)
            while follow:
                time.sleep(POLL)
                lines = after(conn, newest, wanted)
                _print(lines, as_json)
                newest = max((line.seq for line in lines), default=newest)
    except NoLog as error:
        output.note(str(error))
    except SQLAlchemyError as error:
        from events.sql import reason

        raise StorageError("reading the event log", reason(error), "see events.database") from error


@events.command("list")
@click.argument("pattern", default="*")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def list_events(pattern: str, as_json: bool) -> None:
    """List the events that PATTERN matches: when they fire, what they carry."""
    from events.catalogue import EVENTS, match

    try:
        kinds = [EVENTS[name] for name in match(pattern)]
    except ValueError as error:
        raise UsageError("reading the pattern", str(error)) from None
    if as_json:
        output.json_lines(kinds)
    elif len(kinds) == 1:
        (kind,) = kinds
        output.fields(
            [("event", kind.name), ("fires", kind.when), ("event_data", kind.data)]
            + [("parameter", f":{field}") for field in kind.fields]
        )
    else:
        output.table(("event", "fires"), [(kind.name, kind.when) for kind in kinds])


@events.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def check(app: Application, as_json: bool) -> None:
    """Check the event actions of the settings without running them."""
    from deliver.outbox import event_actions

    checked = event_actions(app.settings)
    if as_json:
        output.json_lines(
            {
                "name": one.name,
                "events": sorted(one.events),
                "database": one.where,
                "parameters": one.parameters,
            }
            for one in checked
        )
        return
    output.table(
        ("action", "events", "database", "parameters"),
        [(one.name, len(one.events), one.where, " ".join(one.parameters) or None) for one in checked],
        empty="no event is recorded: events.schema is none and there is no action",
    )


def _log_of(app: Application) -> AbstractContextManager[Connection]:
    from events.actions import database_url
    from events.show import opened

    settings = app.settings
    try:
        url = database_url(settings.database_url(settings.events.database))
    except ValueError as error:
        raise ConfigurationError("reading events.database", str(error)) from error
    return opened(url)


def _print(lines: Iterable[Line], as_json: bool) -> None:
    if as_json:
        output.json_lines(
            {"id": line.id, "at": line.at, "name": line.name, "fields": _fields(line)} for line in lines
        )
        return
    for line in lines:
        click.echo(output.printable(f"{output.moment(line.at)} {line.name} {_told(line)}".rstrip()))


def _fields(line: Line) -> object:
    try:
        return json.loads(line.fields)
    except ValueError:
        return line.facts


def _told(line: Line) -> str:
    """The facts that people read first, then what the event says."""
    facts = line.facts
    parts = [f"{word}={facts[name]}" for name, word in _SHOWN.items() if facts.get(name) not in (None, "")]
    if "local_part" in facts:
        parts.insert(1 if "message_id" in facts else 0, f"to={facts['local_part']}@{facts.get('domain', '')}")
    if facts.get("in_doubt"):
        parts.append("in-doubt")
    data = facts.get("event_data")
    return " ".join(parts) + (f": {data}" if data not in (None, "") else "")


_SHOWN = {
    "message_id": "message",
    "host": "host",
    "host_address": "address",
    "host_port": "port",
    "tls_version": "tls",
    "tls_verified_by": "verified",
    "enhanced_code": "code",
}
