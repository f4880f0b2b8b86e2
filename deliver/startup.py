"""The start of `outrider relay` and `outrider lmtp`: sockets, one process or more.

The relay gives up root's rights between the two.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import trio

from deliver.alone import run_relay
from deliver.doorkeeper import run_lmtp
from deliver.doorway import Doorway
from deliver.errors import ConfigurationError
from deliver.lmtpworker import run_lmtp_worker
from deliver.notify import Notifier
from deliver.privileges import give_up
from deliver.queue.orphans import orphaned_journals, orphans
from deliver.relay.binding import bind, passed_by_systemd
from deliver.relay.terms import places
from deliver.reload import Reread
from deliver.report.turn import LinesByTurn
from deliver.settings import Settings
from deliver.station import HELD
from deliver.supervisor import Child, Supervisor
from deliver.tuning import raise_file_limit
from deliver.worker import run_worker

ENOUGH = (
    10  # attempts at a time: a worker with fewer would wait for slow servers with mail that it could send
)
NEW_OBJECTS = 20_000  # after which the collector looks at the youngest; a delivery makes some thousands


def start(settings: Settings, digest: str | None, reread: Reread) -> int:
    """Run the relay to its end; the exit status. Raises ConfigurationError or StorageError.

    With several workers, or shards of workers that there were once, this is the supervisor; it returns in
    each of the processes.
    """
    with _held():
        return _start(settings, digest, reread)


def start_lmtp(settings: Settings, digest: str | None, reread: Reread) -> int:
    """The same for the LMTP door alone."""
    if not settings.lmtp.listen:
        raise ConfigurationError(
            "starting the LMTP listener", "lmtp.listen is empty", 'set it, for instance to ["127.0.0.1:2424"]'
        )
    with _held():
        return _start_lmtp(settings, digest, reread)


@contextmanager
def _held() -> Iterator[None]:
    """From here on clients may come, and a signal is for those who know how to stop."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)


def _start(settings: Settings, digest: str | None, reread: Reread) -> int:
    sockets = bind(places(settings.relay), passed_by_systemd(os.environ))
    metrics = bind([settings.metrics.listen] if settings.metrics.listen else [], key="metrics.listen")
    raise_file_limit()
    give_up(settings.relay.user, Path(settings.state_dir))
    systemd = Notifier.of(os.environ)
    workers = worker_count(settings)
    shards = shards_of(settings, workers)
    _spare_the_collector()
    if shards == (0,):
        relay = partial(run_relay, settings, digest, reread, bound=sockets, metrics=metrics, systemd=systemd)
        trio.run(relay, instruments=[LinesByTurn()])
        return 0
    try:
        supervisor = Supervisor(
            settings,
            workers,
            sockets,
            metrics,
            shards=shards,
            notifier=systemd,
            doorway=Doorway.open(settings, handover=digest is not None),
            digest=digest,
            reread=reread,
        )
        return supervisor.run()
    except Child as child:
        station, settings, digest = child.station, child.settings, child.digest
    run_worker(settings, digest, station)
    return 0


def _start_lmtp(settings: Settings, digest: str | None, reread: Reread) -> int:
    raise_file_limit()
    workers = worker_count(settings)
    _spare_the_collector()
    if workers == 1:
        trio.run(run_lmtp, settings, digest, reread, instruments=[LinesByTurn()])
        return 0
    doorway = Doorway.open(settings, handover=digest is not None)
    try:
        return Supervisor(
            settings,
            workers,
            {},
            {},
            shards=(),
            notifier=Notifier.of(os.environ),
            doorway=doorway,
            digest=digest,
            reread=reread,
        ).run()
    except Child as child:
        station, settings, digest = child.station, child.settings, child.digest
    run_lmtp_worker(settings, digest, station)
    return 0


def _spare_the_collector() -> None:
    """What is loaded by now stays: not to be looked through again, for every few hundred new objects.

    Before there are workers, so that they share the memory that it is in.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, 20, 20)


def shards_of(settings: Settings, workers: int) -> tuple[int, ...]:
    """Each worker's own, and those of workers that there were once."""
    directory = settings.path(settings.queue.directory)
    left = orphaned_journals if settings.queue.url else orphans
    return (*range(workers), *left(directory, workers))


def worker_count(settings: Settings) -> int:
    """`relay.workers`; 0: one for each core that we may use, if there are `ENOUGH` of `queue.workers`."""
    if settings.relay.workers:
        return settings.relay.workers
    return max(1, min(len(os.sched_getaffinity(0)), settings.queue.workers // ENOUGH))
