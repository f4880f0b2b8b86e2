"""One message delivered by this process: its agent, its records and its events, from beginning to end.

With a queue id, settled recipients are remembered (see `deliver.settled`) and skipped when the caller comes
again. Events go through an outbox in the state directory (`outbox.db`), so that a database that is down loses
none: the next run ships them. SIGTERM, SIGHUP and SIGINT end the delivery in good order: what is known is put
down, the rest is deferred.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import trio

from deliver.assembly import build_agent, open_hints, turns_without_a_queue
from deliver.direct import Direct, Limit, Result
from deliver.errors import StorageError
from deliver.message import Envelope
from deliver.net.clock import WallClock
from deliver.outbox import demand_room, event_actions, event_gate, ship
from deliver.queue.content import InlineContent
from deliver.records import Records, prepare
from deliver.resolve.resolver import Resolver
from deliver.settings import Settings
from deliver.settled import Digest, Job
from deliver.sqlrun import InlineRunner
from events.actions import matcher
from events.backlog import Backlog
from events.shipper import Shipper

_log = logging.getLogger("outrider.events")


async def dispatch(
    settings: Settings,
    envelope: Envelope,
    content: InlineContent,
    queue_id: str,
    resolver: Resolver,
    clock: WallClock,
    rng: Random,
) -> tuple[Result, ...]:
    """One result per recipient, in their order. Raises ConfigurationError and StorageError."""
    job = _job(queue_id, envelope, content)
    async with _records(settings, clock, needed=job is not None) as records:
        hints = open_hints(settings, clock)
        gate = event_gate(settings)
        agent = build_agent(
            settings, hints=hints, clock=clock, rng=rng, learner="send", gate=gate, resolver=resolver
        )
        direct = Direct(agent, records, turns_without_a_queue(settings, clock))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_end_when_told, direct)
                await nursery.start(direct.run)
                results = await direct.deliver(envelope, content, job, Limit())
                direct.stop()
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await gate.aclose()
                await hints.aclose()
    return results


def _job(queue_id: str, envelope: Envelope, content: InlineContent) -> Job | None:
    if not queue_id:
        return None
    digest = Digest()
    digest.feed(content.data)
    return Job(queue_id, digest.value(envelope))


async def _end_when_told(direct: Direct) -> None:
    """A signal ends the delivery, and the caller learns what is known."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP, signal.SIGINT) as signals:
        async for _ in signals:
            direct.interrupt()


@asynccontextmanager
async def _records(settings: Settings, clock: WallClock, *, needed: bool) -> AsyncIterator[Records | None]:
    """Where events and outcomes are put down; at the end the events are shipped.

    Raises StorageError while too many events wait, and for a file that cannot be used if it is `needed`;
    otherwise the events of this run are shipped from memory only.
    """
    actions = event_actions(settings)
    if not actions and not needed:
        yield None
        return
    backlog = Backlog(settings.events.backlog, matcher(actions))
    try:
        records = await Records.open(settings, backlog.append, clock)
    except StorageError as error:
        if needed:
            raise
        _log.warning("%s; the events of this delivery are not kept, only shipped once", error)
        records = Records(settings, InlineRunner(None, prepare), backlog.append, clock)
    shipper = Shipper(records.sql, actions, clock=clock.now, shared=True)
    try:
        await demand_room(records.sql, backlog, shipper)
        yield records
        backlog.tell_dropped()
        await ship(shipper)
    finally:
        with trio.CancelScope(shield=True):
            await shipper.aclose()
            await records.aclose()
