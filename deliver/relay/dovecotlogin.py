"""Logins by Dovecot: one connection to its socket auth-client for each exchange (`deliver.relay.dovecot`).

Over a UNIX socket, TCP, or TLS over TCP from the first octet; there Dovecot's certificate must be for its
host name and lead to a root of the trust store. Everything has one deadline. What Dovecot offers is asked
for again after a while; as long as it has not been heard of, PLAIN and LOGIN are offered.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

import trio

from deliver import endpoint
from deliver.errors import OutriderError, PeerError
from deliver.net.clock import Clock
from deliver.net.tlsstream import TlsStream
from deliver.relay.dovecot import (
    Answer,
    Caller,
    Continue,
    Denied as DovecotDenied,
    DovecotBroken,
    DovecotMachine,
    Granted,
    Greeted,
)
from deliver.relay.login import Attempt, Denied, Judgement, Unavailable
from deliver.relay.security import Challenge, Client, LoggedIn
from deliver.tls import pkix
from deliver.tls.context import context_for
from deliver.tls.engine import TlsEngine
from deliver.tls.pkix import TrustStore
from deliver.tls.policy import Authentication, Level, TlsPolicy

READ_SIZE = 4096
FRESH = 60.0  # seconds for which we believe to know what Dovecot offers
UNHEARD = ("PLAIN", "LOGIN")

log = logging.getLogger("outrider.relay")


@dataclass(frozen=True, slots=True)
class Place:
    """Where Dovecot is: `unix:path` or `host:port`. `timeout` in seconds; `trust`: TLS, with these roots."""

    text: str
    timeout: float
    trust: TrustStore | None = None


class DovecotService:
    """Asks Dovecot."""

    def __init__(self, place: Place, wanted: tuple[str, ...], clock: Clock) -> None:
        """`wanted`: mechanisms, upper case, the best first."""
        self._place = place
        self._wanted = wanted
        self._clock = clock
        self._offered: tuple[str, ...] = UNHEARD

    async def run(self) -> None:
        """Ask Dovecot from time to time what it offers; never returns."""
        while True:
            await self.refresh()
            await trio.sleep(FRESH)

    async def refresh(self) -> None:
        """Ask Dovecot what it offers; where it does not say, what it said before holds."""
        link = _Link(self._place, self._clock)
        try:
            with trio.fail_after(self._place.timeout):
                self._offered = (await link.open()).mechanisms
        except trio.TooSlowError:
            log.warning("asking Dovecot at %s: it does not answer in time", self._place.text)
        except OutriderError as error:
            log.warning("%s", error)
        finally:
            link.close()

    def mechanisms(self, client: Client) -> tuple[str, ...]:
        """Those that Dovecot and the settings have in common."""
        return tuple(each for each in self._wanted if each in self._offered)

    def begin(self, mechanism: str, client: Client) -> Attempt:
        """A new exchange; the connection is made with its first step."""
        host, port = client.local
        caller = Caller(
            client.address, client.port, host, port, bool(client.secured and client.secured.names)
        )
        return _DovecotAttempt(_Link(self._place, self._clock), self._place.timeout, mechanism, caller)


class _DovecotAttempt:
    def __init__(self, link: _Link, timeout: float, mechanism: str, caller: Caller) -> None:
        self._link = link
        self._timeout = timeout
        self._mechanism = mechanism
        self._caller = caller
        self._begun = False

    async def respond(self, response: bytes | None) -> Judgement:
        """One step at Dovecot's."""
        try:
            with trio.fail_after(self._timeout):
                return _judgement(await self._step(response))
        except trio.TooSlowError:
            return Unavailable("Dovecot does not answer in time")
        except OutriderError as error:
            return Unavailable(str(error))

    async def _step(self, response: bytes | None) -> Answer:
        if self._begun:
            return await self._link.ask(self._link.machine.go_on(response or b""))
        self._begun = True
        await self._link.open()
        return await self._link.ask(self._link.machine.begin(self._mechanism, self._caller, response))

    def close(self) -> None:
        """Dovecot forgets the exchange with its connection."""
        self._link.close()


def _judgement(answer: Answer) -> Judgement:
    match answer:
        case Continue(data=data):
            return Challenge(data)
        case Granted(username=username):
            return LoggedIn(username)
        case DovecotDenied(username=username, temporary=temporary):
            return (
                Unavailable("Dovecot cannot tell now") if temporary else Denied("Dovecot says no", username)
            )
        case _:
            return Unavailable("Dovecot greets twice")


class _Link:
    """A connection to Dovecot."""

    def __init__(self, place: Place, clock: Clock) -> None:
        self._place = place
        self._clock = clock
        self._socket: trio.SocketStream | None = None
        self._stream: trio.abc.Stream | None = None
        self.machine = DovecotMachine(os.getpid())

    async def open(self) -> Greeted:
        """Connect, and read Dovecot's greeting. Raises PeerError."""
        try:
            self._socket = await self._connect()
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            raise DovecotBroken(f"{self._place.text} cannot be reached: {why}") from None
        self._stream = self._socket
        if self._place.trust is not None:
            self._stream = await self._secured(self._socket, self._place.trust)
        greeted = await self.ask(self.machine.hello)
        if not isinstance(greeted, Greeted):
            raise DovecotBroken("it does not greet")
        return greeted

    async def ask(self, octets: bytes) -> Answer:
        """Send, and wait for the answer. Raises PeerError."""
        stream = self._stream
        assert stream is not None, "not connected"
        try:
            await stream.send_all(octets)
            while True:
                answer = self.machine.receive(bytes(await stream.receive_some(READ_SIZE)))
                if answer is not None:
                    return answer
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise DovecotBroken("the connection was lost") from None

    def close(self) -> None:
        """Close at once; harmless at any time."""
        if self._socket is not None:
            self._socket.socket.close()
        self._socket = self._stream = None

    async def _connect(self) -> trio.SocketStream:
        text = self._place.text
        if text.startswith("unix:"):
            return await trio.open_unix_socket(text.removeprefix("unix:"))
        host, port = endpoint.split(text)
        assert port is not None, "the settings demand a port"
        return await trio.open_tcp_stream(host, port)

    async def _secured(self, transport: trio.SocketStream, trust: TrustStore) -> TlsStream:
        host, _ = endpoint.split(self._place.text)
        policy = TlsPolicy(Level.VERIFY, True, True, Authentication.PKIX, host)
        stream = TlsStream(transport, TlsEngine(context_for(policy, tickets=False), host))
        handshake = await stream.do_handshake()
        verdict = pkix.verify(handshake.chain, trust, (host,), self._clock.now())
        if not verdict.ok:
            raise PeerError("proving who Dovecot is", verdict.findings[-1].text, "see relay.auth.dovecot_ca")
        return stream
