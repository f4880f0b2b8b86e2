"""Events of a door without a queue: kept in `outbox.db` in the state directory, then shipped at once.

A database that is down, or slow, delays nobody beyond PATIENCE: what it did not take waits in the outbox for
the next run. Where the state directory cannot be written, the events of this run are shipped from memory,
and what that does not achieve is said and lost.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import sqlalchemy
import trio

from deliver import settings as settings_of
from deliver.configuration import read_secret
from deliver.errors import ConfigurationError, StorageError
from deliver.net.clock import Clock
from deliver.settings import Settings
from deliver.sqlrun import InlineRunner, Sql, SqlRunner
from events import outbox
from events.actions import Action, EventAction, Veto, asked, matcher, parse_action, parse_file, ready_made
from events.catalogue import Event
from events.gate import SqlGate
from events.shipper import Shipper

OUTBOX = "outbox.db"  # in the state directory
PATIENCE = 2.0  # seconds that a run without a queue waits for the databases of its actions

_log = logging.getLogger("outrider.events")


def event_actions(settings: Settings) -> tuple[Action, ...]:
    """The actions of the settings, checked. Raises ConfigurationError naming the action."""
    found: list[Action] = []
    events = settings.events
    try:
        name = "events.database"
        if events.schema_name == "default":
            found.append(ready_made(settings.database_url(events.database)))
        for index, action in enumerate(events.action):
            name = f"events.action[{index}] ({action.name})"
            found.append(_sql_action(settings, action))
        for index, file in enumerate(events.file):
            name = f"events.file[{index}] ({file.name})"
            found.append(parse_file(file.name, file.events, settings.path(file.path), file.when))
    except ValueError as error:
        raise ConfigurationError(f"reading {name}", str(error), "see docs/events.md") from error
    return tuple(found)


def _sql_action(settings: Settings, action: settings_of.EventAction) -> EventAction:
    return parse_action(
        action.name,
        action.events,
        settings.database_url(action.database),
        action.sql,
        password=read_secret(settings, action.password_file) if action.password_file else None,
        when=action.when,
        veto=Veto(action.deadline, action.on_error) if action.veto else None,
    )


def event_gate(settings: Settings) -> SqlGate:
    """The gate that asks the settings' veto actions. Raises ConfigurationError."""
    return SqlGate(asked(event_actions(settings)))


def outboxes(settings: Settings) -> tuple[Path, ...]:
    """The databases that hold outboxes: the queue's shards, and that of the doors without a queue."""
    shards = sorted(settings.path(settings.queue.directory).glob("shard-*.db"))
    own = settings.path(OUTBOX)
    return (*shards, *([own] if own.exists() else []))


async def ship_now(settings: Settings, clock: Clock, message_id: str, events: tuple[Event, ...]) -> None:
    """Keep `events` and ship what waits, for at most PATIENCE seconds. Never raises for a database."""
    actions = event_actions(settings)
    if not actions or not events:
        return
    append = partial(outbox.append, message_id=message_id, events=events, wanted=matcher(actions))
    sql = await _open(settings.path(OUTBOX))
    try:
        await sql.write(append)
        shipper = Shipper(sql, actions, clock=clock.now)
        with trio.move_on_after(PATIENCE):
            await shipper.ship_once()
        await shipper.aclose()
    except StorageError as error:
        _log.error("the events of this delivery are lost: %s", error)
    finally:
        await sql.aclose()


async def _open(path: Path) -> Sql:
    try:
        return await SqlRunner.open(path, _prepare)
    except StorageError as error:
        _log.warning("%s; the events of this delivery are not kept, only shipped once", error)
        runner = InlineRunner()
        await runner.write(_prepare)
        return runner


def _prepare(conn: sqlalchemy.Connection) -> None:
    outbox.metadata.create_all(conn)
