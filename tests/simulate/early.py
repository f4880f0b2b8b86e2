"""Whole sessions in memory, with hints: what a server said on one connection is presumed on the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from random import Random
from typing import Any

import trio
import trio.testing

from deliver.agent import Agent
from deliver.level import Level
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.net.clock import WallClock
from deliver.net.dial import Connection
from deliver.outcome import Outcome
from deliver.queue.content import InlineContent
from deliver.relay.route import Login
from deliver.report.testimony import Testimony
from deliver.report.trace import Trace
from deliver.session import Target, Unusable, open_session
from deliver.settings import Destination, Duration, Settings, Smtp, Timeouts, Tls
from deliver.tls.pkix import TrustStore
from deliver.tls.policy import Authentication, TlsPolicy
from events.port import EventGate, OpenGate
from hints.memory import MemoryHints
from tests.internet.pki import authority
from tests.simulate.disturbance import CancelAt, Cut
from tests.simulate.memory_server import MemoryServer, Script

EARLY = ("PIPELINING", "SIZE", "8BITMIME", "CHUNKING", "PRDR", "PIPECONNECT")
PLACE = ("mx.early.test", "192.0.2.1", 25)
CLEAR = TlsPolicy(Level.NONE, False, False, Authentication.NONE, PLACE[0])
SECURE = TlsPolicy(Level.ENCRYPT, True, True, Authentication.NONE, PLACE[0])
SMTP = Smtp(timeouts=Timeouts(quit=Duration(1)))


@cache
def server_tls() -> Any:
    """The server's TLS."""
    return authority().issue(PLACE[0]).server_context()


def script(**changes: Any) -> Script:
    """A server that takes commands early, with STARTTLS."""
    return replace(Script(EARLY, tls=server_tls()), **changes)


class Network:
    """Dials one server per connection; the n-th behaves as the n-th script, later ones as the last."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.scripts: list[Script] = []
        self.servers: list[MemoryServer] = []
        self.streams: list[Cut] = []
        self.cut: tuple[int | None, int | None] = (None, None)  # of the first connection: out, into
        self.refuse = False

    async def dial(self, address: str, port: int, *, source: str | None, timeout: float) -> Connection:
        await trio.lowlevel.checkpoint()
        ours, theirs = trio.testing.memory_stream_pair()
        stream = Cut(ours, *(self.cut if not self.streams else (None, None)))
        server = MemoryServer(theirs, self.scripts[min(len(self.servers), len(self.scripts) - 1)])
        self.streams.append(stream)
        self.servers.append(server)
        self._nursery.start_soon(server.serve)
        return Connection(stream, "192.0.2.99", 40000)


class FastNetwork(Network):
    """Octets may leave with the SYN; `said` are those that did."""

    def __init__(self, nursery: trio.Nursery) -> None:
        super().__init__(nursery)
        self.said: list[bytes] = []

    async def dial_saying(
        self, octets: bytes, address: str, port: int, *, source: str | None, timeout: float
    ) -> Connection:
        connection = await self.dial(address, port, source=source, timeout=timeout)
        self.said.append(octets)
        try:
            await connection.stream.send_all(octets)
        except trio.BrokenResourceError:
            pass  # whoever reads will hear of it
        except BaseException:
            await trio.aclose_forcefully(connection.stream)
            raise
        return replace(connection, in_syn=True)


@dataclass(slots=True)
class Ran:
    """One delivery after the learning one: what we say, and what the servers hold."""

    outcomes: dict[str, Outcome]
    servers: list[MemoryServer]
    streams: list[Cut]
    journal: list[str]
    steps: int
    codes: list[str]
    flights: list[str]
    hints: MemoryHints
    events: list[str] = field(default_factory=list)
    seconds: float = 0.0
    with_syn: list[bytes] = field(default_factory=list)  # once for each connection that began so

    @property
    def held(self) -> list[str]:
        """Everybody for whom some server took the message, once for each time."""
        return [who for server in self.servers for people, _ in server.taken for who in people]


def run(
    text: bytes,
    *scripts: Script,
    policy: TlsPolicy = SECURE,
    who: Sequence[str] = ("ann", "nobody", "bob"),
    smtp: Smtp = SMTP,
    learnt: Script | None = None,
    out: int | None = None,
    into: int | None = None,
    cancel: int | None = None,
    gate: EventGate | None = None,
    envelope: Callable[[Envelope], Envelope] = lambda envelope: envelope,
    login: Login | None = None,
) -> Ran:
    """Learn from `learnt` (none: the last script), then deliver `text` to servers that follow the scripts."""

    async def main() -> Ran:
        async with trio.open_nursery() as nursery:
            network = FastNetwork(nursery) if smtp.tcp_fast_open else Network(nursery)
            clock = WallClock(1_700_000_000.0)
            hints = MemoryHints(clock=clock.now)
            agent = Agent(
                settings=Settings(state_dir="/nonexistent"),
                resolver=None,  # type: ignore[arg-type]  # nobody looks names up
                dialer=network,
                hints=hints,
                clock=clock,
                rng=Random(1),
                trust=lambda path: TrustStore.empty(),
                helo="us.test",
                learner="test",
                gate=gate or OpenGate(),
            )
            destination = Destination(tls=Tls(resumption=False), smtp=smtp, delivery=Settings().delivery)
            recipients = tuple(Recipient(n, Mailbox(name, "early.test")) for n, name in enumerate(who))
            whole = envelope(Envelope(MessageId("m"), None, recipients, len(text), False, 0.0))
            ran = Ran({}, [], [], [], 0, [], [], hints)

            async def deliver(into_ran: Ran) -> None:
                trace = Trace()
                (view,) = await hints.look(PLACE[0], (PLACE[1],), PLACE[2])
                avoid = frozenset(one.word for one in view.features if one.works is False)
                target = Target(*PLACE, ehlo=view.ehlo, avoid=avoid, login=login)
                testimony = Testimony(trace, clock.now, whole, "early.test", 1)
                batch = None

                def note(people: tuple[Recipient, ...], reply: object) -> None:
                    into_ran.journal.extend(one.mailbox.local_part for one in people)

                try:
                    async with open_session(agent, destination, target, policy, testimony) as session:
                        batch = session.batch(whole, recipients)
                        await session.transact(batch, InlineContent(text), note)
                except Unusable as unusable:
                    into_ran.outcomes = {one.mailbox.local_part: unusable.outcome for one in recipients}
                    batch = None
                finally:
                    if batch is not None:
                        into_ran.outcomes = {one.mailbox.local_part: said for one, said in batch.outcomes()}
                    into_ran.codes = [found.code for found in trace.findings]
                    into_ran.events = [event.name for event in trace.events]
                    into_ran.flights = [f.text for f in trace.findings if f.code == "round-trips"]

            network.scripts = [learnt or scripts[-1]]
            await deliver(Ran({}, [], [], [], 0, [], [], hints))
            network.scripts, network.cut = list(scripts), (out, into)
            network.servers, network.streams = [], []
            began = trio.current_time()
            with trio.CancelScope() as scope:
                instrument = CancelAt(cancel, scope)
                trio.lowlevel.add_instrument(instrument)
                try:
                    await deliver(ran)
                finally:
                    trio.lowlevel.remove_instrument(instrument)
            ran.seconds = trio.current_time() - began
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        ran.with_syn = network.said if isinstance(network, FastNetwork) else []
        ran.servers, ran.streams, ran.steps = network.servers, network.streams, instrument.steps
        return ran

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
