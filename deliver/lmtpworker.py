"""One worker process of `outrider lmtp`: what the supervisor tells it, as `deliver.worker` without a queue.

Its shard is only its part of the limits towards sites; when it is down nobody needs that.
"""

from __future__ import annotations

import signal

import trio

from deliver.assembly import turns_without_a_queue
from deliver.doorkeeper import serve_doors
from deliver.line import BEAT, MAX_MARKS, Line
from deliver.net.clock import WallClock
from deliver.portion import portion
from deliver.queue.share import Share
from deliver.settings import Settings
from deliver.station import Station, detach


def run_lmtp_worker(settings: Settings, digest: str | None, station: Station) -> None:
    """Serve until the supervisor says stop. Raises ConfigurationError or StorageError."""
    detach()
    trio.run(LmtpWorker(settings, digest, station).run)


class LmtpWorker:
    """The tasks around the doors."""

    def __init__(self, settings: Settings, digest: str | None, station: Station) -> None:
        self._settings = portion(settings, station.number, station.workers)
        self._digest = digest
        self._station = station
        self._line = Line(station.line)
        self._nursery: trio.Nursery

    async def run(self) -> None:
        """Until the last client has its answer."""
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._line.pass_on, signals)
                share = await self._line.home(self._station.number)
                if share is not None:
                    await self._serve(share)
                self._nursery.cancel_scope.cancel()

    async def _serve(self, share: Share) -> None:
        clock = WallClock()
        self._share, self._turns = share, turns_without_a_queue(self._settings, clock, share)
        self._nursery.start_soon(self._obey)
        await serve_doors(
            self._settings,
            self._digest,
            self._line.orders,
            clock,
            self._turns,
            doorway=self._station.doorway,
            ready=self._ready,
        )

    async def _ready(self) -> None:
        await self._line.tell("ready", {})
        self._nursery.start_soon(self._beat)

    async def _obey(self) -> None:
        while (frame := await self._line.next()) is not None:
            match frame.word:
                case "give up":
                    self._nursery.start_soon(self._give_up, frame.about["turn"])
                case "turn":
                    self._share = self._share.at(frame.about["turn"], frozenset(frame.about["without"]))
                    self._turns.share_out(self._share)
                case "stop":
                    await self._line.stop()
        await self._line.abandoned(self._station.number)

    async def _give_up(self, turn: int) -> None:
        self._share = self._share.between()
        marks = await self._turns.give_up(self._share.at(turn))
        await self._line.tell("gave up", {"turn": turn, "marks": marks[:MAX_MARKS]})

    async def _beat(self) -> None:
        """There is nothing to prove but that the event loop turns."""
        while True:
            await self._line.tell("alive", {"counts": {}})
            await trio.sleep(BEAT)
