"""Events of a door without a queue: kept in `outbox.db` in the state directory, then shipped at once.

A database that is down, or slow, delays nobody beyond PATIENCE: what it did not take waits in the outbox for
the next run. Where the state directory cannot be written, the events of this run are shipped from memory,
and what that does not achieve is said and lost.

`events.backlog` bounds what waits (`events.backlog`): first events that only serve diagnosis are dropped and
counted, then new mail is refused before it is sent, for the time being.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import sqlalchemy
import trio

from deliver.configuration import actions, read_secret
from deliver.configuration.problem import dotted
from deliver.errors import ConfigurationError, StorageError
from deliver.net.clock import Clock
from deliver.settings import Settings
from deliver.sqlrun import InlineRunner, Sql, SqlRunner
from events import outbox
from events.actions import Action, asked, matcher, ready_made
from events.backlog import Backlog
from events.catalogue import Event
from events.gate import SqlGate
from events.shipper import Shipper

OUTBOX = "outbox.db"  # in the state directory
PATIENCE = 2.0  # seconds that a run without a queue waits for the databases of its actions

_log = logging.getLogger("outrider.events")


def event_actions(settings: Settings) -> tuple[Action, ...]:
    """The actions of the settings, those of rules included, checked. Raises ConfigurationError."""
    found: list[Action] = []
    events = settings.events
    try:
        name = "events.database"
        if events.schema_name == "default":
            found.append(ready_made(settings.database_url(events.database)))
        for path, action, towards in actions.placed(settings):
            name = f"{dotted(path)} ({action.name})"
            password = read_secret(settings, action.password_file) if action.password_file else None
            found.append(actions.parsed(settings, action, towards, password=password))
        for index, file in enumerate(events.file):
            name = f"events.file[{index}] ({file.name})"
            found.append(actions.parsed_file(settings, file))
    except ValueError as error:
        raise ConfigurationError(f"reading {name}", str(error), "see docs/events.md") from error
    return tuple(found)


def event_gate(settings: Settings) -> SqlGate:
    """The gate that asks the settings' veto actions. Raises ConfigurationError."""
    return SqlGate(asked(event_actions(settings)))


def outboxes(settings: Settings) -> tuple[Path, ...]:
    """The databases that hold outboxes: the queue's shards, and that of the doors without a queue."""
    shards = sorted(settings.path(settings.queue.directory).glob("shard-*.db"))
    own = settings.path(OUTBOX)
    return (*shards, *([own] if own.exists() else []))


async def demand_room(settings: Settings, clock: Clock) -> None:
    """Before new mail is taken: raise StorageError while `events.backlog` events wait in the own outbox.

    Databases that take events again are given the chance to make room first.
    """
    told = event_actions(settings)
    if not told or not settings.path(OUTBOX).exists():
        return
    try:
        sql = await SqlRunner.open(settings.path(OUTBOX), _prepare)
    except StorageError:
        return  # said when the events of this delivery cannot be kept
    backlog = Backlog(settings.events.backlog, matcher(told))
    try:
        await sql.read(backlog.recount)
        if backlog.full:
            shipper = Shipper(sql, told, clock=clock.now)
            await shipper.prune()
            await _ship(shipper)
            await sql.read(backlog.recount)
    except StorageError as error:
        _log.error("the events that wait cannot be counted: %s", error)
        return
    finally:
        await sql.aclose()
    if backlog.full:
        raise StorageError(
            "taking the message",
            f"{settings.events.backlog} events wait for the databases of their actions",
            "repair those databases (`outrider events dead` tells why some refuse), or raise events.backlog",
        )


async def ship_now(settings: Settings, clock: Clock, message_id: str, events: tuple[Event, ...]) -> None:
    """Keep `events` and ship what waits, for at most PATIENCE seconds. Never raises for a database."""
    told = event_actions(settings)
    if not told or not events:
        return
    backlog = Backlog(settings.events.backlog, matcher(told))
    sql = await _open(settings.path(OUTBOX))
    try:
        await sql.write(partial(_keep, backlog=backlog, message_id=message_id, events=events))
        backlog.tell_dropped()
        await _ship(Shipper(sql, told, clock=clock.now))
    except StorageError as error:
        _log.error("the events of this delivery are lost: %s", error)
    finally:
        await sql.aclose()


def _keep(
    conn: sqlalchemy.Connection, *, backlog: Backlog, message_id: str, events: tuple[Event, ...]
) -> None:
    backlog.recount(conn)
    backlog.append(conn, message_id, events)


async def _ship(shipper: Shipper) -> None:
    with trio.move_on_after(PATIENCE):
        await shipper.ship_once()
    await shipper.aclose()


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
