"""One worker process of the relay: what the supervisor tells it, and what it tells the supervisor.

    it is told                          it answers
    ----------------------------------  --------------------------------------------------------------
    open SHARD                          opened SHARD, or refused SHARD; its own shard first: then ready
    close SHARD                         closed SHARD, when what was under way there is settled
    reload, with settings and sockets   reloaded
    stop, at once or not                by ending
    -                                   alive, every BEAT seconds while there is progress; with its counts

When the supervisor is gone the worker stops at once: its shards are needed by the next one.
"""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import trio

from deliver import channel
from deliver.channel import Frame
from deliver.doors import open_doors
from deliver.errors import OutriderError, StorageError
from deliver.line import BEAT, Line
from deliver.net.clock import WallClock
from deliver.outbox import event_actions
from deliver.portion import portion, unpacked
from deliver.queue import freeze
from deliver.queue.reading import reading, shard_files
from deliver.queue.shard import Shard
from deliver.queueing import open_queue
from deliver.relay.listener import listeners_on
from deliver.report.exporter import serve_metrics
from deliver.report.log import configure
from deliver.report.metrics import Snapshot
from deliver.report.turn import LinesByTurn
from deliver.service import Relay
from deliver.settings import Settings
from deliver.station import Station, detach
from events.actions import matcher
from events.backlog import Backlog
from events.shipper import Shipper

AGAIN = 0.2  # seconds
OWNED_FOR = 15.0  # seconds for which a worker of before may still own a shard
SCRAPE = 5.0  # seconds for the supervisor to answer with the counts of all

_log = logging.getLogger("outrider.service")


def run_worker(settings: Settings, digest: str | None, station: Station) -> None:
    """Work until the supervisor says stop. Raises ConfigurationError or StorageError."""
    detach()
    trio.run(Worker(settings, digest, station).run, instruments=[LinesByTurn()])


class Worker:
    """The tasks around one `Relay`."""

    def __init__(self, settings: Settings, digest: str | None, station: Station) -> None:
        self._settings = portion(settings, station.number, station.workers)
        self._digest = digest
        self._station = station
        self._line = Line(station.line)
        self._scrapes: list[trio.Event] = []
        self._merged: Snapshot = {}
        self._relay: Relay | None = None
        self._nursery: trio.Nursery

    async def run(self) -> None:
        """Until the end of the relay."""
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._line.pass_on, signals)
                if await self._line.home(self._station.number):
                    await self._serve()
                self._nursery.cancel_scope.cancel()

    async def _serve(self) -> None:
        settings, clock = self._settings, WallClock()
        actions = event_actions(settings)
        backlog = Backlog(settings.events.backlog, matcher(actions))
        number = self._station.number
        sockets = listeners_on(self._station.sockets)
        async with (
            owned_queue(settings, clock, backlog, number) as shard,
            open_doors(settings, self._digest, clock, self._station.doorway) as doors,
        ):
            await learn_rules(settings, shard)
            shipper = Shipper(shard.sql, actions, clock=clock.now, shared=shard.node is not None)
            relay = Relay(
                settings,
                clock,
                shard,
                backlog,
                shipper,
                sockets,
                doors,
                desk=self._station.desk,
                seat=self._station.seat,
                house=self._station.house,
            )
            self._relay = relay
            self._nursery.start_soon(self._obey)
            self._nursery.start_soon(self._beat)
            for listener in listeners_on(self._station.metrics):
                self._nursery.start_soon(serve_metrics, listener, self._everybodys)
            await relay.run(self._line.orders, ready=partial(self._line.tell, "ready", {"shard": number}))

    # From the supervisor

    async def _obey(self) -> None:
        while (frame := await self._line.next()) is not None:
            match frame.word:
                case "open":
                    self._nursery.start_soon(self._open, frame.about["shard"])
                case "close":
                    self._working.works.release(frame.about["shard"])
                case "reload":
                    await self._reload(frame)
                case "metrics":
                    self._merged = frame.about
                    scrapes, self._scrapes = self._scrapes, []
                    for scrape in scrapes:
                        scrape.set()
                case "stop":
                    await self._line.stop()
        await self._line.abandoned(self._station.number)

    @property
    def _working(self) -> Relay:
        assert self._relay is not None, "the relay has not been made"
        return self._relay

    async def _open(self, shard: int) -> None:
        """Work off another worker's shard until it is closed again."""
        try:
            opened = partial(self._line.tell, "opened", {"shard": shard})
            clock = WallClock()
            backlog = Backlog(self._settings.events.backlog, matcher(event_actions(self._settings)))
            async with owned_queue(self._settings, clock, backlog, shard) as found:
                await self._working.works.adopt(shard, found, backlog, opened)
        except OutriderError as error:
            _log.error("%s", error)
            await self._line.tell("refused", {"shard": shard})
        else:
            await self._line.tell("closed", {"shard": shard})

    async def _reload(self, frame: Frame) -> None:
        settings, *descriptors = frame.files
        places: Sequence[str] = frame.about["opened"]
        bound = {
            place: socket.socket(fileno=descriptor)
            for place, descriptor in zip(places, descriptors, strict=True)
        }
        data = await trio.to_thread.run_sync(channel.content_of, settings)
        new = portion(unpacked(data), self._station.number, self._station.workers)
        configure(new.log.level, new.log.format)
        refused = await self._working.take(new, bound, frame.about["digest"])
        await self._line.tell("reloaded", {"refused": refused})

    # To the supervisor

    async def _beat(self) -> None:
        """Say that we are alive as long as the event loop turns and the queue answers."""
        while True:
            await self._working.works.prove_progress()
            await self._line.tell("alive", {"counts": self._working.meter.snapshot()})
            await trio.sleep(BEAT)

    async def _everybodys(self) -> Snapshot:
        """The counts of all workers, by the supervisor; our own if it does not answer."""
        came = trio.Event()
        self._scrapes.append(came)
        await self._line.tell("scrape", {"counts": self._working.meter.snapshot()})
        with trio.move_on_after(SCRAPE):
            await came.wait()
            return self._merged
        return self._working.meter.snapshot()


@asynccontextmanager
async def owned_queue(
    settings: Settings, clock: WallClock, backlog: Backlog, number: int
) -> AsyncIterator[Shard]:
    """The shard, when the worker that had it before has ended. Raises StorageError, ConfigurationError."""
    until = trio.current_time() + OWNED_FOR
    async with AsyncExitStack() as stack:
        while True:
            opening = open_queue(settings, clock.now, append=backlog.append, number=number)
            try:
                shard = await stack.enter_async_context(opening)
                break
            except StorageError as error:
                if "another process owns it" not in error.happened or trio.current_time() > until:
                    raise
            await trio.sleep(AGAIN)
        yield shard


async def learn_rules(settings: Settings, shard: Shard) -> None:
    """Take over the freeze rules of the other shards that are newer than this one's. Raises StorageError."""
    if shard.node is not None:
        return
    for path in shard_files(settings.path(settings.queue.directory)):
        try:
            with reading(path) as connection:
                known = freeze.rules(connection)
        except StorageError as error:  # just being made, or its worker says what is wrong with it
            _log.debug("%s", error)
            continue
        if known:
            await shard.sql.write(partial(freeze.learn, known=known))
