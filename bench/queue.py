"""What the queue costs. `python -m bench queue [COUNT]`

    relay    messages per second from 20 clients through a real relay to a server on loopback, in clear text,
             and the fsyncs per message, accepting and settling together (target: 0.3), counted by strace
    depth    with COUNT messages queued (100,000): time to open the shard (target: 3 s), memory of a process
             that has it open and has claimed (250 MB), the first page of `outrider queue list` in every order
             (0.3 s of the processor), and claims per second with few and with all messages queued (target: at
             least half)

Client, relay and server share the processors.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import trio
from sqlalchemy import Connection

from deliver.cli.queue_list import SORTS
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.queue import claiming, schema, store
from deliver.queue.admission import Permits
from deliver.queue.content import InlineContent
from deliver.queue.lanes import Lanes, Terms
from deliver.queue.shard import open_shard
from deliver.queue.throttle import Throttle
from deliver.sqlrun import Database

ROOT = Path(__file__).parents[1]
CLIENTS = 20
MESSAGES = 2000
QUEUED = 100_000
DOMAINS = 5000
CLAIMS = 300
NOW = 1_700_000_000.0
CONTENT = b"Subject: bench\r\n\r\n" + (b"x" * 70 + b"\r\n") * 28
FSYNCS = 0.3
CONFIG = """\
state_dir = "{state}"
[relay]
listen = ["127.0.0.1:{port}"]
workers = 1
[tls]
level = "none"
[dns]
dnssec = "off"
resolvers = ["127.0.0.1:9"]
[delivery]
helo = "bench.test"
[events]
schema = "none"
[queue]
per_domain = 20
site_start = 20
[log]
level = "error"
[[route]]
domains = ["*"]
via = "smarthost"
hosts = ["[127.0.0.1]:{sink}"]
"""


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 0 when the targets are met."""
    count = int(next((one for one in arguments if one.isdigit()), QUEUED))
    with tempfile.TemporaryDirectory(prefix="outrider-bench-") as scratch:
        (Path(scratch) / "relay").mkdir()
        met = [trio.run(_relay, Path(scratch) / "relay", MESSAGES)]
        met += _depth(Path(scratch) / "depth", count)
    return 0 if all(met) else 1


# --- relay


async def _relay(directory: Path, count: int) -> bool:
    delivered = Sink()
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        sink = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, delivered.serve, listeners)
        async with _running(directory, sink) as (process, port):
            await _inject(port, 50, delivered)
            seconds = await _inject(port, count, delivered)
            print(f"relay     {count / seconds:8.0f} messages/s accepted and delivered, {CLIENTS} clients")
            fsyncs = await _count_fsyncs(process.pid, port, count // 2, delivered)
        nursery.cancel_scope.cancel()
    if fsyncs is None:
        print("relay     fsyncs not counted: strace is missing or may not trace")
        return True
    print(f"relay     {fsyncs:8.3f} fsyncs per message (target {FSYNCS})")
    return fsyncs <= FSYNCS


class Sink:
    """A server that takes everything at once, and counts."""

    def __init__(self) -> None:
        self.count = 0
        self.news = trio.Condition()

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection."""
        await stream.send_all(b"220 sink.test\r\n")
        buffer, in_data = b"", False
        with contextlib.suppress(trio.BrokenResourceError):
            async for chunk in stream:
                buffer += chunk
                while True:
                    end = b"\r\n.\r\n" if in_data else b"\r\n"
                    line, found, rest = buffer.partition(end)
                    if not found:
                        break
                    buffer = rest
                    reply, in_data = self._reply(line, in_data)
                    await stream.send_all(reply)
                    if reply.startswith(b"221"):
                        return
                    if reply.startswith(b"250 2.6.0"):
                        async with self.news:
                            self.count += 1
                            self.news.notify_all()

    @staticmethod
    def _reply(line: bytes, in_data: bool) -> tuple[bytes, bool]:
        verb = line[:4].upper()
        if in_data:
            return b"250 2.6.0 taken\r\n", False
        if verb == b"EHLO":
            return b"250-sink.test\r\n250-PIPELINING\r\n250 8BITMIME\r\n", False
        if verb == b"DATA":
            return b"354 go on\r\n", True
        return (b"221 bye\r\n" if verb == b"QUIT" else b"250 ok\r\n"), False

    async def wait_for(self, count: int) -> None:
        """Until so many were taken."""
        async with self.news:
            while self.count < count:
                await self.news.wait()


@contextlib.asynccontextmanager
async def _running(directory: Path, sink: int) -> AsyncIterator[tuple[trio.Process, int]]:
    """A relay process that listens."""
    with contextlib.closing(trio.socket.socket()) as probe:
        await probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = directory / "outrider.toml"
    config.write_text(CONFIG.format(state=directory, port=port, sink=sink))
    command = [sys.executable, "-m", "deliver", "--config", str(config), "relay"]
    process = await trio.lowlevel.open_process(command, cwd=ROOT)
    try:
        with trio.fail_after(30):
            while True:
                with contextlib.suppress(OSError):
                    await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                    break
                await trio.sleep(0.05)
        yield process, port
    finally:
        process.terminate()
        await process.wait()


async def _inject(port: int, count: int, sink: Sink) -> float:
    """Hand over so many messages from all clients at once; seconds until the last one is delivered."""
    numbers, wanted = iter(range(count)), sink.count + count
    started = time.perf_counter()
    async with trio.open_nursery() as clients:
        for client in range(CLIENTS):
            clients.start_soon(_client, port, client, numbers)
    await sink.wait_for(wanted)
    return time.perf_counter() - started


async def _client(port: int, client: int, numbers: Iterator[int]) -> None:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await _reply(stream)
        await _say(stream, b"EHLO client.test\r\n")
        for number in numbers:
            for line in (f"MAIL FROM:<c{client}@a.test>", f"RCPT TO:<r@d{number % 20}.test>", "DATA"):
                await _say(stream, line.encode() + b"\r\n")
            await _say(stream, CONTENT + b".\r\n", 250)


async def _say(stream: trio.SocketStream, octets: bytes, code: int | None = None) -> None:
    await stream.send_all(octets)
    reply = await _reply(stream)
    assert reply.startswith((b"2", b"3") if code is None else str(code).encode()), reply


async def _reply(stream: trio.SocketStream) -> bytes:
    received = b""
    while not re.search(rb"(?m)^\d{3} [^\n]*\n\Z", received):
        received += await stream.receive_some()
    return received


async def _count_fsyncs(pid: int, port: int, count: int, sink: Sink) -> float | None:
    if shutil.which("strace") is None:
        return None
    with tempfile.NamedTemporaryFile("r") as output:
        trace = ["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-o", output.name, "-p", str(pid)]
        tracer = await trio.lowlevel.open_process(trace, stderr=subprocess.DEVNULL)
        with trio.move_on_after(5) as waiting:
            while not _traced(pid) and tracer.poll() is None:  # noqa: ASYNC110, the kernel tells nobody
                await trio.sleep(0.02)
        if waiting.cancelled_caught or tracer.poll() is not None:
            return None
        await _inject(port, count, sink)
        tracer.terminate()
        await tracer.wait()
        return sum("sync(" in line for line in output.read().splitlines()) / count


def _traced(pid: int) -> bool:
    return "TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text()


# --- depth


def _depth(directory: Path, count: int) -> list[bool]:
    fill(directory / "queue", CLAIMS * 2)
    shallow = trio.run(_claims_per_second, directory / "queue")
    fill(directory / "queue", count)
    config = directory / "outrider.toml"
    config.write_text(f'state_dir = "{directory}"\n')
    pages = {sort: _first_page(config, sort) for sort in SORTS}
    child = [sys.executable, "-c", f"import bench.queue as q; q.report({str(directory / 'queue')!r})"]
    said = subprocess.run(child, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    opened, deep, memory = (float(each) for each in said)
    print(f"depth     {opened:8.2f} s to open a shard with {count} messages (target 3)")
    print(f"depth     {memory:8.0f} MB of memory (target 250)")
    for sort, (seconds, cpu) in pages.items():
        print(f"depth     {cpu:8.2f} CPU s for the first page of `queue list --sort {sort}`, {seconds:.2f} s")
    print(
        f"depth     {shallow:8.0f} claims/s with {CLAIMS * 2} queued, {deep:.0f} with {count} (target: half)"
    )
    return [opened < 3, memory < 250, max(cpu for _, cpu in pages.values()) < 0.3, deep > shallow / 2]


def report(directory: str) -> None:
    """For a process of its own: seconds to open, claims per second, MB at the most."""
    opened, deep = trio.run(_open_and_claim, Path(directory))
    print(opened, deep, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def fill(directory: Path, count: int) -> None:
    """A shard with so many messages for DOMAINS domains, due now."""
    directory.mkdir(parents=True, exist_ok=True)
    database = Database(directory / "shard-0.db")
    with database._writer.connect() as connection, connection.begin():
        schema.migrate(connection)
        for number in range(count):
            _accept(connection, number, count)
    database.close()


def _accept(connection: Connection, number: int, of: int) -> None:
    people = (Recipient(0, Mailbox("r", f"d{number % DOMAINS}.test")),)
    sender = Mailbox(f"s{number % 50}", "a.test")
    name = MessageId(f"m{of}-{number}")
    envelope = Envelope(name, sender, people, len(CONTENT), False, NOW)
    store.accept(connection, envelope, InlineContent(CONTENT[:200]), (), NOW, lambda *_: None)


async def _claims_per_second(directory: Path) -> float:
    return (await _open_and_claim(directory))[1]


async def _open_and_claim(directory: Path) -> tuple[float, float]:
    started = time.perf_counter()
    async with open_shard(directory, 0, NOW) as shard:
        opened = time.perf_counter() - started
        lanes = Lanes(Terms(widest=1000, start=1000, per_domain=1000))
        started = time.perf_counter()
        for number in range(CLAIMS):
            await shard.sql.write(lambda conn, number=number: _claim(conn, lanes, number), durable=False)
        return opened, CLAIMS / (time.perf_counter() - started)


def _claim(connection: Connection, lanes: Lanes, number: int) -> None:
    now = NOW + 1 + number / 1000
    found = claiming.claim(
        connection, now=now, limit=1, lease=60.0, retry=(60.0,), admission=Permits(lanes, Throttle(), now)
    )
    assert len(found) == 1


def _first_page(config: Path, sort: str) -> tuple[float, float]:
    """Seconds by the wall clock and of the processor, the best of some."""
    verb = ["queue", "list", "--json", "--sort", sort]
    command = [sys.executable, "-m", "deliver", "--config", str(config), *verb]
    taken = []
    for _ in itertools.repeat(None, 5):
        started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, capture_output=True, check=True, cwd=ROOT, env={**os.environ})
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        taken.append((time.perf_counter() - started, cpu))
    return min(seconds for seconds, _ in taken), min(cpu for _, cpu in taken)
