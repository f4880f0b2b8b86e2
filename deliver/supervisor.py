"""The parent of the worker processes: starts them, shares out what belongs to one only, and delivers no mail.

    a worker dies        started again, at once if it had lived for a minute, else after a growing pause;
                         during a pause the other workers work off its shard
    it is silent         killed, and so on
    SIGHUP               the settings are read once, here; sockets are opened here; every worker gets both
    SIGTERM, SIGINT      every worker stops with its grace; a second one cuts that short
    this process dies    its workers stop

It is one thread without an event loop of its own, so that it may fork at any time: workers have what was
imported and bound before. What it decides is in `deliver.roster`, `deliver.portion`, `deliver.queue.share`.
"""

from __future__ import annotations

import logging
import math
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from deliver import channel, roster
from deliver.channel import Closed, Frame
from deliver.errors import OutriderError
from deliver.notify import Notifier
from deliver.portion import packed, take_turns
from deliver.queue.orphans import orphans
from deliver.relay.binding import Bound, bind, name_of
from deliver.relay.terms import terms_of
from deliver.reload import Change, Reread, change
from deliver.report.log import say
from deliver.report.metrics import Snapshot, gauge, lasting, merged
from deliver.settings import Settings
from deliver.worker import Station

SILENT: Final = 60.0  # seconds after which a worker is given up
TURN: Final = 10.0  # seconds that a place which is too small to divide belongs to the same shard
REFUSED: Final = 60.0  # seconds until a shard that could not be opened is tried again
LINGER: Final = 45.0  # seconds beyond the grace for workers to end

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

_log = logging.getLogger("outrider.service")


class Child(Exception):
    """Raised in a new process, to leave the supervisor's frames behind; `station` is where it stands."""

    def __init__(self, station: Station, settings: Settings, digest: str | None) -> None:
        super().__init__("a worker")
        self.digest = digest
        self.station = station
        self.settings = settings


@dataclass(slots=True)
class Slot:
    """One worker's place. `failures`: short lives in a row; `heard`: when it was alive last."""

    number: int
    pid: int | None = None
    line: socket.socket | None = None
    started: float = 0.0
    heard: float = math.inf
    restart_at: float = 0.0
    failures: int = 0
    ready: bool = False
    counts: Snapshot = field(default_factory=dict)


@dataclass(slots=True)
class Offer:
    """New settings on their way: to whom, who has not answered, and why somebody refused.

    `once_more`: another SIGHUP came meanwhile.
    """

    change: Change
    opened: Bound
    offered: set[int]
    awaited: set[int]
    refused: str | None = None
    once_more: bool = False


class Supervisor:
    """Runs `workers` processes until it is told to stop. Times by `now`, seconds of a steady clock."""

    def __init__(
        self,
        settings: Settings,
        workers: int,
        sockets: Bound,
        metrics: Bound,
        *,
        reread: Reread,
        notifier: Notifier,
        digest: str | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._workers = workers
        self._sockets = sockets
        self._metrics = metrics
        self._reread = reread
        self._notifier = notifier
        self._digest = digest
        self._now = now
        self._slots = [Slot(number) for number in range(workers)]
        directory = settings.path(settings.queue.directory)
        extra = () if settings.queue.url else orphans(directory, workers)
        self._shards = (*range(workers), *extra)
        self._held: dict[int, int] = {}
        self._opening: set[int] = set()
        self._closing: set[int] = set()
        self._refused: dict[int, float] = {}
        self._turn = 0
        self._awaited: set[int] = set()  # workers that still have to give up their turn
        self._marks: set[str] = set()
        self._next_turn = math.inf
        self._offer: Offer | None = None
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
            if take_turns(self._settings.queue, len(self._shards)):
                self._next_turn = self._now() + TURN
            while not (self._stopping and all(slot.pid is None for slot in self._slots)):
                self._tend()
                self._wait(news)
            for place in (*self._sockets.values(), *self._metrics.values()):
                place.close()
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
                self._reload()
            elif number in (signal.SIGTERM, signal.SIGINT):
                self._stop()
        self._reap()

    def _listen(self, slot: Slot) -> None:
        while slot.line is not None:
            try:
                frame = channel.receive(slot.line)
            except BlockingIOError:
                return
            except Closed:
                slot.line.close()
                slot.line = None
                return
            self._heed(slot, frame)

    def _heed(self, slot: Slot, frame: Frame) -> None:
        about = frame.about
        match frame.word:
            case "alive":
                slot.heard = self._now()
                slot.counts = about["counts"]
            case "ready":
                slot.ready, slot.heard = True, self._now()
                self._opening.discard(about["shard"])
                self._announce()
            case "opened":
                self._opening.discard(about["shard"])
                say(_log, logging.INFO, "shard taken over", shard=about["shard"], worker=slot.number)
            case "closed":
                self._forget(about["shard"])
            case "refused":
                self._forget(about["shard"])
                self._refused[about["shard"]] = self._now() + REFUSED
            case "gave up":
                self._marks.update(about["marks"])
                self._gave_up(slot.number)
            case "reloaded":
                self._reloaded(slot.number, about["refused"])
            case "scrape":
                slot.counts = about["counts"]
                self._send(slot, "metrics", self._all_counts())

    # What is done about it

    def _tend(self) -> None:
        now = self._now()
        for slot in self._slots:
            if slot.pid is None and not self._stopping and slot.restart_at <= now:
                self._start(slot)
            elif slot.pid is not None and slot.heard + SILENT < now:
                say(_log, logging.CRITICAL, "worker makes no progress, it is killed", worker=slot.number)
                slot.heard = math.inf
                os.kill(slot.pid, signal.SIGKILL)
        if self._stop_by <= now:
            self._kill_all()
        if not self._stopping:
            self._hand_out()
            if self._next_turn <= now:
                self._begin_turn()
        if self._notifier.period is not None and self._next_kick <= now:
            self._notifier.alive()
            self._next_kick = now + self._notifier.period / 2

    def _next_deadline(self) -> float:
        deadlines = [self._stop_by, *self._refused.values()]
        if not self._stopping:
            deadlines += [slot.restart_at for slot in self._slots if slot.pid is None]
            deadlines.append(self._next_turn)
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
                station = Station(slot.number, self._workers, theirs, self._sockets, self._metrics)
                raise Child(station, self._settings, self._digest)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        theirs.close()
        slot.pid, slot.line, slot.started = pid, ours, self._now()
        slot.ready, slot.heard = False, math.inf

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
        if slot.line is not None:
            self._listen(slot)
            if slot.line is not None:
                slot.line.close()
        self._counts = merged([self._counts, lasting(slot.counts)])
        slot.pid, slot.line, slot.ready, slot.counts, slot.heard = None, None, False, {}, math.inf
        for shard, holder in tuple(self._held.items()):
            if holder == slot.number:
                self._forget(shard)
        self._gave_up(slot.number)
        self._reloaded(slot.number, None)
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
            self._send(self._slots[worker], "close", {"shard": shard})
        for shard, worker in found.opens:
            slot = self._slots[worker]
            if slot.pid is None or (shard != worker and not slot.ready):
                continue
            self._held[shard] = worker
            self._opening.add(shard)
            turn = None if self._announced or self._awaited else self._turn
            part = self._shards.index(shard)
            about = {"shard": shard, "part": part, "parts": len(self._shards), "turn": turn}
            self._send(slot, "open", about)

    def _forget(self, shard: int) -> None:
        self._held.pop(shard, None)
        self._opening.discard(shard)
        self._closing.discard(shard)

    def _announce(self) -> None:
        ready = sum(slot.ready for slot in self._slots)
        if not self._announced and ready == self._workers:
            self._announced = True
            for place in self._sockets.values():
                say(_log, logging.INFO, "listening", on=name_of(place), workers=self._workers)
            self._notifier.ready(f"{ready} workers")
        elif self._announced:
            self._notifier.status(f"{ready} of {self._workers} workers")

    # Turns

    def _begin_turn(self) -> None:
        """All give up what is too small to divide; when they have, the next turn begins."""
        self._next_turn = math.inf
        self._turn = (self._turn + 1) % len(self._shards)
        self._marks = set()
        self._awaited = {slot.number for slot in self._slots if slot.ready}
        for number in tuple(self._awaited):
            self._send(self._slots[number], "give up", {"turn": self._turn})
        self._gave_up(None)

    def _gave_up(self, worker: int | None) -> None:
        if worker is not None and worker not in self._awaited:
            return
        self._awaited.discard(worker if worker is not None else -1)
        if self._awaited or self._next_turn < math.inf:
            return
        if not take_turns(self._settings.queue, len(self._shards)):
            return
        about = {"turn": self._turn, "without": sorted(self._marks)}
        for slot in self._slots:
            if slot.ready:
                self._send(slot, "turn", about)
        self._next_turn = self._now() + TURN

    # Reload and stop

    def _reload(self) -> None:
        """Offer new settings to all workers; they count when all have taken them."""
        if self._stopping:
            return
        if self._offer is not None:
            self._offer.once_more = True
            return
        self._notifier.reloading()
        try:
            new = change(self._settings, self._reread())
            terms_of(new.settings.relay, "")
            opened = bind(new.opened)
        except OutriderError as error:
            self._refuse(str(error))
            return
        except Exception:
            _log.exception("the new settings cannot be read")
            self._refuse("")
            return
        ready = {slot.number for slot in self._slots if slot.ready}
        self._offer = Offer(new, opened, ready, set(ready))
        self._give_settings(ready, new.settings, opened)
        self._reloaded(None, None)

    def _give_settings(self, workers: Iterable[int], settings: Settings, opened: Bound) -> None:
        content = channel.in_memory(packed(settings))
        try:
            files = (content, *(each.fileno() for each in opened.values()))
            for number in workers:
                self._send(self._slots[number], "reload", {"opened": list(opened)}, files)
        finally:
            os.close(content)

    def _reloaded(self, worker: int | None, refused: str | None) -> None:
        """A worker has answered, or died; the last one decides."""
        offer = self._offer
        if offer is None:
            return
        if worker is not None:
            offer.awaited.discard(worker)
        offer.refused = offer.refused or refused
        if offer.awaited:
            return
        self._offer = None
        if offer.refused:
            self._take_back(offer)
        else:
            self._commit(offer)
        if offer.once_more:
            self._reload()

    def _commit(self, offer: Offer) -> None:
        new = offer.change
        self._settings = new.settings
        late = {slot.number for slot in self._slots if slot.pid is not None} - offer.offered
        self._give_settings(late, new.settings, offer.opened)
        for place in new.closed:
            say(_log, logging.INFO, "listening no more", on=name_of(self._sockets[place]))
            self._sockets.pop(place).close()
        self._sockets |= offer.opened
        for each in offer.opened.values():
            say(_log, logging.INFO, "listening", on=name_of(each), workers=self._workers)
        if new.waiting:
            say(_log, logging.WARNING, "wait for a restart", keys=", ".join(new.waiting))
        if take_turns(self._settings.queue, len(self._shards)) and not self._awaited:
            self._next_turn = min(self._next_turn, self._now() + TURN)
        say(_log, logging.INFO, "reloaded", opened=len(offer.opened), closed=len(new.closed))
        self._announce_again()

    def _take_back(self, offer: Offer) -> None:
        """Somebody cannot use the new settings: nobody has them."""
        again = {place: self._sockets[place] for place in offer.change.closed}
        self._give_settings(offer.offered, self._settings, again)
        for each in offer.opened.values():
            each.close()
        self._refuse(offer.refused or "")

    def _refuse(self, why: str) -> None:
        for line in why.splitlines():
            _log.error("%s", line)
        say(_log, logging.ERROR, "new settings refused", effect="the old ones hold")
        self._announce_again()

    def _announce_again(self) -> None:
        self._notifier.ready(f"{sum(slot.ready for slot in self._slots)} workers")

    def _stop(self) -> None:
        self._stopping += 1
        if self._stopping == 1:
            grace = float(self._settings.queue.shutdown_grace)
            say(_log, logging.INFO, "stopping", grace=f"{grace:g}")
            self._stop_by = self._now() + grace + LINGER
            self._notifier.stopping()
        for slot in self._slots:
            self._send(slot, "stop", {})

    def _kill_all(self) -> None:
        self._stop_by = math.inf
        for slot in self._slots:
            if slot.pid is not None:
                say(_log, logging.CRITICAL, "worker does not end, it is killed", worker=slot.number)
                os.kill(slot.pid, signal.SIGKILL)

    # The lines

    def _send(self, slot: Slot, word: str, about: dict[str, Any], files: tuple[int, ...] = ()) -> None:
        """A worker that does not read for so long that its line is full is given up."""
        if slot.line is None:
            return
        try:
            channel.send(slot.line, word, about, files)
        except Closed:
            return  # its end is noticed
        except BlockingIOError:
            say(_log, logging.CRITICAL, "worker does not listen, it is killed", worker=slot.number)
            if slot.pid is not None:
                os.kill(slot.pid, signal.SIGKILL)

    def _all_counts(self) -> Snapshot:
        own = [
            gauge("outrider_workers", sum(slot.ready for slot in self._slots)),
            gauge("outrider_worker_restarts", self._restarts),
        ]
        return merged([*own, self._counts, *(slot.counts for slot in self._slots)])


def _wake(number: int, frame: object) -> None:
    """The number arrives through the wake-up descriptor."""
