"""One worker process of `outrider lmtp`: what the supervisor tells it; `deliver.worker` without a queue."""

from __future__ import annotations

import logging
import signal

import trio

from deliver import channel
from deliver.assembly import turns_without_a_queue
from deliver.channel import Frame
from deliver.doorkeeper import Renewal, serve_doors
from deliver.errors import OutriderError
from deliver.line import BEAT, Line
from deliver.net.clock import WallClock
from deliver.portion import portion, unpacked
from deliver.report.log import configure
from deliver.report.turn import LinesByTurn
from deliver.settings import Settings
from deliver.station import Station, detach

_log = logging.getLogger("outrider.service")


def run_lmtp_worker(settings: Settings, digest: str | None, station: Station) -> None:
    """Serve until the supervisor says stop. Raises ConfigurationError or StorageError."""
    detach()
    trio.run(LmtpWorker(settings, digest, station).run, instruments=[LinesByTurn()])


class LmtpWorker:
    """The tasks around the doors."""

    def __init__(self, settings: Settings, digest: str | None, station: Station) -> None:
        self._settings = portion(settings, station.number, station.workers)
        self._digest = digest
        self._station = station
        self._line = Line(station.line)
        self._renewal: Renewal | None = None
        self._serving = trio.Event()
        self._nursery: trio.Nursery

    async def run(self) -> None:
        """Until the last client has its answer."""
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._line.pass_on, signals)
                self._nursery.start_soon(self._obey)
                await self._serve()
                self._nursery.cancel_scope.cancel()

    async def _serve(self) -> None:
        clock, desk = WallClock(), self._station.desk
        turns = turns_without_a_queue(self._settings, clock, desk.ledger())
        self._nursery.start_soon(desk.watch, turns.look)
        await serve_doors(
            self._settings,
            self._digest,
            self._line.orders,
            clock,
            turns,
            doorway=self._station.doorway,
            ready=self._ready,
        )

    async def _ready(self, renewal: Renewal) -> None:
        self._renewal = renewal
        self._serving.set()
        await self._line.tell("ready", {})
        self._nursery.start_soon(self._beat)

    async def _obey(self) -> None:
        while (frame := await self._line.next()) is not None:
            match frame.word:
                case "reload":
                    self._nursery.start_soon(self._reload, frame)
                case "stop":
                    await self._line.stop()
        await self._line.abandoned(self._station.number)

    async def _reload(self, frame: Frame) -> None:
        await self._serving.wait()
        assert self._renewal is not None, "it serves"
        data = await trio.to_thread.run_sync(channel.content_of, frame.files[0])
        new = portion(unpacked(data), self._station.number, self._station.workers)
        configure(new.log.level, new.log.format)
        refused = None
        try:
            self._renewal.take(new, frame.about["digest"])
        except OutriderError as error:
            refused = str(error)
        except Exception as error:
            _log.exception("the new settings cannot be used; the old ones hold")
            refused = str(error)
        await self._line.tell("reloaded", {"refused": refused})

    async def _beat(self) -> None:
        """There is nothing to prove but that the event loop turns."""
        while True:
            await self._line.tell("alive", {"counts": {}})
            await trio.sleep(BEAT)
