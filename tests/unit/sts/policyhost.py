"""A policy host on a loopback address, who finds and dials it, and what it may answer."""

from __future__ import annotations

import atexit
import functools
import shutil
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from deliver.net.dial import ConnectFailed, Connection, TcpDialer
from deliver.net.prompt import PromptStream
from deliver.resolve.answer import AddressRecord, Answer, Found, NxDomain, Query, RecordType
from deliver.sts.fetch import MAX_INTERIM, HttpsSource
from deliver.sts.source import MAX_WHY, NotFetched
from tests.internet.pki import Credentials, authority

DOMAIN, HOST = "example.org", "mta-sts.example.org"
ADDRESS, DEAF = "127.7.0.1", "127.7.0.2"
POLICY = b"version: STSv1\r\nmode: enforce\r\nmx: mx.example.org\r\nmax_age: 604800\r\n"
BOTH = ("ipv6", "ipv4")
DEADLINE = 20.0  # seconds

Stream = trio.SSLStream[trio.SocketStream]
Answering = Callable[[Stream], Awaitable[None]]


class Names:
    """A resolver from a dict; what is not in it does not exist."""

    def __init__(self, answers: Mapping[tuple[str, RecordType], Answer]) -> None:
        self.answers = answers

    async def lookup(self, query: Query) -> Answer:
        await trio.lowlevel.checkpoint()
        return self.answers.get((query.name, query.type), NxDomain(False))


@functools.cache
def roots() -> str:
    """The path of a trust store with the root of `authority()`; there as long as the process."""
    directory = tempfile.mkdtemp(prefix="policyhost-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    path = Path(directory) / "roots.pem"
    path.write_bytes(authority().root_pem)
    return str(path)


def at(*addresses: str) -> Names:
    records = tuple(AddressRecord(address) for address in addresses)
    return Names({(HOST, RecordType.A): Found(records, False, 300)})


class NotingDialer(TcpDialer):
    """The real one; keeps what it opened."""

    def __init__(self) -> None:
        self.opened: list[Connection] = []

    async def dial(self, address: str, port: int, *, source: str | None, timeout: float) -> Connection:
        connection = await super().dial(address, port, source=source, timeout=timeout)
        self.opened.append(connection)
        return connection

    @property
    def all_closed(self) -> bool:
        streams = [connection.stream for connection in self.opened]
        return all(isinstance(stream, PromptStream) and stream.socket.fileno() == -1 for stream in streams)


class FailingDialer:
    """Nobody answers; keeps whom it was to reach."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def dial(self, address: str, port: int, *, source: str | None, timeout: float) -> Connection:
        self.asked.append(address)
        await trio.lowlevel.checkpoint()
        raise ConnectFailed(f"[{address}]:{port}", "No route to host", 113)


@dataclass
class PolicyHost:
    """A server that runs, and how to fetch from it."""

    port: int
    trust_store: str = field(default_factory=roots)
    requests: list[bytes] = field(default_factory=list)
    dialer: NotingDialer = field(default_factory=NotingDialer)

    async def fetch(self, names: Names | None = None, trust_store: str | None = None) -> bytes:
        source = HttpsSource(
            names or at(ADDRESS),
            self.dialer,
            families=BOTH,
            trust_store=trust_store or self.trust_store,
            port=self.port,
            deadline=DEADLINE,
        )
        try:
            return await source.fetch(DOMAIN)
        finally:
            assert self.dialer.all_closed

    async def refused(self, names: Names | None = None, trust_store: str | None = None) -> str:
        with pytest.raises(NotFetched) as refused:
            await self.fetch(names, trust_store)
        return well_put(refused.value)

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}/.well-known/mta-sts.txt"


def well_put(refused: NotFetched) -> str:
    assert refused.why.isprintable()
    assert 0 < len(refused.why) <= MAX_WHY
    assert str(refused) == refused.why
    return refused.why


@asynccontextmanager
async def serving(handler: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncIterator[int]:
    """The port at ADDRESS."""
    listeners = await trio.open_tcp_listeners(0, host=ADDRESS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handler, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def policy_host(
    answer: Answering, credentials: Credentials | None = None, context: ssl.SSLContext | None = None
) -> AsyncIterator[PolicyHost]:
    """A server that reads a request, answers, and ends; by default with the right certificate."""
    presented = context or (credentials or authority().issue(HOST)).server_context()

    async def serve(tcp: trio.SocketStream) -> None:
        stream = trio.SSLStream(tcp, presented, server_side=True)
        try:
            request = b""
            while b"\r\n\r\n" not in request:
                request += await stream.receive_some(4096)
            host.requests.append(request)
            await answer(stream)
        except trio.BrokenResourceError:
            pass  # the client has gone
        finally:
            await trio.aclose_forcefully(tcp)

    async with serving(serve) as port:
        host = PolicyHost(port)
        yield host


def head(*fields: str, status: str = "200 OK", media: str = "text/plain") -> bytes:
    lines = [f"HTTP/1.1 {status}", *([f"Content-Type: {media}"] if media else []), *fields]
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii")


def whole(text: bytes = POLICY, **named: str) -> bytes:
    return head(f"Content-Length: {len(text)}", **named) + text


CHUNKED = "Transfer-Encoding: chunked"


def chunks(*texts: bytes) -> bytes:
    return b"".join(f"{len(text):x}\r\n".encode("ascii") + text + b"\r\n" for text in texts)


def saying(octets: bytes) -> Answering:
    """These, and a proper end of TLS."""

    async def answer(stream: Stream) -> None:
        await stream.send_all(octets)
        await stream.aclose()

    return answer


def saying_without_end(octets: bytes) -> Answering:
    """These, and then TCP ends: no close_notify."""

    async def answer(stream: Stream) -> None:
        await stream.send_all(octets)
        await stream.transport_stream.send_eof()
        await trio.sleep_forever()

    return answer


def saying_for_ever(beginning: bytes, repeated: bytes) -> Answering:
    async def answer(stream: Stream) -> None:
        await stream.send_all(beginning)
        while True:
            await stream.send_all(repeated)

    return answer


GOOD = {
    "charset": whole(media="text/plain; charset=utf-8"),
    "case": whole(media="Text/PLAIN;x=y"),
    "identity": head(f"Content-Length: {len(POLICY)}", "Content-Encoding: identity") + POLICY,
    "chunked": head(CHUNKED) + chunks(POLICY[:10], POLICY[10:]) + b"0\r\nTrailer: x\r\n\r\n",
    "until the end": head() + POLICY,
    "http/1.0": head().replace(b"HTTP/1.1", b"HTTP/1.0") + POLICY,
    "interim": MAX_INTERIM * b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + whole(),
    "more behind it": whole() + b"HTTP/1.1 500 what\r\n\r\n",
}
