"""The parent of the worker processes: starts them, shares out what belongs to one only, and delivers no mail.

    a worker dies        started again, at once if it had lived for a minute, else after a growing pause;
                         during a pause the other workers work off its shard
    it is silent         killed, and so on
    SIGHUP               the settings are read once, here; sockets are opened here; every worker gets both
    SIGTERM, SIGINT      every worker stops with its grace; a second one cuts that short
    this process dies    its workers stop

It is one thread without an event loop of its own, so that it may fork at any time: workers have what was
imported and bound before. What it decides is in `deliver.roster`, `deliver.portion`.
"""

from __future__ import annotations

import logging
import math
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final

from deliver import channel, roster
from deliver.changeover import Changeover
from deliver.channel import Frame
from deliver.doorway import Doorway
from deliver.neighbours.street import Street
from deliver.notify import Notifier
from deliver.queue.leases import Leases
from deliver.relay.binding import Bound, name_of
from deliver.relay.commons import Commons
from deliver.reload import Reread
from deliver.report.log import say
from deliver.report.metrics import Snapshot, gauge, lasting, merged
from deliver.settings import Settings
from deliver.slot import Slot
from deliver.station import Station

SILENT: Final = 60.0  # seconds after which a worker is given up
REFUSED: Final = 60.0  # seconds until a shard that could not be opened is tried again
LINGER: Final = 45.0  # seconds beyond the grace for workers to end

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

_log = logging.getLogger("outrider.service")


class Child(Exception):
    """Raised in a new process, to leave the supervisor's frames behind; `station` is where it stands.

    `digest` stands for its settings towards callers that hand over.
    """

    def __init__(self, station: Station, settings: Settings, digest: str | None) -> None:
        super().__init__("a worker")
        self.station = station
        self.settings = settings
        self.digest = digest


class Supervisor:
    """Runs `workers` processes until it is told to stop. Times by `now`, seconds of a steady clock."""

    def __init__(
        self,
        settings: Settings,
        workers: int,
        sockets: Bound,
        metrics: Bound,
        *,
        shards: Sequence[int],
        notifier: Notifier,
        doorway: Doorway | None = None,
        digest: str | None = None,
        reread: Reread | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`shards` are handed out, number n to worker n if it is there, else to one that stands in.

        Without shards this is not the relay, but the doors without a queue.
        `digest` stands for the settings towards callers that hand over. `reread` reads them again; None: they
        wait for a restart. What listens is closed at the end.
        """
        self._workers = workers
        self._metrics = metrics
        self._doorway = doorway or Doorway()
        self._commons = Commons(workers)
        self._leases = Leases(workers)
        self._street = _street(workers) if shards and workers > 1 and not settings.queue.url else None
        self._notifier = notifier
        self._now = now
        self._slots = [Slot(number) for number in range(workers)]
        self._shards = tuple(shards)
        self._change = Changeover(
            settings,
            sockets,
            self._slots,
            digest=digest,
            reread=reread,
            notifier=notifier,
            listens=bool(shards),
        )
        self._held: dict[int, int] = {}
        self._closing: set[int] = set()
        self._refused: dict[int, float] = {}
        self._counts: Snapshot = {}  # of workers that have ended
        self._restarts = 0
        self._announced = False
        self._stopping = 0
        self._stop_by = math.inf
        self._status = 0
        self._next_kick = 0.0

    def run(self) -> int:
        """Until the last worker has ended; the exit status. Raises Child in every worker."""
        news, bell = socket.socketpair()
        for end in (news, bell):
            end.setblocking(False)
        before = {number: signal.signal(number, _wake) for number in _SIGNALS}
        signal.set_wakeup_fd(bell.fileno(), warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        try:
            while not (self._stopping and all(slot.pid is None for slot in self._slots)):
                self._tend()
                self._wait(news)
            for place in (*self._change.sockets.values(), *self._metrics.values()):
                place.close()
            self._doorway.close()
            if self._street:
                self._street.close()
            say(_log, logging.INFO, "stopped")
            return self._status
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            news.close()
            bell.close()

    # What comes

    def _wait(self, news: socket.socket) -> None:
        watched = select.poll()  # no epoll: a worker would share it
        by_number = {slot.line.fileno(): slot for slot in self._slots if slot.line is not None}
        for number in (news.fileno(), *by_number):
            watched.register(number, select.POLLIN)
        pause = max(0.0, self._next_deadline() - self._now())
        for number, _ in watched.poll(min(pause, 60.0) * 1000 + 1):
            if number == news.fileno():
                self._hear_signals(news)
            else:
                self._listen(by_number[number])

    def _hear_signals(self, news: socket.socket) -> None:
        for number in news.recv(4096):
            if number == signal.SIGHUP:
                self._change.begin()
            elif number in (signal.SIGTERM, signal.SIGINT):
                self._stop()
        self._reap()

    def _listen(self, slot: Slot) -> None:
        for frame in slot.frames():
            self._heed(slot, frame)

    def _heed(self, slot: Slot, frame: Frame) -> None:
        about = frame.about
        match frame.word:
            case "alive":
                slot.heard = self._now()
                slot.counts = about["counts"]
            case "ready":
                slot.ready, slot.heard = True, self._now()
                self._announce()
            case "opened":
                say(_log, logging.INFO, "shard taken over", shard=about["shard"], worker=slot.number)
            case "closed":
                self._forget(about["shard"])
            case "refused":
                self._forget(about["shard"])
                self._refused[about["shard"]] = self._now() + REFUSED
            case "reloaded":
                self._change.answered(slot.number, about["refused"])
            case "scrape":
                slot.counts = about["counts"]
                slot.tell("metrics", self._all_counts())

    # What is done about it

    def _tend(self) -> None:
        now = self._now()
        for slot in self._slots:
            if slot.pid is None and not self._stopping and slot.restart_at <= now:
                self._start(slot)
            elif slot.pid is not None and slot.heard + SILENT < now:
                slot.kill("worker makes no progress")
        if self._stop_by <= now:
            self._stop_by = math.inf
            for slot in self._slots:
                slot.kill("worker does not end")
        if not self._stopping:
            self._hand_out()
        if self._notifier.period is not None and self._next_kick <= now:
            self._notifier.alive()
            self._next_kick = now + self._notifier.period / 2

    def _next_deadline(self) -> float:
        deadlines = [self._stop_by, *self._refused.values()]
        if not self._stopping:
            deadlines += [slot.restart_at for slot in self._slots if slot.pid is None]
        deadlines += [slot.heard + SILENT for slot in self._slots if slot.pid is not None]
        if self._notifier.period is not None:
            deadlines.append(self._next_kick)
        return min(deadlines)

    def _start(self, slot: Slot) -> None:
        """Fork. Raises Child in the new process."""
        ours, theirs = channel.pair()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                self._leave(ours)
                self._doorway.share()
                sockets = self._change.sockets
                station = Station(
                    slot.number,
                    self._workers,
                    theirs,
                    self._commons.seat(slot.number),
                    self._leases.desk(slot.number),
                    sockets,
                    self._metrics,
                    self._doorway,
                    self._street.house(slot.number) if self._street else None,
                )
                raise Child(station, self._change.settings, self._change.digest)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        theirs.close()
        slot.begin(pid, ours, self._now())

    def _leave(self, ours: socket.socket) -> None:
        """In a new process: nothing of the supervisor's is left."""
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        for line in (ours, *(slot.line for slot in self._slots)):
            if line is not None:
                line.close()

    def _reap(self) -> None:
        for slot in self._slots:
            if slot.pid is None:
                continue
            pid, status = os.waitpid(slot.pid, os.WNOHANG)
            if pid:
                self._ended(slot, os.waitstatus_to_exitcode(status))

    def _ended(self, slot: Slot, code: int) -> None:
        now, was_ready = self._now(), slot.ready
        self._listen(slot)
        self._counts = merged([self._counts, lasting(slot.counts)])
        slot.end()
        self._commons.clear(slot.number)
        self._leases.clear(slot.number)
        if self._street:
            self._street.clear(slot.number)
        for shard, holder in tuple(self._held.items()):
            if holder == slot.number:
                self._forget(shard)
        self._change.answered(slot.number, None)
        if self._stopping:
            self._status = self._status or (1 if code > 0 else 0)
            return
        if not self._announced and not was_ready and code > 0:
            self._status = code  # it has said why; so it was with our settings from the beginning
            self._stop()
            return
        self._restarts += 1
        lived = now - slot.started
        slot.failures = 0 if lived >= roster.SETTLED else slot.failures + 1
        wait = roster.pause(lived, slot.failures - 1)
        slot.restart_at = now + wait
        say(
            _log, logging.ERROR, "worker ended, it is started again",
            worker=slot.number, status=code, lived=f"{lived:.0f}", seconds=f"{wait:g}",
        )  # fmt: skip

    def _hand_out(self) -> None:
        now = self._now()
        self._refused = {shard: until for shard, until in self._refused.items() if until > now}
        up = {s.number for s in self._slots if s.pid is not None or s.restart_at <= now}
        found = roster.handing(
            (shard for shard in self._shards if shard not in self._refused),
            self._workers,
            up,
            self._held,
            self._closing,
        )
        for shard, worker in found.closes:
            self._closing.add(shard)
            self._slots[worker].tell("close", {"shard": shard})
        for shard, worker in found.opens:
            slot = self._slots[worker]
            if slot.pid is None or (shard != worker and not slot.ready):
                continue
            self._held[shard] = worker
            slot.tell("open", {"shard": shard})

    def _forget(self, shard: int) -> None:
        self._held.pop(shard, None)
        self._closing.discard(shard)

    def _announce(self) -> None:
        ready = sum(slot.ready for slot in self._slots)
        if not self._announced and ready == self._workers:
            self._announced = True
            for place in self._change.sockets.values():
                say(_log, logging.INFO, "listening", on=name_of(place), workers=self._workers)
            self._doorway.announce(workers=self._workers)
            self._notifier.ready(f"{ready} workers")
        elif self._announced:
            self._notifier.status(f"{ready} of {self._workers} workers")

    def _stop(self) -> None:
        self._stopping += 1
        if self._stopping == 1:
            grace = float(self._change.settings.queue.shutdown_grace)
            say(_log, logging.INFO, "stopping", grace=f"{grace:g}")
            self._stop_by = self._now() + grace + LINGER
            self._change.stop()
            self._notifier.stopping()
        for slot in self._slots:
            slot.tell("stop", {})

    def _all_counts(self) -> Snapshot:
        own = [
            gauge("outrider_workers", sum(slot.ready for slot in self._slots)),
            gauge("outrider_worker_restarts", self._restarts),
        ]
        return merged([*own, self._counts, *(slot.counts for slot in self._slots)])


def _street(workers: int) -> Street | None:
    """Where the system has no such sockets every message stays where it was accepted."""
    try:
        return Street(workers)
    except OSError as error:
        say(_log, logging.WARNING, "workers cannot hand mail to each other", why=str(error))
        return None


def _wake(number: int, frame: object) -> None:
    """The number arrives through the wake-up descriptor."""
