"""Events of a door without a queue: kept in `outbox.db` by `deliver.records`, then shipped.

A database that is down, or slow, delays nobody beyond PATIENCE: what it did not take waits in the outbox for
the next run. Where the state directory cannot be written, the events of this run are shipped from memory,
and what that does not achieve is said and lost.

`events.backlog` bounds what waits (`events.backlog`): first events that only serve diagnosis are dropped and
counted, then new mail is refused before it is sent, for the time being.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import trio
from sqlalchemy import URL

from deliver.configuration import actions, read_secret
from deliver.configuration.problem import dotted
from deliver.errors import ConfigurationError, StorageError
from deliver.settings import Settings
from deliver.sqlrun import Sql
from events.actions import Action, asked, ready_made
from events.backlog import Backlog
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


def outboxes(settings: Settings) -> tuple[Path | URL, ...]:
    """The databases that hold outboxes: the queue's, and that of the doors without a queue.

    Raises ConfigurationError.
    """
    from deliver.queueing import queue_url  # loads the queue, which `outrider send` does without

    shared = queue_url(settings)
    queue: Sequence[Path | URL] = [shared] if shared is not None else []
    shards = sorted(settings.path(settings.queue.directory).glob("shard-*.db"))
    own = settings.path(OUTBOX)
    return (*queue, *shards, *([own] if own.exists() else []))


async def demand_room(sql: Sql, backlog: Backlog, shipper: Shipper) -> None:
    """Before new mail is taken: raise StorageError while the backlog is full. Counts what waits.

    Databases that take events again are given the chance to make room first, for at most PATIENCE seconds.
    """
    await sql.read(backlog.recount)
    if not backlog.full:
        return
    await shipper.prune()
    await ship(shipper)
    await sql.read(backlog.recount)
    if backlog.full:
        raise StorageError(
            "taking the message",
            f"{backlog.limit} events wait for the databases of their actions",
            "repair those databases (`outrider events dead` tells why some refuse), or raise events.backlog",
        )


async def ship(shipper: Shipper) -> None:
    """Ship what waits, for at most PATIENCE seconds, also when the caller is being cancelled."""
    with trio.move_on_after(PATIENCE, shield=True):
        await shipper.ship_once()
