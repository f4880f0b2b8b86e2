"""The text of a policy, fetched over HTTPS from the domain's own policy host (RFC 8461 3.3).

    look up    mta-sts.DOMAIN, by our own resolver
    connect    the first of its addresses that does, each with a head start (`deliver.net.race`)
    TLS        1.2 at least; the certificate leads to a root of `tls.trust_store` and has the host's name
    GET        /.well-known/mta-sts.txt over HTTP/1.1, which is h11's; only a 200 in text/plain counts

Nothing is kept and no redirect is followed. Whatever goes wrong is NotFetched. Everything that the host can
make us keep or wait for is bounded: the heads and the text of its response, their octets altogether, its
interim responses, and its time.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import lru_cache
from typing import Final

import h11
import trio
from OpenSSL import crypto

from deliver.errors import ConfigurationError
from deliver.ignored import without_ignored
from deliver.net.dial import ConnectFailed, Connection, Dialer
from deliver.net.race import Racer, interleave, race
from deliver.resolve.mx import NoHost
from deliver.resolve.resolver import Resolver, drive
from deliver.resolve.sts import policy_host
from deliver.resolve.tlsa import fits_a_name
from deliver.resolve.walk import find_host
from deliver.smtp.reply import printable
from deliver.sts.source import MAX_BODY, NotFetched
from deliver.tls.pkix import TrustStore

PATH = "/.well-known/mta-sts.txt"
HTTPS: Final = 443

CONNECT = 10.0  # seconds, for one address
HEAD_START = 0.25  # seconds, of one address before the next (RFC 8305 5)
MAX_ADDRESSES = 4  # that are tried
MAX_HEAD = 16 * 1024  # octets of one head, of one line between chunks, of what follows the last chunk
MAX_INTERIM = 8  # responses 1xx
MAX_OCTETS = 2 * MAX_BODY  # of everything: chunks of a single octet cost more than what is in them
READ = 4 * 1024  # octets
SHOWN = 80  # octets of a header field in a sentence


class HttpsSource:
    """The `PolicySource` of RFC 8461."""

    def __init__(
        self,
        resolver: Resolver,
        dialer: Dialer,
        *,
        families: Sequence[str],
        ignored: Sequence[str] = (),
        trust_store: str | None = None,
        port: int = HTTPS,
        deadline: float,
    ) -> None:
        """`families`, `ignored`, `trust_store`: as in the settings of `delivery` and `tls`.

        The trust store is read when it is first needed, and again when its file has changed. `deadline` is in
        seconds, for one fetch.
        """
        self._resolver = resolver
        self._dialer = dialer
        self._families = tuple(families)
        self._ignored = tuple(ignored)
        self._trust_store = trust_store
        self._port = port
        self._deadline = deadline

    async def fetch(self, domain: str) -> bytes:
        """See `PolicySource`; nothing is left open, whatever happens."""
        host = policy_host(domain)
        response = Response(host, self._port)
        step = "looking its host up"
        with trio.move_on_after(self._deadline):
            async with AsyncExitStack() as opened:
                addresses = await self._addresses(host)
                step = "connecting"
                connection = await self._connected(host, addresses, opened)
                step = "negotiating TLS"
                stream = await self._secured(host, connection.stream)
                step = "waiting for the response"
                return await _answered(stream, response)
        raise NotFetched(f"{response.url} was not fetched within {self._deadline:g} s: time ran out {step}")

    async def _addresses(self, host: str) -> tuple[str, ...]:
        if not fits_a_name(host):
            raise NotFetched(f"{host} cannot exist: the name would be too long")
        walk = find_host(
            host,
            port=self._port,
            families=self._families,
            mx_secure=False,
            tlsa_unwanted="it is a web server",
        )
        plan = without_ignored(await drive(walk, self._resolver), self._ignored).plan
        if isinstance(plan, NoHost):
            raise NotFetched(plan.why)
        return interleave(plan.addresses)[:MAX_ADDRESSES]

    async def _connected(self, host: str, addresses: tuple[str, ...], opened: AsyncExitStack) -> Connection:
        """What connected first; `opened` closes it, and another one that did so in the same moment."""
        connections: dict[int, Connection] = {}
        failures: list[str] = []

        def racer(place: int, address: str) -> Racer:
            async def connect() -> bool:
                try:
                    connection = await self._dialer.dial(address, self._port, source=None, timeout=CONNECT)
                except ConnectFailed as failed:
                    failures.append(f"{address}: {failed.happened}")
                    return False
                opened.push_async_callback(trio.aclose_forcefully, connection.stream)
                connections[place] = connection
                return True

            return connect

        racers = [racer(place, address) for place, address in enumerate(addresses)]
        won = await race(racers, HEAD_START)
        if won is None:
            raise NotFetched(f"connecting to {host} on port {self._port} failed: {'; '.join(failures)}")
        return connections[won]

    async def _secured(self, host: str, transport: trio.abc.Stream) -> trio.SSLStream[trio.abc.Stream]:
        """TLS with the very host; an end without close_notify is an error, since it may cut a text short."""
        try:
            context = _context(TrustStore.load(self._trust_store))
        except ConfigurationError as error:
            raise NotFetched(f"the certificate of {host} cannot be verified: {error}") from error
        stream = trio.SSLStream(transport, context, server_hostname=host)
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError as broken:
            if isinstance(broken.__cause__, ssl.SSLCertVerificationError):
                why = broken.__cause__.verify_message.rstrip(".")
                raise NotFetched(f"the certificate of {host} is not valid: {why}") from broken
            raise NotFetched(f"negotiating TLS with {host} failed: {_reason(broken)}") from broken
        return stream


class Response:
    """What a policy host answers, fed with octets as they come; does no I/O.

    `url` is what is asked for, `request` the octets that ask for it.
    """

    def __init__(self, host: str, port: int = HTTPS) -> None:
        authority = host if port == HTTPS else f"{host}:{port}"
        self.url = f"https://{authority}{PATH}"
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        headers = [
            ("Host", authority),
            ("User-Agent", "Outrider"),
            ("Accept", "text/plain"),
            ("Accept-Encoding", "identity"),
            ("Connection", "close"),
        ]
        head = self._http.send(h11.Request(method="GET", target=PATH, headers=headers))
        self.request = (head or b"") + (self._http.send(h11.EndOfMessage()) or b"")
        self._body = bytearray()
        self._octets = 0
        self._interim = 0

    def feed(self, octets: bytes) -> bytes | None:
        """The text as soon as it is complete, None before; empty `octets` say that no more will come.

        Raises NotFetched. Neither after that nor after the text is more to be fed.
        """
        self._octets += len(octets)
        if self._octets > MAX_OCTETS:
            raise NotFetched(f"{self.url} answered with more than {MAX_OCTETS} octets")
        try:
            self._http.receive_data(octets)
            while (event := self._http.next_event()) is not h11.NEED_DATA:
                match event:
                    case h11.InformationalResponse():
                        self._count_interim()
                    case h11.Response():
                        self._check(event)
                    case h11.Data():
                        self._take(event.data)
                    case h11.EndOfMessage():
                        return bytes(self._body)
        except (h11.RemoteProtocolError, ValueError) as error:  # h11 0.14: a length of thousands of digits
            if not octets:
                why = f"{self.url} could not be read: the connection ended before the response was complete"
                raise NotFetched(why) from error
            raise NotFetched(f"{self.url} did not answer in proper HTTP/1.1: {error}") from error
        return None

    def _count_interim(self) -> None:
        self._interim += 1
        if self._interim > MAX_INTERIM:
            raise NotFetched(f"{self.url} answered with more than {MAX_INTERIM} interim responses (1xx)")

    def _check(self, head: h11.Response) -> None:
        if head.status_code != 200:
            redirect = " (redirects are not followed, RFC 8461 3.3)" if 300 <= head.status_code < 400 else ""
            raise NotFetched(f"{self.url} answered {head.status_code} instead of 200{redirect}")
        media = _values(head, b"content-type")
        if [value.partition(b";")[0].strip().lower() for value in media] != [b"text/plain"]:
            said = printable(b", ".join(media)[:SHOWN]) or "no media type"
            raise NotFetched(f"{self.url} answered with {said} instead of text/plain (RFC 8461 3.3)")
        codings = b", ".join(_values(head, b"content-encoding"))
        if codings.lower() not in (b"", b"identity"):
            said = printable(codings[:SHOWN])
            raise NotFetched(f"{self.url} answered with the content coding {said}, which was not asked for")
        for length in _values(head, b"content-length"):  # one at most, of digits: h11 sees to that
            if int(length) > MAX_BODY:
                raise _too_long(self.url)

    def _take(self, octets: bytes) -> None:
        if len(self._body) + len(octets) > MAX_BODY:
            raise _too_long(self.url)
        self._body += octets


async def _answered(stream: trio.abc.Stream, response: Response) -> bytes:
    """The text. Raises NotFetched."""
    try:
        await stream.send_all(response.request)
        text = None
        while text is None:
            text = response.feed(bytes(await stream.receive_some(READ)))
        return text
    except trio.BrokenResourceError as broken:
        raise NotFetched(f"{response.url} could not be read: {_reason(broken)}") from broken


@lru_cache(maxsize=4)
def _context(trust_store: TrustStore) -> ssl.SSLContext:
    """Shared, not to be changed; the file is looked at again by `TrustStore.load`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which verifies chain and name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False  # RFC 8461 3.3: the name is a DNS-ID
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    roots = (crypto.dump_certificate(crypto.FILETYPE_ASN1, root) for root in trust_store.anchors.certificates)
    context.load_verify_locations(cadata=b"".join(roots))
    return context


def _values(head: h11.Response, name: bytes) -> list[bytes]:
    return [value.strip() for field, value in head.headers if field == name]


def _too_long(url: str) -> NotFetched:
    return NotFetched(f"{url} answered with more than the {MAX_BODY} octets that a policy may have")


def _reason(broken: trio.BrokenResourceError) -> str:
    """What happened to a TLS stream, in the words of OpenSSL or of the system."""
    cause = broken.__cause__
    if isinstance(cause, ssl.SSLEOFError):
        return "the connection ended without the end of TLS (close_notify)"
    if isinstance(cause, ssl.SSLError) and cause.reason:
        return cause.reason.replace("_", " ").lower()
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return "the connection broke"
