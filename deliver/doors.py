"""The doors without a queue of a running service: LMTP, and the hand-over from `outrider send`.

    outer    events and records            live until everything else has ended
    middle   deliveries under way          end after the grace
    inner    LMTP clients, callers         stop first; who waits for a delivery gets its answer

`open_doors` binds the sockets and opens the database `outbox.db`; `Doors.run` serves until `Doors.stop`.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import trio

from deliver.agent import Agent
from deliver.direct import Direct
from deliver.errors import ConfigurationError
from deliver.handover.server import Desk, HandoverListener
from deliver.message import MessageId
from deliver.net.clock import Clock
from deliver.net.local import listening, place_of
from deliver.outbox import event_actions
from deliver.records import Records
from deliver.relay.listener import open_listeners
from deliver.relay.lmtp import LmtpIntake, LmtpListener
from deliver.report.log import say
from deliver.settings import Settings
from events.actions import matcher
from events.backlog import Backlog
from events.catalogue import Event
from events.shipper import Shipper

UNIX = "unix:"
ANSWERING = 5.0  # seconds for callers to be answered once their deliveries were ended
LAST_EVENTS = 2.0  # seconds at the end for the databases of the event actions

_log = logging.getLogger("outrider.service")


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
        self._listeners: list[LmtpListener | HandoverListener] = []
        self._closing: trio.CancelScope | None = None

    async def run(
        self,
        agent: Agent,
        hostname: str,
        new_id: Callable[[], MessageId],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until `stop` and the end of what was under way. `hostname` is our name in the greeting."""
        if self._records is None or self._backlog is None:
            task_status.started()
            return
        actions = event_actions(self._settings)
        shipper = Shipper(self._records.sql, actions, clock=agent.clock.now)
        self._records.committed = shipper.poke
        direct = self._direct = Direct(
            agent, self._records, trio.CapacityLimiter(self._settings.queue.workers)
        )
        async with trio.open_nursery() as testimony:
            testimony.start_soon(shipper.run)
            testimony.start_soon(self._backlog.watch, self._records.sql)
            async with trio.open_nursery() as deliveries:
                await deliveries.start(direct.run)
                async with trio.open_nursery() as clients:
                    if self._lmtp_sockets:
                        lmtp = self._lmtp(agent, direct, hostname, new_id)
                        self._listeners.append(lmtp)
                        await clients.start(lmtp.serve, self._lmtp_sockets)
                    if self._handover_sockets:
                        handover = self._handover(agent, direct, new_id)
                        self._listeners.append(handover)
                        await clients.start(handover.serve, self._handover_sockets)
                    for listener in self._lmtp_sockets:
                        say(_log, logging.INFO, "listening for LMTP", on=place_of(listener))
                    for listener in self._handover_sockets:
                        say(_log, logging.INFO, "taking over from outrider send", on=place_of(listener))
                    task_status.started()
                direct.stop()
            with trio.move_on_after(LAST_EVENTS):
                await shipper.ship_once()
            testimony.cancel_scope.cancel()
        await shipper.aclose()

    def reload(self, agent: Agent) -> None:
        """Other settings for the deliveries that come; those of the doors themselves wait for a restart."""
        if self._direct is not None:
            self._direct.reload(agent)

    async def stop(self, grace: float) -> None:
        """Take nothing more; what is under way ends after `grace` seconds, and is answered."""
        for listener in self._listeners:
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

    def _lmtp(
        self, agent: Agent, direct: Direct, hostname: str, new_id: Callable[[], MessageId]
    ) -> LmtpListener:
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
        deadline = float(settings.lmtp.deadline)
        return LmtpListener(terms, hostname, intake, agent.clock, new_id, settings.route, deadline)

    def _handover(self, agent: Agent, direct: Direct, new_id: Callable[[], MessageId]) -> HandoverListener:
        settings = self._settings
        desk = Desk(
            digest=self._digest,
            helo=agent.helo,
            directory=Path(settings.state_dir),
            inline_limit=settings.queue.inline_limit,
            max_size=settings.relay.max_message_size,
            max_hops=settings.relay.max_hops,
            max_recipients=settings.relay.max_recipients,
            max_connections=settings.send.max_connections,
            room=self._room,
        )
        return HandoverListener(desk, direct, agent.clock, new_id)


@asynccontextmanager
async def open_doors(settings: Settings, digest: str | None, clock: Clock) -> AsyncIterator[Doors]:
    """The doors of the settings; the hand-over only with a `digest`, and where no other service has it.

    Raises ConfigurationError or StorageError.
    """
    with ExitStack() as stack:
        lmtp = await _lmtp_sockets(settings, stack)
        handover = _handover_sockets(settings, stack) if digest is not None else []
        if not lmtp and not handover:
            yield Doors(settings, digest, None, None, (), ())
            return
        backlog = Backlog(settings.events.backlog, matcher(event_actions(settings)))
        records = await Records.open(settings, backlog.append, clock)
        try:
            yield Doors(settings, digest, records, backlog, lmtp, handover)
        finally:
            with trio.CancelScope(shield=True):
                await records.aclose()


async def _lmtp_sockets(settings: Settings, stack: ExitStack) -> list[trio.SocketListener]:
    found: list[trio.SocketListener] = []
    mode, group = int(settings.lmtp.socket_mode, 8), settings.lmtp.socket_group
    for text in settings.lmtp.listen:
        if text.startswith(UNIX):
            path = settings.path(text.removeprefix(UNIX))
            found.append(stack.enter_context(listening(path, mode=mode, group=group, key="lmtp.listen")))
        else:
            for listener in await open_listeners([text], key="lmtp.listen"):
                stack.callback(listener.socket.close)
                found.append(listener)
    return found


def _handover_sockets(settings: Settings, stack: ExitStack) -> list[trio.SocketListener]:
    if not settings.send.handover:
        return []
    path = settings.path(settings.send.socket)
    try:
        return [stack.enter_context(listening(path, mode=0o600, group="", key="send.socket"))]
    except ConfigurationError as error:
        _log.warning("outrider send delivers in its own process: %s", error)
        return []
