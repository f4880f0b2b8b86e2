"""The SMTP listener of `outrider relay`: accepts connections, bounds their number, stops gracefully.

No client can bring it down: an error in one connection ends that connection, is logged, and nothing else.
When too many connections are open, the next gets 421 at once (RFC 5321 3.1, 4.2.3), so that established
clients go on. On `stop` idle clients get 421, a client that is sending content may finish it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import partial

import trio

from deliver.message import MessageId
from deliver.net.clock import Clock
from deliver.net.patience import PatientListener
from deliver.net.prompt import PromptStream
from deliver.relay.access import client_address, may_relay
from deliver.relay.binding import Bound
from deliver.relay.clientstream import CLOSING
from deliver.relay.connection import Connection
from deliver.relay.intake import Intake
from deliver.relay.introduction import introduce
from deliver.relay.limits import Allowance, ClientLimits, connections_within
from deliver.relay.security import Client, NoSecurity, Security
from deliver.relay.terms import DEFAULT, Terms, terms_of
from deliver.relay.timekeeper import Timekeeper
from deliver.report.log import say
from deliver.settings import Relay, Route
from deliver.smtp.answer import encode
from deliver.smtp.reply import Reply
from deliver.smtp.server import ServerMachine
from deliver.tuning import file_limit

log = logging.getLogger("outrider.relay")


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
        *,
        security: Security | None = None,
        protocol_detail: bool = False,
        limits: ClientLimits | None = None,
    ) -> None:
        """`hostname` is our name in the banner and in Received; `routes` that reject do so at RCPT.

        `protocol_detail`: unusual ends of connections are logged. `limits` are shared with other processes.
        Raises ConfigurationError.
        """
        self._clock = clock
        self._new_id = new_id
        self._connections: set[Connection] = set()
        self._accepting: dict[object, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None
        self._introducing = 0  # connections whose PROXY header is awaited
        self._stopped = trio.Event()
        self._serving = trio.CancelScope()
        self._timekeeper = Timekeeper()
        self._limits = limits or ClientLimits(Allowance(), trio.current_time)
        self.reconfigure(
            settings, hostname, intake, routes, security=security, protocol_detail=protocol_detail
        )

    def reconfigure(
        self,
        settings: Relay,
        hostname: str,
        intake: Intake,
        routes: tuple[Route, ...] = (),
        *,
        security: Security | None = None,
        protocol_detail: bool = False,
    ) -> None:
        """Other settings for the connections that come; those that are open go on with theirs.

        Raises ConfigurationError.
        """
        self._terms = terms_of(settings, hostname, routes, protocol_detail=protocol_detail)
        self._settings = settings
        self._most = self._most_connections()
        self._security = security or NoSecurity()
        self._limits.allowance = Allowance(
            settings.client_connections, settings.client_messages, settings.client_recipients
        )
        self._intake = intake

    def _most_connections(self) -> int:
        wanted, files = self._settings.max_connections, file_limit()
        most = connections_within(wanted, files)
        if most < wanted:
            say(
                log, logging.WARNING, "fewer connections than max_connections",
                possible=most, max_connections=wanted, open_files=files, remedy="raise LimitNOFILE",
            )  # fmt: skip
        return most

    async def serve(
        self,
        listeners: Sequence[trio.abc.Listener[trio.SocketStream]],
        places: Sequence[str] = (),
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept and serve until `stop` was called and the last connection has ended; closes `listeners`.

        `places` as in `terms.places`, one for each; none: the terms are those of `relay.listen`.
        """
        with self._serving:
            async with trio.open_nursery() as beside:
                await beside.start(self._timekeeper.run)
                async with trio.open_nursery() as self._nursery:
                    self._note_open()
                    for listener, place in zip(listeners, places or [DEFAULT] * len(listeners), strict=True):
                        self.add(listener, place)
                    task_status.started()
                    await self._stopped.wait()
                beside.cancel_scope.cancel()

    def add(self, listener: trio.abc.Listener[trio.SocketStream], place: str = DEFAULT) -> None:
        """Accept there too; only while `serve` runs."""
        assert self._nursery is not None, "nothing is served"
        scope = self._accepting[listener] = trio.CancelScope(
            deadline=-math.inf if self._stopped.is_set() else math.inf
        )
        self._nursery.start_soon(self._accept, listener, place, scope, self._nursery)

    def remove(self, listener: trio.abc.Listener[trio.SocketStream]) -> None:
        """Accept no more there, and close it; connections that were made go on."""
        self._accepting[listener].cancel()

    async def _accept(
        self,
        listener: trio.abc.Listener[trio.SocketStream],
        place: str,
        scope: trio.CancelScope,
        connections: trio.Nursery,
    ) -> None:
        with scope:
            accepted = partial(self._accepted, place=place)
            source = listener
            if self._limits.shared and isinstance(listener, trio.SocketListener):
                source = PatientListener(listener, self._limits.ahead)
            await trio.serve_listeners(accepted, [source], handler_nursery=connections)
        del self._accepting[listener]

    def stop(self, grace: float) -> None:
        """Accept no more; who is sending content has `grace` seconds, which a second call may shorten."""
        self._stopped.set()
        for scope in tuple(self._accepting.values()):
            scope.cancel()
        self._serving.deadline = min(self._serving.deadline, trio.current_time() + grace)
        for connection in self._connections:
            connection.stop()

    async def handle(
        self,
        stream: trio.abc.Stream,
        client: str,
        *,
        port: int = 0,
        local: tuple[str, int] = ("", 0),
        place: str = DEFAULT,
    ) -> None:
        """Serve one client with the IP address `client`; never raises but for cancellation."""
        terms = self._terms.get(place)
        if terms is None and place in self._settings.listen:
            terms = self._terms[DEFAULT]
        if terms is None:  # closed by a reload meanwhile
            await self._turn_away(stream, client, "4.3.2 Nothing is served here any more")
            return
        who = Client(client_address(client), port, local)
        if self._full():
            await self._turn_away(stream, client, "4.7.0 Too many connections, try again later")
            return
        if self._stopped.is_set():
            await self._turn_away(stream, client, "4.3.2 The relay is stopping")
            return
        if may_relay(who.address, terms.proxies):
            self._introducing += 1
            self._note_open()
            try:
                introduced = await introduce(stream, who, terms.proxy_timeout)
            finally:
                self._introducing -= 1
                self._note_open()
            if introduced is None:
                return
            who = introduced
        if not self._limits.connect(who.address):
            await self._turn_away(stream, who.address, "4.7.0 Too many connections from your address")
            return
        connection = self._connection(stream, who, terms)
        self._connections.add(connection)
        self._note_open()
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            self._note_open()
            self._limits.disconnect(who.address)

    def _full(self) -> bool:
        own = len(self._connections) + self._introducing
        return own >= self._most or own + self._limits.others_open() >= self._settings.max_connections

    def _note_open(self) -> None:
        self._limits.note_open(len(self._connections) + self._introducing)

    def _connection(self, stream: trio.abc.Stream, client: Client, terms: Terms) -> Connection:
        security = self._security
        offer = terms.offer(tls=security.tls, mechanisms=security.mechanisms(client))
        machine = ServerMachine(terms.limits, terms.hostname, offer)
        return Connection(
            stream, client, machine, terms, self._intake, self._clock, self._new_id, security, self._limits,
            self._timekeeper,
        )  # fmt: skip

    async def _accepted(self, stream: trio.SocketStream, place: str = DEFAULT) -> None:
        try:
            client, port = stream.socket.getpeername()[:2]
            local = stream.socket.getsockname()[:2]
        except OSError:  # gone before we looked
            await trio.aclose_forcefully(stream)
            return
        await self.handle(PromptStream.instead_of(stream), client, port=port, local=local, place=place)

    async def _turn_away(self, stream: trio.abc.Stream, client: str, text: str) -> None:
        say(log, logging.WARNING, "connection turned away", client=client, why=text)
        try:
            with trio.move_on_after(CLOSING):
                await stream.send_all(encode(Reply(421, (text,))))
        except trio.BrokenResourceError:
            pass
        finally:
            await trio.aclose_forcefully(stream)


def listeners_on(bound: Bound) -> list[trio.SocketListener]:
    """The sockets as trio has them; what is bound stays bound when they are closed by a copy."""
    return [trio.SocketListener(trio.socket.from_stdlib_socket(each)) for each in bound.values()]
