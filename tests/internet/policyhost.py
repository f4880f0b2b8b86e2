"""A scripted HTTPS server for the MTA-STS policies of many domains, on trio, `ssl` and h11 (RFC 8461 3.3).

It presents the certificate that belongs to the client's SNI, keeps who came and what was asked, misbehaves as
the domain's `PolicyAnswer` says, and notes in `violations` whatever the client does against the rules. What a
client can make it keep or wait for is bounded. It shares no code with the client under test.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import h11
import trio

from tests.internet.gate import Gate
from tests.internet.pki import Authority, Certificate
from tests.internet.policy import policy_host_of

TARGET = "/.well-known/mta-sts.txt"
REQUEST_OCTETS = 8192
CONNECTION_SECONDS = 60.0  # from its beginning to its end, the wait at a gate included
CLIENTS = 64  # at a time


@dataclass(frozen=True, slots=True)
class PolicyAnswer:
    """What the policy host of one domain answers with.

    `certificate` is of that kind and for `names`, none: for the policy host itself. `headers` are further ones,
    such as the Location of a redirect. At a `gate` it waits before it answers, with the request on record.
    """

    body: bytes = b""
    status: int = 200
    media_type: str = "text/plain"
    headers: tuple[tuple[str, str], ...] = ()
    certificate: Certificate = Certificate.TRUSTED
    names: tuple[str, ...] = ()
    gate: Gate | None = None


@dataclass(frozen=True, slots=True)
class PolicyRequest:
    """One request as it arrived. Names of headers are lower case."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]

    def header(self, name: str) -> str | None:
        """The first header of that name."""
        return next((value for key, value in self.headers if key == name), None)


@dataclass(slots=True)
class Visit:
    """One connection, filled as it goes. `server_name` is the SNI, `status` what was answered with."""

    server_name: str | None = None
    tls_version: str | None = None
    tls_error: str | None = None
    request: PolicyRequest | None = None
    status: int | None = None
    ended: bool = False


class PolicyHost:
    """The policy hosts `mta-sts.DOMAIN` of all domains in `answers`, on one address.

    `visits` are the connections so far, the last one last. `observers` are called, in the server's thread, after
    every request and at the end of every connection.
    """

    def __init__(self, authority: Authority, answers: Mapping[str, PolicyAnswer] | None = None) -> None:
        self.address = ""
        self.port = 0
        self.answers = dict(answers or {})
        self.visits: list[Visit] = []
        self.violations: list[str] = []
        self.observers: list[Callable[[], None]] = []
        self._authority = authority
        self._contexts: dict[tuple[Certificate, tuple[str, ...]], ssl.SSLContext] = {}
        self._changed = trio.Event()

    def answer(self, domain: str, answer: PolicyAnswer) -> None:
        """From the next connection on, answer so for this domain."""
        self.answers[domain] = answer

    def write(self, domain: str, document: str) -> None:
        """Replace the document of this domain; how it is answered stays. KeyError when it has none."""
        self.answers[domain] = replace(self.answers[domain], body=document.encode())

    def visits_of(self, domain: str) -> tuple[Visit, ...]:
        """The connections for this domain, those without a request too."""
        return tuple(visit for visit in self.visits if visit.server_name == policy_host_of(domain))

    def requests(self, domain: str) -> int:
        """How many requests came for this domain, whatever was answered."""
        return sum(visit.request is not None for visit in self.visits_of(domain))

    async def wait_for(self, condition: Callable[[PolicyHost], bool]) -> None:
        """Return when `condition` holds; looked at after every request and connection."""
        while not condition(self):
            await self._changed.wait()

    async def serve(
        self,
        listeners: list[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled, on listeners that have one address and one port."""
        self.address, self.port = listeners[0].socket.getsockname()[:2]
        limiter = trio.CapacityLimiter(CLIENTS)

        async def visited(stream: trio.SocketStream) -> None:
            async with limiter:
                await self._visited(stream)

        await trio.serve_listeners(visited, listeners, task_status=task_status)

    async def _visited(self, stream: trio.SocketStream) -> None:
        visit = Visit()
        self.visits.append(visit)
        # Its close_notify is not waited for: https_compatible.
        secured = trio.SSLStream(stream, self._greeting(visit), server_side=True, https_compatible=True)
        try:
            with trio.move_on_after(CONNECTION_SECONDS):
                if await _handshake(secured, visit):
                    await self._converse(secured, visit)
                    await secured.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await trio.aclose_forcefully(stream)
            visit.ended = True
            self._notify()

    def _greeting(self, visit: Visit) -> ssl.SSLContext:
        """Without a certificate of its own: the client's SNI chooses one, or ends the handshake."""

        def choose(connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> int | None:
            visit.server_name = None if name is None else name.lower()
            answer = self._answer_of(visit.server_name)
            if answer is None:
                self.violations.append(f"policy host: the client asked for {name}, which has no policy")
                return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
            connection.context = self._context(visit.server_name or "", answer)
            return None

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.sni_callback = choose
        return context

    def _answer_of(self, server_name: str | None) -> PolicyAnswer | None:
        found = (domain for domain in self.answers if policy_host_of(domain) == server_name)
        return self.answers.get(next(found, ""))

    def _context(self, host: str, answer: PolicyAnswer) -> ssl.SSLContext:
        key = (answer.certificate, answer.names or (host,))
        if key not in self._contexts:
            credentials = self._authority.issue(*key[1], kind=key[0])
            self._contexts[key] = credentials.server_context()
        return self._contexts[key]

    async def _converse(self, stream: trio.abc.Stream, visit: Visit) -> None:
        """One request and its response."""
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=REQUEST_OCTETS)
        visit.request = await _request(connection, stream)
        if connection.our_state is h11.MUST_CLOSE:  # it went without a word
            return
        answer = self._answer_of(visit.server_name) or PolicyAnswer(status=404)
        if wrong := _fault(visit, self.port):
            self.violations.append(f"policy host: {visit.server_name}: {wrong}")
            answer = PolicyAnswer(status=400)
        self._notify()
        if answer.gate is not None:
            await answer.gate.passed()
        await stream.send_all(_encoded(connection, answer))
        visit.status = answer.status

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
        for observer in self.observers:
            observer()


async def _handshake(stream: trio.SSLStream[trio.SocketStream], visit: Visit) -> bool:
    try:
        await stream.do_handshake()
    except trio.BrokenResourceError as error:
        visit.tls_error = str(error.__cause__ or error)
        return False
    visit.tls_version = stream.version()
    return True


async def _request(connection: h11.Connection, stream: trio.abc.Stream) -> PolicyRequest | None:
    """None for what is no request, or too large."""
    try:
        while (event := connection.next_event()) is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(REQUEST_OCTETS)))
    except h11.RemoteProtocolError:
        return None
    if not isinstance(event, h11.Request):
        return None
    headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers)
    return PolicyRequest(event.method.decode("latin-1"), event.target.decode("latin-1"), headers)


def _fault(visit: Visit, port: int) -> str | None:
    """What is wrong with the request."""
    request = visit.request
    if request is None:
        return "this is no request"
    if request.method != "GET":
        return f"the method is {request.method}"
    if request.target != TARGET:
        return f"the target is {request.target}"
    host = request.header("host")  # RFC 9110 7.2: with the port, unless it is the scheme's own
    if host is not None and host.lower() not in (visit.server_name, f"{visit.server_name}:{port}"):
        return f"the Host is {host}"
    return None


def _encoded(connection: h11.Connection, answer: PolicyAnswer) -> bytes:
    """A complete response; its connection ends with it."""
    headers = [
        ("Content-Type", answer.media_type),
        ("Content-Length", str(len(answer.body))),
        ("Connection", "close"),
        *answer.headers,
    ]
    head = connection.send(h11.Response(status_code=answer.status, headers=headers))
    return (head or b"") + (connection.send(h11.Data(data=answer.body)) or b"")
