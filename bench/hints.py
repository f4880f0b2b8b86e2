"""What hints cost: cached reads, batched writes, many processes, a large file, the start of the tool.

    reads     looks answered from the cache of the process, per second
    writes    notes, flushed in batches, per second
    claims    16 processes note and claim tickets of one file: none twice, none lost, no error
    list      a filtered list over a million rows, seconds
    prune     the longest wait of another writer while half a million rows are deleted, seconds
    start     `outrider hints list` on a small file, seconds

`--rows N` makes the large file smaller. Exit code 1 when a target of `TARGETS` is missed (a busy machine can
do that).
"""

from __future__ import annotations

import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Final

import trio

from hints import show
from hints.file import HintsFile
from hints.manage import prune
from hints.records import EhloAnswer, EhloPhase, Feature, Reachability, SessionKey, TlsSession, Word
from hints.sql import SqlHints

NOW: Final = 1_000_000.0
PROCESSES: Final = 16
TICKETS: Final = 40  # that each process keeps
# (target, whether more is better)
TARGETS: Final = {
    "reads": (20_000.0, True),
    "writes": (5_000.0, True),
    "claims": (0.0, False),
    "list": (0.3, False),
    "prune": (0.05, False),
    "start": (0.3, False),
}
_WORKER = "from bench.hints import work; import sys; work(sys.argv[1], int(sys.argv[2]))"


def main(arguments: Sequence[str] = ()) -> int:
    """Print the figures with their ratio to the targets, 1.0 or more being good."""
    rows = int(arguments[arguments.index("--rows") + 1]) if "--rows" in arguments else 1_000_000
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        found = {
            "reads": trio.run(_reads, place / "reads.db"),
            "writes": trio.run(_writes, place / "writes.db"),
            "claims": _claims(place / "claims.db"),
            "start": _start(place),
        }
        large = place / "large.db"
        _fill(large, rows)
        found |= {"list": _list(large), "prune": _prune(large)}
    missed = False
    for name, value in found.items():
        target, more = TARGETS[name]
        ratio = (value / target if more else target / value) if target and value else float(value <= target)
        missed |= ratio < 1
        print(f"{name:8} {value:12.3f}   target {target:10.3f}   ratio {ratio:8.2f}")
    return int(missed)


async def _reads(path: Path) -> float:
    hints = SqlHints(f"sqlite:///{path}", clock=lambda: NOW, max_size=2**28, patience=10)
    hosts = [(f"mx{number}.example.org", f"192.0.2.{number}") for number in range(1, 200)]
    for host, address in hosts:
        hints.note(Reachability(host, address, 25, None), source="bench", reason="connect", now=NOW)
        hints.note(_answer(address), source="bench", reason="EHLO", now=NOW)
        hints.note(Feature(host, address, 25, Word.CHUNKING, True), source="bench", reason="use", now=NOW)
    await hints.flush()
    for host, address in hosts:
        await hints.look(host, (address,), 25)
    begin, count = time.perf_counter(), 0
    while time.perf_counter() < begin + 2:
        for host, address in hosts:
            await hints.look(host, (address,), 25)
        count += len(hosts)
    rate = count / (time.perf_counter() - begin)
    await hints.aclose()
    return rate


async def _writes(path: Path) -> float:
    hints = SqlHints(f"sqlite:///{path}", clock=lambda: NOW, max_size=2**28)
    await hints.flush()
    begin, count = time.perf_counter(), 0
    for batch in range(10):
        for number in range(1000):
            host, address = f"mx{number}.example.org", f"192.0.{batch}.{number % 256}"
            hints.note(Reachability(host, address, 25, "refused"), source="bench", reason="x", now=NOW)
            hints.note(_answer(address), source="bench", reason="x", now=NOW)
        await hints.flush()
        count += 2000
    rate = count / (time.perf_counter() - begin)
    assert hints.dropped == 0
    await hints.aclose()
    return rate


def _claims(path: Path) -> float:
    """The number of tickets handed out twice, of those lost, and of processes that failed, together."""
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", _WORKER, f"sqlite:///{path}"]
    running = [
        subprocess.Popen(
            [*command, str(number)], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for number in range(PROCESSES)
    ]
    ended = [(process.communicate(timeout=300), process.returncode) for process in running]
    failed = sum(code != 0 or err != "" for (_, err), code in ended)
    claimed = Counter(ticket for (out, _), _ in ended for ticket in json.loads(out or "[]"))
    with closing(sqlite3.connect(path)) as conn:
        (left,) = conn.execute("SELECT count(*) FROM tls_session").fetchone()
    twice = sum(count - 1 for count in claimed.values())
    lost = PROCESSES * TICKETS - len(claimed) - left
    print(f"         {len(claimed)} claimed, {left} left, {twice} twice, {lost} lost, {failed} failed")
    return float(twice + lost + failed)


def work(url: str, number: int) -> None:
    """One of the processes: keep tickets, claim what anybody kept, print what it got as JSON."""

    async def run() -> list[str]:
        got: list[str] = []
        hints = SqlHints(url, clock=lambda: NOW, max_size=2**26, patience=30)
        for turn in range(TICKETS):
            key = _key(number * TICKETS + turn)
            name = f"{number}-{turn}".encode()
            session = TlsSession(key, name, (b"certificate",), None, "dane-ee", "TLSv1.3", NOW, NOW + 3600)
            hints.keep_session(session, source="bench", reason="x", now=NOW)
            hints.note(Reachability("mx", "192.0.2.1", 25, "no"), source="bench", reason="x", now=NOW)
            await hints.flush()
            for other in range(PROCESSES):
                claimed = await hints.claim_session(_key(other * TICKETS + (turn * 7 + number) % TICKETS))
                if claimed is not None:
                    got.append(claimed.session.decode())
        await hints.aclose()
        return got

    print(json.dumps(trio.run(run)))


def _fill(path: Path, rows: int) -> None:
    file = HintsFile(path, max_size=2**31)
    file.write((), {}, NOW, prune=False)
    file.close()
    with closing(sqlite3.connect(path)) as conn:
        conn.executemany(
            "INSERT INTO reachability VALUES (?, ?, 25, 1, 'refused', ?, NULL, 'bench', 'x', ?, ?, ?, 0)",
            (
                (f"mx{one // 4}.example.org", _address(one), NOW, NOW, NOW, NOW + (one % 2) * 1000 - 500)
                for one in range(rows)
            ),
        )
        conn.commit()


def _list(path: Path) -> float:
    begin = time.perf_counter()
    found = show.rows(path, show.Filter(host="mx1000.example.org"), NOW)
    by_host = time.perf_counter()
    also = show.rows(path, show.Filter(kind="reachability", host=_address(4001)), NOW)
    by_address = time.perf_counter()
    assert found
    assert also
    return max(by_host - begin, by_address - by_host)


def _prune(path: Path) -> float:
    """Another writer notes all the while; the longest it took."""
    file = HintsFile(path, max_size=2**31)
    waits: list[float] = []
    with ThreadPoolExecutor(1) as pool:
        pruning = pool.submit(prune, path, NOW)
        while not pruning.done():
            begin = time.perf_counter()
            file.write((), {("mx", "192.0.2.1", 25): 1}, NOW, prune=False)
            waits.append(time.perf_counter() - begin)
            time.sleep(0.02)
        deleted = pruning.result()
    file.close()
    print(f"         {deleted.total()} pruned, {len(waits)} writes, median {statistics.median(waits):.4f} s")
    return max(waits)


def _start(place: Path) -> float:
    (place / "outrider.toml").write_text(f'state_dir = "{place}"\n')
    file = HintsFile(place / "hints.db", max_size=2**26)
    file.write((), {}, NOW, prune=False)
    file.close()
    command = [sys.executable, "-m", "deliver", "--config", str(place / "outrider.toml"), "hints", "list"]
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        subprocess.run(command, cwd=Path(__file__).parents[1], check=True, capture_output=True)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def _answer(address: str) -> EhloAnswer:
    return EhloAnswer(address, 25, EhloPhase.TLS, "mx", ("PIPELINING", "CHUNKING", "SIZE 1000000"))


def _address(number: int) -> str:
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def _key(number: int) -> SessionKey:
    return SessionKey(f"mx{number}", 25, f"mx{number}", "dane-ee", "", "TLSv1.2", "mx")
