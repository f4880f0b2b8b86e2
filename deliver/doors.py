"""The doors without a queue of a running service: LMTP, and the hand-over from `outrider send`.

    outer    events and records            live until everything else has ended
    middle   deliveries under way          get the rest of `queue.shutdown_grace`
    inner    LMTP clients, callers         stop first; who waits for a delivery gets its answer

`open_doors` binds the sockets and opens the database `outbox.db`; `Doors.run` serves. A UNIX socket belongs to
the process that holds the lock beside it; what a process that is gone has left there is replaced.
"""

from __future__ import annotations

import errno
import fcntl
import grp
import logging
import os
import shutil
import socket
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import trio

from deliver.agent import Agent
from deliver.direct import Direct
from deliver.errors import ConfigurationError
from deliver.handover.server import Desk, HandoverListener
from deliver.message import MessageId
from deliver.net.clock import Clock
from deliver.outbox import event_actions
from deliver.records import Records
from deliver.relay.listener import open_listeners
from deliver.relay.lmtp import LmtpIntake, LmtpListener
from deliver.report.log import say
from deliver.settings import Count, Settings
from events.actions import matcher
from events.backlog import Backlog
from events.shipper import Shipper

UNIX = "unix:"
BACKLOG = 1024  # connections that wait to be accepted
ANSWERING = 5.0  # seconds for callers to be answered once their deliveries were ended
LAST_EVENTS = 2.0  # seconds at the end for the databases of the event actions

_log = logging.getLogger("outrider.service")


@dataclass(frozen=True, slots=True)
class Sockets:
    """What is listened on."""

    lmtp: tuple[trio.SocketListener, ...]
    handover: tuple[trio.SocketListener, ...]


class Doors:
    """Serves the sockets until `stop`."""

    def __init__(
        self,
        settings: Settings,
        digest: str | None,
        agent: Agent,
        hostname: str,
        new_id: Callable[[], MessageId],
        records: Records,
        sockets: Sockets,
        background: tuple[Shipper, Backlog],
    ) -> None:
        """`digest` stands for the settings towards callers that hand over; None: nothing is taken over."""
        self._sockets = sockets
        self._records = records
        self._shipper, self._backlog = background
        state_dir = Path(settings.state_dir)
        inline_limit = settings.queue.inline_limit
        max_size = settings.relay.max_message_size
        self._direct = Direct(agent, records, trio.CapacityLimiter(settings.queue.workers))
        intake = LmtpIntake(
            self._direct,
            state_dir,
            inline_limit=inline_limit,
            max_size=0,  # the SMTP machine refuses first
            free=lambda: shutil.disk_usage(state_dir).free,
            min_free=settings.queue.min_free_disk,
        )
        terms = msgspec.structs.replace(settings.relay, max_connections=Count(settings.lmtp.max_connections))
        deadline = float(settings.lmtp.deadline)
        self._lmtp = LmtpListener(terms, hostname, intake, agent.clock, new_id, settings.route, deadline)
        desk = Desk(
            digest=digest or "",
            helo=agent.helo,
            directory=state_dir,
            inline_limit=inline_limit,
            max_size=max_size,
            max_hops=settings.relay.max_hops,
            max_recipients=settings.relay.max_recipients,
            max_connections=settings.send.max_connections,
        )
        self._handover = HandoverListener(desk, self._direct, agent.clock, new_id)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop` and the end of what was under way."""
        async with trio.open_nursery() as testimony:
            testimony.start_soon(self._shipper.run)
            testimony.start_soon(self._backlog.watch, self._records.sql)
            async with trio.open_nursery() as deliveries:
                await deliveries.start(self._direct.run)
                async with trio.open_nursery() as clients:
                    if self._sockets.lmtp:
                        await clients.start(self._lmtp.serve, self._sockets.lmtp)
                    if self._sockets.handover:
                        await clients.start(self._handover.serve, self._sockets.handover)
                    for listener in self._sockets.lmtp:
                        say(_log, logging.INFO, "listening for LMTP", on=place_of(listener))
                    task_status.started()
                self._direct.stop()
            with trio.move_on_after(LAST_EVENTS):
                await self._shipper.ship_once()
            testimony.cancel_scope.cancel()
        await self._shipper.aclose()

    async def stop(self, grace: float) -> None:
        """Take nothing more; what is under way ends after `grace` seconds, and is answered."""
        self._lmtp.stop(grace + ANSWERING)
        self._handover.stop(grace + ANSWERING)
        await trio.sleep(grace)
        self._direct.interrupt()


@asynccontextmanager
async def open_doors(
    settings: Settings,
    digest: str | None,
    clock: Clock,
) -> AsyncIterator[Callable[[Agent, str, Callable[[], MessageId]], Doors] | None]:
    """Bind and open everything, and give what makes the doors of it: `make(agent, hostname, new_id)`.

    None where neither door is wanted. Raises ConfigurationError or StorageError.
    """
    with _bound(settings, digest) as sockets:
        if not sockets.lmtp and not sockets.handover:
            yield None
            return
        actions = event_actions(settings)
        backlog = Backlog(settings.events.backlog, matcher(actions))
        records = await Records.open(settings, backlog.append, clock)
        try:
            shipper = Shipper(records.sql, actions, clock=clock.now)

            def make(agent: Agent, hostname: str, new_id: Callable[[], MessageId]) -> Doors:
                return Doors(
                    settings, digest, agent, hostname, new_id, records, sockets, (shipper, backlog)
                )

            yield make
        finally:
            with trio.CancelScope(shield=True):
                await records.aclose()


@contextmanager
def _bound(settings: Settings, digest: str | None) -> Iterator[Sockets]:
    locks: list[int] = []
    opened: list[trio.SocketListener] = []
    paths: list[Path] = []
    try:
        for text in settings.lmtp.listen:
            if text.startswith(UNIX):
                path = settings.path(text.removeprefix(UNIX))
                mode, group = int(settings.lmtp.socket_mode, 8), settings.lmtp.socket_group
                opened.append(_listen_at(path, locks, "lmtp.listen", mode, group))
                paths.append(path)
        lmtp = len(opened)
        if settings.send.handover and digest is not None:
            path = settings.path(settings.send.socket)
            try:
                opened.append(_listen_at(path, locks, "send.socket", 0o600, ""))
                paths.append(path)
            except ConfigurationError as error:
                _log.warning("outrider send delivers in its own process: %s", error)
        yield Sockets(tuple(opened[:lmtp]), tuple(opened[lmtp:]))
    finally:
        for listener in opened:
            listener.socket.close()
        for path in paths:
            path.unlink(missing_ok=True)
        for lock in locks:
            os.close(lock)


def _listen_at(path: Path, locks: list[int], key: str, mode: int, group: str) -> trio.SocketListener:
    attempted = f"listening on {path}"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        locks.append(lock)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.exists() or path.is_symlink():
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise ConfigurationError(attempted, "there is something else", f"correct {key}")
            path.unlink()
        return _bind(path, mode, group)
    except BlockingIOError:
        raise ConfigurationError(
            attempted, "another process listens there", f"stop it, or change {key}"
        ) from None
    except KeyError:
        raise ConfigurationError(
            attempted, f"there is no group {group}", "correct lmtp.socket_group"
        ) from None
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        remedy = "choose a shorter path" if error.errno == errno.ENAMETOOLONG else f"correct {key}"
        raise ConfigurationError(attempted, why, remedy) from error


def _bind(path: Path, mode: int, group: str) -> trio.SocketListener:
    number = grp.getgrnam(group).gr_gid if group else -1
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o177)  # closed to others until it has its mode
        try:
            made.bind(str(path))
        finally:
            os.umask(before)
        if number >= 0:
            os.chown(path, -1, number)
        os.chmod(path, mode)
        made.listen(BACKLOG)
        return trio.SocketListener(trio.socket.from_stdlib_socket(made))
    except BaseException:
        made.close()
        raise


async def open_tcp(settings: Settings) -> Sequence[trio.SocketListener]:
    """The TCP listeners of `lmtp.listen`. Raises ConfigurationError."""
    return await open_listeners([text for text in settings.lmtp.listen if not text.startswith(UNIX)])


def place_of(listener: trio.SocketListener) -> str:
    """Where it listens, as settings spell it."""
    name = listener.socket.getsockname()
    if isinstance(name, str):
        return f"{UNIX}{name}"
    address, port = name[:2]
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
