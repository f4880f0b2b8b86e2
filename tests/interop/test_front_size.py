"""How large the relay grows: with idle and live connections, with more of them than it may have, with large mail.

Sizes are what the kernel says of the process (/proc). The short forms run in `make test`, the full ones in `make soak`.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import soaking
from tests.durability.test_kill_relay import Quiet
from tests.internet import LiveInternet
from tests.interop.frontdoor import Papers
from tests.interop.service import START
from tests.interop.test_workers import children
from tests.interop.waiting import until

MB = 1024
SOAK = soaking(os.environ)
IDLE, LIVE = 1000, 2000  # connections
PLACES, CROWD = (9000, 10_000) if SOAK else (250, 700)
SENDERS, LARGE = (40, 25) if SOAK else (12, 8)  # clients, megabytes each
CHUNK = (b"x" * 76 + b"\r\n") * 800

pytestmark = pytest.mark.timeout(900 if SOAK else 60)


class Sized(Quiet):
    """A relay in one process that says how large it is."""

    def __init__(self, live: LiveInternet, directory: Path) -> None:
        super().__init__(live, directory)
        self.options += ["relay.workers=1", "relay.max_connections=3000", "log.level=warning"]
        self.files_allowed: tuple[int, int] | None = None

    def command(self, *verb: str) -> list[str]:
        command = super().command(*verb)
        if self.files_allowed is None:
            return command
        return ["prlimit", "--nofile={}:{}".format(*self.files_allowed), *command]

    def size(self) -> int:
        """In kB."""
        assert self.process is not None
        return size_of(self.process.pid)


def size_of(pid: int, what: str = "VmRSS") -> int:
    """Of a process, in kB; VmHWM: the largest so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(f"{what}:")))


@pytest.fixture
def relay(live: LiveInternet, tmp_path: Path) -> Iterator[Sized]:
    relay = Sized(live, tmp_path / "state")
    yield relay
    if relay.process is not None and relay.process.poll() is None:
        relay.kill()


@pytest.fixture
def many_files() -> Iterator[None]:
    """Enough for a connection each, here and in the relay, which gives half of its files to clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * max(PLACES, LIVE)
    if resource.RLIM_INFINITY != hard < wanted:
        pytest.skip(f"{hard} open files are too few")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Client:
    """One that speaks when it is told to."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), START)
        self._file = self._socket.makefile("rb")

    def reply(self) -> int:
        """The code of the next reply; 0: the relay has closed."""
        while (line := self._file.readline())[3:4] == b"-":
            pass
        return int(line[:3] or 0)

    def say(self, *lines: str) -> list[int]:
        """Send the lines at once; their replies."""
        self.send("".join(f"{line}\r\n" for line in lines).encode())
        return [self.reply() for _ in lines]

    def send(self, data: bytes) -> None:
        """Octets as they are."""
        self._socket.sendall(data)

    def secure(self, context: ssl.SSLContext) -> None:
        """STARTTLS."""
        assert self.say("STARTTLS") == [220]
        self._socket = context.wrap_socket(self._socket, server_hostname="relay.test")
        self._file = self._socket.makefile("rb")

    def close(self) -> None:
        """Without QUIT."""
        with contextlib.suppress(OSError):
            self._file.close()
            self._socket.close()


def connect(stack: ExitStack, relay: Sized, count: int) -> list[Client]:
    """So many clients that were greeted and have said EHLO."""
    clients = []
    for _ in range(count):
        clients.append(stack.enter_context(contextlib.closing(Client(relay.port))))
        assert clients[-1].reply() == 220
        assert clients[-1].say("EHLO client.test") == [250]
    return clients


def prove_delivery(live: LiveInternet, relay: Sized, name: str) -> None:
    """What is handed over now arrives; a place that has just become free may take a moment."""
    deadline = time.monotonic() + START
    while True:
        with contextlib.closing(Client(relay.port)) as client:
            if client.reply() == 220:
                opening = ("EHLO client.test", "MAIL FROM:<me@sender.test>", f"RCPT TO:<{name}@plain.test>")
                assert client.say(*opening, "DATA") == [250, 250, 250, 354]
                assert client.say("Subject: hello\r\n\r\nhello\r\n.", "QUIT") == [250, 221]
                break
        assert time.monotonic() < deadline, "there is no place"
    live.wait_until(lambda _: f"{name}@plain.test" in live.recipients(), START)


def test_each_idle_worker_is_small(live: LiveInternet, relay: Sized) -> None:
    relay.options.append("relay.workers=2")
    relay.start()
    prove_delivery(live, relay, "first")
    assert relay.process is not None
    workers = children(relay.process.pid)
    assert len(workers) == 2
    assert [size_of(pid) for pid in workers if size_of(pid) > 90 * MB] == []
    assert relay.end(signal.SIGTERM) == 0


def test_a_thousand_idle_connections_in_clear(live: LiveInternet, relay: Sized, many_files: None) -> None:
    relay.start()
    assert relay.size() < 90 * MB, "idle"
    with ExitStack() as stack:
        clients = connect(stack, relay, IDLE)
        assert relay.size() < 150 * MB
        prove_delivery(live, relay, "between")
        assert {client.say("NOOP")[0] for client in clients} == {250}, "all are still served"
    assert relay.end(signal.SIGTERM) == 0


@pytest.mark.soak
def test_a_thousand_idle_connections_under_tls(
    live: LiveInternet, relay: Sized, many_files: None, tmp_path: Path
) -> None:
    papers = Papers(tmp_path)
    papers.issue("mail", "relay.test")
    relay.options.append(
        f'relay.tls.certificate=[{{chain_file="{tmp_path}/mail.pem", key_file="{tmp_path}/mail.key"}}]'
    )
    context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    relay.start()
    with ExitStack() as stack:
        clients = connect(stack, relay, IDLE)
        for client in clients:
            client.secure(context)
        assert {client.say("EHLO client.test")[0] for client in clients} == {250}
        assert relay.size() < 150 * MB
        prove_delivery(live, relay, "between")
    assert relay.end(signal.SIGTERM) == 0


def test_two_thousand_live_sessions(live: LiveInternet, relay: Sized, many_files: None) -> None:
    relay.start()
    with ExitStack() as stack:
        clients = connect(stack, relay, LIVE)
        for number, client in enumerate(clients):
            opening = ("MAIL FROM:<me@sender.test>", f"RCPT TO:<r{number}@plain.test>", "DATA")
            assert client.say(*opening) == [250, 250, 354]
            client.send(b"Subject: not over\r\n\r\n" + CHUNK[:3900])
        assert relay.size() < 300 * MB
        prove_delivery(live, relay, "between")
    assert relay.end(signal.SIGTERM) == 0
    assert live.recipients() == ["between@plain.test"], "what was cut off is nobody's"


def test_more_clients_than_places(live: LiveInternet, relay: Sized, many_files: None) -> None:
    relay.options.append(f"relay.max_connections={PLACES}")
    relay.start()
    with ExitStack() as stack:
        clients = connect(stack, relay, PLACES)
        small = relay.size()
        for _ in range(CROWD - PLACES):
            late = stack.enter_context(contextlib.closing(Client(relay.port)))
            assert late.reply() == 421
            assert late.reply() == 0
        assert relay.size() < small + 10 * MB, "who is turned away leaves nothing behind"
        assert relay.size() < 90 * MB + PLACES * 60, "kB for each client"
        clients.pop().close()
        prove_delivery(live, relay, "between")
        assert {client.say("NOOP")[0] for client in clients} == {250}
    assert relay.end(signal.SIGTERM) == 0


def test_connections_leave_files_for_the_mail(live: LiveInternet, relay: Sized) -> None:
    relay.files_allowed = (128, 400)
    relay.start()
    with ExitStack() as stack:
        clients = connect(stack, relay, 200)
        late = stack.enter_context(contextlib.closing(Client(relay.port)))
        assert late.reply() == 421
        opening = ("MAIL FROM:<me@sender.test>", "RCPT TO:<a@plain.test>", "DATA")
        assert clients[0].say(*opening) == [250, 250, 354]
        clients[0].send(b"Subject: into a file\r\n\r\n" + CHUNK * 4)
        assert clients[0].say(".") == [250]
        live.wait_until(lambda _: live.recipients() == ["a@plain.test"], START)
    assert relay.end(signal.SIGTERM) == 0
    assert "fewer connections than max_connections" in relay.said()


class SlowHops:
    """Next hops, each on an address of its own; all stop reading in the middle of a message until `go_on` is set."""

    def __init__(self, count: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        self.addresses = [f"127.0.1.{number + 1}" for number in range(count)]
        self._listeners = [socket.create_server((address, self.port)) for address in self.addresses]
        self.go_on = threading.Event()
        self.taken: list[int] = []  # octets of each message
        self.stopped = threading.Barrier(count + 1, timeout=600 if SOAK else START)
        self._threads = [
            threading.Thread(target=self._serve, args=(listener,), daemon=True)
            for listener in self._listeners
        ]
        for thread in self._threads:
            thread.start()

    def _serve(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as lines:
            connection.sendall(b"220 hop ESMTP\r\n")
            while line := lines.readline():
                verb = line[:4].upper()
                connection.sendall(b"354 go on\r\n" if verb == b"DATA" else b"250 hop\r\n")
                if verb == b"DATA":
                    self.stopped.wait()
                    self.go_on.wait()
                    self.taken.append(self._drain(lines))
                    connection.sendall(b"250 2.0.0 taken\r\n")

    def _drain(self, lines: io.BufferedReader) -> int:
        octets, end = 0, b""
        while not end.endswith(b"\r\n.\r\n"):
            piece = lines.read1(1 << 20)
            octets += len(piece)
            end = (end + piece)[-5:]
        return octets - 3

    def close(self) -> None:
        """Take no more."""
        self.go_on.set()
        for listener in self._listeners:
            listener.close()


def exchange_large_mail(relay: Quiet, hops: SlowHops) -> None:
    """All messages half received at the same moment, then all half delivered; the relay's size tells nothing of it."""
    routes = [
        f'{{domains=["d{number}.test"], via="smarthost", hosts=["{address}:{hops.port}"], level="none"}}'
        for number, address in enumerate(hops.addresses)
    ]
    relay.options.append(f"route=[{', '.join(routes)}]")
    relay.start()
    assert relay.process is not None
    pid = relay.process.pid
    before = size_of(pid)
    half = threading.Barrier(SENDERS, timeout=600 if SOAK else START)
    codes: list[int] = []

    def send(number: int) -> None:
        with contextlib.closing(Client(relay.port)) as client:
            assert client.reply() == 220
            assert client.say("EHLO client.test") == [250]
            opening = ("MAIL FROM:<me@sender.test>", f"RCPT TO:<a@d{number}.test>", "DATA")
            assert client.say(*opening) == [250, 250, 354]
            client.send(b"Subject: large\r\n\r\n")
            pieces = LARGE * 1024 * 1024 // len(CHUNK)
            for piece in range(pieces):
                if piece == pieces // 2:
                    half.wait()
                client.send(CHUNK)
            codes.extend(client.say("."))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(SENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(START * 20)
    assert codes == [250] * SENDERS
    hops.stopped.wait()
    assert size_of(pid, "VmHWM") < before + 60 * MB
    hops.go_on.set()
    until(lambda: len(hops.taken) == SENDERS, limit=600 if SOAK else START)
    assert size_of(pid, "VmHWM") < before + 60 * MB
    assert min(hops.taken) > (LARGE - 1) * 1024 * 1024
    assert relay.end(signal.SIGTERM) == 0


def test_much_mail_in_flight_is_not_as_much_memory(live: LiveInternet, relay: Sized) -> None:
    with contextlib.closing(SlowHops(SENDERS)) as hops:
        exchange_large_mail(relay, hops)
