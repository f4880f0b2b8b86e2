"""An Internet in memory with seeded faults: names from a dict, servers behind memory streams, real TLS.

What a server takes responsibility for is noted in the moment in which it decides so, before its reply leaves;
whether the client ever reads that is another matter. While `rough` is False nothing goes wrong.
"""

from __future__ import annotations

import ssl
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

import trio

from deliver.net.dial import ConnectFailed, Connection
from deliver.resolve.answer import (
    AddressRecord,
    Answer,
    Bogus,
    Found,
    MxRecord,
    NoData,
    NxDomain,
    Query,
    Record,
    RecordType,
    TlsaRecord,
    Unreachable,
)
from tests.internet.pki import Authority, Credentials, association
from tests.simulate.disturbance import Cut
from tests.simulate.talk import Talk

PORT = 25


@dataclass(frozen=True)
class Host:
    """A server: `secret` mail may only come over TLS, `impostor` must get none at all.

    `early`: it takes commands before they are its client's turn (PIPECONNECT).
    """

    name: str
    addresses: tuple[str, ...]
    tls: Credentials | None = None
    secret: bool = False
    impostor: bool = False
    early: bool = False


@dataclass(frozen=True)
class Taken:
    """One message that a server took responsibility for."""

    host: Host
    tls: bool
    sender: str
    recipients: tuple[str, ...]
    content: bytes


@dataclass
class Sea:
    """The whole of it: `taken` in order, `open` streams of ours, and which faults came about."""

    rng: Random
    rough: bool = True
    hosts: dict[str, Host] = field(default_factory=dict)  # by address
    names: dict[tuple[str, RecordType], Answer] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    taken: list[Taken] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    streams: list[Cut] = field(default_factory=list)
    reused: int = 0
    nursery: trio.Nursery | None = None

    @property
    def left_open(self) -> int:
        """Connections of ours that were not closed."""
        return sum(not stream.closed for stream in self.streams)

    def publish(self, name: str, kind: RecordType, *records: Record, secure: bool) -> None:
        """Records in the place of a zone."""
        self.known.add(name)
        self.names[name, kind] = Found(records, secure, 300)

    def add_host(self, host: Host, *, secure: bool, dane: bool = False, wrong: bool = False) -> None:
        """The server, its addresses and TLSA records."""
        for address in host.addresses:
            self.hosts[address] = host
            kind = RecordType.AAAA if ":" in address else RecordType.A
            self.publish(host.name, kind, AddressRecord(address), secure=secure)
        if dane:
            assert host.tls is not None
            digest = bytes(32) if wrong else association(host.tls.chain[0], 1, 1)
            name = f"_{PORT}._tcp.{host.name}"
            self.publish(name, RecordType.TLSA, TlsaRecord(3, 1, 1, digest), secure=secure)

    def chance(self, what: str, likelihood: float) -> bool:
        """Whether a fault of this kind happens now."""
        if self.rough and self.rng.random() < likelihood:
            self.faults[what] += 1
            return True
        return False

    async def lookup(self, query: Query) -> Answer:
        """The `Resolver` port."""
        await trio.sleep(self.rng.random() * 0.1)
        if self.chance("dns silent", 0.06):
            await trio.sleep(3)
            return Unreachable("nobody answers")
        if self.chance("dns bogus", 0.02):
            return Bogus("a signature is wrong")
        found = self.names.get((query.name, query.type))
        if found is not None:
            return found
        return NoData(True) if query.name in self.known else NxDomain(True)

    async def dial(self, address: str, port: int, *, source: str | None, timeout: float) -> Connection:
        """The `Dialer` port."""
        target = f"[{address}]:{port}"
        if self.chance("connect silent", 0.05):
            await trio.sleep(timeout)
            raise ConnectFailed(target, f"no answer within {timeout:g} s")
        await trio.sleep(self.rng.random() * 0.4)
        if address not in self.hosts or self.chance("connect refused", 0.06):
            raise ConnectFailed(target, "Connection refused", 111)
        ours, theirs = trio.testing.memory_stream_pair()
        out = self.rng.randrange(6000) if self.chance("cut outwards", 0.06) else None
        into = self.rng.randrange(6000) if self.chance("cut inwards", 0.06) else None
        stream = Cut(ours, out, into)
        self.streams.append(stream)
        assert self.nursery is not None
        self.nursery.start_soon(Berth(self, self.hosts[address], theirs).serve)
        return Connection(stream, "192.0.2.250", 40_000 + len(self.streams))


class _Gone(Exception):
    """The server's end is over."""


class Berth:
    """The server's end of one connection (RFC 5321, 2920, 3030, 3207)."""

    def __init__(self, sea: Sea, host: Host, stream: trio.abc.Stream) -> None:
        self._sea = sea
        self._host = host
        self._talk = Talk(stream)
        self._secured = False
        self._sender: str | None = None
        self._recipients: list[str] = []
        self._content = b""
        self._chunks_refused = False
        self._served = 0

    async def serve(self) -> None:
        """Until the client goes, or something goes wrong."""
        try:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError, EOFError, _Gone):
                await self._converse()
        finally:
            await trio.aclose_forcefully(self._talk.stream)

    async def _converse(self) -> None:
        if self._sea.chance("greeting refused", 0.03):
            await self._talk.say("554 5.7.1 not you")
            return
        await self._talk.say("220 sea")
        while True:
            line = (await self._talk.line()).decode()
            verb = line.partition(" ")[0].upper()
            if self._sea.chance(f"silent at {verb}", 0.01):
                await trio.sleep_forever()
            if self._sea.chance(f"gone at {verb}", 0.015):
                return
            if verb != "QUIT" and self._sea.chance(f"421 at {verb}", 0.015):
                await self._talk.say("421 4.3.2 closing")
                return
            await self._obey(verb, line)

    async def _obey(self, verb: str, line: str) -> None:
        if verb == "EHLO":
            offers = ["PIPELINING", "SIZE 1000000", "CHUNKING", "8BITMIME"]
            if self._host.early and not self._sea.chance("pipeconnect withdrawn", 0.1):
                offers.append("PIPECONNECT")
            if self._host.tls and not self._secured and not self._sea.chance("starttls stripped", 0.08):
                offers.append("STARTTLS")
            await self._talk.say(
                "\r\n".join([f"250-{self._host.name}", *(f"250-{o}" for o in offers), "250 HELP"])
            )
        elif verb == "STARTTLS" and self._host.tls and not self._secured:
            await self._start_tls(self._host.tls)
        elif verb == "MAIL" and self._sender is None:
            await self._mail(line)
        elif verb == "RCPT" and self._sender is not None:
            await self._rcpt(line.partition("<")[2].partition(">")[0])
        elif verb == "DATA":
            await self._data()
        elif verb == "BDAT":
            await self._bdat(line.split())
        elif verb == "RSET":
            self._reset()
            await self._talk.say("250 2.0.0 reset")
        elif verb == "QUIT":
            await self._talk.say("221 2.0.0 bye")
            raise _Gone
        else:
            await self._talk.say("503 5.5.1 not now")

    async def _start_tls(self, credentials: Credentials) -> None:
        if self._sea.chance("starttls refused", 0.03):
            await self._talk.say("454 4.7.0 no TLS now")
            return
        await self._talk.say("220 2.0.0 go ahead")
        if self._sea.chance("gone in the handshake", 0.04):
            raise _Gone
        await self._talk.start_tls(_context(credentials))
        self._secured = True

    async def _mail(self, line: str) -> None:
        if self._sea.chance("451 to MAIL", 0.03):
            await self._talk.say("451 4.3.0 try later")
            return
        if self._served:
            self._sea.reused += 1
        self._sender = line.partition("<")[2].partition(">")[0]
        self._recipients, self._content, self._chunks_refused = [], b"", False
        await self._talk.say("250 2.1.0 sender")

    async def _rcpt(self, who: str) -> None:
        if who.startswith("gone") or self._sea.chance("550 to RCPT", 0.01):
            await self._talk.say("550 5.1.1 unknown")
        elif self._sea.chance("451 to RCPT", 0.06):
            await self._talk.say("451 4.7.1 greylisted")
        else:
            self._recipients.append(who)
            await self._talk.say("250 2.1.5 recipient")

    async def _data(self) -> None:
        if not self._recipients:
            await self._talk.say("503 5.5.1 nobody")
            return
        await self._talk.say("354 go on")
        self._content += await self._talk.dotted()
        await self._end()

    async def _bdat(self, words: list[str]) -> None:
        self._content += await self._talk.chunk(int(words[1]))
        if not self._recipients or self._chunks_refused:
            self._chunks_refused = True
            await self._talk.say("503 5.5.1 nobody")
        elif len(words) > 2:
            await self._end()
        else:
            await self._talk.say("250 2.0.0 chunk")

    async def _end(self) -> None:
        sender, recipients = self._sender or "", tuple(self._recipients)
        if self._sea.chance("451 at the end", 0.03):
            self._reset()
            await self._talk.say("451 4.3.0 no space")
            return
        self._sea.taken.append(Taken(self._host, self._secured, sender, recipients, self._content))
        self._served += 1
        self._reset()
        if self._sea.chance("gone before the last reply", 0.03):
            raise _Gone
        if self._sea.chance("silent before the last reply", 0.01):
            await trio.sleep_forever()
        await self._talk.say("250 2.0.0 taken")
        if self._sea.chance("goodbye after a message", 0.05):
            await trio.sleep(self._sea.rng.random() * 5)
            await self._talk.say("421 4.4.2 idle")
            raise _Gone

    def _reset(self) -> None:
        self._sender, self._recipients, self._content = None, [], b""


_contexts: dict[int, ssl.SSLContext] = {}


def _context(credentials: Credentials) -> ssl.SSLContext:
    if id(credentials) not in _contexts:
        _contexts[id(credentials)] = credentials.server_context()
    return _contexts[id(credentials)]


def charted(rng: Random, authority: Authority) -> Sea:
    """The standard waters: see the domains in `test_agent`."""
    sea = Sea(rng)

    def credentials(host: str) -> Credentials:
        return authority.issue(host)

    def exchanger(domain: str, *hosts: tuple[int, str], secure: bool) -> None:
        sea.publish(domain, RecordType.MX, *(MxRecord(*host) for host in hosts), secure=secure)

    dane = Host("mx.dane.test", ("2001:db8::1", "192.0.2.1"), credentials("mx.dane.test"), True, early=True)
    sea.add_host(dane, secure=True, dane=True)
    exchanger("dane.test", (10, "mx.dane.test"), secure=True)
    exchanger("dane-too.test", (10, "mx.dane.test"), secure=True)
    for number, name in enumerate(("mx1.two.test", "mx2.two.test")):
        sea.add_host(Host(name, (f"192.0.2.1{number}",), credentials(name)), secure=False)
    exchanger("two.test", (10, "mx1.two.test"), (20, "mx2.two.test"), secure=False)
    strict = Host("mx.strict.test", ("192.0.2.20",), credentials("mx.strict.test"), secret=True)
    sea.add_host(strict, secure=False)
    exchanger("strict.test", (10, "mx.strict.test"), secure=False)
    sea.add_host(Host("mx.plain.test", ("192.0.2.30",), early=True), secure=False)
    exchanger("plain.test", (10, "mx.plain.test"), secure=False)
    exchanger("sender.test", (10, "mx.plain.test"), secure=False)
    forged = Host("mx.forged.test", ("192.0.2.40",), credentials("mx.forged.test"), impostor=True)
    sea.add_host(forged, secure=True, dane=True, wrong=True)
    exchanger("forged.test", (10, "mx.forged.test"), secure=True)
    return sea
