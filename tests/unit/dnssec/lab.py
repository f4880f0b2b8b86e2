"""Zones signed for a test, and the validator fed from them; replies can be altered on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import dns.message
import dns.name
import dns.rdatatype
import dns.rrset
from dns.rdtypes.ANY.RRSIG import RRSIG
from msgspec import structs

from deliver.dnssec.algorithm import Policy
from deliver.dnssec.anchors import TrustAnchors, parse
from deliver.dnssec.budget import Limits
from deliver.dnssec.chain import judge
from deliver.dnssec.evidence import Security
from deliver.dnssec.keys import KeyCache
from deliver.dnssec.records import RecordSet, Signature
from deliver.dnssec.response import of_message
from deliver.dnssec.rule import Rule
from deliver.dnssec.verdict import Ask, Failure, Judged, Reply
from tests.zoo.recursion import Recursion
from tests.zoo.signer import ZonePlan
from tests.zoo.tree import build

NOW = 1_800_000_000
SECURE, INSECURE = Security.SECURE, Security.INSECURE
BOGUS, INDETERMINATE = Security.BOGUS, Security.INDETERMINATE
MAIL = ("@ MX 10 mx", "mx A 192.0.2.1", "mx AAAA 2001:db8::1", f"_25._tcp.mx TLSA 3 1 1 {'ab' * 32}")
GOOD = ZonePlan("good.test.", MAIL)

Alter = Callable[[dns.message.Message], dns.message.Message | Failure]


def said(judged: Judged) -> tuple[Security, Rule | None]:
    """The verdict, and the rule that was broken."""
    return judged.security, judged.refusal.rule if judged.refusal is not None else None


def ask(text: str) -> Ask:
    """`name. TYPE` as a question."""
    name, rdtype = text.split()
    return Ask(dns.name.from_text(name), dns.rdatatype.from_text(rdtype))


def record_set(rrset: dns.rrset.RRset) -> RecordSet:
    """An RRset of dnspython's as a response would hold it."""
    return RecordSet(rrset.name, rrset.rdtype, rrset.ttl, tuple(rdata.to_digestable() for rdata in rrset))


def signature_of(rrsig: RRSIG) -> Signature:
    """An RRSIG of dnspython's as a response would hold it."""
    return Signature(*(getattr(rrsig, each.name) for each in structs.fields(Signature)))


def without_signatures(message: dns.message.Message) -> dns.message.Message:
    """As by a resolver that knows no DNSSEC."""
    hidden = (dns.rdatatype.RRSIG, dns.rdatatype.NSEC, dns.rdatatype.NSEC3)
    message.answer = [rrset for rrset in message.answer if rrset.rdtype not in hidden]
    message.authority = [rrset for rrset in message.authority if rrset.rdtype not in hidden]
    return message


@dataclass
class Lab:
    """`altered` changes the replies to some questions; `rounds` are the questions of each round trip."""

    recursion: Recursion
    anchors: TrustAnchors
    altered: dict[Ask, Alter] = field(default_factory=dict)
    rounds: list[tuple[Ask, ...]] = field(default_factory=list)

    def reply(self, question: Ask) -> Reply:
        """What the recursor says to `question`, as the transport would read it."""
        found = self.message(question)
        return found if isinstance(found, Failure) else of_message(found)

    def message(self, question: Ask) -> dns.message.Message | Failure:
        """The same as a message of dnspython's."""
        found = self.recursion.resolve(question.name, question.rdtype)
        query = dns.message.make_query(question.name, question.rdtype, want_dnssec=True)
        response = dns.message.make_response(query)
        response.set_rcode(found.rcode)
        response.answer, response.authority = list(found.answer), list(found.authority)
        message = dns.message.from_wire(response.to_wire(max_size=65535))
        alter = self.altered.get(question)
        return message if alter is None else alter(message)

    def judge(
        self,
        text: str,
        cache: KeyCache | None = None,
        *,
        now: int = NOW,
        limits: Limits | None = None,
        policy: Policy | None = None,
        anchors: TrustAnchors | None = None,
    ) -> Judged:
        """The verdict on `name. TYPE`."""
        cache = KeyCache() if cache is None else cache
        lookup = judge(ask(text), anchors or self.anchors, cache, now=now, limits=limits, policy=policy)
        self.rounds = []
        replies: tuple[Reply, ...] | None = None
        while True:
            try:
                asks = next(lookup) if replies is None else lookup.send(replies)
            except StopIteration as finished:
                verdict: Judged = finished.value
                return verdict
            self.rounds.append(asks)
            replies = tuple(self.reply(question) for question in asks)


def lab(*plans: ZonePlan, altered: Mapping[str, Alter] | None = None) -> Lab:
    """A lab of these zones under a signed root and `test.`, which are added unless they are given."""
    given = {plan.origin for plan in plans}
    above = tuple(plan for plan in (ZonePlan("."), ZonePlan("test.")) if plan.origin not in given)
    zoo = build(NOW, (*above, *plans))
    changes = {ask(text): alter for text, alter in (altered or {}).items()}
    return Lab(Recursion(zoo), parse("\n".join(zoo.anchor_texts)), changes)


def fails(_: dns.message.Message) -> Failure:
    """No reply."""
    return Failure("timed out")
