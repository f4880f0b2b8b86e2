"""A reply reduced to what a validator may look at: RRsets and RRSIGs of answer and authority, class IN.

The additional section is never read. A reply that does not fit its question, is truncated, too large or has
another response code than NOERROR and NXDOMAIN is a `Failure` (RFC 4035 4.3: indeterminate).
"""

from __future__ import annotations

import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
from msgspec import Struct

from deliver.dnssec.budget import Limits
from deliver.dnssec.records import RecordSet
from deliver.dnssec.response import QR, TC, Response, Section
from deliver.dnssec.verdict import Ask, Failure, Reply

_DENIALS = (dns.rdatatype.NSEC, dns.rdatatype.NSEC3)
_IN = 1


class Reading(Struct, frozen=True):
    """A reply to one question."""

    nxdomain: bool
    answer: Section
    authority: Section

    def denials(self) -> tuple[RecordSet, ...]:
        """The NSEC and NSEC3 RRsets of the authority section."""
        return tuple(rrset for rrset in self.authority.rrsets.values() if rrset.rdtype in _DENIALS)

    def soa(self, name: dns.name.Name) -> RecordSet | None:
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
        lengths = [*map(len, section.rrsets.values()), *map(len, section.signatures.values())]
        if len(lengths) > limits.rrsets_per_section or max(lengths, default=0) > limits.records_per_rrset:
            return Failure("the answer has too many records")
    return Reading(reply.rcode == dns.rcode.NXDOMAIN, reply.answer, reply.authority)


def _unfit(ask: Ask, reply: Response) -> str | None:
    if not reply.flags & QR or reply.opcode != dns.opcode.QUERY:
        return "it is not a response to a query"
    if reply.rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return f"the response code is {dns.rcode.to_text(dns.rcode.Rcode.make(reply.rcode))}"
    if reply.flags & TC:
        return "the answer is truncated"
    if len(reply.questions) != 1:
        return "it does not repeat one question"
    if reply.questions[0] != (ask.name, ask.rdtype, _IN):
        return "it answers another question"
    return None
