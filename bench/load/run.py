"""One measurement: a relay, a scenario, so many messages; what it took and what was lost."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.load import place
from bench.load.account import Account, Usage
from bench.load.contender import Contender, Order
from bench.load.injector import InjectorOrder
from bench.load.ledger import Ledger
from bench.load.place import Place
from bench.load.scenario import Scenario
from bench.load.sink import SinkOrder
from tests.interop.peers.programs import Programs

PATIENCE = 20.0  # seconds without a message that arrives
LOOK = 0.05  # seconds between two looks at what is missing,
MEMORY = 0.25  # and at the memory: who measures takes time from who is measured
QUIET = 0.5  # seconds to wait for copies that should not come
WARM_UP = 60  # messages
_LINE = 500  # characters
_TROUBLE = ("deferred", "warning", "error", "WARNING", "ERROR", "==", "panic")
_TOLD = 5  # lines of the log of a relay that lost something


class RelayFailed(Exception):
    """The relay refused mail for good or broke a connection; the text says what, and ends with its log."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one round of one contender gave. Latency in seconds, from final dot in to 250 out of the sink."""

    contender: str
    scenario: str
    messages: int
    seconds: float
    cpu: float
    memory: int
    fsyncs: int | None
    median: float
    late: float  # 99 of 100 were faster
    lost: int
    copies: int  # beyond the first
    refused: int

    @property
    def rate(self) -> float:
        """Messages per second."""
        return self.messages / max(self.seconds, 1e-9)

    @property
    def cpu_per_thousand(self) -> float:
        """CPU seconds per 1000 messages, resolver included."""
        return 1000 * self.cpu / max(1, self.messages)


def measure(
    contender: Contender,
    scenario: Scenario,
    count: int,
    clients: int,
    programs: Programs,
    shared: Place,
    directory: Path,
    *,
    rounds: int = 1,
) -> Result:
    """Start everything anew, measure, stop. Raises ServerFailed, PeerMissing.

    `rounds`: how often each destination has mail before; several processes have to know it.
    """
    directory.mkdir()
    directory.chmod(0o755)
    account = Account.open(directory, contender.name)
    warm_up = 0 if scenario.cold else rounds * max(WARM_UP, place.DOMAINS if not scenario.hop else 0)
    with Ledger(directory / "ledger", warm_up + count) as ledger, _sink(scenario, shared, ledger):
        (directory / "resolver").mkdir()
        (directory / "relay").mkdir()
        (directory / "relay").chmod(0o755)
        validate = contender.validating_resolver
        resolver = place.resolver(programs, shared, directory / "resolver", account, validate=validate)
        try:
            relay = contender.start(Order(programs, shared, directory / "relay", account, scenario))
            try:
                if warm_up:
                    _inject(scenario, ledger, 0, warm_up, clients)
                    _await(ledger, scenario.awaited(0, warm_up), account)
                    time.sleep(QUIET)
                result = _measured(contender, scenario, ledger, account, warm_up, count, clients)
                if result.lost:
                    print(_complaints(relay.logs), file=sys.stderr)
                return result
            except RelayFailed as failed:
                raise RelayFailed(f"{failed}\n{_complaints(relay.logs)}") from None
            finally:
                relay.stop()
        finally:
            resolver.stop()
            account.close()


def _measured(
    contender: Contender,
    scenario: Scenario,
    ledger: Ledger,
    account: Account,
    first: int,
    count: int,
    clients: int,
) -> Result:
    before = account.usage()
    refused, began = _inject(scenario, ledger, first, count, clients)
    awaited = scenario.awaited(first, count)
    memory = _await(ledger, awaited, account)
    after = account.usage()
    time.sleep(QUIET)
    delivered, offered, copies = ledger.times("delivered"), ledger.times("offered"), ledger.copies()
    arrived = [number for number in awaited if copies[number]]
    waits = sorted(
        delivered[number] - offered[number] for number in scenario.healthy(first, count) if copies[number]
    )
    return Result(
        contender.name,
        scenario.name,
        len(arrived),
        max((delivered[number] for number in arrived), default=time.monotonic()) - began,
        after.cpu - before.cpu,
        max(memory, after.memory),
        _difference(before, after),
        statistics.median(waits) if waits else 0.0,
        waits[min(len(waits) - 1, len(waits) * 99 // 100)] if waits else 0.0,
        lost=len(awaited) - len(arrived),
        copies=sum(max(0, copies[number] - 1) for number in range(first, first + count)),
        refused=refused,
    )


def _complaints(logs: Sequence[Path]) -> str:
    """The last lines about trouble."""
    text = "\n".join(log.read_text(errors="replace") for log in logs if log.exists())
    lines = [line for line in text.splitlines() if any(word in line for word in _TROUBLE)]
    return "\n".join(line[:_LINE] for line in lines[-_TOLD:])


def _difference(before: Usage, after: Usage) -> int | None:
    return None if before.fsyncs is None or after.fsyncs is None else after.fsyncs - before.fsyncs


def ceiling(*, tls: bool, count: int, clients: int, shared: Place, directory: Path) -> float:
    """Messages per second of injector and sink against each other: with TLS a handshake for each message."""
    directory.mkdir()
    scenario = Scenario("ceiling", "", hop=True, tls=tls)
    with Ledger(directory / "ledger", count) as ledger, _sink(scenario, shared, ledger):
        _, began = _inject(scenario, ledger, 0, count, clients, target=(place.HOP, place.SMTP), tls=tls)
        assert not ledger.missing(range(count)), "injector and sink disagree"
        return count / (max(ledger.times("delivered")) - began)


@contextmanager
def _sink(scenario: Scenario, shared: Place, ledger: Ledger) -> Iterator[None]:
    slow, deferring = scenario.sick()
    order = SinkOrder(
        scenario.addresses(),
        place.SMTP,
        str(ledger.path),
        ledger.count,
        chain=str(shared.chain) if scenario.tls else "",
        key=str(shared.key) if scenario.tls else "",
        slow=tuple(place.exchanger(number) for number in slow),
        deferring=tuple(place.exchanger(number) for number in deferring),
    )
    command = [sys.executable, "-m", "bench.load.sink", order.as_argument()]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment()
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        if child.stdout.readline() != b"ready\n":
            raise RuntimeError("the sink did not start")
        try:
            yield
        finally:
            child.stdin.close()


def _inject(
    scenario: Scenario,
    ledger: Ledger,
    first: int,
    count: int,
    clients: int,
    *,
    target: tuple[str, int] = (place.RELAY, place.RELAY_PORT),
    tls: bool = False,
) -> tuple[int, float]:
    """Send the messages and wait until they were taken.

    Returns how many were refused for the time being, and when it began by the ledger's clock: the injector
    has to be loaded first, which is not the relay's time.
    """
    order = InjectorOrder(
        *target,
        str(ledger.path),
        ledger.count,
        first,
        count,
        scenario.size,
        place.domains(scenario.top),
        clients,
        tls,
    )
    command = [sys.executable, "-m", "bench.load.injector", order.as_argument()]
    ran = subprocess.run(command, capture_output=True, env=_environment())
    if ran.returncode:
        raise RelayFailed(ran.stderr.decode(errors="replace").strip().rpartition("\n")[2][:_LINE])
    refused, began = ran.stdout.split()
    return int(refused), float(began)


def _await(ledger: Ledger, numbers: Sequence[int], account: Account) -> int:
    """Until these messages have arrived, or nothing moves any more. Returns the most memory that was seen."""
    most, looked = account.usage().memory, time.monotonic()
    missing, moved = ledger.missing(numbers), time.monotonic()
    while missing and (now := time.monotonic()) - moved < PATIENCE:
        time.sleep(LOOK)
        if now - looked >= MEMORY:
            most, looked = max(most, account.usage().memory), now
        before, missing = len(missing), ledger.missing(missing)
        if len(missing) != before:
            moved = now
    return max(most, account.usage().memory)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.getcwd()}
