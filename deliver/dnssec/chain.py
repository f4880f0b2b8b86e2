"""One question, from its answer to the trust anchor, as a generator without I/O (RFC 4035 5).

`judge` yields tuples of `Ask`s that do not depend on each other and is sent as many replies; it returns a
`Judged` and never raises for what a reply holds. Replies are those of any recursive resolver to queries with
DO and CD, so nothing in them is trusted. How zones are found and proved is `deliver.dnssec.validator`'s part;
this module follows aliases, each step with its own security, and weighs the answer at their end.

DS and DNSKEY records of the zones that the name suggests are asked together with the question, so that a
lookup with an empty cache usually takes one round trip. Wrong guesses cost queries, never correctness.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import dns.exception
import dns.name
import dns.rdatatype

from deliver.dnssec import proof
from deliver.dnssec.algorithm import Policy
from deliver.dnssec.alias import AliasFound, alias_at, synthesised
from deliver.dnssec.anchors import TrustAnchors, ancestors
from deliver.dnssec.budget import Exhausted, Limits
from deliver.dnssec.desk import Unproved, Work
from deliver.dnssec.evidence import Part, Security, Step
from deliver.dnssec.keys import InsecureZone, KeyCache, NoCut, SecureZone
from deliver.dnssec.reading import Reading
from deliver.dnssec.records import RecordSet, Signature, negative_ttl, type_name
from deliver.dnssec.rule import Refusal, Rule
from deliver.dnssec.signature import Verified
from deliver.dnssec.validator import Authentic, Validator
from deliver.dnssec.verdict import Absence, Alias, AliasKind, Ask, Judged, Lookup

GUESSED_ZONES = 3  # below the nearest known zone, from the top
_HOST_TYPES = (dns.rdatatype.A, dns.rdatatype.AAAA, dns.rdatatype.TLSA)

# Reached by what a zone holds, so that it is the zone's fault; the other bounds leave the question open.
_BOGUS_BOUNDS = frozenset(
    {Rule.TOO_MANY_SIGNATURES, Rule.TOO_MANY_FAILURES, Rule.TOO_MANY_KEYS, Rule.TOO_MANY_HASHES}
)


def judge(
    question: Ask,
    anchors: TrustAnchors,
    cache: KeyCache,
    *,
    now: int,
    limits: Limits | None = None,
    policy: Policy | None = None,
) -> Lookup:
    """Judge the answer to `question`; `now` in epoch seconds. What is learnt of zones goes to `cache`."""
    validator = Validator(anchors, cache, now=now, limits=limits or Limits(), policy=policy or Policy())
    judgement = _Judgement(question, validator)
    refusal: Refusal
    security = Security.BOGUS
    try:
        return (yield from judgement.follow())
    except Unproved as unproved:
        judgement.note(*validator.chain_above(unproved.zone), unproved.step)
        security = unproved.step.security
        refusal = unproved.step.refusal or Refusal(Rule.UNUSABLE_REPLY)
    except Exhausted as exhausted:
        refusal = Refusal(exhausted.rule, str(question))
        security = Security.BOGUS if exhausted.rule in _BOGUS_BOUNDS else Security.INDETERMINATE
        judgement.note(judgement.step(Part.ANSWER, question.name, security, refusal=refusal))
    except (dns.exception.DNSException, ValueError, OverflowError) as error:
        refusal = Refusal(Rule.UNUSABLE_REPLY, f"{question}: {type(error).__name__}")
        security = Security.INDETERMINATE
        judgement.note(judgement.step(Part.ANSWER, question.name, security, refusal=refusal))
    return Judged(question, security, refusal=refusal, evidence=tuple(judgement.steps))


@dataclass(slots=True)
class _Judgement:
    """What was found on the way to the answer."""

    question: Ask
    validator: Validator
    aliases: list[Alias] = field(default_factory=list)
    steps: dict[Step, None] = field(default_factory=dict)
    ttl: int | None = None
    why_insecure: Refusal | None = None

    def follow(self) -> Lookup:
        """Aliases one by one, then the answer. Raises Unproved, Exhausted."""
        ask = self.question
        yield from self.validator.fetch((ask, *self._guess()))
        reading = yield from self.validator.reading(ask, Part.ANSWER)
        name, seen = ask.name, {ask.name}
        while True:
            rrset = reading.answer.get(name, ask.rdtype)
            if rrset is None and name != ask.name and _ends_at(reading, name):
                ask = Ask(name, ask.rdtype)  # the reply ends with an alias
                reading = yield from self.validator.reading(ask, Part.ANSWER)
                rrset = reading.answer.get(name, ask.rdtype)
            alias = None
            if rrset is None or (ask.rdtype == dns.rdatatype.CNAME and not reading.answer.over(rrset)):
                alias = alias_at(reading.answer, name)
            if isinstance(alias, Refusal):
                raise self.validator.unproved(Part.ALIAS, name, dns.rdatatype.CNAME, alias)
            if alias is None or (rrset is not None and alias.kind is AliasKind.CNAME):
                break
            if ask.rdtype == dns.rdatatype.CNAME:
                return (yield from self._synthesised(name, alias, reading))
            yield from self._step_over(name, alias, reading)
            name = alias.target
            if name in seen:
                self._give_up(Rule.ALIAS_LOOP)
            if len(seen) > self.validator.budget.limits.aliases:
                self._give_up(Rule.TOO_MANY_ALIASES)
            seen.add(name)
        if rrset is not None:
            return (yield from self._found(rrset, reading))
        return (yield from self._absent(name, reading))

    def note(self, *steps: Step) -> None:
        """Add to the evidence what is not there yet."""
        self.steps.update(dict.fromkeys(steps))

    def step(
        self,
        part: Part,
        owner: dns.name.Name,
        security: Security,
        *,
        zone: dns.name.Name | None = None,
        verified: Verified | None = None,
        refusal: Refusal | None = None,
        rdtype: dns.rdatatype.RdataType | None = None,
    ) -> Step:
        """A step about the answer."""
        return Step(
            part,
            str(owner if zone is None else zone),
            str(owner),
            type_name(rdtype or self.question.rdtype),
            security,
            marks=(verified.mark,) if verified is not None else (),
            refusal=refusal,
            ttl=verified.ttl if verified is not None else 0,
        )

    def _guess(self) -> tuple[Ask, ...]:
        """DS and DNSKEY of the zones that the name suggests, as far as they are not known."""
        base = self.question.name
        while len(base.labels) > 1 and base.labels[0].startswith(b"_"):
            base = base.parent()
        anchor = self.validator.anchors.closest(base)
        if anchor is None or self.validator.anchors.suspended(base, self.validator.now) is not None:
            return ()
        depth = len(base.labels) - 1
        if self.question.rdtype in _HOST_TYPES:
            depth = max(2, depth - 1)  # a host's own name is seldom a zone
        names: list[dns.name.Name] = []
        for above in ancestors(base):
            state = self.validator.known(above)
            if isinstance(state, InsecureZone) or (isinstance(state, SecureZone) and len(above.labels) > 2):
                return ()  # known well enough: a domain below a top-level one
            if above == anchor.name or isinstance(state, SecureZone):
                names = [*names[-GUESSED_ZONES:], above]
                break
            if len(above.labels) - 1 <= depth and not isinstance(state, NoCut):
                names.append(above)
        return self.validator.chain_asks(names, base)

    def _step_over(self, name: dns.name.Name, alias: AliasFound, reading: Reading) -> Work[None]:
        security = yield from self._judge(alias.rrset, alias.signatures, Part.ALIAS, name, reading)
        self.aliases.append(Alias(name, alias.target, alias.kind, security))

    def _synthesised(self, name: dns.name.Name, alias: AliasFound, reading: Reading) -> Lookup:
        security = yield from self._judge(alias.rrset, alias.signatures, Part.ALIAS, name, reading)
        return self._judged(security, records=synthesised(name, alias))

    def _found(self, rrset: RecordSet, reading: Reading) -> Lookup:
        signatures = reading.answer.over(rrset)
        security = yield from self._judge(rrset, signatures, Part.ANSWER, rrset.name, reading)
        return self._judged(security, records=rrset)

    def _judge(
        self,
        rrset: RecordSet,
        signatures: tuple[Signature, ...],
        part: Part,
        name: dns.name.Name,
        reading: Reading,
    ) -> Work[Security]:
        """The security of one RRset of the answer; if a wildcard made it, with the proof that it had to."""
        found = yield from self.validator.authenticate(rrset, signatures, part)
        if isinstance(found, InsecureZone):
            self._note_insecure(found, part, name, rrset.rdtype)
            self._live(rrset.ttl)
            return Security.INSECURE
        self.note(*found.zone.chain)
        self._live(found.verified.ttl)
        rule = self._expansion(found, rrset, part, reading)
        security = Security.SECURE if rule is None else Security.INSECURE
        refusal = Refusal(rule, str(name)) if rule is not None else None
        self.why_insecure = self.why_insecure or refusal
        self.note(
            self.step(
                part,
                rrset.name,
                security,
                zone=found.zone.name,
                verified=found.verified,
                refusal=refusal,
                rdtype=rrset.rdtype,
            )
        )
        return security

    def _expansion(self, found: Authentic, rrset: RecordSet, part: Part, reading: Reading) -> Rule | None:
        """RFC 4035 5.3.4; a Rule: the expansion is proved by opt-out or too many iterations only."""
        encloser = found.verified.encloser
        if encloser is None:
            return None
        valid, fault = self.validator.valid_denials(reading, found.zone)
        rule = proof.prove_expansion(
            rrset.name, encloser, found.zone.name, valid.rrsets, self.validator.budget
        )
        if isinstance(rule, Refusal):
            raise self.validator.unproved(part, rrset.name, rrset.rdtype, fault or rule)
        self._live(valid.ttl)
        return rule

    def _absent(self, name: dns.name.Name, reading: Reading) -> Lookup:
        found = yield from self.validator.deny(name, self.question.rdtype, reading, Part.DENIAL)
        soa = reading.soa(name)
        if isinstance(found, InsecureZone):
            self._note_insecure(found, Part.DENIAL, name, self.question.rdtype)
            self._live(negative_ttl(soa) if soa is not None else 0)
            absence = Absence.NXDOMAIN if reading.nxdomain else Absence.NODATA
            return self._judged(Security.INSECURE, absence=absence)
        self.note(*found.zone.chain)
        self._live(found.ttl)
        if soa is not None and soa.name == found.zone.name:
            verified = self.validator.verify(soa, reading.authority.over(soa), found.zone)
            if isinstance(verified, Refusal):
                raise self.validator.unproved(Part.DENIAL, soa.name, soa.rdtype, verified)
            self._live(min(verified.ttl, negative_ttl(soa)))  # RFC 2308 5
        self.note(found.step)
        rule = found.denied.insecure
        if rule is not None:
            self.why_insecure = self.why_insecure or Refusal(rule, str(name))
        security = Security.SECURE if rule is None else Security.INSECURE
        return self._judged(security, absence=found.denied.absence)

    def _note_insecure(
        self, zone: InsecureZone, part: Part, name: dns.name.Name, rdtype: dns.rdatatype.RdataType
    ) -> None:
        self.note(*zone.chain)
        self.note(
            self.step(part, name, Security.INSECURE, zone=zone.name, refusal=zone.refusal, rdtype=rdtype)
        )
        self.why_insecure = self.why_insecure or zone.refusal

    def _live(self, ttl: int) -> None:
        self.ttl = ttl if self.ttl is None else min(self.ttl, ttl)

    def _judged(
        self,
        security: Security,
        *,
        records: RecordSet | None = None,
        absence: Absence | None = None,
    ) -> Judged:
        weakest = (security, *(alias.security for alias in self.aliases))
        overall = Security.INSECURE if Security.INSECURE in weakest else Security.SECURE
        return Judged(
            self.question,
            overall,
            records,
            absence,
            tuple(self.aliases),
            self.ttl or 0,
            self.why_insecure,
            tuple(self.steps),
        )

    def _give_up(self, rule: Rule) -> None:
        refusal = Refusal(rule, str(self.question))
        raise self.validator.unproved(
            Part.ALIAS,
            self.question.name,
            self.question.rdtype,
            refusal,
            security=Security.INDETERMINATE,
        )


def _ends_at(reading: Reading, name: dns.name.Name) -> bool:
    """Whether the reply says nothing about `name`: it neither leads on nor denies."""
    return reading.soa(name) is None and alias_at(reading.answer, name) is None
