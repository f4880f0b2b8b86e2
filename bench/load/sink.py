"""The next hop of everybody: a lean SMTP server for many addresses, in a process of its own.

`python -m bench.load.sink JSON` with the fields of `SinkOrder`. It prints `ready` when it listens and serves
until its standard input ends. One thread, epoll, non-blocking sockets; TLS by OpenSSL without asyncio.
Addresses in `slow` answer the end of a message after `delay` seconds, those in `deferring` say 451 to RCPT.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import re
import select
import socket
import ssl
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.load.ledger import Ledger

_CHUNK = 262_144
_NUMBER = re.compile(rb"<m(\d+)@", re.IGNORECASE)
_SIZE = re.compile(rb"BDAT (\d+)( LAST)?\r\n", re.IGNORECASE)
_END = b"\r\n.\r\n"


@dataclass(frozen=True, slots=True)
class SinkOrder:
    """What the sink is to do. `chain` and `key` are PEM files; without them it offers no STARTTLS."""

    addresses: tuple[str, ...]
    port: int
    ledger: str
    messages: int
    chain: str = ""
    key: str = ""
    slow: tuple[str, ...] = ()
    deferring: tuple[str, ...] = ()
    delay: float = 1.0

    def as_argument(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_argument(cls, text: str) -> SinkOrder:
        """Read `as_argument`."""
        return cls(**json.loads(text))


class _Connection:
    """One client; `body`: content is coming, until its final dot."""

    __slots__ = (
        "body",
        "buffer",
        "chunk",
        "deferring",
        "handshaking",
        "last",
        "numbers",
        "out",
        "slow",
        "socket",
        "thinking",
        "tls",
    )

    def __init__(self, connected: socket.socket, slow: bool, deferring: bool) -> None:
        self.socket = connected
        self.slow, self.deferring = slow, deferring
        self.buffer = bytearray()
        self.out = bytearray()
        self.numbers: list[int] = []
        self.body = False
        self.chunk = -1  # octets of a BDAT chunk to come
        self.last = False
        self.tls = False
        self.handshaking = False
        self.thinking = False  # about a message; what follows has to wait for the answer


class Sink:
    """Serves until standard input ends."""

    def __init__(self, order: SinkOrder) -> None:
        self._order = order
        self._ledger = Ledger(Path(order.ledger), order.messages)
        self._poll = select.epoll()
        self._listeners: dict[int, socket.socket] = {}
        self._connections: dict[int, _Connection] = {}
        self._later: list[tuple[float, int, _Connection]] = []
        self._slow, self._deferring = frozenset(order.slow), frozenset(order.deferring)
        self._tls: ssl.SSLContext | None = None
        if order.chain:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(order.chain, order.key)

    def listen(self) -> None:
        """Bind every address."""
        for address in self._order.addresses:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, self._order.port))
            listener.listen(1024)
            listener.setblocking(False)
            self._listeners[listener.fileno()] = listener
            self._poll.register(listener, select.EPOLLIN)

    def serve(self) -> None:
        """Until standard input ends."""
        self._poll.register(sys.stdin.fileno(), select.EPOLLIN | select.EPOLLHUP)
        while True:
            pause = max(0.0, self._later[0][0] - time.monotonic()) if self._later else -1
            for number, _ in self._poll.poll(pause):
                if number == sys.stdin.fileno():
                    return
                if number in self._listeners:
                    self._accept(self._listeners[number])
                elif number in self._connections:
                    self._serve(number, self._connections[number])
            self._answer_late()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                connected, _ = listener.accept()
                connected.setblocking(False)
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                address = listener.getsockname()[0]
                connection = _Connection(connected, address in self._slow, address in self._deferring)
                self._connections[connected.fileno()] = connection
                self._poll.register(connected, select.EPOLLIN)
                connected.send(b"220 sink ESMTP\r\n")

    def _serve(self, number: int, connection: _Connection) -> None:
        try:
            if connection.handshaking and not self._shake_hands(connection):
                return
            while True:
                received = connection.socket.recv(_CHUNK)
                if not received:
                    self._close(number, connection)
                    return
                connection.buffer += received
                if not connection.tls or not connection.socket.pending():  # type: ignore[attr-defined]
                    break
            self._work(connection)
            self._flush(connection)
        except (ssl.SSLWantReadError, BlockingIOError):
            return
        except (OSError, ssl.SSLError, EOFError):
            self._close(number, connection)

    def _flush(self, connection: _Connection) -> None:
        if connection.out:
            connection.socket.sendall(connection.out)  # replies are short: they fit the socket's buffer
            connection.out.clear()

    def _shake_hands(self, connection: _Connection) -> bool:
        try:
            connection.socket.do_handshake()  # type: ignore[attr-defined]
        except ssl.SSLWantReadError:
            return False
        connection.handshaking, connection.tls = False, True
        return True

    def _close(self, number: int, connection: _Connection) -> None:
        self._connections.pop(number, None)
        with contextlib.suppress(OSError, ValueError):
            self._poll.unregister(number)
        connection.socket.close()

    def _work(self, connection: _Connection) -> None:
        buffer = connection.buffer
        while buffer and not connection.thinking:
            if connection.chunk >= 0:
                if not self._chunk(connection):
                    return
            elif connection.body:
                end = buffer.find(_END)
                if end < 0:
                    if buffer.startswith(b".\r\n"):  # an empty message
                        end = -2
                    else:
                        del buffer[: max(0, len(buffer) - len(_END))]
                        return
                del buffer[: end + len(_END)]
                connection.body = False
                self._take(connection)
            else:
                end = buffer.find(b"\r\n")
                if end < 0:
                    return
                line = bytes(buffer[: end + 2])
                del buffer[: end + 2]
                self._command(connection, line)

    def _chunk(self, connection: _Connection) -> bool:
        """Skip the octets of a chunk; whether it is complete."""
        skipped = min(connection.chunk, len(connection.buffer))
        del connection.buffer[:skipped]
        connection.chunk -= skipped
        if connection.chunk:
            return False
        connection.chunk = -1
        if connection.last:
            self._take(connection)
        else:
            connection.out += b"250 2.0.0 more\r\n"
        return True

    def _command(self, connection: _Connection, line: bytes) -> None:
        verb = line[:4].upper()
        if verb == b"MAIL" or verb == b"RSET":
            connection.numbers = []
            connection.out += b"250 2.0.0 ok\r\n"
        elif verb == b"RCPT":
            self._recipient(connection, line)
        elif verb == b"DATA":
            connection.body = bool(connection.numbers)
            connection.out += b"354 go on\r\n" if connection.body else b"554 5.5.1 nobody\r\n"
        elif verb == b"BDAT":
            found = _SIZE.match(line)
            connection.chunk, connection.last = int(found[1]) if found else 0, bool(found and found[2])
            if not connection.chunk:
                connection.chunk = -1
                self._take(connection)
        elif verb == b"EHLO":
            starttls = b"250-STARTTLS\r\n" if self._tls and not connection.tls else b""
            connection.out += (
                b"250-sink\r\n250-PIPELINING\r\n250-SIZE 100000000\r\n"
                + starttls
                + b"250-ENHANCEDSTATUSCODES\r\n250-CHUNKING\r\n250 8BITMIME\r\n"
            )
        elif verb == b"STAR" and self._tls:
            self._start_tls(connection)
        elif verb == b"QUIT":
            connection.out += b"221 2.0.0 bye\r\n"
        else:
            connection.out += b"250 2.0.0 ok\r\n" if verb in (b"HELO", b"NOOP") else b"500 5.5.2 what\r\n"

    def _recipient(self, connection: _Connection, line: bytes) -> None:
        if connection.deferring:
            connection.out += b"451 4.3.0 come back later\r\n"
            return
        found = _NUMBER.search(line)
        if found is None or int(found[1]) >= self._order.messages:
            connection.out += b"550 5.1.1 nobody\r\n"
            return
        connection.numbers.append(int(found[1]))
        connection.out += b"250 2.1.5 ok\r\n"

    def _start_tls(self, connection: _Connection) -> None:
        assert self._tls is not None
        connection.socket.sendall(connection.out + b"220 2.0.0 go\r\n")
        connection.out.clear()
        connection.buffer.clear()
        number = connection.socket.fileno()
        connection.socket = self._tls.wrap_socket(
            connection.socket, server_side=True, do_handshake_on_connect=False
        )
        assert connection.socket.fileno() == number
        connection.handshaking = True

    def _take(self, connection: _Connection) -> None:
        if connection.slow:
            connection.thinking = True
            heapq.heappush(self._later, (time.monotonic() + self._order.delay, id(connection), connection))
            return
        self._taken(connection)

    def _taken(self, connection: _Connection) -> None:
        moment = time.monotonic()
        for number in connection.numbers:
            self._ledger.note_copy(number, moment)
        connection.numbers = []
        connection.out += b"250 2.0.0 taken\r\n"

    def _answer_late(self) -> None:
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            *_, connection = heapq.heappop(self._later)
            if connection.socket.fileno() < 0:
                continue  # it has gone: nothing was acknowledged, nothing counts
            number = connection.socket.fileno()
            connection.thinking = False
            self._taken(connection)
            self._work(connection)
            try:
                self._flush(connection)
            except (OSError, ssl.SSLError):
                self._close(number, connection)


def main() -> None:
    """Listen, say so, serve."""
    sink = Sink(SinkOrder.from_argument(sys.argv[1]))
    sink.listen()
    print("ready", flush=True)
    sink.serve()


if __name__ == "__main__":
    main()
