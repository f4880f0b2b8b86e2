"""TCP Fast Open: EHLO and STARTTLS with the SYN, never more, and a failure to connect stays one.

Against sockets it runs in a network of its own, where the kernel serves such connections too.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from deliver.agent import Agent
from deliver.attempt import Attempt
from deliver.errors import Fault
from deliver.level import Level
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.net.clock import WallClock
from deliver.net.dial import SYN_DATA, ConnectFailed, Connection, TcpDialer
from deliver.outcome import AttemptResult, Deferred, Delivered, Phase
from deliver.queue.content import InlineContent
from deliver.reach import Reach
from deliver.report import testimony as reports
from deliver.report.trace import Trace
from deliver.session import Target
from deliver.settings import Delivery, Duration, Route, Settings, Smtp, Timeouts, Tls
from deliver.tls.pkix import TrustStore
from deliver.tls.policy import Authentication, TlsPolicy
from events.catalogue import Event
from events.fields import Scalar
from events.port import Allow
from hints.memory import MemoryHints
from hints.records import EhloAnswer, EhloPhase
from tests.simulate.early import CLEAR, EARLY, PLACE, SECURE, SMTP, FastNetwork, Ran, run, script
from tests.simulate.memory_server import MemoryServer

TEXT = b"Subject: x\r\n\r\nhello\r\n"
FIRST = b"EHLO us.test\r\nSTARTTLS\r\n"
NEW_NETWORK = 0x40000000  # CLONE_NEWNET
UP = 0x8914, 1 | 64  # SIOCSIFFLAGS, IFF_UP and IFF_RUNNING
FAST = type(SMTP)(**{**{name: getattr(SMTP, name) for name in SMTP.__struct_fields__}, "tcp_fast_open": True})


def trips(ran: Ran) -> int:
    return int(ran.flights[0].split()[0])


def test_ehlo_and_starttls_leave_with_the_syn() -> None:
    ran = run(TEXT, script(listens=1), smtp=FAST)
    assert isinstance(ran.outcomes["ann"], Delivered)
    assert ran.with_syn == [FIRST]
    assert ran.servers[0].early == FIRST
    assert trips(ran) == 3
    assert "1 by TCP Fast Open" in ran.flights[0]
    assert "3 by PIPECONNECT" in ran.flights[0]


def test_not_where_it_is_not_asked_for() -> None:
    ran = run(TEXT, script(listens=1))
    assert trips(ran) == 4
    assert ran.with_syn == []


def test_an_envelope_never_leaves_with_the_syn() -> None:
    ran = run(TEXT, script(listens=1), policy=CLEAR, smtp=FAST)
    assert ran.with_syn == []
    assert trips(ran) == 3
    assert ran.servers[0].early.endswith(b"DATA\r\n"), "early all the same, behind the handshake"


def test_where_tls_fell_through_it_is_ehlo_alone() -> None:
    policy = TlsPolicy(Level.MAY, False, False, Authentication.NONE, PLACE[0])
    ran = run(TEXT, script(listens=1), policy=policy, smtp=FAST)
    assert ran.with_syn == [b"EHLO us.test\r\n"]
    assert isinstance(ran.outcomes["ann"], Delivered)


def test_nothing_with_the_syn_to_a_server_that_takes_nothing_early() -> None:
    silent = script(keywords=tuple(word for word in EARLY if word != "PIPECONNECT"))
    assert run(TEXT, silent, smtp=FAST).with_syn == []


def test_a_server_that_is_another_one_gets_a_connection_without_it() -> None:
    ran = run(TEXT, script(replies={"greeting": "554 no"}), script(), smtp=FAST)
    assert isinstance(ran.outcomes["ann"], Delivered)
    assert len(ran.with_syn) == 1
    assert len(ran.servers) == 2
    assert "pipeconnect-surprise" in ran.codes
    assert ran.servers[1].early == b""


def test_not_where_an_action_waits_for_the_greeting() -> None:
    class Gate:
        open = False

        async def consult(self, event: Event) -> Allow:
            return Allow()

        def watches(self, name: str, known: dict[str, Scalar]) -> bool:
            return name == "smtp:connect"

    assert run(TEXT, script(), smtp=FAST, gate=Gate()).with_syn == []  # type: ignore[arg-type]


@pytest.mark.parametrize(("addresses", "with_syn"), [(("192.0.2.1",), 1), (("192.0.2.1", "192.0.2.2"), 0)])
async def test_sockets_that_race_say_nothing(
    autojump_clock: trio.testing.MockClock, addresses: tuple[str, ...], with_syn: int
) -> None:
    clock = WallClock(1_700_000_000.0)
    remembered = tuple(
        EhloAnswer(PLACE[1], 25, phase, "mx", (*EARLY, *more))
        for phase, more in ((EhloPhase.CLEAR, ("STARTTLS",)), (EhloPhase.TLS, ()))
    )
    targets = tuple(Target(PLACE[0], address, 25, ehlo=remembered) for address in addresses)
    envelope = Envelope(MessageId("m"), None, (Recipient(0, Mailbox("a", "x.test")),), 1, False, 0.0)
    async with trio.open_nursery() as nursery:
        network = FastNetwork(nursery)
        network.scripts = [script()]
        ours = agent(25, MemoryHints(clock=clock.now), clock, network)
        destination = ours.settings.towards("x.test", PLACE[0])
        testimony = reports.Testimony(Trace(), clock.now, envelope, "x.test", 1)
        reach = Reach(ours, destination, SECURE, testimony, targets, lambda outcome: None)
        session = await reach.open()
        assert session.contact.tls is not None
        await reach.leave(session, None)
        nursery.cancel_scope.cancel()
    assert len(network.said) == with_syn


@contextmanager
def own_network() -> Iterator[None]:
    """Moves this thread into a network with nothing but a loopback, where Fast Open is served."""
    if ctypes.CDLL(None, use_errno=True).unshare(NEW_NETWORK) != 0:
        raise PermissionError(ctypes.get_errno(), "no network of our own")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, UP[0], struct.pack("16sh", b"lo", UP[1]))
    Path("/proc/sys/net/ipv4/tcp_fastopen").write_text("3")
    yield


def in_own_network(story: Callable[[], Awaitable[None]]) -> None:
    """Run it there, or skip where that is not permitted."""
    failures: list[BaseException] = []

    def body() -> None:
        try:
            with own_network():
                trio.run(story)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    for failure in failures:
        if isinstance(failure, PermissionError) or getattr(failure, "errno", 0) == errno.EROFS:
            pytest.skip(f"needs root: {failure}")
        raise failure


def listening(backlog: int = 10) -> socket.socket:
    server = socket.create_server(("127.0.0.1", 0), backlog=backlog)
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
    return server


async def say(port: int, timeout: float = 5) -> Connection:
    return await TcpDialer().dial_saying(b"EHLO x\r\n", "127.0.0.1", port, source=None, timeout=timeout)


def heard(server: socket.socket) -> tuple[bytes, bool]:
    """What the next client said, and whether it came with its SYN."""
    accepted, _ = server.accept()
    with accepted:
        said = accepted.recv(100)
        options = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[5]
        return said, bool(options & SYN_DATA)


def test_the_kernel_takes_the_octets_with_the_syn_once_it_has_a_cookie() -> None:
    async def story() -> None:
        with listening() as server:
            port = server.getsockname()[1]
            for with_syn in (False, True, True):
                connection = await say(port)
                assert connection.in_syn is with_syn
                assert heard(server) == (b"EHLO x\r\n", with_syn)
                assert connection.local_address == "127.0.0.1"
                await connection.stream.aclose()

    in_own_network(story)


def test_more_than_fits_into_a_syn_arrives_whole() -> None:
    many = b"0123456789abcdef" * 8192

    async def story() -> None:
        with listening() as server:
            port = server.getsockname()[1]
            await (await say(port)).stream.aclose()
            heard(server)
            got = bytearray()

            def read() -> None:
                accepted, _ = server.accept()
                with accepted:
                    while data := accepted.recv(65536):
                        got.extend(data)

            reader = threading.Thread(target=read)  # in the same network as whoever starts it
            reader.start()
            connection = await TcpDialer().dial_saying(many, "127.0.0.1", port, source=None, timeout=5)
            assert connection.in_syn
            await connection.stream.aclose()
            reader.join()
            assert bytes(got) == many

    in_own_network(story)


def test_a_refusal_is_one_of_connecting_with_a_cookie_too() -> None:
    async def story() -> None:
        with listening() as server:
            port = server.getsockname()[1]
            await (await say(port)).stream.aclose()
        with pytest.raises(ConnectFailed) as failed:
            await say(port)
        assert failed.value.errno == errno.ECONNREFUSED

    in_own_network(story)


def test_silence_ends_at_the_timeout_with_a_cookie_too() -> None:
    async def story() -> None:
        with listening(backlog=0) as server:
            port = server.getsockname()[1]
            opened: list[Connection] = []

            async def fill() -> None:
                while True:  # until the backlog is full
                    opened.append(await say(port, 0.2))

            with pytest.raises(ConnectFailed, match="no answer within") as failed:
                await fill()
            assert failed.value.errno is None
            assert len(opened) < 10
            for connection in opened:
                await connection.stream.aclose()

    in_own_network(story)


async def test_where_the_server_cannot_the_octets_follow_the_handshake() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        for _ in range(2):
            connection = await say(server.getsockname()[1])
            assert not connection.in_syn
            assert heard(server) == (b"EHLO x\r\n", False)
            await connection.stream.aclose()


async def test_a_kernel_without_it_connects_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deliver.net.dial.TCP_FASTOPEN_CONNECT", 9999)
    with socket.create_server(("127.0.0.1", 0)) as server:
        connection = await say(server.getsockname()[1])
        assert heard(server) == (b"EHLO x\r\n", False)
        await connection.stream.aclose()


async def test_a_server_that_hangs_up_at_once_was_reached_all_the_same() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def hang_up() -> None:
            accepted, _ = server.accept()
            accepted.recv(1)  # so that it is connected, and writes
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            accepted.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        connection = await TcpDialer().dial_saying(
            b"x" * 10_000_000, "127.0.0.1", port, source=None, timeout=5
        )
        thread.join()
        with suppress(trio.BrokenResourceError):
            assert await connection.stream.receive_some(10) == b""
        await connection.stream.aclose()


def agent(port: int, hints: MemoryHints, clock: WallClock, dialer: Any) -> Agent:
    smtp = Smtp(tcp_fast_open=True, timeouts=Timeouts(connect=Duration(5), quit=Duration(1)))
    settings = Settings(
        state_dir="/nonexistent",
        tls=Tls(level=Level.ENCRYPT, resumption=False, request_ocsp=False),
        smtp=smtp,
        delivery=Delivery(helo="us.test"),
        route=(Route(domains=("*",), via="smarthost", hosts=(f"[127.0.0.1]:{port}",)),),
    )
    return Agent(
        settings=settings,
        resolver=SimpleNamespace(),
        dialer=dialer,
        hints=hints,
        clock=clock,
        rng=Random(1),
        trust=lambda path: TrustStore.empty(),
        helo="us.test",
        learner="test",
    )


async def deliver(ours: Agent) -> AttemptResult:
    who = (Recipient(0, Mailbox("ann", "x.test")),)
    envelope = Envelope(MessageId("m"), None, who, len(TEXT), False, ours.clock.now())
    story = Attempt(ours, envelope, who, InlineContent(TEXT))
    await story.run()
    return story.result()


def said(result: AttemptResult, code: str) -> str:
    return next(finding.text for finding in result.trace.findings if finding.code == code)


def test_a_whole_delivery_over_sockets() -> None:
    """The first connection learns EHLO, the second gets the cookie, the third saves the round trip."""

    async def story() -> None:
        clock = WallClock(1_700_000_000.0)
        hints = MemoryHints(clock=clock.now)
        servers: list[MemoryServer] = []
        with_syn: list[bool] = []

        async def serve(stream: trio.SocketStream) -> None:
            options = stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)
            assert isinstance(options, bytes)
            with_syn.append(bool(options[5] & SYN_DATA))
            servers.append(MemoryServer(stream, replace(script(listens=0.2), name=PLACE[0])))
            await servers[-1].serve()

        listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening()))
        port = listener.socket.getsockname()[1]
        ours = agent(port, hints, clock, TcpDialer())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, serve, [listener])
            results = [await deliver(ours) for _ in range(3)]
            for result in results:
                ((_, outcome),) = result.outcomes
                assert isinstance(outcome, Delivered), outcome
            nursery.cancel_scope.cancel()
        assert with_syn == [False, False, True]
        assert [server.early for server in servers] == [b"", FIRST, FIRST]
        counted = [said(result, "round-trips").split()[0] for result in results]
        assert counted == ["7", "4", "3"]
        assert "TCP Fast Open" not in said(results[1], "round-trips")
        assert "1 by TCP Fast Open" in said(results[2], "round-trips")
        assert "took EHLO with the SYN" in said(results[2], "connected")
        ((_, outcome),) = (await deliver(ours)).outcomes  # the listener is closed, the cookie is not
        assert isinstance(outcome, Deferred)
        assert outcome.phase is Phase.CONNECT
        assert "Connection refused" in outcome.why
        assert outcome.fault is Fault.REFUSED
        (view,) = await hints.look("127.0.0.1", ("127.0.0.1",), port)
        assert view.last_failure is not None

    in_own_network(story)
