"""A response, read from its octets as far as a validator may look at it (RFC 1035 4.1, 6891 6.1.3, 8914).

Of the answer and the authority section the records of class IN are kept, each RRset in canonical form and the
signatures beside it; of the additional section only the OPT record. RDATA is not looked into, save to write
compressed names out; `RecordSet` reads it for whoever wants to know. The sections must end with the message.
"""

from __future__ import annotations

import struct

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
from dns.rdtypes.ANY.OPT import OPT
from msgspec import Struct, field

from deliver.dnssec.names import KnownName, known
from deliver.dnssec.records import RecordSet, Signature, unique

Key = tuple[dns.name.Name, dns.rdatatype.RdataType]

_IN = 1
_CLASS_OF_OPT = dns.rdataclass.ANY  # it has none: the field holds a size
_RRSIG, _OPT, _TSIG, _SOA, _MX = 46, 41, 250, 6, 15
_A_NAME = frozenset({2, 5, 12, 39})  # NS, CNAME, PTR, DNAME: the RDATA is one name
_PLAIN = frozenset({1, 16, 28, 43, 47, 48, 50, 52})  # A TXT AAAA DS NSEC DNSKEY NSEC3 TLSA: canonical as sent
_TYPES = {int(rdtype): rdtype for rdtype in dns.rdatatype.RdataType}
_MAX_TTL = 0x7FFFFFFF  # RFC 2181 8
_MAX_POINTERS = 16  # of one name

# As plain numbers: flags of dnspython's kind are made anew by each operation.
QR, TC = int(dns.flags.QR), int(dns.flags.TC)

_HEADER = struct.Struct("!HHHHHH")
_QUESTION = struct.Struct("!HH")
_RECORD = struct.Struct("!HHIH")
_SIGNATURE = struct.Struct("!HBBIIIH")


class Section(Struct, frozen=True):
    """RRsets by owner and type, and the signatures that claim to cover them."""

    rrsets: dict[Key, RecordSet] = field(default_factory=dict)
    signatures: dict[Key, tuple[Signature, ...]] = field(default_factory=dict)

    def get(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> RecordSet | None:
        """The RRset of that name and type."""
        return self.rrsets.get((name, rdtype))

    def over(self, rrset: RecordSet) -> tuple[Signature, ...]:
        """The signatures that claim to cover it."""
        return self.signatures.get((rrset.name, rrset.rdtype), ())


class Response(Struct, frozen=True):
    """`rcode` is the extended one; `questions` are name, type and class."""

    id: int
    flags: int
    rcode: int
    questions: tuple[tuple[dns.name.Name, int, int], ...]
    answer: Section
    authority: Section
    errors: tuple[dns.edns.EDEOption, ...] = ()

    @property
    def opcode(self) -> int:
        """RFC 1035 4.1.1."""
        return self.flags >> 11 & 0xF


class MalformedResponse(ValueError):
    """It cannot be read as a DNS message."""


def read_response(wire: bytes) -> Response:
    """What a message says. Raises MalformedResponse."""
    try:
        return _Wire(wire).response()
    except (IndexError, struct.error) as error:
        raise MalformedResponse("it ends too early") from error
    except dns.exception.DNSException as error:
        raise MalformedResponse(str(error)) from error


def of_message(message: dns.message.Message) -> Response:
    """A message of dnspython's in this form. Raises MalformedResponse."""
    return read_response(message.to_wire(max_size=65535))


def name_in(octets: bytes, start: int = 0) -> KnownName:
    """The name, written out, that these octets end with from `start` on. Raises MalformedResponse."""
    name, end = name_at(octets, start)
    if end != len(octets):
        raise MalformedResponse("something follows a name")
    return name


def name_at(octets: bytes, start: int = 0) -> tuple[KnownName, int]:
    """The name, written out, that begins there, and where it ends. Raises MalformedResponse."""
    wire = _Wire(octets, start)
    try:
        return wire.name(pointers=0), wire.at
    except (IndexError, dns.exception.DNSException) as error:
        raise MalformedResponse("it ends too early") from error


class _Wire:
    """Reads a message from its beginning to its end."""

    def __init__(self, wire: bytes, at: int = 0) -> None:
        self.wire = wire
        self.at = at
        self._names: dict[int, KnownName] = {}  # by where they begin

    def response(self) -> Response:
        """The whole of it."""
        number, flags, questions, answers, authorities, additional = _HEADER.unpack_from(self.wire)
        self.at = _HEADER.size
        asked = tuple(self._question() for _ in range(questions))
        if flags & TC:  # what is left of it is of no use, and may end anywhere
            return Response(number, flags, flags & 0xF, asked, Section(), Section())
        answer, authority = self._section(answers), self._section(authorities)
        extended, errors = self._options(additional)
        if self.at != len(self.wire):
            raise MalformedResponse("something follows it")
        return Response(number, flags, extended | flags & 0xF, asked, answer, authority, errors)

    def _question(self) -> tuple[dns.name.Name, int, int]:
        name = self.name()
        rdtype, rdclass = _QUESTION.unpack_from(self.wire, self.at)
        self.at += _QUESTION.size
        return name, rdtype, rdclass

    def _section(self, count: int) -> Section:
        found: dict[Key, tuple[list[int], list[bytes]]] = {}  # TTLs and RDATA
        signatures: dict[Key, list[Signature]] = {}
        for _ in range(count):
            name, rdtype, rdclass, ttl, end = self._record()
            if rdtype in (_OPT, _TSIG):
                raise MalformedResponse("an OPT or TSIG record out of place")
            if rdclass != _IN:
                self.at = end
            elif rdtype == _RRSIG:
                signature = self._signature(end)
                signatures.setdefault((name, _type(signature.type_covered)), []).append(signature)
            else:
                key = name, _type(rdtype)
                ttls, octets = found.setdefault(key, ([], []))
                octets.append(self._canonical(rdtype, end))
                ttls.append(ttl if ttl <= _MAX_TTL else 0)
        rrsets = {key: RecordSet(*key, min(ttls), unique(octets)) for key, (ttls, octets) in found.items()}
        return Section(rrsets, {key: tuple(several) for key, several in signatures.items()})

    def _options(self, count: int) -> tuple[int, tuple[dns.edns.EDEOption, ...]]:
        """The extended part of the response code, and the errors, of the additional section's OPT record."""
        extended, errors, met = 0, [], False
        for _ in range(count):
            name, rdtype, _, ttl, end = self._record()
            if rdtype == _OPT:
                if met or len(name.labels) > 1:
                    raise MalformedResponse("an OPT record out of place")
                met, extended = True, ttl >> 20 & 0xFF0
                if end > self.at:
                    opt = dns.rdata.from_wire(_CLASS_OF_OPT, _type(_OPT), self.wire, self.at, end - self.at)
                    assert isinstance(opt, OPT)
                    errors = [option for option in opt.options if isinstance(option, dns.edns.EDEOption)]
            self.at = end
        return extended, tuple(errors)

    def _record(self) -> tuple[KnownName, int, int, int, int]:
        """Owner, type, class, TTL and the end of the RDATA, whose beginning is next."""
        name = self.name()
        rdtype, rdclass, ttl, length = _RECORD.unpack_from(self.wire, self.at)
        self.at += _RECORD.size
        end = self.at + length
        if end > len(self.wire):
            raise MalformedResponse("a record is longer than the message")
        return name, rdtype, rdclass, ttl, end

    def _signature(self, end: int) -> Signature:
        covered, algorithm, labels, ttl, expiration, inception, tag = _SIGNATURE.unpack_from(
            self.wire, self.at
        )
        self.at += _SIGNATURE.size
        signer = self.name(pointers=0)
        if self.at > end:
            raise MalformedResponse("a signature's fields are longer than itself")
        signature = self.wire[self.at : end]
        self.at = end
        return Signature(covered, algorithm, labels, ttl, expiration, inception, tag, signer, signature)

    def _canonical(self, rdtype: int, end: int) -> bytes:
        """The RDATA up to `end` with its names written out, in lower case (RFC 4034 6.2, 6840 5.1)."""
        start = self.at
        if rdtype in _PLAIN:
            octets = self.wire[start:end]
            self.at = end
        elif rdtype in _A_NAME:
            octets = self.name().to_digestable()
        elif rdtype == _MX:
            self.at += 2
            octets = self.wire[start : self.at] + self.name().to_digestable()
        elif rdtype == _SOA:
            octets = self.name().to_digestable() + self.name().to_digestable()
            octets += self.wire[self.at : self.at + 20]
            self.at += 20
        else:
            octets = self._seldom(rdtype, end)
        if self.at != end:
            raise MalformedResponse("a record's data has another length than it says")
        return octets

    def _seldom(self, rdtype: int, end: int) -> bytes:
        """The same for types that no delivery asks for."""
        rdata = dns.rdata.from_wire(dns.rdataclass.IN, _type(rdtype), self.wire, self.at, end - self.at)
        self.at = end
        return rdata.to_digestable(dns.name.root)

    def name(self, pointers: int = _MAX_POINTERS) -> KnownName:
        """The name that begins here, compressed by at most so many pointers, each leading further back."""
        wire, start = self.wire, self.at
        labels: list[bytes] = []
        at, end, back, after = start, len(wire), start, 0
        while (length := wire[at]) != 0:
            if length < 64:
                at += 1 + length
                if at >= end:
                    raise MalformedResponse("a name runs into another or out of the message")
                labels.append(wire[at - length : at])
            elif length >= 192 and pointers:
                target = (length & 0x3F) << 8 | wire[at + 1]
                if target >= back:
                    raise MalformedResponse("a pointer that leads nowhere")
                after = after or at + 2
                met = self._names.get(target)
                if met is not None:
                    labels += met.labels[:-1]
                    break
                end, at, back, pointers = back, target, target, pointers - 1
            else:
                raise MalformedResponse("a label of no known kind")
        else:
            after = after or at + 1
        self.at = after
        labels.append(b"")
        name = self._names[start] = known(tuple(labels))
        return name


def _type(rdtype: int) -> dns.rdatatype.RdataType:
    return _TYPES.get(rdtype) or dns.rdatatype.RdataType.make(rdtype)
