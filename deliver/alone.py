"""The relay as a single process: without a supervisor, the first shard is all there is."""

from __future__ import annotations

import signal

import trio

from deliver.doors import open_doors
from deliver.net.clock import WallClock
from deliver.notify import Notifier
from deliver.outbox import event_actions
from deliver.queueing import open_queue
from deliver.relay.binding import Bound, bind
from deliver.relay.listener import listeners_on
from deliver.relay.terms import places
from deliver.reload import Reread
from deliver.report.exporter import serve_metrics
from deliver.service import Relay
from deliver.settings import Settings
from deliver.station import HELD
from events.actions import matcher
from events.backlog import Backlog
from events.shipper import Shipper


async def run_relay(
    settings: Settings,
    digest: str | None = None,
    reread: Reread | None = None,
    *,
    bound: Bound | None = None,
    metrics: Bound | None = None,
    systemd: Notifier | None = None,
) -> None:
    """Accept, queue and deliver until SIGTERM or SIGINT. Raises ConfigurationError or StorageError.

    SIGHUP calls `reread` and changes over to the settings that it returns. `digest` stands for the settings
    towards calls of `outrider send`; without it none is taken over. `bound` are the listening sockets, where
    they are open already, `metrics` that of the counts; `systemd` hears how we are.
    """
    clock, systemd = WallClock(), systemd or Notifier()
    actions = event_actions(settings)
    backlog = Backlog(settings.events.backlog, matcher(actions))
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
        sockets = listeners_on(bind(places(settings.relay)) if bound is None else bound)
        try:
            async with (
                open_queue(settings, clock.now, append=backlog.append) as shard,
                open_doors(settings, digest, clock) as doors,
            ):
                shipper = Shipper(shard.sql, actions, clock=clock.now, shared=shard.node is not None)
                relay = Relay(settings, clock, shard, backlog, shipper, sockets, doors, reread)
                async with trio.open_nursery() as beside:
                    beside.start_soon(relay.watch, systemd)
                    for listener in listeners_on(metrics or {}):
                        beside.start_soon(serve_metrics, listener, relay.counts)
                    await relay.run(signals, systemd=systemd)
                    beside.cancel_scope.cancel()
        finally:
            for listener in sockets:
                listener.socket.close()
