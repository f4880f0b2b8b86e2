"""A scripted SMTP server on trio and the standard library's `ssl` (RFC 5321, 3207, 2920, 1870, 6152).

It keeps what it receives, misbehaves as its `Behaviour` says, and notes in `violations` whatever the client
does against the rules. It shares no code with the client under test.
"""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from tests.internet.behaviour import Action, Behaviour
from tests.internet.dialogue import Dialogue
from tests.internet.received import Connection, ReceivedMessage
from tests.internet.wire import Wire


class SmtpServer:
    """One server by `name`, on any number of addresses. Without a `context` it has no TLS.

    `behaviour` may be replaced at any time; it counts for connections that begin afterwards. `observers` are
    called, in the server's thread, after every message and at the end of every connection.
    """

    def __init__(
        self, name: str, context: ssl.SSLContext | None = None, behaviour: Behaviour | None = None
    ) -> None:
        self.name = name
        self.context = context
        self.port = 0  # set by whoever binds its sockets
        self.received: list[ReceivedMessage] = []
        self.connections: list[Connection] = []
        self.violations: list[str] = []
        self.observers: list[Callable[[], None]] = []
        self._behaviour = behaviour or Behaviour()
        self._uses: Counter[str] = Counter()
        self._changed = trio.Event()

    @property
    def behaviour(self) -> Behaviour:
        """How it behaves towards the next connection."""
        return self._behaviour

    @behaviour.setter
    def behaviour(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._uses.clear()

    @property
    def messages(self) -> tuple[ReceivedMessage, ...]:
        """The messages that it took responsibility for."""
        return tuple(message for message in self.received if message.accepted)

    async def wait_for(self, condition: Callable[[SmtpServer], bool]) -> None:
        """Return when `condition` holds; looked at after every message and connection."""
        while not condition(self):
            await self._changed.wait()

    async def wait_for_messages(self, count: int) -> tuple[ReceivedMessage, ...]:
        """Wait until so many messages were accepted, and return them all."""
        await self.wait_for(lambda server: len(server.messages) >= count)
        return self.messages

    async def wait_for_end(self, count: int = 1) -> None:
        """Wait until so many connections have ended."""
        await self.wait_for(lambda server: sum(c.ended is not None for c in server.connections) >= count)

    def override(self, behaviour: Behaviour, point: str, argument: str) -> Action | None:
        """What to do instead of the ordinary reply this time."""
        override = behaviour.replies.get(point)
        if isinstance(override, tuple):
            self._uses[point] += 1
            place = self._uses[point] - 1
            return override[place] if place < len(override) else None
        return override(argument) if callable(override) else override

    def changed(self) -> None:
        """Wake whoever waits."""
        self._changed.set()
        self._changed = trio.Event()
        for observer in self.observers:
            observer()

    async def serve(
        self,
        listeners: list[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled."""
        await trio.serve_listeners(self._converse, listeners, task_status=task_status)

    async def _converse(self, stream: trio.SocketStream) -> None:
        connection = Connection(_peer(stream))
        self.connections.append(connection)
        async with Wire(stream) as wire:
            await Dialogue(self, wire, connection, self.behaviour).run()
        self.changed()


def _peer(stream: trio.SocketStream) -> str:
    try:
        name = stream.socket.getpeername()
    except OSError:  # reset before it was looked at
        return ""
    return str(name[0]) if name else ""


@asynccontextmanager
async def open_server(
    behaviour: Behaviour | None = None,
    *,
    name: str = "mx.example.test",
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[SmtpServer]:
    """One server alone, without DNS, on 127.0.0.1 and a free port, to be found in its `port`."""
    server = SmtpServer(name, context, behaviour)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server.port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, listeners)
        try:
            yield server
        finally:
            nursery.cancel_scope.cancel()
