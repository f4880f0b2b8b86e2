"""A recursive resolver's front on UDP and TCP, over the zones, with trouble on demand (RFC 1035, 6891, 7766).

It answers like a validating recursor: AD for secure answers when DO or AD was set (RFC 6840 5.7, 5.8), SERVFAIL
with an extended error for bogus ones unless CD was set, TC over UDP where the answer exceeds what the client
takes. `trouble` makes it misbehave for a name. Every question that arrives is kept in `questions`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import trio

from tests.internet.gate import Gate
from tests.internet.recursion import Resolution, resolve
from tests.internet.zones import Internet, Status

Lookup = Callable[[dns.name.Name, dns.rdatatype.RdataType], Resolution]
_NO_EDNS_LIMIT = 512  # octets, RFC 1035 2.3.4
_TCP_IDLE = 10  # seconds
_BIND_ATTEMPTS = 20
_PROOF_TYPES = frozenset({dns.rdatatype.RRSIG, dns.rdatatype.NSEC})


class Fault(StrEnum):
    """What can go wrong with an answer."""

    SERVFAIL = "servfail"
    REFUSED = "refused"
    SILENCE = "silence"  # no answer at all
    GARBAGE = "garbage"  # octets that are no DNS message
    WRONG_ID = "wrong-id"  # the right answer to another question
    TRUNCATED = "truncated"  # TC over UDP, whatever the size; complete over TCP
    UNSIGNED = (
        "unsigned"  # signatures and denials removed, AD clear: a resolver without DNSSEC, or an attacker
    )
    AUTHENTIC = "authentic"  # AD set, whatever the truth
    CREDULOUS = "credulous"  # whatever the zones hold, AD set: it believes what it is told
    NO_AD = "no-ad"  # the right answer, AD clear: a resolver that does not validate


@dataclass(slots=True)
class Trouble:
    """A fault, a delay in seconds, a gate, or all, for the next `times` questions (None: for all)."""

    fault: Fault | None = None
    delay: float = 0
    times: int | None = None
    gate: Gate | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """One question as it arrived. `name` without its final dot, lower case; `payload` is None without EDNS."""

    name: str
    type: str
    transport: str
    recursion_desired: bool
    dnssec_ok: bool
    authentic_data: bool
    checking_disabled: bool
    payload: int | None


class Resolver:
    """Serves `internet`, which may be replaced while it runs. `udp_limit`: octets of its largest UDP answer.

    `lookup` answers instead of the zones of `internet`, for zones that were made elsewhere.
    """

    def __init__(self, internet: Internet, *, udp_limit: int = 1232, lookup: Lookup | None = None) -> None:
        self.internet = internet
        self.udp_limit = udp_limit
        self._lookup = lookup
        self.questions: list[Question] = []
        self.address = ""
        self.port = 0
        self._troubles: dict[tuple[str, str | None], Trouble] = {}

    @property
    def endpoint(self) -> str:
        """`address:port`, as the settings want it."""
        return f"{self.address}:{self.port}"

    def trouble(
        self,
        name: str,
        rdtype: str | None = None,
        *,
        fault: Fault | None = None,
        delay: float = 0,
        times: int | None = None,
        gate: Gate | None = None,
    ) -> None:
        """From now on misbehave for questions about `name`, of one type or (None) of all."""
        self._troubles[name.removesuffix(".").lower() or ".", rdtype] = Trouble(fault, delay, times, gate)

    def untroubled(self) -> None:
        """Forget all trouble."""
        self._troubles.clear()

    def asked(self, name: str, rdtype: str | None = None) -> tuple[Question, ...]:
        """The questions about `name` so far."""
        return tuple(
            question
            for question in self.questions
            if question.name == name and rdtype in (None, question.type)
        )

    async def serve(
        self,
        address: str,
        port: int = 0,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Answer on UDP and TCP until cancelled; port 0 picks one that is free on both. OSError when it is not."""
        datagrams, listener = await _bind(address, port)
        self.address, self.port = datagrams.getsockname()[:2]
        with datagrams:
            async with listener, trio.open_nursery() as nursery:
                nursery.start_soon(self._serve_udp, datagrams, nursery)
                nursery.start_soon(trio.serve_listeners, self._serve_tcp, [listener])
                task_status.started()

    async def _serve_udp(self, datagrams: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        while True:
            octets, client = await datagrams.recvfrom(65535)
            nursery.start_soon(self._answer_datagram, datagrams, octets, client)

    async def _answer_datagram(
        self, datagrams: trio.socket.SocketType, octets: bytes, client: tuple[str, int]
    ) -> None:
        answer = await self._respond(octets, "udp")
        if answer is not None:
            await datagrams.sendto(answer, client)

    async def _serve_tcp(self, stream: trio.SocketStream) -> None:
        try:
            while True:
                with trio.fail_after(_TCP_IDLE):
                    octets = await _receive_message(stream)
                if octets is None:
                    return
                answer = await self._respond(octets, "tcp")
                if answer is not None:
                    await stream.send_all(struct.pack("!H", len(answer)) + answer)
        except (trio.BrokenResourceError, trio.TooSlowError):
            return

    async def _respond(self, octets: bytes, transport: str) -> bytes | None:
        """The answer as octets, or None for silence."""
        try:
            query = dns.message.from_wire(octets)
        except dns.exception.DNSException:
            return None
        if query.opcode() != dns.opcode.QUERY or len(query.question) != 1:
            return _rcode_only(query, dns.rcode.NOTIMP).to_wire()
        self.questions.append(_recorded(query, transport))
        trouble = self._next_trouble(query)
        if trouble.delay:
            await trio.sleep(trouble.delay)
        if trouble.gate is not None:
            await trouble.gate.passed()
        return _answer(self._resolve, query, trouble.fault, self._limit(query, transport))

    def _resolve(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> Resolution:
        return self._lookup(name, rdtype) if self._lookup else resolve(self.internet, name, rdtype)

    def _limit(self, query: dns.message.Message, transport: str) -> int | None:
        if transport == "tcp":
            return None
        if query.edns < 0:
            return _NO_EDNS_LIMIT
        return max(_NO_EDNS_LIMIT, min(query.payload, self.udp_limit))

    def _next_trouble(self, query: dns.message.Message) -> Trouble:
        name, rdtype = _asked(query)
        for key in ((name, rdtype), (name, None)):
            trouble = self._troubles.get(key)
            if trouble is not None and trouble.times != 0:
                if trouble.times is not None:
                    trouble.times -= 1
                return trouble
        return Trouble()


def _answer(
    lookup: Lookup, query: dns.message.Message, fault: Fault | None, limit: int | None
) -> bytes | None:
    match fault:
        case Fault.SILENCE:
            return None
        case Fault.GARBAGE:
            return b"\xff" * 7
        case Fault.SERVFAIL:
            return _rcode_only(query, dns.rcode.SERVFAIL).to_wire()
        case Fault.REFUSED:
            return _rcode_only(query, dns.rcode.REFUSED).to_wire()
        case Fault.TRUNCATED if limit is not None:
            return _truncated(query).to_wire()
    question = query.question[0]
    if fault is Fault.CREDULOUS:
        query.flags |= dns.flags.CD
    response = message(query, lookup(question.name, question.rdtype))
    if fault is Fault.WRONG_ID:
        response.id ^= 0x5555
    if fault is Fault.UNSIGNED:
        response.flags &= ~dns.flags.AD
        response.answer = [rrset for rrset in response.answer if rrset.rdtype not in _PROOF_TYPES]
        response.authority = [rrset for rrset in response.authority if rrset.rdtype not in _PROOF_TYPES]
    if fault in (Fault.AUTHENTIC, Fault.CREDULOUS):
        response.flags |= dns.flags.AD
    elif fault is Fault.NO_AD:
        response.flags &= ~dns.flags.AD
    try:
        return response.to_wire(max_size=limit or 65535)
    except dns.exception.TooBig:
        return _truncated(query).to_wire()


def message(query: dns.message.Message, resolution: Resolution) -> dns.message.Message:
    """The response to `query` that says `resolution`."""
    dnssec_ok = bool(query.ednsflags & dns.flags.DO)
    if resolution.status is Status.BOGUS and not query.flags & dns.flags.CD:
        assert resolution.why is not None
        return _rcode_only(query, dns.rcode.SERVFAIL, dns.edns.EDEOption(resolution.why))
    response = _rcode_only(query, resolution.rcode)
    asked = query.question[0].rdtype
    for rrsets, section in (
        (resolution.answer, response.answer),
        (resolution.authority, response.authority),
    ):
        section.extend(r for r in rrsets if dnssec_ok or r.rdtype not in _PROOF_TYPES or r.rdtype == asked)
    wants_ad = dnssec_ok or bool(query.flags & dns.flags.AD)
    if resolution.status is Status.SECURE and wants_ad and not query.flags & dns.flags.CD:
        response.flags |= dns.flags.AD
    return response


def _rcode_only(
    query: dns.message.Message, rcode: dns.rcode.Rcode, *options: dns.edns.Option
) -> dns.message.Message:
    response = dns.message.make_response(query, recursion_available=True)
    if query.edns >= 0:
        flags = query.ednsflags & dns.flags.DO  # RFC 3225 3: DO is copied
        response.use_edns(0, flags, 1232, options=list(options))
    response.flags |= query.flags & dns.flags.CD
    response.set_rcode(rcode)
    return response


def _truncated(query: dns.message.Message) -> dns.message.Message:
    response = _rcode_only(query, dns.rcode.NOERROR)
    response.flags |= dns.flags.TC
    return response


def _asked(query: dns.message.Message) -> tuple[str, str]:
    question = query.question[0]
    return question.name.to_text(omit_final_dot=True).lower(), dns.rdatatype.to_text(question.rdtype)


def _recorded(query: dns.message.Message, transport: str) -> Question:
    name, rdtype = _asked(query)
    return Question(
        name,
        rdtype,
        transport,
        bool(query.flags & dns.flags.RD),
        bool(query.ednsflags & dns.flags.DO),
        bool(query.flags & dns.flags.AD),
        bool(query.flags & dns.flags.CD),
        query.payload if query.edns >= 0 else None,
    )


async def _receive_message(stream: trio.SocketStream) -> bytes | None:
    """One length-prefixed message (RFC 1035 4.2.2), or None at the end of the stream."""
    received = bytearray()
    wanted = 2
    while len(received) < wanted:
        octets = await stream.receive_some(65537)
        if not octets:
            return None
        received += octets
        if len(received) >= 2:
            wanted = 2 + int.from_bytes(received[:2], "big")
    return bytes(received[2:wanted])  # a client that pipelines its queries is not served


async def _bind(address: str, port: int) -> tuple[trio.socket.SocketType, trio.SocketListener]:
    """The same port on UDP and TCP."""
    for attempt in range(_BIND_ATTEMPTS):
        [listener] = await trio.open_tcp_listeners(port, host=address)
        datagrams = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
        try:
            await datagrams.bind(listener.socket.getsockname()[:2])
        except OSError:
            datagrams.close()
            await listener.aclose()
            if port or attempt == _BIND_ATTEMPTS - 1:
                raise
        else:
            return datagrams, listener
    raise AssertionError("unreachable")
