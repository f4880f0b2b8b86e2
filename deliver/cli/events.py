"""`outrider events`: what happened, as the ready-made table `event_log` records it, and the vocabulary."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from deliver.cli import output
from deliver.errors import ConfigurationError, StorageError, UsageError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from deliver.cli.frame import Application
    from deliver.pgrun import PostgresDatabase
    from deliver.sqlrun import Database
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


@events.command("catalogue")
@click.pass_context
def catalogue(context: click.Context) -> None:
    """List every event; the same as `list`."""
    context.invoke(list_events)


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


@events.command()
@click.argument("view", required=False)
@click.option("-n", "count", default=20, show_default=True, type=click.IntRange(1, 10_000), help="How many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def query(app: Application, view: str | None, count: int, as_json: bool) -> None:
    """Answer a question from the ready-made tables; without VIEW, list the questions."""
    from events.catalogue import nearest
    from events.show import answer
    from events.views import VIEWS

    if view is None:
        output.table(("view", "question"), [(one.name, one.question) for one in VIEWS.values()])
        return
    if view not in VIEWS:
        raise UsageError("reading the view", f"there is no view {view!r}{nearest(view, VIEWS)}")
    with _reading(app, VIEWS[view].table) as conn:
        rows = answer(conn, VIEWS[view], count) if conn is not None else ()
    if as_json:
        output.json_lines(rows)
    elif rows:
        output.table(tuple(rows[0]), [tuple(_cell(*pair) for pair in row.items()) for row in rows])
    else:
        output.note("nothing to report")


@events.command()
@click.argument("action", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def dead(app: Application, action: str | None, as_json: bool) -> None:
    """List the events that were given up, and why; of ACTION or of all."""
    from events import undelivered

    found = [
        one for box in _outboxes(app) for one in box.run_read(lambda conn: undelivered.dead(conn, action))
    ]
    if as_json:
        output.json_lines(found)
        return
    output.table(
        ("action", "event", "at", "message", "tries", "error"),
        [
            (one.action, one.name, output.moment(one.at), one.message_id, one.tries, one.last_error)
            for one in found
        ],
        empty="no event was given up",
    )


@events.command()
@click.argument("action")
@click.pass_obj
def replay(app: Application, action: str) -> None:
    """Try the given-up events of ACTION again; a running relay takes them within a minute."""
    from deliver.outbox import event_actions
    from events import undelivered
    from events.catalogue import nearest

    names = [one.name for one in event_actions(app.settings)]
    if action not in names:
        raise UsageError("reading ACTION", f"there is no action {action!r}{nearest(action, names)}")
    revived = 0
    for box in _outboxes(app):
        revived += box.run_write(lambda conn: undelivered.revive(conn, action))
    output.note(f"{revived} events will be tried again")


@events.command("test")
@click.argument("action")
@click.option(
    "--event",
    "event_name",
    metavar="NAME",
    help="With this event; otherwise the one that fits its parameters best.",
)
@click.option("--commit", is_flag=True, help="Keep what the statements did.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per statement.")
@click.pass_obj
def rehearsal(app: Application, action: str, event_name: str | None, commit: bool, as_json: bool) -> None:
    """Run ACTION with sample data and show what it does; undone unless --commit."""
    from deliver.outbox import event_actions
    from events.actions import applies
    from events.catalogue import nearest
    from events.rehearsal import rehearse, richest, sample
    from events.sql import Unavailable

    actions = {one.name: one for one in event_actions(app.settings)}
    if action not in actions:
        raise UsageError("reading ACTION", f"there is no action {action!r}{nearest(action, actions)}")
    chosen = actions[action]
    name = event_name or richest(chosen)
    if name not in chosen.events:
        raise UsageError(
            "reading --event", f"the action does not take {name!r}{nearest(name, chosen.events)}"
        )
    event = sample(name, datetime.now(UTC).timestamp())
    try:
        steps = rehearse(chosen, event, commit=commit)
    except Unavailable as error:
        raise StorageError(f"running {action} in {chosen.where}", str(error), "see docs/events.md") from error
    if as_json:
        output.json_lines(steps)
        return
    click.echo(f"{name} → {action} in {chosen.where}")
    if not applies(chosen, event):
        output.note("its condition (when) is not true of the sample: it would not run")
    for step in steps:
        click.echo(output.printable(step.sql.strip()))
        for field, value in step.values.items():
            click.echo(output.printable(f"    :{field} = {value!r}"))
        for row in step.rows or ():
            click.echo(output.printable(f"    → {row!r}"))
        click.echo(
            f"    {len(step.rows)} rows" if step.rows is not None else f"    {step.changed} rows changed"
        )
    output.note("committed" if commit else "rolled back; --commit keeps it")


def _outboxes(app: Application) -> Iterator[Database | PostgresDatabase]:
    """The databases with outboxes, one after the other. Raises StorageError."""
    from sqlalchemy import inspect

    from deliver.cli.queue_shards import storage
    from deliver.outbox import outboxes
    from events.outbox import event_pending

    for place in outboxes(app.settings):
        box = storage(place)
        try:
            if box.run_read(lambda conn: inspect(conn).has_table(event_pending.name)):
                yield box
        finally:
            box.close()


@contextmanager
def _reading(app: Application, table: str) -> Iterator[Connection | None]:
    """A connection to the ready-made tables, None when there are none yet. Raises StorageError."""
    from sqlalchemy.exc import SQLAlchemyError

    from events.show import NoLog
    from events.sql import reason

    try:
        with _log_of(app, table) as conn:
            yield conn
    except NoLog as error:
        output.note(str(error))
        yield None
    except SQLAlchemyError as error:
        raise StorageError("reading the ready-made tables", reason(error), "see events.database") from error


def _cell(name: str, value: object) -> object:
    """Times as moments, other numbers short."""
    if isinstance(value, float):
        return output.moment(value) if name.endswith("at") else f"{value:.3f}"
    return value


def _log_of(app: Application, table: str = "event_log") -> AbstractContextManager[Connection]:
    from events.actions import database_url
    from events.show import opened

    settings = app.settings
    try:
        url = database_url(settings.database_url(settings.events.database))
    except ValueError as error:
        raise ConfigurationError("reading events.database", str(error)) from error
    return opened(url, table)


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
