"""SIGTERM to the real relay in every phase of a message's way: it ends by itself within the grace, with status 0,
and what was answered with 250 arrives exactly once.

Each phase has a domain of its own, whose server, resolver or address holds the delivery there, so that one
signal meets all phases at once.
"""

from __future__ import annotations

import contextlib
import signal
import smtplib
import socket
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.internet import Behaviour, Certificate, Exchanger, Gate, Held, LiveInternet, Point, Site
from tests.internet.sites import DANE_EE
from tests.interop.relayprocess import Relay
from tests.interop.service import START

SHORT = 1.0  # seconds
ENDING = 15.0  # seconds in which it ends once nothing holds it; less than the default grace of 20
LARGE = 6 * 1024 * 1024  # octets; more than the kernel's buffers take of what nobody reads
HEADER = b"Subject: keep me\r\n\r\n"

PHASES = (
    Point.CONNECT,
    Point.EHLO,
    Point.STARTTLS,
    Point.HANDSHAKE,
    Point.EHLO_TLS,
    Point.MAIL,
    Point.RCPT,
    Point.DATA,
    Point.CONTENT,
    Point.DOT,
)
RESOLVING, CONNECTING, IDLE = "resolving.test", "connecting.test", "idle.test"
pytestmark = pytest.mark.timeout(120)
UNLIMITED = ("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES")


def domain_of(phase: Point) -> str:
    return f"at-{phase.value.lower()}.test"


DOMAINS = (*map(domain_of, PHASES), RESOLVING, CONNECTING, IDLE)


def _exchanger(name: str, *, listening: bool = True) -> Exchanger:
    return Exchanger(
        name,
        certificate=Certificate.SELF_SIGNED,
        tlsa=(DANE_EE,),
        listening=listening,
        behaviour=Behaviour(keywords=UNLIMITED),
    )


def _site(domain: str) -> Site:
    first = (_exchanger(f"mx1.{domain}", listening=False),) if domain == CONNECTING else ()
    return Site(domain, (*first, _exchanger(f"mx.{domain}")))


class Stopped(Relay):
    """A relay that is told to stop, and watched while it does."""

    def tell_to_stop(self) -> None:
        """SIGTERM; returns when it has begun to stop."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self.wait_for("stopping")

    def ended(self, within: float) -> int:
        """The exit status; it ends by itself within so many seconds."""
        assert self.process is not None
        assert self.process.stderr is not None
        began = time.monotonic()
        status = self.process.wait(START)
        took = time.monotonic() - began
        said = self.process.stderr.read().decode()
        self.process.stderr.close()
        assert took < within, f"it took {took:.1f} s: {said}"
        assert "Traceback" not in said
        return status

    def wait_until_delivered(self, *recipients: str) -> None:
        """Return when the log has said so of all of them."""
        missing = set(recipients)
        while missing:
            line = self.next_line(f"not delivered: {missing}")
            if line["message"] == "delivered":
                missing -= set(str(line["to"]).split(", "))

    def connect(self) -> smtplib.SMTP:
        """A client of it, after EHLO."""
        client = smtplib.SMTP("127.0.0.1", self.port, "client.test", timeout=START)
        client.ehlo()
        return client


@pytest.fixture
def live() -> Iterator[LiveInternet]:
    with LiveInternet(tuple(map(_site, DOMAINS))) as live:
        yield live


@pytest.fixture
def relay(live: LiveInternet, tmp_path: Path) -> Iterator[Stopped]:
    relay = Stopped(live, tmp_path / "state")
    yield relay
    if relay.process is not None and relay.process.poll() is None:
        relay.kill()


@contextlib.contextmanager
def deaf(address: str, port: int) -> Iterator[Callable[[], bool]]:
    """Somebody listens there but takes no connection: the kernel drops what comes. Gives whether one waits.

    At the end of the block connections are refused.
    """
    with contextlib.ExitStack() as opened:
        listener = opened.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(0)
        filler = opened.enter_context(socket.socket())
        filler.connect((address, port))
        yield lambda: (address, port, "SYN_SENT") in connections()


def connections() -> set[tuple[str, int, str]]:
    """TCP connections of this machine as (remote address, remote port, state)."""
    states = {"01": "ESTABLISHED", "02": "SYN_SENT"}
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        remote, state = line.split()[2:4]
        address, port = remote.split(":")
        octets = bytes.fromhex(address)[::-1]
        found.add((socket.inet_ntoa(octets), int(port, 16), states.get(state, state)))
    return found


def has_read(client: socket.socket) -> bool:
    """Whether the relay has read all that this client sent: the kernel tells, nobody else does."""
    here, there = client.getsockname()[1], client.getpeername()[1]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, remote, _, queues = line.split()[1:5]
        if (int(local.split(":")[1], 16), int(remote.split(":")[1], 16)) == (there, here):
            return int(queues.split(":")[1], 16) == 0
    return False


def poll(condition: Callable[[], bool], what: str) -> None:
    """Until the kernel or a file says so; neither wakes anybody."""
    deadline = time.monotonic() + START
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def hold(live: LiveInternet) -> dict[str, Gate]:
    """Hold the deliveries to each domain but IDLE in its phase; gates by domain."""
    gates = {domain: Gate() for domain in DOMAINS if domain not in (CONNECTING, IDLE)}
    for phase in PHASES:
        script = Behaviour(keywords=UNLIMITED, replies={phase.value: Held(gates[domain_of(phase)])})
        behave(live, domain_of(phase), script)
    live.call(lambda world: world.resolver.trouble(RESOLVING, "MX", gate=gates[RESOLVING]))
    return gates


def behave(live: LiveInternet, domain: str, behaviour: Behaviour) -> None:
    def change(world: object) -> None:
        live.world.server(f"mx.{domain}").behaviour = behaviour

    live.call(change)


def hand_over(client: smtplib.SMTP, domain: str) -> None:
    content = HEADER + (b"x" * 70 + b"\r\n") * (LARGE // 72 if domain == domain_of(Point.CONTENT) else 1)
    assert client.sendmail("me@sender.test", [f"r@{domain}"], content) == {}


def begin_content(client: smtplib.SMTP, recipient: str) -> None:
    assert client.docmd("MAIL", "FROM:<me@sender.test>")[0] == 250
    assert client.docmd("RCPT", f"TO:<{recipient}>")[0] == 250
    assert client.docmd("DATA")[0] == 354
    client.send(HEADER + b"half of it\r\n")


def last_words(client: smtplib.SMTP) -> bytes:
    """What the relay said before it closed this connection."""
    assert client.sock is not None
    try:
        return client.sock.recv(1000)
    except ConnectionError:
        return b""


def arrived(live: LiveInternet) -> Counter[str]:
    """How often each recipient's message arrived."""
    return Counter(recipient for message in live.world.messages for recipient in message.recipients)


def test_within_the_grace_every_phase_ends_well_and_everything_arrives_once(
    live: LiveInternet, relay: Stopped
) -> None:
    gates = hold(live)
    address = live.world.addresses[f"mx1.{CONNECTING}"][0]
    with deaf(address, live.world.port) as connecting:
        relay.start()
        with contextlib.ExitStack() as clients:
            giver, half, silent = (clients.enter_context(contextlib.closing(relay.connect())) for _ in "123")
            hand_over(giver, IDLE)
            relay.wait_until_delivered(f"r@{IDLE}")
            for domain in DOMAINS[:-1]:
                hand_over(giver, domain)
            begin_content(half, f"half@{IDLE}")
            for domain, gate in gates.items():
                assert gate.reached.wait(START), f"{domain} was not reached"
            poll(connecting, "it does not connect")
            (idle,) = live.world.server(f"mx.{IDLE}").connections
            assert idle.ended is None
            relay.tell_to_stop()
            half.send(b"and the rest\r\n.\r\n")
            assert half.getreply()[0] == 250
            for client in (giver, half, silent):
                assert client.getreply()[0] == 421
    for gate in gates.values():
        gate.open()
    assert relay.ended(ENDING) == 0
    assert idle.ended == "quit"
    expected = {f"r@{domain}" for domain in DOMAINS}
    left = {str(row["recipient"]) for row in relay.ask("queue", "list")}
    assert left <= {f"half@{IDLE}"}  # it was accepted after the last claim
    assert set(arrived(live)) == expected | {f"half@{IDLE}"} - left
    relay.start()
    with relay.connect() as client:
        client.sendmail("me@sender.test", [f"last@{IDLE}"], HEADER)
    relay.wait_until_delivered(f"last@{IDLE}", *left)
    assert relay.terminate() == 0
    assert arrived(live) == Counter([*expected, f"half@{IDLE}", f"last@{IDLE}"])
    assert live.world.violations == ()


def test_beyond_the_grace_every_phase_is_cut_and_everything_arrives_after_the_next_start(
    live: LiveInternet, relay: Stopped
) -> None:
    relay.options.append(f"queue.shutdown_grace={SHORT:g}s")
    gates = hold(live)
    address = live.world.addresses[f"mx1.{CONNECTING}"][0]
    with deaf(address, live.world.port) as connecting:
        relay.start()
        with contextlib.closing(relay.connect()) as giver, contextlib.closing(relay.connect()) as half:
            for domain in DOMAINS[:-1]:
                hand_over(giver, domain)
            begin_content(half, f"half@{IDLE}")
            for domain, gate in gates.items():
                assert gate.reached.wait(START), f"{domain} was not reached"
            poll(connecting, "it does not connect")
            relay.tell_to_stop()
            assert giver.getreply()[0] == 421
            assert relay.ended(ENDING) == 0
            assert not last_words(half).startswith(b"250")
    held_at_the_dot = f"r@{domain_of(Point.DOT)}"
    waiting = {str(row["recipient"]): row["in_doubt"] for row in relay.ask("queue", "list")}
    assert waiting == {
        f"r@{domain}": int(f"r@{domain}" == held_at_the_dot) for domain in DOMAINS if domain != IDLE
    }
    for phase in PHASES:
        behave(live, domain_of(phase), Behaviour(keywords=UNLIMITED))
    live.call(lambda world: world.resolver.untroubled())
    relay.start()
    relay.wait_until_delivered(*waiting)
    assert relay.terminate() == 0
    assert relay.ask("queue", "list") == []
    # the server at the dot had taken it before it was cut off: that one attempt was in doubt
    assert arrived(live) == Counter([*waiting, held_at_the_dot])


def test_while_it_commits_what_came_and_what_went_is_neither_lost_nor_repeated(
    live: LiveInternet, relay: Stopped
) -> None:
    at_the_dot = domain_of(Point.DOT)
    gates = hold(live)
    relay.start()
    with contextlib.closing(relay.connect()) as client:
        hand_over(client, at_the_dot)
        assert gates[at_the_dot].reached.wait(START)
        begin_content(client, f"new@{IDLE}")
        with busy(relay.directory / "queue" / "shard-0.db"):
            gates[at_the_dot].open()
            journal = relay.directory / "queue" / "shard-0.journal"
            poll(lambda: journal.stat().st_size > 0, "nothing was journalled")
            client.send(b"the end\r\n.\r\n")
            assert client.sock is not None
            poll(lambda: has_read(client.sock), "the end was not read")
            relay.tell_to_stop()
        assert client.getreply()[0] == 250
    assert relay.ended(ENDING) == 0
    assert arrived(live)[f"r@{at_the_dot}"] == 1
    relay.start()
    with relay.connect() as client:
        client.sendmail("me@sender.test", [f"last@{IDLE}"], HEADER)
    live.wait_until(lambda _: {f"new@{IDLE}", f"last@{IDLE}"} <= set(arrived(live)), START)
    assert relay.terminate() == 0
    assert arrived(live) == Counter([f"r@{at_the_dot}", f"new@{IDLE}", f"last@{IDLE}"])


@contextlib.contextmanager
def busy(database: Path) -> Iterator[None]:
    """Somebody else holds the database's lock, so that nothing commits."""
    with contextlib.closing(sqlite3.connect(database, isolation_level=None, timeout=START)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")
