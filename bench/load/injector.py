"""The clients of the relay: `python -m bench.load.injector JSON` with the fields of `InjectorOrder`.

`clients` connections stay open and send one message after the other: MAIL, RCPT and DATA in one flight, then
the content. A message that is refused for the time being is offered again. It ends when the relay has taken
all messages, and prints how many were refused and when it began, by the clock of the ledger. With `tls` every
message has a connection and a handshake of its own: that is how injector and sink are measured against each
other.
"""

from __future__ import annotations

import json
import select
import socket
import ssl
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.load.ledger import Ledger

_PAUSE = 0.05  # seconds before a refused message is offered again
_LINE = b"The quick brown fox jumps over the lazy dog and the dog does not mind it.\r\n"


@dataclass(frozen=True, slots=True)
class InjectorOrder:
    """Messages `first` to `first + count - 1` of `size` octets; n goes to domain n modulo their number."""

    address: str
    port: int
    ledger: str
    messages: int  # of the ledger
    first: int
    count: int
    size: int
    domains: tuple[str, ...]
    clients: int = 20
    tls: bool = False
    targets: tuple[str, ...] = ()  # instead of `address`, by domain: straight to the sink

    def as_argument(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_argument(cls, text: str) -> InjectorOrder:
        """Read `as_argument`."""
        return cls(**json.loads(text))


def content(number: int, size: int) -> bytes:
    """A message of about `size` octets, without its final dot."""
    head = (
        f"From: <bench@sender.test>\r\nTo: <m{number}@bench.test>\r\nSubject: message {number}\r\n"
        f"Date: Fri, 20 Nov 2026 12:00:00 +0000\r\n"
        f"Message-ID: <{number}.{time.time_ns()}@sender.test>\r\n\r\n"
    ).encode()
    return head + _LINE * max(1, (size - len(head)) // len(_LINE))


class _Client:
    """One connection; `stage` is what it waits for."""

    __slots__ = ("buffer", "number", "replies", "socket", "stage")

    def __init__(self) -> None:
        self.socket: socket.socket | None = None
        self.buffer = bytearray()
        self.stage = "banner"
        self.number = -1
        self.replies: list[bytes] = []


class Injector:
    """Sends all messages of an order."""

    def __init__(self, order: InjectorOrder) -> None:
        self._order = order
        self._ledger = Ledger(Path(order.ledger), order.messages)
        self._poll = select.epoll()
        self._waiting = deque(range(order.first, order.first + order.count))
        self._clients: dict[int, _Client] = {}
        self._again: deque[tuple[float, int]] = deque()
        self._open = 0
        self.refused = 0
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if order.tls else None
        if self._tls:
            self._tls.check_hostname, self._tls.verify_mode = False, ssl.CERT_NONE

    def run(self) -> None:
        """Until the relay has taken everything."""
        for _ in range(min(self._order.clients, self._order.count)):
            self._connect(_Client())
        while self._open:
            for number, _ in self._poll.poll(0.02 if self._again else 10):
                client = self._clients.get(number)
                if client is not None:
                    self._serve(client)
            self._offer_again()

    def _connect(self, client: _Client) -> None:
        client.number = -1
        target = self._order.address
        if self._order.targets and self._waiting:
            target = self._order.targets[self._waiting[0] % len(self._order.targets)]
        client.socket = socket.create_connection((target, self._order.port), timeout=30)
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.buffer.clear()
        client.stage = "banner"
        self._clients[client.socket.fileno()] = client
        self._poll.register(client.socket, select.EPOLLIN)
        self._open += 1

    def _close(self, client: _Client) -> None:
        assert client.socket is not None
        number = client.socket.fileno()
        self._clients.pop(number, None)
        self._poll.unregister(number)
        client.socket.close()
        self._open -= 1

    def _serve(self, client: _Client) -> None:
        assert client.socket is not None
        if client.stage == "handshake":
            self._shake_hands(client)
            return
        try:
            received = client.socket.recv(65536)
        except ssl.SSLWantReadError:
            return
        if not received:
            raise SystemExit(f"the relay closed a connection; it said {bytes(client.buffer)!r}")
        client.buffer += received
        while (end := client.buffer.find(b"\r\n")) >= 0:
            line = bytes(client.buffer[:end])
            del client.buffer[: end + 2]
            if line[3:4] != b"-":
                self._reply(client, line)
                if client.socket.fileno() < 0:
                    return

    def _shake_hands(self, client: _Client) -> None:
        assert isinstance(client.socket, ssl.SSLSocket)
        try:
            client.socket.do_handshake()
        except ssl.SSLWantReadError:
            return
        client.stage = "ehlo"
        client.socket.sendall(b"EHLO client.sender.test\r\n")

    def _reply(self, client: _Client, line: bytes) -> None:
        assert client.socket is not None
        match client.stage:
            case "banner":
                client.stage = "ehlo"
                client.socket.sendall(b"EHLO client.sender.test\r\n")
            case "ehlo" if self._tls and not isinstance(client.socket, ssl.SSLSocket):
                client.stage = "starttls"
                client.socket.sendall(b"STARTTLS\r\n")
            case "starttls":
                assert self._tls is not None
                number = client.socket.fileno()
                self._poll.unregister(number)
                client.socket.setblocking(False)
                client.socket = self._tls.wrap_socket(client.socket, do_handshake_on_connect=False)
                self._poll.register(client.socket, select.EPOLLIN)
                client.stage = "handshake"
                self._shake_hands(client)
            case "ehlo":
                self._next(client)
            case "flight":
                client.replies.append(line)
                if len(client.replies) == 3:
                    self._flight_over(client)
            case "dot":
                self._dot_over(client, line)

    def _next(self, client: _Client) -> None:
        assert client.socket is not None
        if not self._waiting:
            if not self._again:
                client.socket.sendall(b"QUIT\r\n")
                self._close(client)
            else:
                client.stage = "idle"
            return
        client.number = self._waiting.popleft()
        client.replies = []
        client.stage = "flight"
        domain = self._order.domains[client.number % len(self._order.domains)]
        client.socket.sendall(
            b"MAIL FROM:<bench@sender.test>\r\nRCPT TO:<m%d@%s>\r\nDATA\r\n"
            % (client.number, domain.encode())
        )

    def _flight_over(self, client: _Client) -> None:
        assert client.socket is not None
        if client.replies[2][:1] == b"3":
            client.stage = "dot"
            text = content(client.number, self._order.size)
            self._ledger.note("offered", client.number, time.monotonic())
            client.socket.sendall(text + b".\r\n")
            return
        if not any(reply[:1] == b"4" for reply in client.replies):
            raise SystemExit(f"the relay refused message {client.number}: {client.replies!r}")
        self._put_off(client)

    def _dot_over(self, client: _Client, line: bytes) -> None:
        if line[:1] == b"2":
            self._ledger.note("accepted", client.number, time.monotonic())
            if self._tls:
                self._close(client)
                if self._waiting:
                    self._connect(client)
            else:
                self._next(client)
        elif line[:1] == b"4":
            self._put_off(client)
        else:
            raise SystemExit(f"the relay refused message {client.number}: {line!r}")

    def _put_off(self, client: _Client) -> None:
        self.refused += 1
        self._again.append((time.monotonic() + _PAUSE, client.number))
        self._next(client)

    def _offer_again(self) -> None:
        now = time.monotonic()
        while self._again and self._again[0][0] <= now:
            self._waiting.append(self._again.popleft()[1])
        for client in tuple(self._clients.values()):
            if client.stage == "idle":
                self._next(client)


def main(arguments: Sequence[str]) -> None:
    """Inject, then say how many messages were refused for the time being, and when the first client came."""
    injector = Injector(InjectorOrder.from_argument(arguments[0]))
    began = time.monotonic()
    injector.run()
    print(injector.refused, began, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
