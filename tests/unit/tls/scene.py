"""Deliveries one after the other to one SMTP server, whose TLS fails as a test wishes."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL

from deliver.agent import Agent
from deliver.assembly import build_agent
from deliver.attempt import Attempt
from deliver.level import Level
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.net.tlsstream import TlsStream
from deliver.outcome import AttemptResult, Delivered, TlsFacts
from deliver.queue.content import InlineContent
from deliver.settings import Delivery, Dns, Route, Settings, Smtp, Timeouts, Tls
from deliver.tls.engine import TlsEngine, TlsError
from events.catalogue import Event, vocabulary_problems
from hints.memory import MemoryHints
from tests.unit.tls.certificates import DAY, Issued, Wish, issue

NOW = datetime.now(UTC).timestamp()
VALID: dict[str, Any] = {"not_before": NOW - DAY, "not_after": NOW + 10 * DAY}
CA = issue(Wish("CA", authority=True, **VALID))
SERVER = issue(Wish("server", dns_names=("mx.example.org",), **VALID), CA)
STRICT = issue(Wish("strict", dns_names=("mx.example.org",), must_staple=True, **VALID), CA)
BODY = b"Subject: hello\r\n\r\nhello\r\n"
LARGE = 1000  # octets of a ClientHello, a post-quantum key share alone has 1184


class Clock:
    """Real time, and a shift that tests choose."""

    def __init__(self) -> None:
        self.shift = 0.0

    def now(self) -> float:
        return datetime.now(UTC).timestamp() + self.shift


class Replayed(trio.abc.Stream):
    """A stream whose first octets were read already."""

    def __init__(self, stream: trio.SocketStream, first: bytes) -> None:
        self._stream, self._first = stream, first
        self.socket = stream.socket

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        first, self._first = self._first, b""
        return first or bytes(await self._stream.receive_some(max_bytes))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


class Cut(trio.abc.Stream):
    """Sends only so many octets, and then resets the connection."""

    def __init__(self, stream: trio.SocketStream, octets: int) -> None:
        self._stream, self.left = stream, octets

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        part, self.left = bytes(data)[: self.left], self.left - len(data)
        await self._stream.send_all(part)
        if self.left < 0:
            self._stream.socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            self._stream.socket.close()
            raise trio.BrokenResourceError("cut")

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


@dataclass
class Server:
    """One SMTP server; `fault(hello, number)` says what it does to the handshake: "", reset, silent or alert."""

    context: SSL.Context
    name: str = "mx.example.org"
    fault: Callable[[bytes, int], str] = lambda hello, number: ""
    hellos: list[bytes] = field(default_factory=list)
    resumed: list[bool] = field(default_factory=list)
    in_clear: int = 0
    messages: int = 0
    cut: int | None = None  # octets that it sends inside the second TLS connection
    answered: int = 0  # EHLO inside TLS, whole

    async def serve(self, stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, TlsError):
            await self._serve(stream)

    async def _serve(self, stream: trio.SocketStream) -> None:
        await stream.send_all(f"220 {self.name}\r\n".encode())
        await stream.receive_some()
        await stream.send_all(f"250-{self.name}\r\n250 STARTTLS\r\n".encode())
        if not (await stream.receive_some()).upper().startswith(b"STARTTLS"):
            self.in_clear += 1
            await self._talk(stream, b"250 ok\r\n")
            return
        await stream.send_all(b"220 go\r\n")
        hello = bytes(await stream.receive_some(65536))
        self.hellos.append(hello)
        match self.fault(hello, len(self.hellos)):
            case "reset":
                stream.socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
                stream.socket.close()
            case "silent":
                await stream.receive_some()
            case "alert":
                await stream.send_all(b"\x15\x03\x03\x00\x02\x02\x28")  # fatal, handshake_failure
            case "accept-then-reset":
                await self._shake(stream, hello)
                stream.socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
                stream.socket.close()
            case _:
                await self._talk(await self._shake(stream, hello))

    async def _shake(self, stream: trio.SocketStream, hello: bytes) -> TlsStream:
        way: trio.abc.Stream = Replayed(stream, hello)
        if self.cut is not None and len(self.hellos) == 2:
            way = Cut(way, self.cut)  # type: ignore[arg-type]
        secure = TlsStream(way, TlsEngine(self.context, server_side=True))
        self.resumed.append((await secure.do_handshake()).resumed)
        return secure

    async def _talk(self, stream: trio.abc.Stream, first: bytes = b"") -> None:
        if first:
            await stream.send_all(first)
        while line := await stream.receive_some():
            data = line.upper().startswith(b"DATA")
            self.messages += line.endswith(b"\r\n.\r\n")
            await stream.send_all(b"354 go\r\n" if data else b"250 ok\r\n")
            self.answered += line.upper().startswith(b"EHLO")


def context(
    server: Issued = SERVER, *, version: int = SSL.TLS1_3_VERSION, staple: bytes = b""
) -> SSL.Context:
    made_context = SSL.Context(SSL.TLS_SERVER_METHOD)
    made_context.set_max_proto_version(version)
    made_context.set_session_id(b"test")
    made_context.use_certificate(server.certificate)
    made_context.use_privatekey(load_pem_private_key(server.key_pem, None))  # type: ignore[arg-type]
    made_context.add_extra_chain_cert(x509.load_der_x509_certificate(CA.der))
    if staple:
        made_context.set_ocsp_server_callback(lambda connection, data: staple)
    return made_context


@dataclass
class Scene:
    agent: Agent
    clock: Clock
    hints: MemoryHints
    server: Server

    def change(self, **tls: Any) -> None:
        settings = self.agent.settings
        changed = Settings(
            **{
                **{name: getattr(settings, name) for name in settings.__struct_fields__},
                "tls": Tls(trust_store="ca.pem", verify_names=("mx.example.org",), **tls),
            }
        )
        self.agent = replace(self.agent, settings=changed)

    async def deliver(self) -> AttemptResult:
        recipients = (Recipient(0, Mailbox.parse("a@example.org")),)
        envelope = Envelope(MessageId("m1"), None, recipients, len(BODY), False, self.clock.now())
        story = Attempt(self.agent, envelope, recipients, InlineContent(BODY))
        await story.run()
        result = story.result()
        for event in result.trace.events:
            assert vocabulary_problems(event.name, event.fields) == ()
        return result

    async def delivered(self) -> TlsFacts:
        ((_, outcome),) = (await self.deliver()).outcomes
        assert isinstance(outcome, Delivered), outcome
        assert outcome.contact.tls is not None
        return outcome.contact.tls


@asynccontextmanager
async def scene(
    tmp_path: Path, server: Server, *, patience: float = 30.0, **tls: Any
) -> AsyncIterator[Scene]:
    """`patience`: seconds for a handshake."""
    (tmp_path / "ca.pem").write_bytes(CA.pem)
    clock = Clock()
    hints = MemoryHints(clock=clock.now)
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1"))
        settings = Settings(
            state_dir=str(tmp_path),
            dns=Dns(resolvers=("127.0.0.1:1",)),
            delivery=Delivery(helo="relay.example.org"),
            smtp=Smtp(chunking=False, pipelining=False, timeouts=Timeouts(tls=patience)),
            route=(
                Route(
                    domains=("*",),
                    via="smarthost",
                    hosts=(f"127.0.0.1:{listener.socket.getsockname()[1]}",),
                ),
            ),
        )
        agent = build_agent(settings, hints=hints, clock=clock, rng=Random(1), learner="test")
        ready = Scene(agent, clock, hints, server)
        ready.change(**{"level": Level.VERIFY, **tls})
        yield ready
        nursery.cancel_scope.cancel()


def names(result: AttemptResult) -> list[str]:
    return [event.name for event in result.trace.events]


def event(result: AttemptResult, name: str) -> Event:
    return next(event for event in result.trace.events if event.name == name)


def codes(result: AttemptResult) -> list[str]:
    return [finding.code for finding in result.trace.findings]
