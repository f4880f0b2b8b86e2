"""The doors without a queue of a running service: LMTP, and the hand-over from `outrider send`.

    outer    events and records            live until everything else has ended
    middle   deliveries under way          end after the grace
    inner    LMTP clients, callers         stop first; who waits for a delivery gets its answer

`open_doors` opens the database `outbox.db`, and the sockets where that was not done before; `Doors.run`
serves until `Doors.stop`. Several processes may do so side by side: who delivers to a recipient, and who
tells which events, is settled in the database.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

import msgspec
import trio

from deliver.agent import Agent
from deliver.direct import Direct
from deliver.doorway import Doorway
from deliver.handover.server import Desk, HandoverListener
from deliver.message import MessageId
from deliver.net.clock import Clock
from deliver.outbox import event_actions
from deliver.queue.turns import Turns
from deliver.records import Records
from deliver.relay.lmtp import LmtpIntake, LmtpListener, LmtpTerms
from deliver.settings import Settings
from events.actions import matcher
from events.backlog import Backlog
from events.catalogue import Event
from events.outbox import Appending
from events.shipper import Shipper

ANSWERING = 5.0  # seconds for callers to be answered once their deliveries were ended
LAST_EVENTS = 2.0  # seconds at the end for the databases of the event actions


class Doors:
    """What was opened; `run` it, then `stop` it. Without a socket both do nothing."""

    def __init__(
        self,
        settings: Settings,
        digest: str | None,
        records: Records | None,
        backlog: Backlog | None,
        lmtp: Sequence[trio.SocketListener],
        handover: Sequence[trio.SocketListener],
    ) -> None:
        """`digest` stands for the settings towards callers that hand over."""
        self._settings = settings
        self._digest = digest or ""
        self._records = records
        self._backlog = backlog
        self._lmtp_sockets = lmtp
        self._handover_sockets = handover
        self._direct: Direct | None = None
        self._lmtp: LmtpListener | None = None
        self._handover: HandoverListener | None = None
        self._closing: trio.CancelScope | None = None

    async def run(
        self,
        agent: Agent,
        hostname: str,
        new_id: Callable[[], MessageId],
        turns: Turns,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until `stop` and the end of what was under way.

        `hostname` is our name in the greeting; deliveries begin by `turns`.
        """
        if self._records is None or self._backlog is None:
            task_status.started()
            return
        actions = event_actions(self._settings)
        shipper = Shipper(self._records.sql, actions, clock=agent.clock.now, shared=True)
        self._records.committed = shipper.poke
        direct = self._direct = Direct(agent, self._records, turns)
        async with trio.open_nursery() as testimony:
            testimony.start_soon(shipper.run)
            testimony.start_soon(self._backlog.watch, self._records.sql)
            async with trio.open_nursery() as deliveries:
                await deliveries.start(direct.run)
                async with trio.open_nursery() as clients:
                    if self._lmtp_sockets:
                        terms = self._lmtp_terms(hostname, direct)
                        lmtp = self._lmtp = LmtpListener(agent.clock, new_id, terms)
                        await clients.start(lmtp.serve, self._lmtp_sockets)
                    if self._handover_sockets:
                        desk = self._desk(agent.helo)
                        handover = self._handover = HandoverListener(desk, direct, agent.clock, new_id)
                        await clients.start(handover.serve, self._handover_sockets)
                    task_status.started()
                direct.stop()
            await shipper.finish(LAST_EVENTS)
            testimony.cancel_scope.cancel()
        await shipper.aclose()

    def reload(self, settings: Settings, digest: str | None, agent: Agent, hostname: str) -> None:
        """Other settings for clients and deliveries that come; sockets and events wait for a restart.

        Raises ConfigurationError, and nothing has changed.
        """
        before = self._settings, self._digest
        self._settings, self._digest = settings, digest or ""
        if self._direct is None or self._records is None:
            return
        try:
            if self._lmtp is not None:
                self._lmtp.renew(self._lmtp_terms(hostname, self._direct))
        except BaseException:
            self._settings, self._digest = before
            raise
        self._direct.reload(agent)
        self._records.remember = float(settings.send.remember)
        if self._handover is not None:
            self._handover.renew(self._desk(agent.helo))

    async def stop(self, grace: float) -> None:
        """Take nothing more; what is under way ends after `grace` seconds, and is answered."""
        for listener in (self._lmtp, self._handover):
            if listener is not None:
                listener.stop(grace + ANSWERING)
        if self._direct is not None:
            with trio.move_on_after(grace):
                await self._direct.ended.wait()
            self._direct.interrupt()

    async def tell(self, events: Sequence[Event]) -> None:
        """Keep what belongs to no delivery: an idle session was closed."""
        if self._records is not None:
            await self._records.tell(events)

    def _room(self) -> bool:
        return self._backlog is None or not self._backlog.full

    def _lmtp_terms(self, hostname: str, direct: Direct) -> LmtpTerms:
        settings = self._settings
        directory = Path(settings.state_dir)
        intake = LmtpIntake(
            direct,
            directory,
            inline_limit=settings.queue.inline_limit,
            max_size=0,  # the SMTP machine has refused before
            free=lambda: shutil.disk_usage(directory).free,
            min_free=settings.queue.min_free_disk,
            room=self._room,
        )
        terms = msgspec.structs.replace(
            settings.relay,
            max_connections=settings.lmtp.max_connections,
            client_connections=None,  # one calling MTA is all there is
            client_messages=None,
            client_recipients=None,
            proxy=(),
        )
        return LmtpTerms(terms, hostname, intake, settings.route, float(settings.lmtp.deadline))

    def _desk(self, helo: str) -> Desk:
        settings = self._settings
        return Desk(
            digest=self._digest,
            helo=helo,
            directory=Path(settings.state_dir),
            inline_limit=settings.queue.inline_limit,
            max_size=settings.relay.max_message_size,
            max_hops=settings.relay.max_hops,
            max_recipients=settings.relay.max_recipients,
            max_connections=settings.send.max_connections,
            detect_utf8=settings.send.detect_utf8,
            room=self._room,
        )


@asynccontextmanager
async def open_doors(
    settings: Settings, digest: str | None, clock: Clock, doorway: Doorway | None = None
) -> AsyncIterator[Doors]:
    """The doors of the settings; the hand-over only with a `digest`, and where no other service has it.

    `doorway` is what listens, where that was opened before for several processes.
    Raises ConfigurationError or StorageError.
    """
    if doorway is None:
        with closing(Doorway.open(settings, handover=digest is not None)) as opened:
            async with _behind(opened, settings, digest, clock) as doors:
                opened.announce()
                yield doors
    else:
        async with _behind(doorway, settings, digest, clock) as doors:
            yield doors


@asynccontextmanager
async def _behind(
    doorway: Doorway, settings: Settings, digest: str | None, clock: Clock
) -> AsyncIterator[Doors]:
    lmtp, handover = doorway.lmtp(), doorway.handover()
    if not lmtp and not handover:
        yield Doors(settings, digest, None, None, (), ())
        return
    backlog = Backlog(settings.events.backlog, matcher(event_actions(settings)))
    records = await Records.open(settings, Appending(backlog.append_each), clock)
    try:
        yield Doors(settings, digest, records, backlog, lmtp, handover)
    finally:
        with trio.CancelScope(shield=True):
            await records.aclose()
