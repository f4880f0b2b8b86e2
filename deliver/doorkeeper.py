"""The composition root of `outrider lmtp`: the doors without a queue, and nothing else.

In one process, or in one of several workers, see `deliver.lmtpworker`.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from random import SystemRandom

import trio

from deliver.assembly import build_agent, open_hints, turns_without_a_queue
from deliver.doors import Doors, open_doors
from deliver.doorway import Doorway
from deliver.net.clock import WallClock
from deliver.outbox import event_gate
from deliver.pool import SessionPool
from deliver.queue.turns import Turns
from deliver.relay.identity import MessageIds
from deliver.report.log import say
from deliver.settings import Settings
from deliver.station import HELD
from deliver.tuning import tune
from hints.sql import SqlHints

_log = logging.getLogger("outrider.service")


async def run_lmtp(settings: Settings, digest: str | None) -> None:
    """Serve until SIGTERM or SIGINT. Raises ConfigurationError or StorageError."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
        clock = WallClock()
        await serve_doors(settings, digest, signals, clock, turns_without_a_queue(settings, clock))
    say(_log, logging.INFO, "stopped")


async def serve_doors(
    settings: Settings,
    digest: str | None,
    signals: AsyncIterator[int],
    clock: WallClock,
    turns: Turns,
    *,
    doorway: Doorway | None = None,
    ready: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
) -> None:
    """Serve until the first of `signals`; deliveries begin by `turns`. `ready` is called when we serve.

    Raises ConfigurationError or StorageError.
    """
    tune()
    rng = SystemRandom()
    async with open_doors(settings, digest, clock, doorway) as doors:
        hints = open_hints(settings, clock)
        gate = event_gate(settings)
        pool = SessionPool(settings.pool, doors.tell)
        agent = build_agent(settings, hints=hints, clock=clock, rng=rng, learner="lmtp", gate=gate, pool=pool)
        hostname = settings.relay.hostname or agent.helo
        try:
            async with trio.open_nursery() as background:
                background.start_soon(clock.follow_system)
                if isinstance(hints, SqlHints):
                    background.start_soon(hints.run)
                async with pool.open(), trio.open_nursery() as work:
                    await work.start(doors.run, agent, hostname, MessageIds(clock.now, rng), turns)
                    await ready()
                    work.start_soon(_obey, signals, doors, settings.queue.shutdown_grace, work)
                background.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await gate.aclose()
                await hints.aclose()


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
