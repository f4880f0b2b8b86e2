"""`outrider spool`: spool directories into the queue, by whoever owns it.

    no relay runs    this process owns the queue and delivers what is due, then ends; or it watches
    a relay runs     this process puts the messages into the relay's queue; the relay notices

Beside a relay content goes into the rows, however large: files in the relay's spool directory would be taken
for leftovers by a relay that starts at that moment.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom

import msgspec
import trio
from sqlalchemy import Connection

from deliver.doors import Doors
from deliver.errors import ConfigurationError, StorageError
from deliver.identity import host_name
from deliver.message import MessageId
from deliver.net.clock import WallClock
from deliver.outbox import event_actions
from deliver.queue import schema
from deliver.queue.content import ContentWriter
from deliver.queue.intake import OUR_HEADER
from deliver.queue.shard import free_octets, open_shard
from deliver.queueing import SHARD
from deliver.relay.identity import MessageIds
from deliver.service import Relay
from deliver.settings import Settings
from deliver.spool.door import SpoolDoor
from deliver.spool.opening import door
from deliver.spool.taking import Intake
from deliver.sqlrun import SqlRunner
from events.actions import matcher
from events.backlog import Backlog
from events.outbox import Outbox
from events.shipper import Shipper

LOOK = 0.1  # seconds between looks whether everything is done

Signals = AsyncIterator[int]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did: messages taken and set aside, and what still waits in the directory, with the reasons.

    `fed`: a running relay has the queue, and delivers.
    """

    taken: int
    aside: int
    waiting: tuple[tuple[Path, str, str], ...]
    fed: bool


async def run_spool(settings: Settings, directory: Path, *, watch: bool) -> Summary:
    """Take what is in the directory and deliver it; with `watch` until SIGTERM or SIGINT.

    Raises ConfigurationError or StorageError.
    """
    if settings.queue.url is not None:
        raise ConfigurationError(
            f"taking {directory}",
            "the queue is in a database that nodes share (queue.url)",
            "let the relay take it: spool.directories",
        )
    settings = for_directory(settings, directory)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        fed = is_owned(settings.path(settings.queue.directory))
        run = _feed if fed else _deliver
        found = await run(settings, signals, watch)
    waiting = tuple((path, spool_id, why) for (path, spool_id), why in found.waiting.items())
    return Summary(found.taken, found.aside, waiting, fed)


def for_directory(settings: Settings, directory: Path) -> Settings:
    """The same settings with this directory as the only door."""
    return msgspec.structs.replace(
        settings,
        spool=msgspec.structs.replace(settings.spool, directories=(str(directory.absolute()),)),
        relay=msgspec.structs.replace(settings.relay, listen=()),
    )


def is_owned(directory: Path) -> bool:
    """Whether a relay runs on the queue in this directory."""
    try:
        descriptor = os.open(directory / f"shard-{SHARD}.lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


async def _deliver(settings: Settings, signals: Signals, watch: bool) -> SpoolDoor:
    """As the owner of the queue."""
    clock = WallClock()
    actions = event_actions(settings)
    backlog = Backlog(settings.events.backlog, matcher(actions))
    queue = settings.path(settings.queue.directory)
    async with open_shard(queue, SHARD, clock.now(), append=backlog.append) as shard:
        shipper = Shipper(shard.sql, actions, clock=clock.now)
        doors = Doors(settings, None, None, None, (), ())
        relay = Relay(settings, clock, shard, backlog, shipper, (), doors, once=not watch)
        if watch:
            await relay.run(signals)
            return relay.spool
        orders, ordered = trio.open_memory_channel[int](10)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_pass_on, signals, orders)
            nursery.start_soon(_end_when_done, relay, orders)
            await relay.run(ordered)
            nursery.cancel_scope.cancel()
    return relay.spool


async def _pass_on(signals: Signals, orders: trio.MemorySendChannel[int]) -> None:
    async for number in signals:
        await orders.send(number)


async def _end_when_done(relay: Relay, orders: trio.MemorySendChannel[int]) -> None:
    """Tell the relay to stop when the directory is drained and nothing is due any more."""
    await relay.spool.drained.wait()
    while not await _idle(relay):  # noqa: ASYNC110  # nobody tells: it lies in the database
        await trio.sleep(LOOK)
    await orders.send(signal.SIGTERM)


async def _idle(relay: Relay) -> bool:
    try:
        return await relay.idle()
    except StorageError:
        return False


async def _feed(settings: Settings, signals: Signals, watch: bool) -> SpoolDoor:
    """Beside the relay that owns the queue."""
    queue = settings.path(settings.queue.directory)
    clock = WallClock()
    sql = await SqlRunner.open(queue / f"shard-{SHARD}.db", _check_version)
    try:
        max_size = int(settings.relay.max_message_size)

        def writer(message_id: MessageId) -> ContentWriter:
            limit = max_size + OUR_HEADER
            return ContentWriter(queue, message_id, inline_limit=limit, max_size=limit)

        async def space(size: int) -> bool:
            free = await trio.to_thread.run_sync(free_octets, queue)
            return free - size >= settings.queue.min_free_disk

        intake = Intake(
            sql=sql,
            writer=writer,
            space=space,
            append=Outbox(matcher(event_actions(settings))).append,
            accepted=lambda: None,  # the transaction counts a change, and the relay looks
            new_id=MessageIds(clock.now, SystemRandom()),
            clock=clock,
            hostname=settings.relay.hostname or host_name(settings.delivery.helo),
            max_size=max_size,
            max_hops=settings.relay.max_hops,
            skip_domains=settings.spool.skip_domains,
        )
        found = door(settings, intake, once=not watch, directories=settings.spool.directories)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_at, signals, found)
            nursery.start_soon(_stop_when_drained, found)
            await found.run()
            nursery.cancel_scope.cancel()
    finally:
        await sql.aclose()
    return found


async def _stop_at(signals: Signals, found: SpoolDoor) -> None:
    async for number in signals:
        if number != signal.SIGHUP:
            found.stop()


async def _stop_when_drained(found: SpoolDoor) -> None:
    await found.drained.wait()
    found.stop()


def _check_version(conn: Connection) -> None:
    version = schema.version_of(conn)
    if version != schema.VERSION:
        raise StorageError(
            "opening the queue",
            f"the running relay is of another version (schema {version})",
            "restart the relay",
        )


def check_directory(directory: Path) -> None:
    """Raises StorageError unless it can be looked into and changed."""
    try:
        os.listdir(directory)
    except OSError as error:
        raise StorageError(
            f"looking into {directory}", error.strerror or str(error), "name the queuefile directory"
        ) from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise StorageError(
            f"looking into {directory}", "this user may not change it", "run as the user that Exim runs as"
        )
