"""One open shard at work: its deliveries, its upkeep and its events."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from random import Random

import trio
from sqlalchemy import select

from deliver.errors import StorageError
from deliver.frozen import FrozenHosts
from deliver.net.clock import Clock
from deliver.queue.browse import Counts, counts
from deliver.queue.execution import Begin
from deliver.queue.latch import unlatch
from deliver.queue.notice import Notifier, Terms
from deliver.queue.reading import Connected
from deliver.queue.runner import Runner
from deliver.queue.shard import Shard
from deliver.queue.share import WHOLE, Share
from deliver.queue.terms import source_addresses
from deliver.queue.upkeep import Upkeep
from deliver.report.metrics import Meter, Snapshot, gauge, merged, metered
from deliver.settings import Settings, overridden
from events.backlog import Backlog
from events.outbox import Appending
from events.shipper import Shipper

SILENCE_MARGIN = 60.0  # seconds
COUNT_EVERY = 15.0  # seconds
LAST_EVENTS = 2.0  # seconds at the end for the databases of the event actions


class ShardWork:
    """Deliveries go on until `stop`; upkeep and events for as long as `background` is not cancelled."""

    def __init__(
        self,
        settings: Settings,
        shard: Shard,
        backlog: Backlog,
        shipper: Shipper,
        begin: Begin,
        *,
        notifier: Notifier,
        frozen: FrozenHosts,
        clock: Clock,
        rng: Random,
        share: Share = WHOLE,
        meter: Meter | None = None,
    ) -> None:
        """`begin` makes attempts, see `deliver.queue.execution`; `share` is our part of the limits."""
        each = backlog.append_each
        self.append = Appending(each if meter is None else metered(each, meter))
        self.shard = shard
        self.backlog = backlog
        self.shipper = shipper
        self._share = share
        self._counts = Counts(0, 0, 0, 0)
        self._measured = bool(settings.metrics.listen)
        self.runner = Runner(
            shard,
            begin,
            settings=settings.queue,
            attempt_deadline=longest_attempt(settings),
            silence=longest_silence(settings),
            clock=clock,
            rng=rng,
            gather=settings.bounce.gather,
            append=self.append,
            settled=self._settled,
            sources=partial(source_addresses, settings),
            share=share,
        )
        self.upkeep = Upkeep(
            shard,
            notifier=notifier,
            clock=clock,
            changed=self.accepted,
            retry=self.runner.retry_sites,
            frozen=frozen.freeze,
            append=self.append,
        )

    async def run(self) -> None:
        """All of it, until `stop` and the end of what was under way."""
        try:
            async with trio.open_nursery() as beside:
                beside.start_soon(self.background)
                await self.runner.run()
                await self.last_events()
                beside.cancel_scope.cancel()
        finally:
            self._share.close()
        await self.shipper.aclose()

    async def background(self) -> None:
        """Upkeep and events, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.shipper.run)
            nursery.start_soon(self.backlog.watch, self.shard.sql)
            nursery.start_soon(self.upkeep.run)
            if self._measured:
                nursery.start_soon(self._count)
            nursery.start_soon(partial(unlatch, self.shard, mended=self.runner.poke))
            if self.shard.keep is not None:
                nursery.start_soon(self.shard.keep)

    async def last_events(self) -> None:
        """Ship what waits, as far as that is quick."""
        await self.shipper.finish(LAST_EVENTS)

    def stop(self) -> None:
        """Begin no more deliveries."""
        self.runner.stop()

    def reconfigure(self, settings: Settings, notifier: Notifier) -> None:
        """Other settings from now on."""
        self.runner.reconfigure(
            settings.queue,
            attempt_deadline=longest_attempt(settings),
            gather=settings.bounce.gather,
            silence=longest_silence(settings),
            sources=partial(source_addresses, settings),
        )
        self.upkeep.reconfigure(notifier)

    def accepted(self) -> None:
        """There may be mail to deliver, and events to tell."""
        self.runner.poke()
        self.shipper.poke()

    def gauges(self) -> Snapshot:
        """What holds of this shard now."""
        waiting = self._counts
        return merged(
            [
                gauge("outrider_attempts_running", self.runner.running),
                gauge("outrider_queue_standstill", float(self.shard.latch.fault is not None)),
                gauge("outrider_events_waiting", self.backlog.waiting),
                gauge("outrider_events_dropped", self.backlog.dropped),
                gauge("outrider_queue_messages", waiting.messages),
                gauge("outrider_queue_recipients", waiting.queued, state="queued"),
                gauge("outrider_queue_recipients", waiting.leased, state="leased"),
                gauge("outrider_queue_recipients", waiting.held, state="held"),
            ]
        )

    async def prove_progress(self) -> None:
        """Return when the database has answered, be it with an error."""
        with suppress(StorageError):
            await self.shard.sql.read(lambda conn: conn.execute(select(1)).scalar_one())

    async def _count(self) -> None:
        """How much waits, now and then."""
        while True:
            with suppress(StorageError):
                self._counts = await self.shard.sql.read(lambda conn: counts(Connected(conn)))
            await trio.sleep(COUNT_EVERY)

    def _settled(self, complete: bool) -> None:
        if not complete:  # else there is nothing to report to a sender
            self.upkeep.poke()
        self.shipper.poke()


def report_terms(settings: Settings) -> Terms:
    """What the settings say about reports to senders."""
    return Terms(
        to=settings.bounce.to,
        per_sender=settings.bounce.per_sender,
        return_content=settings.bounce.return_content,
        return_limit=settings.bounce.return_limit,
        expire=settings.queue.expire,
    )


def longest_attempt(settings: Settings) -> float:
    """The largest `delivery.deadline` that a rule or the base allows, seconds: the lease must cover it."""
    deadlines = [overridden(settings.delivery, rule.delivery).deadline for rule in settings.rule]
    return max(settings.delivery.deadline, *deadlines, 0.0)


def longest_silence(settings: Settings) -> float:
    """More seconds without any progress than the timeouts of any destination allow."""
    phases = [settings.smtp.timeouts]
    phases += [overridden(settings.smtp, rule.smtp).timeouts for rule in settings.rule]
    longest = max(float(getattr(each, name)) for each in phases for name in each.__struct_fields__)
    return longest + SILENCE_MARGIN
