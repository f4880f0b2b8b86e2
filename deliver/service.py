"""The composition root of the relay: its nursery tree. `deliver.assembly` builds what deliveries take.

    outer    hints writer, event shipper       live until everything else has ended
    middle   queue runner, its attempts        get `queue.shutdown_grace` after SIGTERM
    inner    listeners                         stop first

SIGHUP reads the settings again, see `deliver.reload`. SIGTERM and SIGINT stop the relay in that order; a
second one cuts the grace short. What is not settled by then is in the queue, and its attempt on record. Only
the composition roots build SQL stores.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator, Sequence
from functools import partial
from random import SystemRandom

import trio

from deliver.agent import Agent
from deliver.assembly import build_agent, open_hints
from deliver.attempt import Attempt
from deliver.doors import Doors, open_doors
from deliver.errors import OutriderError, StorageError
from deliver.frozen import FrozenHosts
from deliver.lookup import examine_resolvers
from deliver.message import Content
from deliver.net.clock import WallClock
from deliver.outbox import event_actions, event_gate
from deliver.pool import SessionPool
from deliver.queue.intake import QueueIntake
from deliver.queue.notice import Notifier
from deliver.queue.reports import next_report
from deliver.queue.runner import JournalReply
from deliver.queue.shard import Shard
from deliver.queue.store import Claim
from deliver.queueing import open_queue
from deliver.relay.identity import MessageIds
from deliver.relay.listener import Listener, open_listeners
from deliver.relay.terms import places, terms_of
from deliver.reload import Change, Reread, change
from deliver.report.log import say
from deliver.settings import Settings
from deliver.shardwork import ShardWork, report_terms
from deliver.spool.opening import open_spool
from events.actions import matcher
from events.backlog import Backlog
from events.catalogue import Event
from events.shipper import Shipper
from hints.sql import SqlHints

RESYNC = 60.0  # seconds

_log = logging.getLogger("outrider.service")


async def run_relay(settings: Settings, digest: str | None = None, reread: Reread | None = None) -> None:
    """Accept, queue and deliver until SIGTERM or SIGINT. Raises ConfigurationError or StorageError.

    SIGHUP calls `reread` and changes over to the settings that it returns. `digest` stands for the settings
    towards calls of `outrider send`; without it none is taken over.
    """
    clock = WallClock()
    actions = event_actions(settings)
    backlog = Backlog(settings.events.backlog, matcher(actions))
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        sockets = await open_listeners(places(settings.relay))
        try:
            async with (
                open_queue(settings, clock.now, append=backlog.append) as shard,
                open_doors(settings, digest, clock) as doors,
            ):
                shipper = Shipper(shard.sql, actions, clock=clock.now)
                relay = Relay(settings, clock, shard, backlog, shipper, sockets, doors, reread)
                await relay.run(signals)
        finally:
            for listener in sockets:
                listener.socket.close()


class Relay:
    """The parts of a running relay and the order in which they stop."""

    def __init__(
        self,
        settings: Settings,
        clock: WallClock,
        shard: Shard,
        backlog: Backlog,
        shipper: Shipper,
        sockets: Sequence[trio.SocketListener],
        doors: Doors,
        reread: Reread | None = None,
        *,
        once: bool = False,
    ) -> None:
        """`once`: the spool door drains its directories and takes nothing more."""
        self._settings = settings
        self._doors = doors
        self._reread = reread
        self._clock = clock
        self._sockets = dict(zip(places(settings.relay), sockets, strict=True))
        self._rng = SystemRandom()
        self._hints = open_hints(settings, clock)
        self._gate = event_gate(settings)
        self._frozen = FrozenHosts(self._gate)
        self._shard = shard
        self._backlog = backlog
        self._pool = SessionPool(settings.pool, self._tell)
        self._agent = self._build_agent(settings)
        self._ids = MessageIds(clock.now, self._rng)
        self._work = ShardWork(
            settings,
            shard,
            backlog,
            shipper,
            self._begin,
            notifier=self._notifier(settings),
            frozen=self._frozen,
            clock=clock,
            rng=self._rng,
        )
        hostname = self._hostname(settings)
        self._listener = Listener(
            settings.relay,
            hostname,
            self._intake(settings),
            clock,
            self._ids,
            settings.route,
            protocol_detail=settings.log.protocol_detail,
        )
        self._run_doors = partial(doors.run, self._agent, hostname, self._ids)
        self.spool = open_spool(
            settings, self._intake(settings), shard, self._ids, clock, hostname, once=once
        )

    def _build_agent(self, settings: Settings) -> Agent:
        places = [listener.socket.getsockname() for listener in self._sockets.values()]
        return build_agent(
            settings,
            hints=self._hints,
            clock=self._clock,
            rng=self._rng,
            learner="relay",
            own_sockets=frozenset((place[0], place[1]) for place in places),
            gate=self._frozen,
            pool=self._pool,
        )

    def _hostname(self, settings: Settings) -> str:
        return settings.relay.hostname or self._agent.helo

    def _notifier(self, settings: Settings) -> Notifier:
        return Notifier(self._hostname(settings), self._ids, self._rng, report_terms(settings))

    def _intake(self, settings: Settings) -> QueueIntake:
        return QueueIntake(
            self._shard,
            self._backlog.append,
            self._work.accepted,
            inline_limit=settings.queue.inline_limit,
            max_size=settings.relay.max_message_size,
            min_free=settings.queue.min_free_disk,
            room=lambda: not self._backlog.full,
        )

    async def run(self, signals: AsyncIterator[int]) -> None:
        """Until the first signal and the end of what was under way; a second signal cuts that short."""
        async with trio.open_nursery() as testimony:
            testimony.start_soon(self._work.background)
            testimony.start_soon(self._see_the_doctor)
            testimony.start_soon(self._keep_time)
            if isinstance(self._hints, SqlHints):
                testimony.start_soon(self._hints.run)
            async with self._pool.open(), trio.open_nursery() as signalled:
                async with trio.open_nursery() as work:
                    work.start_soon(self._work.runner.run)
                    await work.start(
                        self._listener.serve, tuple(self._sockets.values()), tuple(self._sockets)
                    )
                    await work.start(self._run_doors)
                    await work.start(self.spool.run)
                    for listener in self._sockets.values():
                        say(_log, logging.INFO, "listening", on=_endpoint(listener))
                    # signals that came before are obeyed now, when there is something to stop
                    signalled.start_soon(self._obey, signals, signalled.cancel_scope)
                signalled.cancel_scope.cancel()
            await self._work.last_events()
            testimony.cancel_scope.cancel()
        await self._gate.aclose()
        await self._work.shipper.aclose()
        await self._hints.aclose()
        say(_log, logging.INFO, "stopped")

    async def idle(self) -> bool:
        """Whether no attempt is under way or due, and no report. Raises StorageError."""
        soon = self._clock.now() + self._settings.bounce.gather
        report = await self._shard.sql.read(next_report)
        return (report is None or report > soon) and await self._work.runner.idle()

    async def _keep_time(self) -> None:
        """Follow a system clock that is set: signatures and schedules go by it."""
        while True:
            await trio.sleep(RESYNC)
            self._clock.resync()

    async def _see_the_doctor(self) -> None:
        """Say once, plainly, what a resolver is not fit for; mail is not held up by it."""
        mode = self._settings.dns.dnssec
        for found in await examine_resolvers(self._settings, self._clock):
            fit = found.fit_for(mode)
            say(
                _log,
                logging.INFO if fit else logging.WARNING,
                "resolver" if fit else f"resolver unfit for dns.dnssec = {mode}",
                resolver=found.resolver,
                state=found.state,
                why=None if fit else "; ".join(found.notes),
            )

    def _begin(self, claim: Claim, content: Content, journal: JournalReply) -> Attempt:
        return Attempt(
            self._agent,
            claim.envelope,
            claim.recipients,
            content,
            number=claim.number,
            tried=claim.tried,
            journal=journal,
        )

    async def _tell(self, events: Sequence[Event]) -> None:
        """Commit what belongs to no attempt: a session that has waited in vain is closed."""
        wanted = [event for event in events if self._backlog.wanted(event)]
        if not wanted:
            return
        about = str(wanted[0].fields.get("message_id"))
        append = partial(self._backlog.append, message_id=about, events=wanted)
        try:
            await self._shard.sql.write(append, durable=False)
        except StorageError as error:
            _log.error("%s", error)
        self._work.shipper.poke()

    async def _obey(self, signals: AsyncIterator[int], work: trio.CancelScope) -> None:
        while await anext(signals) == signal.SIGHUP:
            await self._reload()
        grace = self._settings.queue.shutdown_grace
        say(_log, logging.INFO, "stopping", grace=f"{grace:g}")
        self._listener.stop(grace)
        self._work.stop()
        self.spool.stop()
        async with trio.open_nursery() as stopping:
            stopping.start_soon(self._doors.stop, grace)
            while await anext(signals) == signal.SIGHUP:
                pass
            say(_log, logging.WARNING, "stopping at once")
            work.cancel()

    async def _reload(self) -> None:
        """Change over to the settings as they are now, or refuse them as a whole and go on."""
        if self._reread is None:
            return
        try:
            new = change(self._settings, await trio.to_thread.run_sync(self._reread))
            await self._change_over(new)
        except OutriderError as error:
            for line in str(error).splitlines():
                _log.error("%s", line)
            say(_log, logging.ERROR, "new settings refused", effect="the old ones hold")
            return
        except Exception:
            _log.exception("the new settings cannot be used; the old ones hold")
            return
        if new.waiting:
            say(_log, logging.WARNING, "wait for a restart", keys=", ".join(new.waiting))
        say(_log, logging.INFO, "reloaded", opened=len(new.opened), closed=len(new.closed))

    async def _change_over(self, new: Change) -> None:
        """What can fail comes first. Raises ConfigurationError, and nothing has changed."""
        settings = new.settings
        terms_of(settings.relay, "")
        opened = dict(zip(new.opened, await open_listeners(new.opened), strict=True))
        before = self._sockets
        try:
            kept = {place: one for place, one in before.items() if place not in new.closed}
            self._sockets = kept | opened
            agent = self._build_agent(settings)
        except BaseException:
            self._sockets = before
            for listener in opened.values():
                listener.socket.close()
            raise
        self._settings, self._agent = settings, agent
        self._work.reconfigure(settings, self._notifier(settings))
        self._doors.reload(agent)
        self._listener.reconfigure(
            settings.relay,
            self._hostname(settings),
            self._intake(settings),
            settings.route,
            protocol_detail=settings.log.protocol_detail,
        )
        for place, listener in opened.items():
            self._listener.add(listener, place)
            say(_log, logging.INFO, "listening", on=_endpoint(listener))
        for place in new.closed:
            self._listener.remove(before[place])
            say(_log, logging.INFO, "listening no more", on=_endpoint(before[place]))


def _endpoint(listener: trio.SocketListener) -> str:
    address, port = listener.socket.getsockname()[:2]
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
