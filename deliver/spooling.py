"""`outrider spool`: spool directories into the queue, by whoever owns it.

    no relay runs    this process owns the queue and delivers what is due, then ends; or it watches
    a relay runs     this process puts the messages into the relay's queue; the relay notices

Of a queue that nodes share (queue.url) any node is such a relay, on whatever machine; without one this
process is the node `queue.node` meanwhile. Beside a relay on SQLite content goes into the rows, however
large: files in the relay's spool directory would be taken for leftovers by a relay that starts just then.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import SystemRandom

import msgspec
import trio
from sqlalchemy import Connection

from deliver.doors import Doors
from deliver.errors import StorageError
from deliver.groupcommit import SqlRunner
from deliver.identity import host_name
from deliver.message import MessageId
from deliver.net.clock import Clock, WallClock
from deliver.outbox import event_actions
from deliver.pgrun import PostgresDatabase, PostgresRunner
from deliver.queue import schema
from deliver.queue.chunks import Chunks
from deliver.queue.cluster import any_node
from deliver.queue.content import ContentWriter, Writer
from deliver.queue.intake import OUR_HEADER
from deliver.queue.shard import free_octets
from deliver.queueing import SHARD, open_queue, queue_url
from deliver.relay.identity import MessageIds
from deliver.service import Relay
from deliver.settings import Settings
from deliver.spool.door import SpoolDoor
from deliver.spool.opening import door
from deliver.spool.taking import Intake
from deliver.sqlrun import Sql
from events.actions import matcher
from events.backlog import Backlog
from events.outbox import Outbox
from events.shipper import Shipper

LOOK = 0.1  # seconds between looks whether everything is done
CONNECTIONS = 4  # to a shared queue

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
    settings = for_directory(settings, directory)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        fed = await trio.to_thread.run_sync(is_served, settings)
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


def is_served(settings: Settings) -> bool:
    """Whether somebody else delivers what is in the queue. Raises StorageError, ConfigurationError."""
    url = queue_url(settings)
    if url is None:
        return is_owned(settings.path(settings.queue.directory))
    database = PostgresDatabase(url, connections=1)
    try:
        return database.run_read(any_node)
    finally:
        database.close()


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
    async with open_queue(settings, clock.now, append=backlog.append) as shard:
        shipper = Shipper(shard.sql, actions, clock=clock.now, shared=shard.node is not None)
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
    clock = WallClock()
    async with _queue_of_others(settings, clock) as place:
        intake = Intake(
            sql=place.sql,
            writer=place.writer,
            space=place.space,
            append=Outbox(matcher(event_actions(settings))).append,
            accepted=lambda: None,  # the transaction counts a change, and the relay looks
            new_id=MessageIds(clock.now, SystemRandom()),
            clock=clock,
            hostname=settings.relay.hostname or host_name(settings.delivery.helo),
            max_size=settings.relay.max_message_size,
            max_hops=settings.relay.max_hops,
            skip_domains=settings.spool.skip_domains,
        )
        found = door(settings, intake, once=not watch, directories=settings.spool.directories)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_at, signals, found)
            nursery.start_soon(_stop_when_drained, found)
            await found.run()
            nursery.cancel_scope.cancel()
    return found


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the messages go: see `deliver.spool.taking.Intake`."""

    sql: Sql
    writer: Callable[[MessageId], Writer]
    space: Callable[[int], Awaitable[bool]]


@asynccontextmanager
async def _queue_of_others(settings: Settings, clock: Clock) -> AsyncIterator[_Place]:
    max_size = int(settings.relay.max_message_size) + OUR_HEADER
    url = queue_url(settings)
    if url is not None:
        shared = await PostgresRunner.open(url, _check_version, connections=CONNECTIONS)
        chunks, inline = Chunks(shared, clock.now), settings.queue.inline_limit
        try:
            yield _Place(shared, partial(chunks.writer, inline_limit=inline, max_size=max_size), _has_room)
        finally:
            await shared.aclose()
        return
    queue = settings.path(settings.queue.directory)

    async def space(size: int) -> bool:
        free = await trio.to_thread.run_sync(free_octets, queue)
        return free - size >= settings.queue.min_free_disk

    sql = await SqlRunner.open(queue / f"shard-{SHARD}.db", _check_version)
    try:
        yield _Place(sql, partial(ContentWriter, queue, inline_limit=max_size, max_size=max_size), space)
    finally:
        await sql.aclose()


async def _has_room(_: int) -> bool:
    """A database on another machine says so itself when its disk is full."""
    await trio.lowlevel.checkpoint()
    return True


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
