"""The composition root of `outrider lmtp`: the doors without a queue, and nothing else."""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator
from random import SystemRandom

import trio

from deliver.assembly import build_agent, open_hints
from deliver.doors import Doors, open_doors
from deliver.errors import ConfigurationError
from deliver.net.clock import WallClock
from deliver.outbox import event_gate
from deliver.pool import SessionPool
from deliver.relay.identity import MessageIds
from deliver.report.log import say
from deliver.settings import Settings
from deliver.tuning import tune
from hints.sql import SqlHints

RESYNC = 60.0  # seconds

_log = logging.getLogger("outrider.service")


async def run_lmtp(settings: Settings, digest: str | None) -> None:
    """Serve until SIGTERM or SIGINT. Raises ConfigurationError or StorageError."""
    if not settings.lmtp.listen:
        raise ConfigurationError(
            "starting the LMTP listener", "lmtp.listen is empty", 'set it, for instance to ["127.0.0.1:2424"]'
        )
    tune()
    clock, rng = WallClock(), SystemRandom()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with open_doors(settings, digest, clock) as doors:
            hints = open_hints(settings, clock)
            gate = event_gate(settings)
            pool = SessionPool(settings.pool, doors.tell)
            agent = build_agent(
                settings, hints=hints, clock=clock, rng=rng, learner="lmtp", gate=gate, pool=pool
            )
            hostname = settings.relay.hostname or agent.helo
            try:
                async with trio.open_nursery() as background:
                    background.start_soon(_keep_time, clock)
                    if isinstance(hints, SqlHints):
                        background.start_soon(hints.run)
                    async with pool.open(), trio.open_nursery() as work:
                        await work.start(doors.run, agent, hostname, MessageIds(clock.now, rng))
                        work.start_soon(_obey, signals, doors, settings.queue.shutdown_grace, work)
                    background.cancel_scope.cancel()
            finally:
                with trio.CancelScope(shield=True):
                    await gate.aclose()
                    await hints.aclose()
    say(_log, logging.INFO, "stopped")


async def _obey(signals: AsyncIterator[int], doors: Doors, grace: float, work: trio.Nursery) -> None:
    """The first signal stops, a second one cuts the grace short."""
    await anext(signals)
    say(_log, logging.INFO, "stopping", grace=f"{grace:g}")
    async with trio.open_nursery() as stopping:
        stopping.start_soon(_second, signals, work.cancel_scope)
        await doors.stop(grace)
        stopping.cancel_scope.cancel()


async def _second(signals: AsyncIterator[int], work: trio.CancelScope) -> None:
    await anext(signals)
    say(_log, logging.WARNING, "stopping at once")
    work.cancel()


async def _keep_time(clock: WallClock) -> None:
    """Follow a system clock that is set: signatures go by it."""
    while True:
        await trio.sleep(RESYNC)
        clock.resync()
