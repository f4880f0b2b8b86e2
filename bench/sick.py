"""Do sick destinations hold up the others? `python -m bench sick [MESSAGES [ROUNDS [MILLISECONDS]]]`

200 domains with a server each, all real processes on loopback. Healthy servers take 50 milliseconds for a
message. One domain in ten is sick: half of these do not answer connections at all, the other half takes SLOW
seconds for each message. Every round gives a new relay the healthy mail alone, then another one the healthy
mail with the sick among it, as much for each domain. Prints the seconds until the last healthy message was
delivered, the CPU seconds of the relay until then, and their ratio (target: 1.2 at the most).
"""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.load.injector import InjectorOrder
from bench.load.ledger import Ledger
from bench.load.sink import SinkOrder

ROOT = Path(__file__).parents[1]
DOMAINS = 200
SICK_EVERY = 10
SLOW = 30.0  # seconds
DEFAULTS = (1800, 2, 50)  # healthy messages, rounds, milliseconds that a healthy server takes
PATIENCE = 60.0  # seconds for all of a run
TARGET = 1.2
START = 20.0  # seconds


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds until the last healthy message was delivered, and of the relay's processor until then."""

    seconds: float
    cpu: float
    sick_waiting: int


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 0 when the target is met."""
    numbers = [int(one) for one in arguments if one.isdigit()]
    messages, rounds, milliseconds = (*numbers, *DEFAULTS[len(numbers) :])[:3]
    alone, together = [], []
    with tempfile.TemporaryDirectory(prefix="outrider-bench-") as scratch:
        for turn in range(rounds):
            for runs, sick in ((alone, False), (together, True)):
                directory = Path(scratch) / f"{turn}-{sick}"
                directory.mkdir()
                runs.append(_measured(directory, messages, milliseconds / 1000, sick=sick))
                told = f"with {runs[-1].sick_waiting} sick" if sick else "alone"
                print(
                    f"sick      {runs[-1].seconds:8.2f} s, {runs[-1].cpu:6.2f} CPU s: "
                    f"{messages} healthy messages {told}",
                    flush=True,
                )
    ratio, cpu = (
        statistics.median(getattr(run, field) for run in together)
        / statistics.median(getattr(run, field) for run in alone)
        for field in ("seconds", "cpu")
    )
    print(f"sick      {ratio:8.2f} times as long with one destination in ten sick (target {TARGET})")
    print(f"sick      {cpu:8.2f} times as much CPU")
    return 0 if ratio <= TARGET else 1


def is_sick(domain: int) -> bool:
    """Whether something is wrong with the domain of this number."""
    return domain % SICK_EVERY == 3


def is_dead(domain: int) -> bool:
    """Whether it does not even answer; the other sick ones are slow."""
    return is_sick(domain) and domain // SICK_EVERY % 2 == 0


def _address(domain: int) -> str:
    return f"127.77.{domain // 250}.{1 + domain % 250}"


def _measured(directory: Path, healthy: int, latency: float, *, sick: bool) -> Run:
    domains = [number for number in range(DOMAINS) if sick or not is_sick(number)]
    well = [place for place, number in enumerate(domains) if not is_sick(number)]
    count = healthy * len(domains) // len(well)
    awaited = [number for number in range(count) if number % len(domains) in frozenset(well)]
    port = _free_port()
    with contextlib.ExitStack() as stack:
        ledger = stack.enter_context(Ledger(directory / "ledger", count))
        stack.enter_context(_sink(ledger, port, [n for n in domains if not is_sick(n)], latency))
        if sick:
            stack.enter_context(
                _sink(ledger, port, [n for n in domains if is_sick(n) and not is_dead(n)], SLOW)
            )
            stack.enter_context(_deaf(port, [n for n in domains if is_dead(n)]))
        relay, listening = stack.enter_context(_relay(directory, port, domains))
        began, before = time.monotonic(), _cpu(relay.pid)
        order = InjectorOrder(
            *("127.0.0.1", listening, str(ledger.path), count, 0, count, 4000),
            tuple(f"d{number}.test" for number in domains),
        )
        with subprocess.Popen(
            [sys.executable, "-m", "bench.load.injector", order.as_argument()],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        ) as injector:
            while missing := ledger.missing(awaited):
                if time.monotonic() - began > PATIENCE:
                    raise SystemExit(f"{len(missing)} healthy messages were not delivered in {PATIENCE:g} s")
                time.sleep(0.05)
            spent = _cpu(relay.pid) - before
            injector.wait(PATIENCE)
        delivered = ledger.times("delivered")
        last = max(delivered[number] for number in awaited)
        return Run(last - began, spent, len(ledger.missing(range(count))))


@contextlib.contextmanager
def _sink(ledger: Ledger, port: int, domains: Sequence[int], delay: float) -> Iterator[None]:
    """Servers of these domains, each answering the end of a message after so many seconds."""
    addresses = tuple(map(_address, domains))
    order = SinkOrder(addresses, port, str(ledger.path), ledger.count, slow=addresses, delay=delay)
    command = [sys.executable, "-m", "bench.load.sink", order.as_argument()]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        if child.stdout.readline() != b"ready\n":
            raise SystemExit("the sink did not start")
        try:
            yield
        finally:
            child.stdin.close()


@contextlib.contextmanager
def _deaf(port: int, domains: Sequence[int]) -> Iterator[None]:
    """Nobody answers there: the queue of connections is full, so that the kernel drops what comes."""
    with contextlib.ExitStack() as opened:
        for number in domains:
            listener = opened.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((_address(number), port))
            listener.listen(0)
            opened.enter_context(socket.create_connection((_address(number), port), timeout=START))
        yield


@contextlib.contextmanager
def _relay(
    directory: Path, port: int, domains: Sequence[int]
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A relay with the queue's defaults, and where it listens."""
    listening = _free_port()
    config = directory / "outrider.toml"
    routes = "".join(
        f'[[route]]\ndomains = ["d{number}.test"]\n'
        f'via = "smarthost"\nhosts = ["[{_address(number)}]:{port}"]\n'
        for number in domains
    )
    config.write_text(f"""\
state_dir = "{directory}/state"
[relay]
listen = ["127.0.0.1:{listening}"]
workers = 1
[tls]
level = "none"
[dns]
dnssec = "off"
resolvers = ["127.0.0.1:9"]
[delivery]
helo = "bench.test"
[queue]
shutdown_grace = "0s"
[log]
level = "error"
{routes}""")
    command = [sys.executable, "-m", "deliver", "--config", str(config), "relay"]
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}) as child:
        try:
            deadline = time.monotonic() + START
            while True:
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", listening), START).close()
                    break
                if child.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("the relay did not start")
                time.sleep(0.05)
            yield child, listening
        finally:
            child.terminate()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _cpu(pid: int) -> float:
    """CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
