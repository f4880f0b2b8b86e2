"""The parts of the relay's measurement: nothing is lost or counted twice by the instruments themselves."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.load import place
from bench.load.account import Account
from bench.load.injector import InjectorOrder
from bench.load.ledger import Ledger
from bench.load.report import ratios, row
from bench.load.run import Result
from bench.load.scenario import SCENARIOS
from bench.load.sink import SinkOrder
from tests.internet.pki import Authority
from tests.interop.peers.address import own_address

PORT = 2526
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}


@contextmanager
def sink(ledger: Ledger, address: str, **more: object) -> Iterator[None]:
    order = SinkOrder((address,), PORT, str(ledger.path), ledger.count, **more)  # type: ignore[arg-type]
    command = [sys.executable, "-m", "bench.load.sink", order.as_argument()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT) as child:
        assert child.stdin
        assert child.stdout
        try:
            assert child.stdout.readline() == b"ready\n"
            yield
        finally:
            child.stdin.close()


def inject(ledger: Ledger, address: str, first: int, count: int, size: int = 4000, **more: object) -> int:
    order = InjectorOrder(
        address,
        PORT,
        str(ledger.path),
        ledger.count,
        first,
        count,
        size,
        ("a.test", "b.test"),
        4,
        **more,  # type: ignore[arg-type]
    )
    called = time.monotonic()
    command = [sys.executable, "-m", "bench.load.injector", order.as_argument()]
    ran = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=ENVIRONMENT, timeout=30)
    refused, began = ran.stdout.split()
    assert called < float(began) <= min(ledger.times("offered")[first : first + count])
    return int(refused)


@contextmanager
def dialogue(address: str) -> Iterator[socket.SocketIO]:
    with (
        socket.create_connection((address, PORT), timeout=10) as connected,
        connected.makefile("rwb", 0) as file,
    ):
        assert file.readline().startswith(b"220")
        yield file  # type: ignore[misc]


def test_injector_and_sink_agree_on_every_message(tmp_path: Path) -> None:
    address = own_address(PORT)
    with Ledger(tmp_path / "ledger", 50) as ledger, sink(ledger, address):
        assert inject(ledger, address, 0, 30) == 0
        assert ledger.copies() == [1] * 30 + [0] * 20
        assert (ledger.missing(range(30)), len(ledger.missing(range(50)))) == ([], 20)
        assert inject(ledger, address, 30, 20, size=100_000) == 0
        assert ledger.copies() == [1] * 50
        inject(ledger, address, 5, 2)
        assert ledger.copies()[4:8] == [1, 2, 2, 1], "a second copy is counted"
        offered, delivered = ledger.times("offered"), ledger.times("delivered")
        assert all(early > 0 for early in offered)
        assert all(early <= late for early, late in zip(offered[7:], delivered[7:], strict=True))


def test_each_message_over_tls(tmp_path: Path) -> None:
    chain, key = Authority().issue("sink.test").write(tmp_path)
    address = own_address(PORT)
    with Ledger(tmp_path / "ledger", 20) as ledger, sink(ledger, address, chain=str(chain), key=str(key)):
        assert inject(ledger, address, 0, 20, tls=True) == 0
        assert ledger.copies() == [1] * 20


def test_a_slow_sink_answers_in_order(tmp_path: Path) -> None:
    address = own_address(PORT)
    with Ledger(tmp_path / "ledger", 1) as ledger, sink(ledger, address, slow=(address,), delay=0.2):
        with dialogue(address) as file:
            file.write(b"MAIL FROM:<a@b>\r\nRCPT TO:<m0@c>\r\nDATA\r\n")
            assert [file.readline()[:3] for _ in range(3)] == [b"250", b"250", b"354"]
            began = time.monotonic()
            file.write(b"hello\r\n.\r\nQUIT\r\n")
            assert file.readline().startswith(b"250")
            assert time.monotonic() - began >= 0.2
            assert file.readline().startswith(b"221")
        assert ledger.copies() == [1]


def test_a_deferring_sink_takes_nothing(tmp_path: Path) -> None:
    address = own_address(PORT)
    with Ledger(tmp_path / "ledger", 1) as ledger, sink(ledger, address, deferring=(address,)):
        with dialogue(address) as file:
            file.write(b"MAIL FROM:<a@b>\r\nRCPT TO:<m0@c>\r\nDATA\r\n")
            assert [file.readline()[:3] for _ in range(3)] == [b"250", b"451", b"554"]
        assert ledger.copies() == [0]


def test_a_chunked_message_counts_once(tmp_path: Path) -> None:
    address = own_address(PORT)
    with Ledger(tmp_path / "ledger", 1) as ledger, sink(ledger, address):
        with dialogue(address) as file:
            file.write(b"MAIL FROM:<a@b>\r\nRCPT TO:<m0@c>\r\nBDAT 4\r\na\r\n")
            assert [file.readline()[:3] for _ in range(2)] == [b"250", b"250"]
            file.write(b"\nBDAT 3 LAST\r\n.\r\n")
            assert [file.readline()[:3] for _ in range(2)] == [b"250", b"250"]
        assert ledger.copies() == [1]


def test_what_a_scenario_waits_for() -> None:
    sick = SCENARIOS["sick"]
    slow, deferring = sick.sick()
    assert (len(slow), len(deferring)) == (10, 10)
    assert not set(slow) & set(deferring)
    assert len(sick.awaited(0, place.DOMAINS)) == place.DOMAINS - 10
    assert len(sick.healthy(0, place.DOMAINS)) == place.DOMAINS - 20
    assert len(SCENARIOS["plain"].awaited(0, 300)) == 300


def test_the_account_counts_children_that_nobody_waits_for(tmp_path: Path) -> None:
    account = Account.open(tmp_path, "test")
    if not account.groups or account.counter is None:
        pytest.skip("no control groups, or no C compiler, on this machine")
    busy = (
        "import os, time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\nos.fsync(1)"
    )
    orphan = f"import os\nif os.fork() == 0:\n    os.setsid()\n    exec({busy!r})\n"
    environment = account.environment({"PATH": os.environ["PATH"]})
    try:
        with (tmp_path / "out").open("wb") as out:
            command = account.wrap([sys.executable, "-c", orphan])
            subprocess.run(command, env=environment, stdout=out, check=True, timeout=20)
        deadline = time.monotonic() + 10
        while account.usage().fsyncs == 0 and time.monotonic() < deadline:
            time.sleep(0.02)
        usage = account.usage()
        assert usage.fsyncs == 1
        assert 0.3 <= usage.cpu < 3
    finally:
        account.close()
    assert not any(group.exists() for group in account.groups)


def test_the_table_compares_the_middle_and_the_best_rounds() -> None:
    def result(name: str, seconds: float, cpu: float) -> Result:
        return Result(
            name, "plain", 1000, seconds, cpu, 50_000_000, 500, 0.1, 0.2, lost=0, copies=0, refused=0
        )

    rounds = [result("Outrider", 2, 3), result("Postfix", 2, 6), result("Outrider", 1, 4)]
    rounds += [result("Outrider", 1.6, 3.3)]
    assert list(ratios(rounds)) == [
        "  Outrider / Postfix: 1.25 × messages per second (best rounds 2.00), 0.55 × CPU (best 0.50)"
    ]
    assert row(rounds[0]).split() == ["Outrider", "500", "3.00", "50", "0.50", "100", "200", "0", "0", "0"]
