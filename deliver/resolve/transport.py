"""Questions to recursive resolvers over UDP with TCP fallback (dnspython on trio), read as `Answer`s.

In `trust-ad` mode the AD bit of the resolver says what is secure (RFC 6840 5.8; the query sets AD and DO),
so the path to it must be beyond forgery: loopback, or by explicit consent (`dns.trust_remote_ad`). In `off`
mode nothing is secure. SERVFAIL with a DNSSEC extended error (RFC 8914) is Bogus, any other failure
Unreachable; neither is ever an absence. Resolvers are tried in turn, `attempts` rounds.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

import dns.asyncbackend
import dns.asyncquery
import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdatatype
import dns.resolver
import trio
from dns.rdtypes.ANY.CNAME import CNAME
from dns.rdtypes.ANY.MX import MX
from dns.rdtypes.ANY.TLSA import TLSA
from dns.rdtypes.ANY.TXT import TXT
from dns.rdtypes.IN.A import A
from dns.rdtypes.IN.AAAA import AAAA

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
from deliver.settings import Dns

EDNS_PAYLOAD = 1232  # octets; avoids fragments (DNS flag day 2020)
MAX_RECORDS = 200  # of one answer; more are a hostile zone
MAX_QUERIES_AT_A_TIME = 200  # each holds a socket
MAX_WHY = 500  # characters of an explanation; resolvers control some of them

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
        self._addresses = addresses
        self._limiter = trio.CapacityLimiter(MAX_QUERIES_AT_A_TIME)

    async def ask(self, request: dns.message.QueryMessage) -> tuple[dns.message.Message | NoReply, str]:
        """The response and who gave it. A failure (SERVFAIL, REFUSED …) counts when nobody has better."""
        worst: tuple[dns.message.Message | NoReply, str] = (NoReply("no resolver is configured"), "nobody")
        async with self._limiter:
            for _ in range(self._attempts):
                for server in self._addresses:
                    response = await self.ask_one(request, server)
                    said = f"resolver {server}"
                    if isinstance(response, NoReply):
                        worst = worst if isinstance(worst[0], dns.message.Message) else (response, said)
                    elif response.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                        return response, said
                    elif is_bogus(response):
                        return response, said  # another resolver would not make it any truer
                    else:
                        worst = (response, said)
        return worst

    async def ask_one(
        self, request: dns.message.QueryMessage, server: ResolverAddress
    ) -> dns.message.Message | NoReply:
        """One question to one resolver: UDP, then TCP if the answer was cut."""
        said = f"resolver {server}"
        try:
            response, _ = await dns.asyncquery.udp_with_fallback(
                request,
                server.address,
                timeout=self._timeout,
                port=server.port,
                ignore_unexpected=True,
                ignore_errors=True,
                backend=dns.asyncbackend.get_backend("trio"),
            )
        except dns.exception.Timeout:
            return NoReply(f"{said} did not answer within {self._timeout:g} s")
        except (OSError, EOFError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            return NoReply(f"{said} cannot be reached: {error}")
        except dns.exception.DNSException as error:
            return NoReply(f"{said} gave a malformed answer: {error}")
        except (ValueError, IndexError, struct.error) as error:  # dnspython on hostile wire data
            return NoReply(f"{said} gave an unreadable answer: {error}")
        return response


class AdResolver:
    """The `Resolver` port where the resolver's word counts (`trust-ad`), or nobody's (`off`)."""

    def __init__(self, settings: Dns, recursor: Recursor) -> None:
        self._recursor = recursor
        self._trusts_ad = settings.dnssec == "trust-ad"

    async def lookup(self, query: Query) -> Answer:
        """Ask, and read the response."""
        try:
            name = dns.name.from_text(query.name + ".")
        except dns.exception.DNSException as error:
            return not_a_name(query, error)
        request = dns.message.make_query(
            name,
            query.type,
            want_dnssec=self._trusts_ad,
            payload=EDNS_PAYLOAD,
        )
        if self._trusts_ad:
            request.flags |= dns.flags.AD
        response, said = await self._recursor.ask(request)
        if isinstance(response, NoReply):
            return Unreachable(response.why)
        try:
            return read_response(query, response, trust_ad=self._trusts_ad, said=said)
        except (dns.exception.DNSException, ValueError) as error:
            return Unreachable(f"{said} gave an unusable answer: {error}")


def not_a_name(query: Query, error: dns.exception.DNSException) -> Unreachable:
    """For a name that another's answer led to and that cannot be asked for."""
    return Unreachable(f"{query.name[:MAX_WHY]} is no domain name: {error}")


def read_response(query: Query, response: dns.message.Message, *, trust_ad: bool, said: str) -> Answer:
    """What a parsed response means. Raises DNSException or ValueError for one that makes no sense."""
    rcode = response.rcode()
    if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        why = failure_in_words(response, said)
        return Bogus(why) if is_bogus(response) else Unreachable(why)
    if not isinstance(response, dns.message.QueryMessage):
        return Unreachable(f"{said} answered with something other than a query response")
    secure = trust_ad and bool(response.flags & dns.flags.AD)
    chain = response.resolve_chaining()
    aliases = tuple(
        name_of(rdata.target)
        for cname in chain.cnames
        for rdata in cname
        if rdata.rdtype == dns.rdatatype.CNAME
    )
    ttl = chain.minimum_ttl
    if rcode == dns.rcode.NXDOMAIN:
        return NxDomain(secure, ttl, aliases)
    if chain.answer is None:
        return NoData(secure, ttl, aliases)
    if len(chain.answer) > MAX_RECORDS:
        return Unreachable(f"{said} gave {len(chain.answer)} records, more than {MAX_RECORDS}")
    records = tuple(record_of(rdata) for rdata in chain.answer)
    return Found(records, secure, ttl, aliases)


def is_bogus(response: dns.message.Message) -> bool:
    """Whether the resolver says that validation failed (RFC 8914)."""
    return any(int(error.code) in _BOGUS_EXTENDED_ERRORS for error in _extended_errors(response))


def failure_in_words(response: dns.message.Message, said: str) -> str:
    """The response code and the extended errors of a failure."""
    words = "; ".join(
        (dns.edns.EDECode(error.code).name if error.code in list(dns.edns.EDECode) else str(error.code))
        + (f": {error.text}" if error.text else "")
        for error in _extended_errors(response)
    )
    what = f"{said} answered {dns.rcode.to_text(response.rcode())}"
    return f"{what} ({words})"[:MAX_WHY] if words else what


def _extended_errors(response: dns.message.Message) -> list[dns.edns.EDEOption]:
    return [option for option in response.options if isinstance(option, dns.edns.EDEOption)]


def name_of(name: dns.name.Name) -> str:
    """Lower case, without the final dot; the root is empty."""
    return name.to_text(omit_final_dot=True).lower() if name != dns.name.root else ""


def record_of(rdata: dns.rdata.Rdata) -> Record:
    """Our form of a record. Raises ValueError for a type that no delivery asks for."""
    match rdata:
        case MX():
            return MxRecord(int(rdata.preference), name_of(rdata.exchange))
        case A() | AAAA():
            return AddressRecord(str(ipaddress.ip_address(rdata.address)))
        case CNAME():
            return AliasRecord(name_of(rdata.target))
        case TLSA():
            return TlsaRecord(int(rdata.usage), int(rdata.selector), int(rdata.mtype), bytes(rdata.cert))
        case TXT():
            return TextRecord(b"".join(rdata.strings))
        case _:
            raise ValueError(f"a {dns.rdatatype.to_text(rdata.rdtype)} record where none was asked for")
