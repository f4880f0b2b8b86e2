"""What a delivery costs in round trips: wall time from SYN to the final 250, divided by the round trip time.

A real Exim (GnuTLS; PIPELINING, PIPECONNECT, CHUNKING, PRDR) is the server. A relay in this process holds
every octet back for half of RTT in each direction, and the TCP handshake for a whole one. The first delivery
of each way learns; the others are measured.

    fastest, median   in round trips; the fastest is compared with the target: a busy machine only adds
    counted           what the ledger of the session says
    RTT 0             the same without delay: what Exim and we need to think, contained in the wall time

Exit code 1 when a way needs more round trips than its target, or when there is no Exim.
`python -m bench roundtrips [ROUNDS]`.
"""

from __future__ import annotations

import re
import shutil
import socket
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import trio
from rich.console import Console
from rich.table import Table

from deliver.agent import Agent
from deliver.assembly import build_agent
from deliver.attempt import Attempt
from deliver.level import Level
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.net.clock import WallClock
from deliver.net.dial import Connection, TcpDialer
from deliver.outcome import Delivered
from deliver.pool import SessionPool
from deliver.queue.content import InlineContent
from deliver.settings import Delivery, Dns, Duration, Pool, Route, Settings, Smtp, Tls
from hints.memory import MemoryHints
from tests.internet.pki import authority
from tests.interop.peers import exim as exim_server
from tests.interop.peers.exim import Exim, EximConfig
from tests.interop.peers.programs import PeerMissing, locate

RTT = 0.05  # seconds
ROUNDS = 7
BODY = b"From: a@sender.test\r\nSubject: round trips\r\n\r\n" + b"0123456789abcdef\r\n" * 100
MANY = 10_000  # pieces under way
_Late = tuple[float, bytes]  # when it arrives, and what; b"" is the end
FAST_OPEN = """\
TCP Fast Open: not measured. The relay delays what TCP has delivered already, so a SYN with data saves nothing
here. By the ledger it is one round trip less than PIPECONNECT over TLS, see tests/unit/test_fast_open.py."""
TLS12 = "tls_require_ciphers = NORMAL:-VERS-TLS1.3"


@dataclass(frozen=True, slots=True)
class Way:
    """How messages are sent, and how many round trips that may take; `pooled`: on a session that is open."""

    name: str
    target: float
    level: Level = Level.ENCRYPT
    smtp: Smtp = field(default_factory=Smtp)
    main: str = ""  # of Exim's configuration
    pooled: bool = False
    resumption: bool = False


ONE_BY_ONE = Smtp(pipeconnect=False)
DATA = Smtp(pipeconnect=False, chunking=False)
WAYS = (
    Way("clear text, DATA", 5.1, Level.NONE, DATA),
    Way("clear text, CHUNKING", 4.1, Level.NONE, ONE_BY_ONE),
    Way("clear text, PIPECONNECT", 3.1, Level.NONE),
    Way("clear text, PIPECONNECT, early BDAT", 2.1, Level.NONE, Smtp(early_bdat_clear=True)),
    Way("STARTTLS, DATA", 8.2, smtp=DATA),
    Way("STARTTLS, CHUNKING", 7.2, smtp=ONE_BY_ONE),
    Way("STARTTLS, PIPECONNECT, CHUNKING", 4.2),
    Way("the same, TLS 1.2", 5.2, main=TLS12),
    Way("the same, TLS 1.2 resumed", 4.2, main=TLS12 + "\ntls_resumption_hosts = *", resumption=True),
    Way("next message on a session, CHUNKING", 1.1, pooled=True),
    Way("next message on a session, DATA", 2.1, smtp=Smtp(chunking=False), pooled=True),
)


class DelayingRelay:
    """Forwards connections to `server`, every octet half of `rtt` seconds late."""

    def __init__(self, server: Exim, rtt: float) -> None:
        self._server = server
        self._half = rtt / 2

    async def serve(self, ours: trio.SocketStream) -> None:
        """One connection. The server hears of it half a round trip after the client has connected."""
        began = trio.current_time()
        to_server, from_client = trio.open_memory_channel[_Late](MANY)
        to_client, from_server = trio.open_memory_channel[_Late](MANY)
        async with ours, trio.open_nursery() as nursery:
            nursery.start_soon(self._read, ours, to_server)
            await _sleep_until(began + self._half)
            theirs = await trio.open_tcp_stream(self._server.address, self._server.port)
            theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with theirs:
                nursery.start_soon(self._read, theirs, to_client)
                async with trio.open_nursery() as writers:
                    writers.start_soon(_write, from_client, theirs)
                    writers.start_soon(_write, from_server, ours)
                nursery.cancel_scope.cancel()

    async def _read(self, source: trio.SocketStream, channel: trio.MemorySendChannel[_Late]) -> None:
        data = b"-"
        while data:
            try:
                data = bytes(await source.receive_some(65536))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            await channel.send((trio.current_time() + self._half, data))


async def _write(channel: trio.MemoryReceiveChannel[_Late], sink: trio.SocketStream) -> None:
    try:
        async for due, data in channel:
            await _sleep_until(due)
            if not data:
                await sink.send_eof()
                return
            await sink.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # that side has gone


async def _sleep_until(due: float) -> None:
    """To a tenth of a millisecond; the event loop alone wakes up to a millisecond late."""
    await trio.sleep_until(due - 0.0015)
    while trio.current_time() < due:
        await trio.lowlevel.checkpoint()


class FarDialer:
    """Connections that take a whole round trip to open."""

    def __init__(self, rtt: float) -> None:
        self._rtt = rtt

    async def dial(self, address: str, port: int, *, source: str | None, timeout: float) -> Connection:
        """See `deliver.net.dial.Dialer`."""
        await _sleep_until(trio.current_time() + self._rtt)
        return await TcpDialer().dial(address, port, source=source, timeout=timeout)


@asynccontextmanager
async def _far_away(server: Exim, rtt: float) -> AsyncIterator[int]:
    """The port of a relay to the server."""
    relay = DelayingRelay(server, rtt)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    for listener in listeners:
        listener.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, relay.serve, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def _agent(way: Way, port: int, rtt: float, pool: SessionPool) -> Agent:
    settings = Settings(
        state_dir="/nonexistent",
        dns=Dns(dnssec="off", resolvers=("127.0.0.1:9",)),
        tls=Tls(level=way.level, resumption=way.resumption, request_ocsp=False),
        smtp=way.smtp,
        delivery=Delivery(helo="relay.sender.test"),
        route=(Route(domains=("*",), via="smarthost", hosts=(f"[127.0.0.1]:{port}",)),),
    )
    clock = WallClock()
    hints = MemoryHints(clock=clock.now)
    more: dict[str, Any] = {"pool": pool} if way.pooled else {}
    agent = build_agent(settings, hints=hints, clock=clock, rng=Random(1), learner="bench", **more)
    return replace(agent, dialer=FarDialer(rtt))


async def _deliver(agent: Agent, number: int) -> tuple[float, int]:
    """Seconds from the beginning to the final 250, and the round trips that the ledger counted."""
    recipients = (Recipient(0, Mailbox("b", "receiver.test")),)
    envelope = Envelope(
        MessageId(f"b{number}"), Mailbox("a", "sender.test"), recipients, len(BODY), False, agent.clock.now()
    )
    ended: list[float] = []
    story = Attempt(
        agent,
        envelope,
        recipients,
        InlineContent(BODY),
        journal=lambda who, reply: ended.append(trio.current_time()),
    )
    began = trio.current_time()
    await story.run()
    result = story.result()
    ((_, outcome),) = result.outcomes
    assert isinstance(outcome, Delivered), outcome
    counted = [finding.text for finding in result.trace.findings if finding.code == "round-trips"]
    found = re.match(r"\d+", counted[-1]) if counted else None
    return ended[0] - began, int(found[0]) if found else 0


async def _measure(way: Way, server: Exim, rtt: float, rounds: int) -> tuple[list[float], int]:
    """The wall times in seconds, and the round trips counted."""
    async with (
        _far_away(server, rtt) as port,
        SessionPool(Pool(idle=Duration(30))).open() as pool,
    ):
        agent = _agent(way, port, rtt, pool)
        await _deliver(agent, 0)
        measured = [await _deliver(agent, number) for number in range(1, rounds + 1)]
    return [seconds for seconds, _ in measured], measured[-1][1]


def _servers(programs: Any, scratch: Path) -> dict[str, Exim]:
    issued = authority().issue("mx.exim.test")
    servers = {}
    for place, main in enumerate(dict.fromkeys(way.main for way in WAYS)):
        directory = scratch / f"exim{place}"
        directory.mkdir()
        directory.chmod(0o755)
        config = EximConfig(
            certificate=issued.chain_pem,
            key=issued.private_key_pem,
            pipeconnect=True,
            prdr=True,
            main=f"{main}\nqueue_only = true",
        )
        servers[main] = exim_server.start(programs, directory, config)
    return servers


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    rounds = int(arguments[0]) if arguments and arguments[0].isdigit() else ROUNDS
    memory = Path("/dev/shm")
    scratch = Path(tempfile.mkdtemp(prefix="outrider-bench-", dir=memory if memory.is_dir() else None))
    scratch.chmod(0o755)
    servers: dict[str, Exim] = {}
    try:
        servers = _servers(locate(scratch), scratch)
        rows = []
        for way in WAYS:
            near, _ = trio.run(_measure, way, servers[way.main], 0.0, rounds)
            far, counted = trio.run(_measure, way, servers[way.main], RTT, rounds)
            rows.append((way, far, counted, near))
        return _report(rows)
    except PeerMissing as missing:
        print(missing, file=sys.stderr)
        return 1
    finally:
        for server in servers.values():
            server.process.stop()
        shutil.rmtree(scratch, ignore_errors=True)


def _report(rows: list[tuple[Way, list[float], int, list[float]]]) -> int:
    table = Table("way", "fastest", "median", "target", "counted", "fastest, ms", "RTT 0, ms")
    for way, far, counted, near in rows:
        table.add_row(
            way.name,
            f"{min(far) / RTT:.2f}",
            f"{statistics.median(far) / RTT:.2f}",
            f"{way.target:.1f}",
            str(counted),
            f"{min(far) * 1000:.0f}",
            f"{min(near) * 1000:.1f}",
        )
    Console().print(table)
    print(FAST_OPEN)
    missed = [way.name for way, far, _, _ in rows if round(min(far) / RTT, 1) > way.target]
    if missed:
        print(f"more round trips than the target: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0
