"""The SMTP listener of `outrider relay`: accepts connections, bounds their number, stops gracefully.

No client can bring it down: an error in one connection ends that connection, is logged, and nothing else.
When too many connections are open, the next gets 421 at once (RFC 5321 3.1, 4.2.3), so that established
clients go on. On `stop` idle clients get 421, a client that is sending content may finish it.
"""

from __future__ import annotations

import errno
import logging
import math
import os
from collections.abc import Callable, Sequence

import trio

from deliver.endpoint import split
from deliver.errors import ConfigurationError
from deliver.message import MessageId
from deliver.net.clock import Clock
from deliver.relay.access import client_address, networks
from deliver.relay.connection import CLOSING, Connection, Terms
from deliver.relay.intake import Intake
from deliver.report.log import say
from deliver.settings import Relay, Route
from deliver.smtp.reply import Reply
from deliver.smtp.server import Limits, ServerMachine, encode

DEFAULT_PORT = 25

log = logging.getLogger("outrider.relay")

_REMEDIES = {
    errno.EADDRINUSE: "stop the other server there, or change {key}",
    errno.EACCES: "a port below 1024 needs CAP_NET_BIND_SERVICE, or choose another in {key}",
    errno.EADDRNOTAVAIL: "{key} must name an address of this machine",
}


class Listener:
    """Serves SMTP clients. `serve` runs until `stop`; every message goes to the intake."""

    def __init__(
        self,
        settings: Relay,
        hostname: str,
        intake: Intake,
        clock: Clock,
        new_id: Callable[[], MessageId],
        routes: tuple[Route, ...] = (),
    ) -> None:
        """`hostname` is our name in the banner and in Received; `routes` that reject do so at RCPT.

        Raises ConfigurationError.
        """
        self._clock = clock
        self._new_id = new_id
        self._connections: set[Connection] = set()
        self._accepting: dict[object, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None
        self._stopped = trio.Event()
        self._serving = trio.CancelScope()
        self.reconfigure(settings, hostname, intake, routes)

    def reconfigure(
        self, settings: Relay, hostname: str, intake: Intake, routes: tuple[Route, ...] = ()
    ) -> None:
        """Other settings for the connections that come; those that are open go on with theirs.

        Raises ConfigurationError.
        """
        self._terms = Terms(
            hostname, networks(settings.networks), settings.max_hops, float(settings.idle_timeout), routes
        )
        self._settings = settings
        self._limits = Limits(message_size=int(settings.max_message_size), recipients=settings.max_recipients)
        self._intake = intake

    async def serve(
        self,
        listeners: Sequence[trio.abc.Listener[trio.SocketStream]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept and serve until `stop` was called and the last connection has ended; closes `listeners`."""
        with self._serving:
            async with trio.open_nursery() as self._nursery:
                for listener in listeners:
                    self.add(listener)
                task_status.started()
                await self._stopped.wait()

    def add(self, listener: trio.abc.Listener[trio.SocketStream]) -> None:
        """Accept there too; only while `serve` runs."""
        assert self._nursery is not None, "nothing is served"
        scope = self._accepting[listener] = trio.CancelScope(
            deadline=-math.inf if self._stopped.is_set() else math.inf
        )
        self._nursery.start_soon(self._accept, listener, scope, self._nursery)

    def remove(self, listener: trio.abc.Listener[trio.SocketStream]) -> None:
        """Accept no more there, and close it; connections that were made go on."""
        self._accepting[listener].cancel()

    async def _accept(
        self,
        listener: trio.abc.Listener[trio.SocketStream],
        scope: trio.CancelScope,
        connections: trio.Nursery,
    ) -> None:
        with scope:
            await trio.serve_listeners(self._accepted, [listener], handler_nursery=connections)
        del self._accepting[listener]

    def stop(self, grace: float) -> None:
        """Accept no more; who is sending content has `grace` seconds, which a second call may shorten."""
        self._stopped.set()
        for scope in tuple(self._accepting.values()):
            scope.cancel()
        self._serving.deadline = min(self._serving.deadline, trio.current_time() + grace)
        for connection in self._connections:
            connection.stop()

    async def handle(self, stream: trio.abc.Stream, client: str) -> None:
        """Serve one client with the IP address `client`; never raises but for cancellation."""
        if len(self._connections) >= self._settings.max_connections:
            await self._turn_away(stream, client, "4.7.0 Too many connections, try again later")
            return
        if self._stopped.is_set():
            await self._turn_away(stream, client, "4.3.2 The relay is stopping")
            return
        connection = self._connection(stream, client_address(client))
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)

    def _connection(self, stream: trio.abc.Stream, client: str) -> Connection:
        machine = ServerMachine(self._limits, self._terms.hostname)
        return Connection(stream, client, machine, self._terms, self._intake, self._clock, self._new_id)

    async def _accepted(self, stream: trio.SocketStream) -> None:
        try:
            client = stream.socket.getpeername()[0]
        except OSError:  # gone before we looked
            await trio.aclose_forcefully(stream)
            return
        await self.handle(stream, client)

    async def _turn_away(self, stream: trio.abc.Stream, client: str, text: str) -> None:
        say(log, logging.WARNING, "connection turned away", client=client, why=text)
        try:
            with trio.move_on_after(CLOSING):
                await stream.send_all(encode(Reply(421, (text,))))
        except trio.BrokenResourceError:
            pass
        finally:
            await trio.aclose_forcefully(stream)


async def open_listeners(addresses: Sequence[str], *, key: str = "relay.listen") -> list[trio.SocketListener]:
    """Listen on each `address:port`, or on none: ConfigurationError names what failed, and `key`."""
    opened: list[trio.SocketListener] = []
    try:
        for text in addresses:
            opened.extend(await _open(text, key))
    except BaseException:
        for listener in opened:
            listener.socket.close()
        raise
    return opened


async def _open(text: str, key: str) -> list[trio.SocketListener]:
    attempted = f"listening on {text}"
    try:
        host, port = split(text)
    except ValueError as error:
        raise ConfigurationError(attempted, str(error), f"correct {key}") from None
    try:
        return await trio.open_tcp_listeners(DEFAULT_PORT if port is None else port, host=host)
    except OSError as error:
        happened = os.strerror(error.errno) if error.errno else str(error)
        remedy = _REMEDIES.get(error.errno or 0, "correct {key}").format(key=key)
        raise ConfigurationError(attempted, happened, remedy) from error
