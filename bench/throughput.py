"""How fast content goes out, beside a plain copy of the same octets over the same TLS stream.

The server is a process of its own that does nothing with what it gets. `many`: 1000 recipients with a small
message, beside a message to one. The fastest round counts: a busy machine only adds. Exit code 1 when a way
is slower than TARGET of the copy. `python -m bench throughput [ROUNDS]`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import trio
from rich.console import Console
from rich.table import Table

from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.net.tlsstream import TlsStream
from deliver.net.wire import Wire
from deliver.outcome import Contact, Delivered
from deliver.queue.content import InlineContent
from deliver.settings import Timeouts
from deliver.smtp.transaction import Transaction
from deliver.tls.context import context_for
from deliver.tls.engine import TlsEngine
from deliver.tls.policy import Authentication, Level, TlsPolicy
from tests.internet.pki import authority

ROUNDS = 7
TARGET = 0.8
MEGABYTES = 10
LINE = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456\r\n"
CONTENT = b"Subject: large\r\n\r\n" + LINE * (MEGABYTES * 1024 * 1024 // len(LINE))
SMALL = b"Subject: small\r\n\r\n" + LINE * 20
MANY = 1000
POLICY = TlsPolicy(Level.ENCRYPT, True, True, Authentication.NONE, "sink.test")


async def _open(port: int) -> Wire:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    stream.setsockopt(6, 1, 1)  # TCP_NODELAY
    wire = Wire(stream, Timeouts())
    for said in (wire.greeting(), wire.ehlo("bench.test"), wire.starttls()):
        assert (await said).positive
    secured = TlsStream(stream, TlsEngine(context_for(POLICY), POLICY.sni))
    await secured.do_handshake()
    wire.starttls_done(secured)
    assert (await wire.ehlo("bench.test")).positive
    return wire


async def _copy(wire: Wire) -> float:
    """Seconds for the octets as they are."""
    began = trio.current_time()
    await wire.stream.send_all(b"COPY %d\r\n" % len(CONTENT) + CONTENT)
    answer = b""
    while not answer.endswith(b"\r\n"):
        answer += bytes(await wire.stream.receive_some(100))
    return trio.current_time() - began


async def _message(wire: Wire, text: bytes, *, chunking: bool, recipients: int = 1) -> float:
    """Seconds for a transaction."""
    who = tuple(Recipient(n, Mailbox(f"r{n}", "sink.test")) for n in range(recipients))
    envelope = Envelope(MessageId("b"), Mailbox("a", "sender.test"), who, len(text), False, 0.0)
    contact = Contact("sink.test", "127.0.0.1", 25)
    transaction = Transaction(envelope, who, wire.capabilities, contact, chunking=chunking)
    began = trio.current_time()
    outcomes = await wire.transact(transaction, InlineContent(text))
    took = trio.current_time() - began
    assert all(isinstance(outcome, Delivered) for _, outcome in outcomes)
    return took


async def _measure(port: int, rounds: int) -> dict[str, list[float]]:
    wire = await _open(port)
    spent: dict[str, list[float]] = {"copy": [], "BDAT": [], "DATA": [], "many": [], "one": []}
    for _ in range(rounds + 1):  # in turn, so that a busy moment hits all alike
        spent["copy"].append(await _copy(wire))
        spent["BDAT"].append(await _message(wire, CONTENT, chunking=True))
        spent["DATA"].append(await _message(wire, CONTENT, chunking=False))
        spent["many"].append(await _message(wire, SMALL, chunking=True, recipients=MANY))
        spent["one"].append(await _message(wire, SMALL, chunking=True))
    await wire.close()
    return {name: times[1:] for name, times in spent.items()}


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    rounds = int(arguments[0]) if arguments and arguments[0].isdigit() else ROUNDS
    with tempfile.TemporaryDirectory(prefix="outrider-bench-") as directory:
        chain, key = authority().issue("sink.test").write(Path(directory))
        command = [sys.executable, "-m", "bench._sink", str(chain), str(key)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sink:
            assert sink.stdout is not None
            try:
                spent = trio.run(_measure, int(sink.stdout.readline()), rounds)
            finally:
                sink.terminate()
    return _report({name: min(times) for name, times in spent.items()})


def _report(best: dict[str, float]) -> int:
    table = Table("way", "ms", "MB/s", "of a copy")
    missed = []
    for name in ("copy", "BDAT", "DATA"):
        share = best["copy"] / best[name]
        table.add_row(name, f"{best[name] * 1e3:.1f}", f"{MEGABYTES / best[name]:.0f}", f"{share:.2f}")
        if share < TARGET:
            missed.append(name)
    for name, recipients in (("one", 1), ("many", MANY)):
        each = best[name] / recipients
        table.add_row(
            f"small, {recipients} recipients", f"{best[name] * 1e3:.1f}", "", f"{each * 1e6:.0f} µs each"
        )
    Console().print(table)
    if missed:
        print(f"slower than {TARGET:.0%} of a copy: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0
