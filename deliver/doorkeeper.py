"""The composition root of `outrider lmtp`: the doors without a queue, and nothing else.

In one process, or in one of several workers, see `deliver.lmtpworker`.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from random import SystemRandom

import trio

from deliver.agent import Agent
from deliver.assembly import build_agent, open_hints, renew_turns, turns_without_a_queue
from deliver.doors import Doors, open_doors
from deliver.doorway import Doorway
from deliver.errors import OutriderError
from deliver.net.clock import WallClock
from deliver.outbox import event_gate
from deliver.pool import SessionPool
from deliver.queue.turns import Turns
from deliver.relay.identity import MessageIds
from deliver.reload import Change, Reread, change
from deliver.report.log import say
from deliver.settings import Settings
from deliver.station import HELD
from deliver.tuning import tune
from hints.sql import SqlHints

_log = logging.getLogger("outrider.service")


async def run_lmtp(settings: Settings, digest: str | None, reread: Reread | None = None) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP calls `reread` and changes over to what it returns.

    Raises ConfigurationError or StorageError.
    """
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
        clock = WallClock()
        turns = turns_without_a_queue(settings, clock)
        await serve_doors(settings, digest, signals, clock, turns, reread=reread)
    say(_log, logging.INFO, "stopped")


async def serve_doors(
    settings: Settings,
    digest: str | None,
    signals: AsyncIterator[int],
    clock: WallClock,
    turns: Turns,
    *,
    doorway: Doorway | None = None,
    ready: Callable[[Renewal], Awaitable[None]] | None = None,
    reread: Reread | None = None,
) -> None:
    """Serve until the first of `signals` but SIGHUP; deliveries begin by `turns`.

    `ready` is called when we serve, with what takes other settings.
    Raises ConfigurationError or StorageError.
    """
    tune()
    rng = SystemRandom()
    async with open_doors(settings, digest, clock, doorway) as doors:
        hints = open_hints(settings, clock)
        gate = event_gate(settings)
        pool = SessionPool(settings.pool, doors.tell)
        build = partial(build_agent, hints=hints, clock=clock, rng=rng, learner="lmtp", gate=gate, pool=pool)
        agent = build(settings)
        hostname = settings.relay.hostname or agent.helo
        renewal = Renewal(settings, reread, build, doors, turns)
        try:
            async with trio.open_nursery() as background:
                background.start_soon(clock.follow_system)
                if isinstance(hints, SqlHints):
                    background.start_soon(hints.run)
                async with pool.open(), trio.open_nursery() as work:
                    await work.start(doors.run, agent, hostname, MessageIds(clock.now, rng), turns)
                    if ready is not None:
                        await ready(renewal)
                    work.start_soon(_obey, signals, doors, renewal, work)
                background.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await gate.aclose()
                await hints.aclose()


class Renewal:
    """Other settings, as in the relay: by SIGHUP, or from a supervisor."""

    def __init__(
        self,
        settings: Settings,
        reread: Reread | None,
        build: Callable[[Settings], Agent],
        doors: Doors,
        turns: Turns,
    ) -> None:
        self.settings = settings
        self._reread = reread
        self._build = build
        self._doors = doors
        self._turns = turns

    async def renew(self) -> None:
        """Change over to the settings as they are now, or refuse them as a whole and go on."""
        if self._reread is None:
            say(_log, logging.WARNING, "the settings are read at the start only")
            return
        try:
            read = await trio.to_thread.run_sync(self._reread)
            new = self.take(read.settings, read.digest)
        except OutriderError as error:
            for line in str(error).splitlines():
                _log.error("%s", line)
            say(_log, logging.ERROR, "new settings refused", effect="the old ones hold")
            return
        if new.waiting:
            say(_log, logging.WARNING, "wait for a restart", keys=", ".join(new.waiting))
        say(_log, logging.INFO, "reloaded")

    def take(self, settings: Settings, digest: str | None) -> Change:
        """Go by these from now on. Raises ConfigurationError, and nothing has changed."""
        new = change(self.settings, settings, digest)
        agent = self._build(new.settings)
        hostname = new.settings.relay.hostname or agent.helo
        self._doors.reload(new.settings, new.digest, agent, hostname)
        renew_turns(self._turns, new.settings)
        self.settings = new.settings
        return new


async def _obey(signals: AsyncIterator[int], doors: Doors, renewal: Renewal, work: trio.Nursery) -> None:
    """SIGHUP renews the settings; the first other signal stops, a second one cuts the grace short."""
    while await anext(signals) == signal.SIGHUP:
        await renewal.renew()
    grace = renewal.settings.queue.shutdown_grace
    say(_log, logging.INFO, "stopping", grace=f"{grace:g}")
    async with trio.open_nursery() as stopping:
        stopping.start_soon(_second, signals, work.cancel_scope)
        await doors.stop(grace)
        stopping.cancel_scope.cancel()


async def _second(signals: AsyncIterator[int], work: trio.CancelScope) -> None:
    while await anext(signals) == signal.SIGHUP:
        pass
    say(_log, logging.WARNING, "stopping at once")
    work.cancel()
