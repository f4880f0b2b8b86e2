"""What a validating resolver's message says, in the zoo's terms: AD, SERVFAIL with an extended error, rcode, records."""

from __future__ import annotations

from dataclasses import dataclass

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype

from tests.zoo.animal import Kind, Security

# RFC 8914: with SERVFAIL these mean that validation failed; others accompany an ordinary failure.
BOGUS_CODES = frozenset(
    {
        dns.edns.EDECode.UNSUPPORTED_DNSKEY_ALGORITHM,
        dns.edns.EDECode.UNSUPPORTED_DS_DIGEST_TYPE,
        dns.edns.EDECode.DNSSEC_BOGUS,
        dns.edns.EDECode.SIGNATURE_EXPIRED,
        dns.edns.EDECode.SIGNATURE_NOT_YET_VALID,
        dns.edns.EDECode.DNSKEY_MISSING,
        dns.edns.EDECode.RRSIGS_MISSING,
        dns.edns.EDECode.NO_ZONE_KEY_BIT_SET,
        dns.edns.EDECode.NSEC_MISSING,
    }
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A conclusion, what the answer says, and the extended errors that came with it."""

    security: Security
    kind: Kind
    why: str = ""

    def agrees(self, security: Security, kind: Kind) -> bool:
        """Whether it is that; a failure says nothing about names."""
        return (self.security, self.kind) == (security, kind)


def read(response: dns.message.Message) -> Verdict:
    """The verdict in the answer of a validating resolver that was asked with AD and DO."""
    errors = response.extended_errors()
    why = "; ".join(f"{error.code.name} {error.text or ''}".strip() for error in errors)
    if response.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        forged = any(error.code in BOGUS_CODES for error in errors)
        security = Security.BOGUS if forged else Security.FAILED
        return Verdict(security, Kind.NOTHING, why or dns.rcode.to_text(response.rcode()))
    security = Security.SECURE if response.flags & dns.flags.AD else Security.INSECURE
    return Verdict(security, kind_of(response), why)


def kind_of(response: dns.message.Message) -> Kind:
    """What a NOERROR or NXDOMAIN answer says about its question, aliases followed."""
    if response.rcode() == dns.rcode.NXDOMAIN:
        return Kind.NXDOMAIN
    [question] = response.question
    name = question.name
    for _ in range(len(response.answer) + 1):
        if any(rrset.name == name and rrset.rdtype == question.rdtype for rrset in response.answer):
            return Kind.FOUND
        alias = next((r for r in response.answer if r.name == name and r.rdtype == dns.rdatatype.CNAME), None)
        if alias is None:
            return Kind.NODATA
        name = alias[0].target
    return Kind.NODATA
