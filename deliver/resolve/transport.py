"""Questions to recursive resolvers over UDP with TCP fallback, and their responses read as `Answer`s.

In `trust-ad` mode the AD bit of the resolver says what is secure (RFC 6840 5.8; the query sets AD and DO),
so the path to it must be beyond forgery: loopback, or by explicit consent (`dns.trust_remote_ad`). In `off`
mode nothing is secure. SERVFAIL with a DNSSEC extended error (RFC 8914) is Bogus, any other failure
Unreachable; neither is ever an absence. Resolvers are tried in turn, `attempts` rounds.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

import dns.edns
import dns.exception
import dns.flags
import dns.name
import dns.rcode
import dns.rdatatype
import dns.resolver
import trio

from deliver.dnssec.anchors import ancestors
from deliver.dnssec.names import named
from deliver.dnssec.records import RecordSet, negative_ttl
from deliver.dnssec.response import QR, TC, MalformedResponse, Response, Section, name_in
from deliver.errors import ConfigurationError
from deliver.resolve.answer import (
    AddressRecord,
    AliasRecord,
    Answer,
    Bogus,
    Found,
    MxRecord,
    NoData,
    NxDomain,
    Query,
    Record,
    TextRecord,
    TlsaRecord,
    Unreachable,
)
from deliver.resolve.exchange import Request, over_tcp, over_udp
from deliver.settings import Dns

MAX_RECORDS = 200  # of one answer; more are a hostile zone
MAX_QUERIES_AT_A_TIME = 200  # each holds a socket
MAX_WHY = 500  # characters of an explanation; resolvers control some of them
MAX_ALIASES = 16  # of one answer
MAX_TTL = 0x7FFFFFFF  # seconds, where nothing says less

# RFC 8914: DNSSEC Bogus … NSEC Missing. 1, 2 and 5 (unsupported, indeterminate) stay Unreachable.
_BOGUS_EXTENDED_ERRORS = range(6, 13)


@dataclass(frozen=True, slots=True)
class ResolverAddress:
    """Where a recursive resolver listens."""

    address: str
    port: int = 53

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    @property
    def on_loopback(self) -> bool:
        """Whether the path to it cannot leave this machine."""
        return ipaddress.ip_address(self.address).is_loopback


def resolver_addresses(settings: Dns) -> tuple[ResolverAddress, ...]:
    """The configured resolvers, else those of the system. Raises ConfigurationError.

    Under `trust-ad` each must be on loopback unless `dns.trust_remote_ad` is set.
    """
    if settings.resolvers:
        addresses = tuple(_parse(text) for text in settings.resolvers)
    else:
        addresses = _system_resolvers()
    remote = [str(address) for address in addresses if not address.on_loopback]
    if settings.dnssec == "trust-ad" and remote and not settings.trust_remote_ad:
        raise ConfigurationError(
            "checking dns.resolvers for dns.dnssec = 'trust-ad'",
            f"the path to {', '.join(remote)} leaves this machine, so anybody on it could forge its AD bit",
            "run a validating resolver on this machine and name it in dns.resolvers, or set "
            "dns.trust_remote_ad = true, or dns.dnssec = 'off' to do without DANE",
        )
    return addresses


def _system_resolvers() -> tuple[ResolverAddress, ...]:
    try:
        found = dns.resolver.Resolver(configure=True)
    except (dns.exception.DNSException, OSError) as error:
        raise ConfigurationError(
            "reading the system's resolver settings (/etc/resolv.conf)",
            str(error) or type(error).__name__,
            "name the resolvers in dns.resolvers",
        ) from error
    return tuple(ResolverAddress(str(server), found.port) for server in found.nameservers)


def _parse(text: str) -> ResolverAddress:
    address, port = text, 53
    if text.startswith("["):
        address, _, rest = text[1:].partition("]")
        port = int(rest[1:]) if rest else 53
    elif text.count(":") == 1:
        address, _, digits = text.partition(":")
        port = int(digits)
    return ResolverAddress(str(ipaddress.ip_address(address)), port)


@dataclass(frozen=True, slots=True)
class NoReply:
    """Nobody gave a response; `why` is a phrase for people."""

    why: str


class Recursor:
    """The configured resolvers as one: asked in turn until one gives a response that is no failure."""

    def __init__(self, settings: Dns, addresses: tuple[ResolverAddress, ...]) -> None:
        self._timeout = float(settings.timeout)
        self._attempts = settings.attempts
        self._servers = tuple((address, f"resolver {address}") for address in addresses)
        self._room = trio.Semaphore(MAX_QUERIES_AT_A_TIME, max_value=MAX_QUERIES_AT_A_TIME)

    async def ask(self, request: Request) -> tuple[Response | NoReply, str]:
        """The response and who gave it. A failure (SERVFAIL, REFUSED …) counts when nobody has better."""
        worst: tuple[Response | NoReply, str] = (NoReply("no resolver is configured"), "nobody")
        try:
            self._room.acquire_nowait()
        except trio.WouldBlock:
            await self._room.acquire()
        try:
            for _ in range(self._attempts):
                for server, said in self._servers:
                    response = await self.ask_one(request, server)
                    if isinstance(response, NoReply):
                        worst = worst if isinstance(worst[0], Response) else (response, said)
                    elif response.rcode in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                        return response, said
                    elif is_bogus(response):
                        return response, said  # another resolver would not make it any truer
                    else:
                        worst = (response, said)
        finally:
            self._room.release()
        return worst

    async def ask_one(self, request: Request, server: ResolverAddress) -> Response | NoReply:
        """One question to one resolver: UDP, then TCP if the answer was cut."""
        try:
            response = await over_udp(request, server.address, server.port, self._timeout)
            if response.flags & TC:
                response = await over_tcp(request, server.address, server.port, self._timeout)
        except trio.TooSlowError:
            return NoReply(f"resolver {server} did not answer within {self._timeout:g} s")
        except (OSError, EOFError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            return NoReply(f"resolver {server} cannot be reached: {error}")
        except MalformedResponse as error:
            return NoReply(f"resolver {server} gave a malformed answer: {error}")
        return response


class AdResolver:
    """The `Resolver` port where the resolver's word counts (`trust-ad`), or nobody's (`off`)."""

    def __init__(self, settings: Dns, recursor: Recursor) -> None:
        self._recursor = recursor
        self._trusts_ad = settings.dnssec == "trust-ad"

    async def lookup(self, query: Query) -> Answer:
        """Ask, and read the response."""
        try:
            name = named(f"{query.name}.")
        except dns.exception.DNSException as error:
            return not_a_name(query, error)
        flags = dns.flags.RD | dns.flags.AD if self._trusts_ad else dns.flags.RD
        rdtype = dns.rdatatype.RdataType[query.type]
        response, said = await self._recursor.ask(Request(name, rdtype, flags, dnssec=self._trusts_ad))
        if isinstance(response, NoReply):
            return Unreachable(response.why)
        try:
            return read_response(query, response, trust_ad=self._trusts_ad, said=said)
        except ValueError as error:
            return Unreachable(f"{said} gave an unusable answer: {error}")


def not_a_name(query: Query, error: dns.exception.DNSException) -> Unreachable:
    """For a name that another's answer led to and that cannot be asked for."""
    return Unreachable(f"{query.name[:MAX_WHY]} is no domain name: {error}")


def read_response(query: Query, response: Response, *, trust_ad: bool, said: str) -> Answer:
    """What a response means. Raises ValueError for one that makes no sense."""
    if response.rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        why = failure_in_words(response, said)
        return Bogus(why) if is_bogus(response) else Unreachable(why)
    if len(response.questions) != 1 or not response.flags & QR:
        return Unreachable(f"{said} answered with something other than a query response")
    if response.flags & TC:
        return Unreachable(f"{said} sent a response that is cut")
    secure = trust_ad and bool(response.flags & dns.flags.AD)
    rdtype = dns.rdatatype.RdataType[query.type]
    names, ttl = _follow(response.answer, response.questions[0][0], rdtype)
    aliases = tuple(name_of(name) for name in names[1:])
    found = response.answer.get(names[-1], rdtype)
    if found is None:
        ttl = min(ttl, _negative_ttl(response.authority, names[-1]))
        if response.rcode == dns.rcode.NXDOMAIN:
            return NxDomain(secure, ttl, aliases)
        return NoData(secure, ttl, aliases)
    if response.rcode == dns.rcode.NXDOMAIN:
        raise ValueError("it answers, and says that the name does not exist")
    if len(found) > MAX_RECORDS:
        return Unreachable(f"{said} gave {len(found)} records, more than {MAX_RECORDS}")
    return Found(records_of(found), secure, min(ttl, found.ttl), aliases)


def _follow(
    answer: Section, name: dns.name.Name, rdtype: dns.rdatatype.RdataType
) -> tuple[list[dns.name.Name], int]:
    """The names that CNAMEs lead through, `name` first, and the lowest TTL of those. Raises ValueError."""
    names, ttl = [name], MAX_TTL
    while answer.get(names[-1], rdtype) is None:
        alias = answer.get(names[-1], dns.rdatatype.CNAME)
        if alias is None:
            break
        if len(names) > MAX_ALIASES:
            raise ValueError(f"more than {MAX_ALIASES} aliases")
        names.append(name_in(alias.canonical[0]))
        ttl = min(ttl, alias.ttl)
    return names, ttl


def _negative_ttl(authority: Section, name: dns.name.Name) -> int:
    """How long an absence holds (RFC 2308 5); the longest where no SOA record says."""
    for above in ancestors(name):
        soa = authority.get(above, dns.rdatatype.SOA)
        if soa is not None:
            return negative_ttl(soa)
    return MAX_TTL


def is_bogus(response: Response) -> bool:
    """Whether the resolver says that validation failed (RFC 8914)."""
    return any(int(error.code) in _BOGUS_EXTENDED_ERRORS for error in response.errors)


def failure_in_words(response: Response, said: str) -> str:
    """The response code and the extended errors of a failure."""
    words = "; ".join(
        (dns.edns.EDECode(error.code).name if error.code in list(dns.edns.EDECode) else str(error.code))
        + (f": {error.text}" if error.text else "")
        for error in response.errors
    )
    what = f"{said} answered {dns.rcode.to_text(dns.rcode.Rcode.make(response.rcode))}"
    return f"{what} ({words})"[:MAX_WHY] if words else what


def name_of(name: dns.name.Name) -> str:
    """Lower case, without the final dot; the root is empty."""
    return str(name)[:-1].lower()


def records_of(rrset: RecordSet) -> tuple[Record, ...]:
    """Our form of its records. Raises ValueError for malformed and unasked ones."""
    return tuple(record_of(rrset.rdtype, octets) for octets in rrset.canonical)


def record_of(rdtype: dns.rdatatype.RdataType, octets: bytes) -> Record:
    """Our form of a record by its canonical RDATA. Raises ValueError."""
    match rdtype:
        case dns.rdatatype.MX if len(octets) > 2:
            return MxRecord(int.from_bytes(octets[:2], "big"), name_of(name_in(octets, 2)))
        case dns.rdatatype.A if len(octets) == 4:
            return AddressRecord("{}.{}.{}.{}".format(*octets))
        case dns.rdatatype.AAAA:
            return AddressRecord(str(ipaddress.IPv6Address(octets)))
        case dns.rdatatype.CNAME:
            return AliasRecord(name_of(name_in(octets)))
        case dns.rdatatype.TLSA if len(octets) >= 3:
            return TlsaRecord(octets[0], octets[1], octets[2], octets[3:])
        case dns.rdatatype.TXT:
            return TextRecord(b"".join(_strings(octets)))
        case _:
            raise ValueError(
                f"a {dns.rdatatype.to_text(rdtype)} record that cannot be read or was not asked for"
            )


def _strings(octets: bytes) -> Iterator[bytes]:
    """The character strings of a TXT record (RFC 1035 3.3.14), at least one. Raises ValueError."""
    start = 0
    while True:
        end = start + 1 + octets[start] if start < len(octets) else 0
        if not 0 < end <= len(octets):
            raise ValueError("a TXT record that is cut")
        yield octets[start + 1 : end]
        if end == len(octets):
            return
        start = end
