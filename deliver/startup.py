"""The start of `outrider relay`: sockets, then root's rights are given up, then one process or more."""

from __future__ import annotations

import gc
import os
import signal
from functools import partial
from pathlib import Path

import trio

from deliver.notify import Notifier
from deliver.privileges import give_up
from deliver.relay.binding import bind, passed_by_systemd
from deliver.relay.terms import places
from deliver.reload import Reread
from deliver.service import HELD, run_relay
from deliver.settings import Settings
from deliver.supervisor import Child, Supervisor
from deliver.worker import run_worker

NEW_OBJECTS = 20_000  # after which the collector looks at the youngest; a delivery makes some thousands


def start(settings: Settings, digest: str | None, reread: Reread) -> int:
    """Run the relay to its end; the exit status. Raises ConfigurationError or StorageError.

    With several workers this is the supervisor; it returns in each of the processes.
    """
    # from here on clients may come, and a signal is for those who know how to stop
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    try:
        return _start(settings, digest, reread)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)


def _start(settings: Settings, digest: str | None, reread: Reread) -> int:
    sockets = bind(places(settings.relay), passed_by_systemd(os.environ))
    metrics = bind([settings.metrics.listen] if settings.metrics.listen else [], key="metrics.listen")
    give_up(settings.relay.user, Path(settings.state_dir))
    systemd = Notifier.of(os.environ)
    workers = worker_count(settings)
    if workers == 1:
        _spare_the_collector()
        relay = partial(run_relay, settings, digest, reread, bound=sockets, metrics=metrics, systemd=systemd)
        trio.run(relay)
        return 0
    try:
        supervisor = Supervisor(
            settings, workers, sockets, metrics, reread=reread, notifier=systemd, digest=digest
        )
        return supervisor.run()
    except Child as child:
        station, settings, digest = child.station, child.settings, child.digest
    _spare_the_collector()
    run_worker(settings, digest, station)
    return 0


def _spare_the_collector() -> None:
    """What is loaded by now stays: not to be looked through again, for every few hundred new objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, 20, 20)


def worker_count(settings: Settings) -> int:
    """`relay.workers`, 0 being one for each core that we may use."""
    return settings.relay.workers or max(1, len(os.sched_getaffinity(0)))
