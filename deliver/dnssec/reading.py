"""A reply reduced to what a validator may look at: RRsets and RRSIGs of answer and authority, class IN.

The additional section is never read. A reply that does not fit its question, is truncated, too large or has
another response code than NOERROR and NXDOMAIN is a `Failure` (RFC 4035 4.3: indeterminate).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from dns.rdtypes.ANY.RRSIG import RRSIG

from deliver.dnssec.budget import Limits
from deliver.dnssec.verdict import Ask, Failure, Reply

Key = tuple[dns.name.Name, dns.rdatatype.RdataType]

_DENIALS = (dns.rdatatype.NSEC, dns.rdatatype.NSEC3)


@dataclass(frozen=True, slots=True)
class Section:
    """RRsets by owner and type, and the RRSIGs that cover them."""

    rrsets: dict[Key, dns.rrset.RRset]
    signatures: dict[Key, tuple[RRSIG, ...]]

    def get(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> dns.rrset.RRset | None:
        """The RRset of that name and type."""
        return self.rrsets.get((name, rdtype))

    def over(self, rrset: dns.rrset.RRset) -> tuple[RRSIG, ...]:
        """The signatures that claim to cover it."""
        return self.signatures.get((rrset.name, rrset.rdtype), ())


@dataclass(frozen=True, slots=True)
class Reading:
    """A reply to one question."""

    nxdomain: bool
    answer: Section
    authority: Section

    def denials(self) -> tuple[dns.rrset.RRset, ...]:
        """The NSEC and NSEC3 RRsets of the authority section."""
        return tuple(rrset for rrset in self.authority.rrsets.values() if rrset.rdtype in _DENIALS)

    def soa(self, name: dns.name.Name) -> dns.rrset.RRset | None:
        """The SOA record of a denial of `name`, which tells how long it holds (RFC 2308 5)."""
        found = [
            rrset
            for rrset in self.authority.rrsets.values()
            if rrset.rdtype == dns.rdatatype.SOA and name.is_subdomain(rrset.name)
        ]
        return max(found, key=lambda rrset: len(rrset.name), default=None)


def read(ask: Ask, reply: Reply, limits: Limits) -> Reading | Failure:
    """What may be used of the reply to `ask`."""
    if isinstance(reply, Failure):
        return reply
    why = _unfit(ask, reply)
    if why is not None:
        return Failure(why)
    for section in (reply.answer, reply.authority):
        too_long = any(len(rrset) > limits.records_per_rrset for rrset in section)
        if too_long or len(section) > limits.rrsets_per_section:
            return Failure("the answer has too many records")
    return Reading(reply.rcode() == dns.rcode.NXDOMAIN, _section(reply.answer), _section(reply.authority))


def _unfit(ask: Ask, reply: dns.message.Message) -> str | None:
    if not isinstance(reply, dns.message.QueryMessage) or not reply.flags & dns.flags.QR:
        return "it is not a response to a query"
    if reply.opcode() != dns.opcode.QUERY:
        return "it is not a response to a query"
    rcode = reply.rcode()
    if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return f"the response code is {dns.rcode.to_text(rcode)}"
    if reply.flags & dns.flags.TC:
        return "the answer is truncated"
    if len(reply.question) != 1:
        return "it does not repeat one question"
    question = reply.question[0]
    if (question.name, question.rdtype, question.rdclass) != (ask.name, ask.rdtype, dns.rdataclass.IN):
        return "it answers another question"
    return None


def _section(rrsets: Sequence[dns.rrset.RRset]) -> Section:
    plain: dict[Key, dns.rrset.RRset] = {}
    signatures: dict[Key, tuple[RRSIG, ...]] = {}
    for rrset in rrsets:
        if rrset.rdclass != dns.rdataclass.IN:
            continue
        if rrset.rdtype == dns.rdatatype.RRSIG:
            key = (rrset.name, rrset.covers)
            own = tuple(rdata for rdata in rrset if isinstance(rdata, RRSIG))
            signatures[key] = (*signatures.get(key, ()), *own)
        elif (rrset.name, rrset.rdtype) not in plain and len(rrset):
            plain[(rrset.name, rrset.rdtype)] = rrset
    return Section(plain, signatures)
