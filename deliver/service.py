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
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from random import SystemRandom

import trio

from deliver.adoption import Adoption
from deliver.agent import Agent
from deliver.assembly import build_agent, open_hints
from deliver.attempt import Attempt
from deliver.checkup import see_the_doctor
from deliver.doors import Doors
from deliver.errors import OutriderError, StorageError
from deliver.frozen import FrozenHosts
from deliver.message import Content
from deliver.neighbours.leading import Leading
from deliver.neighbours.reception import Reception
from deliver.neighbours.street import House
from deliver.net.address import places_of
from deliver.net.clock import WallClock
from deliver.notify import Notifier as Systemd
from deliver.outbox import event_actions, event_gate
from deliver.pool import SessionPool
from deliver.queue.intake import Lead, QueueIntake, uncounted
from deliver.queue.leases import Desk
from deliver.queue.notice import Notifier
from deliver.queue.reports import next_report
from deliver.queue.runner import JournalReply
from deliver.queue.shard import Shard
from deliver.queue.share import WHOLE
from deliver.queue.store import Claim
from deliver.relay.binding import Bound, bind
from deliver.relay.commons import Seat, SharedFailures, SharedLimits
from deliver.relay.guard import Post
from deliver.relay.identity import MessageIds
from deliver.relay.listener import Listener, listeners_on
from deliver.relay.terms import places, terms_of
from deliver.reload import Change, Reread, change
from deliver.report.log import say
from deliver.report.metrics import Meter, Snapshot, gauge, merged
from deliver.settings import Settings
from deliver.shardwork import ShardWork, report_terms
from deliver.spool.opening import open_spool
from events.backlog import Backlog
from events.catalogue import Event
from events.shipper import Shipper
from hints.sql import SqlHints

_log = logging.getLogger("outrider.service")


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
        desk: Desk | None = None,
        seat: Seat | None = None,
        house: House | None = None,
    ) -> None:
        """`once`: the spool door drains its directories and takes nothing more.

        With other workers `desk` leases what the limits towards sites allow, `seat` counts clients, and
        accepted mail goes from `house` to the worker that keeps its destination.
        """
        self.meter = Meter()
        self._systemd = Systemd()
        self._chatter = logging.INFO
        self._settings = settings
        self._desk = desk
        self._house = house
        self._leading = Leading(house, settings, self.meter) if house else None
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
        self._work = self._shard_work(shard, backlog, shipper)
        self.works = Adoption(self._work, self._employ)
        self.meter.gauges.append(self._gauges)
        hostname = self._hostname(settings)
        self._post = Post(settings, clock, self._tell_one, SharedFailures(seat) if seat else None)
        self._listener = Listener(
            settings.relay,
            hostname,
            self._intake(settings, self._leading),
            clock,
            self._ids,
            settings.route,
            security=self._post.guard,
            protocol_detail=settings.log.protocol_detail,
            limits=SharedLimits(seat) if seat else None,
        )
        self._run_doors = partial(doors.run, self._agent, hostname, self._ids, self._work.runner.turns)
        self._indoors = self._intake(settings)
        self.spool = open_spool(
            settings, self._indoors, shard, self._ids, clock, hostname,
            once=once,
        )  # fmt: skip

    def _shard_work(self, shard: Shard, backlog: Backlog, shipper: Shipper) -> ShardWork:
        return ShardWork(
            self._settings,
            shard,
            backlog,
            shipper,
            self._begin,
            notifier=self._notifier(self._settings),
            frozen=self._frozen,
            clock=self._clock,
            rng=self._rng,
            share=self._desk.ledger() if self._desk else WHOLE,
            meter=self.meter,
        )

    def _employ(self, shard: Shard, backlog: Backlog) -> ShardWork:
        """Another worker's shard is to be worked off."""
        actions = event_actions(self._settings)
        shipper = Shipper(shard.sql, actions, clock=self._clock.now, shared=shard.node is not None)
        return self._shard_work(shard, backlog, shipper)

    def _build_agent(self, settings: Settings) -> Agent:
        return build_agent(
            settings,
            hints=self._hints,
            clock=self._clock,
            rng=self._rng,
            learner="relay",
            own_sockets=places_of(listener.socket for listener in self._sockets.values()),
            gate=self._frozen,
            pool=self._pool,
        )

    def _hostname(self, settings: Settings) -> str:
        return settings.relay.hostname or self._agent.helo

    def _notifier(self, settings: Settings) -> Notifier:
        return Notifier(self._hostname(settings), self._ids, self._rng, report_terms(settings))

    def _intake(self, settings: Settings, lead: Lead | None = None) -> QueueIntake:
        return QueueIntake(
            self._shard,
            self._work.append,
            self._work.accepted,
            inline_limit=settings.queue.inline_limit,
            max_size=settings.relay.max_message_size,
            min_free=settings.queue.min_free_disk,
            room=lambda: not self._backlog.full,
            count=self._house.took if self._house else uncounted,
            lead=lead,
        )

    async def run(
        self,
        signals: AsyncIterator[int],
        *,
        ready: Callable[[], Awaitable[None]] | None = None,
        systemd: Systemd | None = None,
    ) -> None:
        """Until the first signal and the end of what was under way; a second signal cuts that short.

        `ready` is called when everything runs; it tells that we listen, else we do.
        """
        self._systemd = systemd or self._systemd
        self._chatter = logging.INFO if ready is None else logging.DEBUG
        async with trio.open_nursery() as testimony:
            testimony.start_soon(self._work.background)
            testimony.start_soon(see_the_doctor, self._settings, self._clock)
            testimony.start_soon(self._clock.follow_system)
            testimony.start_soon(self._post.run)
            if self._desk is not None:
                testimony.start_soon(self._desk.watch, self.works.look)
            if isinstance(self._hints, SqlHints):
                testimony.start_soon(self._hints.run)
            if self._house and self._leading:
                testimony.start_soon(self._leading.run)
                reception = Reception(lambda: self._indoors)
                testimony.start_soon(reception.serve, self._house.listening)
                self._house.move_in()
            async with self._pool.open(), trio.open_nursery() as signalled:
                async with trio.open_nursery() as work:
                    work.start_soon(self._work.runner.run)
                    await work.start(
                        self._listener.serve, tuple(self._sockets.values()), tuple(self._sockets)
                    )
                    await work.start(self._run_doors)
                    await work.start(self.spool.run)
                    await work.start(self.works.hold)
                    if ready is not None:
                        await ready()
                    else:
                        for listener in self._sockets.values():
                            say(_log, logging.INFO, "listening", on=_endpoint(listener))
                    self._systemd.ready("serving")
                    # signals that came before are obeyed now, when there is something to stop
                    signalled.start_soon(self._obey, signals, signalled.cancel_scope)
                signalled.cancel_scope.cancel()
            await self._work.last_events()
            testimony.cancel_scope.cancel()
        await self._gate.aclose()
        await self._work.shipper.aclose()
        await self._hints.aclose()
        say(_log, self._chatter, "stopped")

    # What others want to know

    async def watch(self, systemd: Systemd) -> None:
        """Tell the watchdog of progress, if there is one, until cancelled."""
        while systemd.period is not None:
            await self.works.prove_progress()
            systemd.alive()
            await trio.sleep(systemd.period / 3)

    async def counts(self) -> Snapshot:
        """All counts as they are now."""
        return merged([self.meter.snapshot(), gauge("outrider_workers", 1)])

    def _gauges(self) -> Snapshot:
        idle = gauge("outrider_sessions_idle", self._pool.count)
        return merged([*(work.gauges() for work in self.works), idle])

    async def idle(self) -> bool:
        """Whether no attempt is under way or due, and no report. Raises StorageError."""
        if not await self._work.runner.idle():
            return False
        soon = self._clock.now() + self._settings.bounce.gather
        report = await self._shard.sql.read(next_report)
        # a report that was written meanwhile is mail
        return (report is None or report > soon) and await self._work.runner.idle()

    def _begin(self, claim: Claim, content: Content, journal: JournalReply) -> Attempt:
        if self._house and claim.number == 1:
            self._house.began()
        return Attempt(
            self._agent,
            claim.envelope,
            claim.recipients,
            content,
            number=claim.number,
            tried=claim.tried,
            journal=journal,
            took=self._took,
        )

    def _took(self, seconds: float) -> None:
        self.meter.observe("outrider_attempt_seconds", seconds)

    async def _tell(self, events: Sequence[Event]) -> None:
        """Commit what belongs to no attempt: a session that has waited in vain is closed."""
        wanted = [event for event in events if self._backlog.wanted(event)]
        if not wanted:
            return
        about = str(wanted[0].fields.get("message_id") or "")
        append = partial(self._backlog.append, message_id=about, events=wanted)
        try:
            await self._shard.sql.write(append, durable=False)
        except StorageError as error:
            _log.error("%s", error)
        self._work.shipper.poke()

    async def _tell_one(self, event: Event) -> None:
        await self._tell([event])

    async def _obey(self, signals: AsyncIterator[int], work: trio.CancelScope) -> None:
        while await anext(signals) == signal.SIGHUP:
            await self._reload()
        grace = self._settings.queue.shutdown_grace
        say(_log, self._chatter, "stopping", grace=f"{grace:g}")
        self._systemd.stopping()
        if self._house:
            self._house.move_out()
        self._listener.stop(grace)
        self.works.stop()
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
        self._systemd.reloading()
        try:
            read = await trio.to_thread.run_sync(self._reread)
            new = change(self._settings, read.settings, read.digest)
            await self._change_over(new, partial(bind, new.opened))
        except OutriderError as error:
            for line in str(error).splitlines():
                _log.error("%s", line)
            say(_log, logging.ERROR, "new settings refused", effect="the old ones hold")
            return
        except Exception:
            _log.exception("the new settings cannot be used; the old ones hold")
            return
        finally:
            self._systemd.ready("serving")
        if new.waiting:
            say(_log, logging.WARNING, "wait for a restart", keys=", ".join(new.waiting))
        say(_log, logging.INFO, "reloaded", opened=len(new.opened), closed=len(new.closed))

    async def take(self, settings: Settings, opened: Bound, digest: str | None = None) -> str | None:
        """The same, where others have read the settings and opened the sockets; why they are refused."""
        try:
            new = change(self._settings, settings, digest)
            for place in opened.keys() - set(new.opened):
                opened.pop(place).close()  # we have it
            await self._change_over(new, lambda: opened)
        except OutriderError as error:
            return str(error)
        except Exception as error:
            _log.exception("the new settings cannot be used; the old ones hold")
            return str(error)
        return None

    async def _change_over(self, new: Change, bound: Callable[[], Bound]) -> None:
        """What can fail comes first. Raises ConfigurationError, and nothing has changed."""
        settings = new.settings
        terms_of(settings.relay, "")
        guard = self._post.relief(settings)
        sockets = await trio.to_thread.run_sync(bound)
        opened = dict(zip(sockets, listeners_on(sockets), strict=True))
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
        self._indoors = self._intake(settings)
        if self._leading:
            self._leading.reconfigure(settings)
        for work in self.works:
            work.reconfigure(settings, self._notifier(settings))
        self._doors.reload(settings, new.digest, agent, self._hostname(settings))
        self._post.relieve(guard)
        self._listener.reconfigure(
            settings.relay,
            self._hostname(settings),
            self._intake(settings, self._leading),
            settings.route,
            security=guard,
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
